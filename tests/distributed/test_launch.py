"""Starting several processes, ending them together, and going on with another number of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from augrec.errors import UsageError
from augrec.experiment.processes import RANK, Place, place_of

ENV = {
    **{key: value for key, value in os.environ.items() if not key.startswith("TORCHELASTIC")},
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1"),
    "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src"),
}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
NODES = {"MASTER_ADDR": "h", "MASTER_PORT": "1", "NODE_RANK": "1"}


def command(log: Path, out: Path, *more: object) -> list[str]:
    given = ["train", "--data", log, "--model", "mf", "--set", "mf.dim=8", "--set", "train.batch_size=64"]
    return [str(one) for one in (*given, "--set", "train.patience=100000", "--out", out, *more)]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "toy.csv"
    rows = [f"u{user},i{(user * 7 + n * n) % 40},{1000 + n}" for user in range(60) for n in range(9)]
    path.write_text("\n".join(["user,item,timestamp", *rows]) + "\n")
    return path


@contextmanager
def running(arguments: list[str], out: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A run over two processes after its third epoch, and the process id of the second."""
    both = subprocess.Popen(
        [sys.executable, "-m", "augrec", *arguments], env=ENV, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    lines, ends = out / "metrics.jsonl", time.monotonic() + 400
    try:
        while not lines.exists() or lines.read_bytes().count(b"\n") < 3:
            assert both.poll() is None, both.communicate()
            assert time.monotonic() < ends
            time.sleep(0.05)
        children = Path(f"/proc/{both.pid}/task/{both.pid}/children").read_text().split()
        yield both, int(children[0])
    finally:
        both.kill()


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"]["bpr"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_to_one_stops_all_and_any_number_goes_on(log: Path, tmp_path: Path, processes: int) -> None:
    out = tmp_path / "run"
    wide = ("--set", "mf.dim=2048")  # both tables are divided
    with running(command(log, out, *wide, "--epochs", 100000, "--devices", 2), out) as (both, second):
        os.kill(second, signal.SIGTERM)
        _, errors = both.communicate(timeout=200)
    assert both.returncode == 143
    assert errors.strip().splitlines()[-1].startswith("augrec: stopped by SIGTERM; the state is saved")
    assert "Traceback" not in errors
    assert json.loads((out / "config.json").read_text())["choices"]["processes"] == 2
    done = len(losses(out))
    config = json.loads((out / "config.json").read_text())
    config["parts"]["train"]["epochs"] = done + 3
    (out / "config.json").write_text(json.dumps(config))
    on = ["train", "--resume", "--out", str(out), *(("--devices", "2") if processes == 2 else ())]
    again = subprocess.run([sys.executable, "-m", "augrec", *on], env=ENV)
    assert again.returncode == 0
    whole = tmp_path / "whole"
    arguments = command(log, whole, *wide, "--epochs", done + 3)
    assert subprocess.run([sys.executable, "-m", "augrec", *arguments], env=ENV).returncode == 0
    assert losses(out) == pytest.approx(losses(whole), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["first", "second"])
def test_when_one_is_killed_the_other_ends_and_says_so(which: str, log: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running(command(log, out, "--epochs", 100000, "--devices", 2), out) as (both, second):
        os.kill(both.pid if which == "first" else second, signal.SIGKILL)
        _, errors = both.communicate(timeout=200)  # ends when the last holder of the pipe has ended
    assert both.returncode == (-9 if which == "first" else 1)
    last = errors.strip().splitlines()[-1]
    assert last.startswith("augrec: process 1: another" if which == "first" else "augrec: another process of this run")
    assert "go on with --resume" in last
    state = Path(f"/proc/{second}/stat")
    # An orphan that has ended may stay as a zombie until somebody collects it.
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.slow
def test_torchrun(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "augrec"]
    done = subprocess.run(
        [*start, *command(log, out, "--epochs", 3, "--json")], env=ENV, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epochs"]["run"] == 3
    assert json.loads((out / "result.json").read_text()) == json.loads(done.stdout)
    refused = subprocess.run(
        [sys.executable, "-m", "augrec", *command(log, out, "--devices", 2)], env=ENV, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines() == [
        f"augrec: {out}: already holds a run; go on with --resume, or choose another --out"
    ]


@pytest.mark.slow
def test_two_commands_stand_in_for_two_machines(log: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out, given = tmp_path / "run", ("--epochs", 3, "--devices", 1, "--num-nodes", 2)
    machines = [
        subprocess.Popen(
            [sys.executable, "-m", "augrec", *command(log, out if rank == 0 else tmp_path / "other", *given)],
            env=ENV | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [one.communicate(timeout=300)[1] for one in machines]
    assert [one.returncode for one in machines] == [0, 0], said
    assert not (tmp_path / "other").exists()
    whole = tmp_path / "whole"
    alone = [sys.executable, "-m", "augrec", *command(log, whole, "--epochs", 3)]
    assert subprocess.run(alone, env=ENV).returncode == 0
    assert losses(out) == pytest.approx(losses(whole), rel=1e-5)


def test_places() -> None:
    assert place_of(None, None, {}) == Place() == place_of(1, 1, {})
    assert place_of(3, None, {RANK: "2"}) == Place(rank=2, local=2, devices=3)
    assert place_of(2, 2, NODES) == Place(rank=2, local=0, devices=2, nodes=2)
    assert place_of(2, 2, NODES | {RANK: "3"}) == Place(rank=3, local=1, devices=2, nodes=2)
    both = Place(rank=3, local=1, devices=2, nodes=2, outside=True)
    assert place_of(None, None, TORCHRUN) == place_of(2, 2, TORCHRUN) == both
    assert both.world == 4


@pytest.mark.parametrize(
    ("devices", "nodes", "environment", "message"),
    [
        (0, None, {}, "--devices: must be at least 1"),
        (None, 0, {}, "--num-nodes: must be at least 1"),
        (2, 2, {"MASTER_ADDR": "h"}, "--num-nodes 2: set MASTER_PORT, NODE_RANK on every machine"),
        (2, 2, {**NODES, "NODE_RANK": "2"}, "NODE_RANK is 2"),
        (3, None, TORCHRUN, "torchrun started 2 processes on each of 2 machines"),
    ],
)
def test_places_that_cannot_be(devices: int | None, nodes: int | None, environment: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        place_of(devices, nodes, environment)
