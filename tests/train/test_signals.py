"""SIGINT and SIGTERM: the first finishes the step and saves once, the second leaves at once; one process a run."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from augrec.errors import UsageError
from augrec.experiment.directory import RunDirectory
from augrec.train.signals import StopRequest
from augrec.train.state import Checkpoints

EPOCHS = 3


def command(log_file: Path, out: Path, *more: object, epochs: int = EPOCHS) -> list[str]:
    given = ["train", "--data", log_file, "--model", "mf", "--augment", "adar", "--set", "mf.dim=8", "--epochs", epochs]
    given += ["--set", "train.batch_size=150", "--set", "train.threads=1", "--out", out, *more]
    return [str(one) for one in given]


@pytest.fixture(scope="module")
def whole(forks, log_file, outcome, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    assert forks.run(command(log_file, out))[0] == 0
    return outcome(out)


def batches(whole: dict) -> int:
    return int(whole["checkpoints"][0].removeprefix("step-")) // EPOCHS


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "at", ["first step", "inside epoch 1", "last of epoch 1", "inside epoch 2", "validation", "end"]
)
def test_signal_saves_once_and_the_run_goes_on(at, number, code, forks, log_file, outcome, whole, tmp_path):
    out, size = tmp_path / "run", batches(whole)
    assert size > 2
    step = {"first step": 1, "inside epoch 1": 2, "last of epoch 1": size, "inside epoch 2": size + 2}
    step |= {"validation": size, "end": EPOCHS * size}
    plan = {"at": "validation" if at == "validation" else "step", "n": 1 if at == "validation" else step[at]}
    found, errors = forks.run(command(log_file, out), plan=plan | {"signals": [number]})
    assert found == code
    assert errors.strip().splitlines()[-1].startswith(f"augrec: stopped by {number.name}; the state is saved")
    assert "Traceback" not in errors
    saved = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert saved[-1] == f"step-{step[at]:08d}"
    # One checkpoint for each epoch closed before, and the one the signal made.
    assert len(saved) == min(2, -(-step[at] // size))
    assert forks.run(["train", "--resume", "--out", out])[0] == 0
    assert outcome(out) == whole


def test_second_sigint_leaves_at_once(forks, log_file, outcome, whole, tmp_path):
    out, size = tmp_path / "run", batches(whole)
    plan = {"at": "step", "n": size + 1, "signals": [signal.SIGINT, signal.SIGINT]}
    assert forks.run(command(log_file, out), plan=plan)[0] == 130
    assert [path.name for path in (out / "checkpoints").iterdir()] == [f"step-{size:08d}"]
    assert forks.run(["train", "--resume", "--out", out])[0] == 0
    assert outcome(out) == whole


def test_second_signal_inside_the_save_leaves_the_old_checkpoint_valid(forks, log_file, outcome, whole, tmp_path):
    out, size = tmp_path / "run", batches(whole)
    plans = [
        {"at": "step", "n": size + 1, "signals": [signal.SIGTERM]},
        {"at": "half", "n": 4, "signals": [signal.SIGINT]},
    ]
    assert forks.run(command(log_file, out), plans=plans)[0] == 130
    snapshot = Checkpoints(out / "checkpoints").latest()
    assert snapshot is not None
    assert (snapshot.progress.epoch, snapshot.progress.steps) == (1, size)
    assert forks.run(["train", "--resume", "--out", out])[0] == 0
    assert outcome(out) == whole


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.number == signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_directory_in_use_is_refused(forks, log_file, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, errors = forks.run(command(log_file, out))
        assert code == 2
        assert errors.strip() == (
            f"augrec: {out}: another process is using this run directory; wait for it or choose another --out"
        )
        assert not (out / "config.json").exists()
    assert forks.run(command(log_file, out))[0] == 0
    code, errors = forks.run(command(log_file, out))
    assert code == 2
    assert errors.strip() == f"augrec: {out}: already holds a run; go on with --resume, or choose another --out"


@pytest.mark.parametrize("kind", ["file", "no run"])
def test_a_path_that_holds_no_run(kind, tmp_path):
    path = tmp_path / "run"
    if kind == "file":
        path.write_text("mine")
    with pytest.raises(UsageError, match=str(path)), RunDirectory(path).open(resume=True):
        pass
    assert not path.is_dir()


@pytest.mark.slow
def test_a_real_process_is_interrupted_while_another_is_refused(forks, log_file, one_thread, tmp_path):
    out, again = tmp_path / "run", tmp_path / "again"
    process = subprocess.Popen(
        [sys.executable, "-m", "augrec", *command(log_file, out, epochs=100_000)],
        env=one_thread, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    while not (out / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    code, errors = forks.run(["train", "--resume", "--out", out])
    assert (code, errors.count("\n")) == (2, 1)
    assert "another process is using this run directory" in errors
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 130, errors
    assert "stopped by SIGINT" in errors
    assert "Traceback" not in errors
    # Wherever the signal came: the state is that of a run stopped at the same step, or at the same epoch's end.
    saved = max((out / "checkpoints").glob("step-*"))
    progress = json.loads((saved / "state.json").read_text())
    plan = {"at": "step", "n": progress["steps"]} if progress["batch"] else {"at": "line", "n": progress["epoch"]}
    assert forks.run(command(log_file, again, epochs=100_000), plan=plan | {"signals": [signal.SIGINT]})[0] == 130
    state = again / "checkpoints" / saved.name / "state.safetensors"
    assert state.read_bytes() == (saved / "state.safetensors").read_bytes()
