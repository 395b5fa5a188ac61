"""kill -9 at seeded points of a run: resumed, it ends as the uninterrupted one, byte by byte."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

EPOCHS = 4
COMBINATIONS = {
    "mf+adar": ["--model", "mf", "--augment", "adar", "--set", "mf.dim=8", "--set", "train.batch_size=150"],
    "lightgcn+adar": [
        "--model", "lightgcn", "--augment", "adar", "--preset", "robust", "--set", "lightgcn.dim=8",
        "--set", "train.batch_size=150",
    ],
    "sasrec": [
        "--model", "sasrec", "--set", "sasrec.dim=8", "--set", "sasrec.layers=1", "--set", "train.batch_size=150",
    ],
    "gru4rec+gaussian": [
        "--model", "gru4rec", "--augment", "adar-gaussian", "--set", "gru4rec.dim=8", "--set", "gru4rec.hidden=8",
        "--set", "train.batch_size=150",
    ],
}  # fmt: skip


def command(log_file: Path, combination: str, out: Path) -> list[str]:
    fixed = ["--epochs", EPOCHS, "--seed", 3, "--set", "train.threads=1", "--set", "train.learning_rate=0.02"]
    return ["train", "--data", log_file, *COMBINATIONS[combination], *map(str, fixed), "--out", out]


@pytest.fixture(scope="module")
def whole(forks, log_file, outcome, tmp_path_factory):
    """The outcome of the uninterrupted run of a combination."""
    known: dict[str, object] = {}

    def of(combination: str):
        if combination not in known:
            out = tmp_path_factory.mktemp("whole") / "run"
            code, errors = forks.run(command(log_file, combination, out))
            assert code == 0, errors
            known[combination] = outcome(out)
        return known[combination]

    return of


def points(combination: str) -> list[dict]:
    """One point in a step, in a checkpoint write, in an evaluation and between an epoch's line and its checkpoint."""
    rng = random.Random(combination)
    return [
        {"at": "step", "n": rng.randint(5, 15)},
        # Three files each: tensors, numbers, manifest.
        {"at": rng.choice(["write", "half", "written"]), "n": rng.randint(1, 3 * EPOCHS)},
        {"at": rng.choice(["rename", "renamed"]), "n": rng.randint(1, EPOCHS)},
        {"at": rng.choice(["validation", "score"]), "n": rng.randint(1, EPOCHS)},
        {"at": "line", "n": rng.randint(1, EPOCHS)},
    ]


CASES = [(name, plan) for name in COMBINATIONS for plan in points(name)] + [
    ("mf+adar", {"at": "step", "n": 1}),
    ("mf+adar", {"at": "half", "n": 1}),
    ("mf+adar", {"at": "phase", "n": 12}),
    ("lightgcn+adar", {"at": "score", "n": EPOCHS + 2}),
]


@pytest.mark.parametrize(("combination", "plan"), CASES, ids=[f"{c}-{p['at']}-{p['n']}" for c, p in CASES])
def test_killed_run_resumes_to_the_same_bytes(combination, plan, forks, log_file, outcome, whole, tmp_path):
    out = tmp_path / "run"
    assert forks.run(command(log_file, combination, out), plan=plan)[0] == -9
    code, errors = forks.run(["train", "--resume", "--out", out])
    assert code == 0, errors
    assert outcome(out) == whole(combination)
    assert not [path for path in out.rglob(".*") if path.name != ".lock"]


def test_killed_again_and_again(forks, log_file, outcome, whole, tmp_path):
    out, rng = tmp_path / "run", random.Random(8)
    assert forks.run(command(log_file, "sasrec", out), plan={"at": "step", "n": 2})[0] == -9
    for _ in range(6):
        plan = {"at": rng.choice(["half", "rename", "renamed", "line", "validation"]), "n": 1}
        assert forks.run(["train", "--resume", "--out", out], plan=plan)[0] == -9
        assert len(list((out / "checkpoints").glob("*"))) <= 4
    assert forks.run(["train", "--resume", "--out", out])[0] == 0
    assert outcome(out) == whole("sasrec")


@pytest.mark.parametrize("at", ["step", "half"])
def test_killed_during_the_refit(at, forks, log_file, outcome, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = ["--refit", "--set", "train.patience=9", "--set", "train.learning_rate=0.1"]
    assert forks.run([*command(log_file, "mf+adar", whole), *settings])[0] == 0
    best = json.loads((whole / "result.json").read_text())["epochs"]["best"]
    assert best > 1
    assert (whole / "metrics-refit.jsonl").read_bytes().count(b"\n") == best
    first = max((whole / "checkpoints").glob("step-*"))
    steps = json.loads((first / "state.json").read_text())["steps"]
    plan = {"at": "step", "n": steps + steps // EPOCHS + 2} if at == "step" else {"at": "half", "n": 3 * EPOCHS + 5}
    assert forks.run([*command(log_file, "mf+adar", cut), *settings], plan=plan)[0] == -9
    assert (cut / "metrics-refit.jsonl").exists()
    assert (cut / "checkpoints" / first.name / "state.safetensors").read_bytes() == (
        first / "state.safetensors"
    ).read_bytes()
    assert forks.run(["train", "--resume", "--out", cut])[0] == 0
    assert outcome(cut) == outcome(whole)


@pytest.mark.slow
def test_a_new_interpreter_resumes_too(forks, log_file, one_thread, outcome, whole, tmp_path):
    out = tmp_path / "run"
    assert forks.run(command(log_file, "sasrec", out), plan={"at": "half", "n": 5})[0] == -9
    done = subprocess.run(
        [sys.executable, "-m", "augrec", "train", "--resume", "--out", str(out), "--json"],
        env=one_thread, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["test"] == whole("sasrec")["result"]["test"]
    assert outcome(out) == whole("sasrec")


def test_resume_of_a_finished_run_changes_nothing(forks, log_file, tmp_path):
    out = tmp_path / "run"
    assert forks.run(command(log_file, "mf+adar", out))[0] == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert forks.run(["train", "--resume", "--out", out], plan={"at": "step"})[0] == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
