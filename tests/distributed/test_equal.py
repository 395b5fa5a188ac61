"""Two processes over gloo learn what one process learns from the same batches: losses to 1e-5, metrics to the bit."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytestmark = pytest.mark.slow

SMALL = ["train.learning_rate=0.01"]
SASREC = ["sasrec.dim=8", "sasrec.dropout=0", "sasrec.attention_dropout=0", "sasrec.heads=1", "train.batch_size=64"]
BERT = [one.replace("sasrec", "bert4rec") for one in SASREC]
CASES = {
    "mf": {"model": "mf", "set": ["mf.dim=8", "train.batch_size=61"]},
    "mf-popular": {"model": "mf", "set": ["mf.dim=8", "train.batch_size=61", "bpr.sampler=popularity",
                                          "bpr.negatives=3"]},
    # Large enough that each process moves a part of both tables and keeps the optimiser's state of that part alone.
    "mf-divided": {"model": "mf", "set": ["mf.dim=2048", "train.batch_size=61", "train.clip=0.05"]},
    # Sparse gradients: each process has touched other rows, and moves those of both.
    "mf-sparse": {"model": "mf", "set": ["mf.dim=2048", "train.batch_size=61", "train.clip=0.05", "train.sparse=true"]},
    "lightgcn-adar": {"model": "lightgcn", "augment": ["adar"], "set": ["lightgcn.dim=8", "train.batch_size=64"]},
    "lightgcn-mixgcf-adar": {"model": "lightgcn", "augment": ["mixgcf", "adar"],
                             "set": ["lightgcn.dim=8", "train.batch_size=64"]},
    "sasrec-softmax": {"model": "sasrec", "set": SASREC},
    "sasrec-sampled": {"model": "sasrec", "objective": "sampled-softmax", "set": SASREC},
    "sasrec-sparse": {"model": "sasrec", "objective": "sampled-softmax", "set": [*SASREC, "train.sparse=true"]},
    "sasrec-bce": {"model": "sasrec", "objective": "bce", "set": SASREC},
    "sasrec-cl4srec": {"model": "sasrec", "augment": ["cl4srec"], "set": SASREC},
    "sasrec-simdiffrec": {"model": "sasrec", "augment": ["simdiffrec"], "set": SASREC},
    "bert4rec": {"model": "bert4rec", "set": BERT},
    "gru4rec-duorec": {"model": "gru4rec", "augment": ["duorec"],
                       "set": ["gru4rec.dim=8", "gru4rec.dropout=0", "train.batch_size=64"]},
    "tiny-batches": {"model": "sasrec", "augment": ["cl4srec"], "set": [*SASREC, "train.batch_size=8"], "epochs": 1},
    "with-dropout": {"model": "sasrec", "set": [one for one in SASREC if "dropout" not in one]},
    "t-diffrec": {"model": "t-diffrec", "set": []},
}  # fmt: skip
EXACT = [name for name in CASES if name not in ("with-dropout", "t-diffrec")]


def write_log(path: Path, n_users: int = 60, n_items: int = 40) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for user in range(n_users):
        near = np.where(np.arange(n_items) % 4 == user % 4, 8.0, 1.0)
        chosen = rng.choice(n_items, size=rng.integers(6, 15), replace=False, p=near / near.sum())
        rows += [(f"u{user:03d}", f"i{item:03d}", 1_000_000 + 1000 * n) for n, item in enumerate(chosen)]
    pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row").write_csv(path)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("equal")
    write_log(folder / "toy.csv")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cases = {name: {"epochs": 2, **case, "set": [*SMALL, *case["set"]]} for name, case in CASES.items()}
    shared = {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    source = str(Path(__file__).resolve().parents[2] / "src")
    shared |= {"MASTER_PORT": str(port), "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("worker.py"))]
    command += [str(folder / "toy.csv"), str(folder), json.dumps(cases)]
    both = [
        subprocess.Popen(command, env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in (0, 1)
    ]
    try:
        assert [one.wait(timeout=1200) for one in both] == [0, 0]
    finally:
        for one in both:
            one.kill()
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("name", EXACT)
def test_losses_and_metrics_are_those_of_one_process(found: dict[str, dict], name: str) -> None:
    one, two = found[name]["one"], found[name]["two"]
    assert len(one["losses"]) >= 10
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-5, atol=0)
    for a, b in zip(two["lines"], one["lines"], strict=True):
        assert a["loss"].keys() == b["loss"].keys()
        np.testing.assert_allclose(list(a["loss"].values()), list(b["loss"].values()), rtol=1e-5, atol=2e-6)
    # Lists of weights that differ in their last bits are the same lists here, and so every user's metrics are.
    assert two["result"]["valid"] == one["result"]["valid"]
    assert two["result"]["test"] == one["result"]["test"]
    assert two["per_user"] == one["per_user"]
    assert two["result"]["beyond_accuracy"] == one["result"]["beyond_accuracy"]


def test_dropout_is_drawn_by_each_process_and_still_learns(found: dict[str, dict]) -> None:
    one, two = found["with-dropout"]["one"]["losses"], found["with-dropout"]["two"]["losses"]
    assert not np.allclose(one, two, rtol=1e-5)
    np.testing.assert_allclose(np.mean(two[-5:]), np.mean(one[-5:]), rtol=0.05)


def test_what_cannot_be_shared_is_refused_by_name(found: dict[str, dict]) -> None:
    assert "losses" in found["t-diffrec"]["one"]
    assert found["t-diffrec"]["two"]["error"].startswith("objective 'denoising' of 't-diffrec' is no mean over targets")
