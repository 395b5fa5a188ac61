"""The same seed twice, in processes that differ in all that must not matter."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from augrec.cli import main
data, out = sys.argv[1:]
fixed = ["--data", data, "--epochs", "2", "--seed", "5", "--set", "train.threads=1", "--set", "train.batch_size=200"]
models = ["lightgcn", "--augment", "adar"], ["sasrec", "--set", "sasrec.layers=1"], ["gru4rec", "--objective", "bce"]
for model in models:
    try:
        main(["train", "--model", *model, "--set", model[0] + ".dim=8", *fixed, "--out", out + "/" + model[0]])
    except SystemExit as end:
        assert end.code == 0
"""


@pytest.mark.slow
def test_same_seed_same_bytes(log_file, one_thread, outcome, tmp_path):
    found = []
    for number, hash_seed in enumerate(("1", "4242")):
        folder = tmp_path / str(number) / ("deep/" * number)
        folder.mkdir(parents=True)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(log_file), str(folder)],
            env=one_thread | {"PYTHONHASHSEED": hash_seed}, cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append({model: outcome(folder / model) for model in ("lightgcn", "sasrec", "gru4rec")})
    assert found[0] == found[1]


def test_another_seed_other_bytes(forks, log_file, outcome, tmp_path):
    results = []
    for seed in (1, 2):
        out = tmp_path / str(seed)
        arguments = ["train", "--data", log_file, "--model", "mf", "--split", "leave-one-out", "--epochs", 1]
        assert forks.run([*arguments, "--seed", seed, "--set", "mf.dim=4", "--out", out])[0] == 0
        results.append(outcome(out))
    assert results[0]["result"]["split"] == results[1]["result"]["split"]
    assert results[0]["bundle/weights.safetensors"] != results[1]["bundle/weights.safetensors"]
