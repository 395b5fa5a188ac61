"""Writes that fail and disks that are full: the last good state always stands."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import augrec
from augrec.cli import main
from augrec.errors import CheckpointError
from augrec.train.state import Checkpoints, Progress, Snapshot


def snapshot(step: int) -> Snapshot:
    values = torch.arange(6, dtype=torch.float32).view(2, 3) + step
    tensors = {"model/w": values, "best/w": values + 1, "stream/batches": torch.full((5,), step, dtype=torch.uint8)}
    return Snapshot(tensors=tensors, progress=Progress(epoch=step, steps=step, best_value=0.1 * step, lines=step))


def same(one: Snapshot | None, other: Snapshot) -> bool:
    return (
        one is not None
        and one.progress == other.progress
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())
    )


class Power(BaseException):
    """The machine stops here: nothing after this runs, not even a clean-up."""


class Faults:
    """Lets the n-th system call of a kind fail. Counts calls, so that every one of them can be tried in turn."""

    KINDS = ("open", "write", "fsync", "mkdir", "replace")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = dict.fromkeys(self.KINDS, 0)
        self.fail: tuple[str, int, object] | None = None
        self.dead = False
        for kind, owner, name in (("fsync", os, "fsync"), ("mkdir", Path, "mkdir"), ("replace", Path, "replace")):
            self._wrap(monkeypatch, kind, owner, name)
        monkeypatch.setattr(shutil, "rmtree", self._unless_dead(shutil.rmtree))
        monkeypatch.setattr(Path, "unlink", self._unless_dead(Path.unlink))
        opened, faults = Path.open, self

        def open_(path, mode="r", *args, **kwargs):
            if "w" not in mode and "a" not in mode:
                return opened(path, mode, *args, **kwargs)
            faults.count("open", path)
            file = opened(path, mode, *args, **kwargs)
            return Writer(file, faults, path)

        monkeypatch.setattr(Path, "open", open_)

    def _unless_dead(self, call):
        return lambda *args, **kwargs: None if self.dead else call(*args, **kwargs)

    def _wrap(self, monkeypatch, kind, owner, name):
        call = getattr(owner, name)

        def wrapped(*args, **kwargs):
            self.count(kind, args[0])
            return call(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapped)

    def count(self, kind: str, what: object) -> None:
        if self.dead:
            raise Power
        self.calls[kind] += 1
        if self.fail is not None and self.fail[:2] == (kind, self.calls[kind]):
            how = self.fail[2]
            if how is Power:
                self.dead = True
                raise Power
            assert isinstance(how, int)
            raise OSError(how, os.strerror(how), *([] if kind in ("write", "fsync") else [str(what)]))


class Writer:
    """A file that may write half of what it is given, and fails when its turn has come."""

    def __init__(self, file, faults: Faults, path: Path) -> None:
        self.file, self.faults, self.path = file, faults, path

    def __enter__(self):
        return self

    def __exit__(self, *details: object) -> None:
        self.file.close()

    def write(self, data) -> int:
        half = max(1, len(data) // 2)
        self.file.write(bytes(data[:half]))  # a short write is no error
        self.faults.count("write", self.path)
        return half

    def __getattr__(self, name: str):
        return getattr(self.file, name)


def spots(tmp_path: Path) -> list[tuple[str, int]]:
    """Every system call that the second save makes."""
    with pytest.MonkeyPatch.context() as patch:
        store = Checkpoints(tmp_path / "count")
        store.save(snapshot(1))
        faults = Faults(patch)
        store.save(snapshot(2))
    return [(kind, n) for kind, count in faults.calls.items() for n in range(1, count + 1)]


@pytest.mark.parametrize(
    "how", [errno.ENOSPC, errno.EIO, errno.EACCES, Power], ids=["ENOSPC", "EIO", "EACCES", "power"]
)
@pytest.mark.parametrize("again", [False, True], ids=["new", "same step"])
def test_a_failing_save_leaves_the_last_checkpoint(how, again, tmp_path):
    tried = spots(tmp_path)
    assert {kind for kind, _ in tried} == set(Faults.KINDS)
    for kind, n in tried:
        folder = tmp_path / f"{kind}-{n}"
        store, old = Checkpoints(folder), snapshot(1)
        store.save(old)
        new = snapshot(1 if again else 2)
        new.tensors["model/w"] = new.tensors["model/w"] * 3
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch)
            faults.fail = (kind, n, how)
            with pytest.raises((OSError, Power)) as caught:
                store.save(new)
        if isinstance(caught.value, OSError):
            assert caught.value.errno == how
            assert str(folder) in str(caught.value)
            assert not [path for path in folder.iterdir() if path.name.startswith(".writing")]
        found = Checkpoints(folder).latest()
        # The parent folder is flushed after the rename: the new state is whole by then.
        # A machine that stops between moving the same step aside and renaming leaves that step under neither name.
        gone = found is None and again and how is Power and not list(folder.glob("step-*"))
        assert same(found, old) or same(found, new) or gone, (kind, n)
        Checkpoints(folder).save(snapshot(3))
        assert same(Checkpoints(folder).latest(), snapshot(3))
        assert not list(folder.glob(".*"))


def test_the_newest_valid_checkpoint_is_chosen(tmp_path):
    store = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        store.save(snapshot(step))
    (tmp_path / "step-00000003" / "state.json").write_text("{}")
    assert same(store.latest(), snapshot(2))
    (tmp_path / "step-00000002" / "manifest.json").unlink()
    assert same(store.latest(), snapshot(1))
    shutil.rmtree(tmp_path / "step-00000001")
    with pytest.raises(CheckpointError, match="step-00000003"):
        store.latest()
    assert Checkpoints(tmp_path / "nothing").latest() is None


def test_two_checkpoints_are_kept(tmp_path):
    store = Checkpoints(tmp_path)
    (tmp_path / ".writing-step-00000009").mkdir()
    for step in range(1, 6):
        store.save(snapshot(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]


SMALL = {"mf": {"dim": 4}, "train": {"batch_size": 200, "threads": 1, "epochs": 2}}


def test_a_checkpoint_of_other_settings_is_refused(log, tmp_path):
    out = tmp_path / "run"
    augrec.train(log, model="mf", out=out, overrides=SMALL, callbacks=[])
    (out / "result.json").unlink()
    config = json.loads((out / "config.json").read_text())
    config["parts"]["mf"]["dim"] = 5
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not fit the run's settings"):
        augrec.train(log, model="mf", out=out, resume=True, callbacks=[])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("victim", ["state.safetensors", "metrics.jsonl", "weights.safetensors", "per_user.parquet"])
def test_the_command_line_names_the_path(victim, number, log_file, tmp_path, monkeypatch, capsys):
    out, sync = tmp_path / "run", os.fsync
    written: list[str] = []

    def fsync(handle: int) -> None:
        written.append(os.readlink(f"/proc/self/fd/{handle}"))
        due = 2 if victim in ("state.safetensors", "metrics.jsonl") else 1
        if victim in written[-1] and sum(victim in name for name in written) == due:
            raise OSError(number, os.strerror(number))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    arguments = ["train", "--data", str(log_file), "--model", "mf", "--epochs", "3", "--out", str(out)]
    arguments += ["--set", "mf.dim=4", "--set", "train.threads=1", "--set", "train.batch_size=200"]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith(f"augrec: {out}/")
    assert victim in message
    assert ("disk is full" in message) == (number == errno.ENOSPC)
    monkeypatch.setattr(os, "fsync", sync)
    assert Checkpoints(out / "checkpoints").latest() is not None
    with pytest.raises(SystemExit) as end:
        main(["train", "--resume", "--out", str(out)])
    assert end.value.code == 0
    assert [path for path in out.rglob(".*") if path.name != ".lock"] == []
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of a given size."""
    mounted = []

    def mount(kib: int) -> Path:
        path = tmp_path / f"disk-{len(mounted)}"
        path.mkdir()
        if os.geteuid() != 0 or shutil.which("mount") is None:
            pytest.skip("mounting a small disk needs root")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(path)], capture_output=True)
        if done.returncode:
            pytest.skip(f"mount is refused here: {done.stderr.decode().strip()}")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_and_more_room_later(small_disk, forks, log_file, outcome, tmp_path):
    def command(out: Path) -> list[str]:
        given = ["train", "--data", log_file, "--model", "mf", "--epochs", "3", "--out", out, "--set", "mf.dim=32"]
        return [*map(str, given), "--set", "train.threads=1", "--set", "train.batch_size=200"]

    whole = tmp_path / "whole"
    assert forks.run(command(whole))[0] == 0
    used = sum(-(-path.stat().st_size // 4096) * 4 for path in whole.rglob("*") if path.is_file())
    reached = set()
    # Full at the settings, at the first checkpoint, at a later one, and at the bundle.
    for share in (0.02, 0.2, 0.4, 0.7, 0.85, 0.97):
        disk = small_disk(max(8, int(used * share)))
        out = disk / "run"
        code, errors = forks.run(command(out))
        assert code in (1, 2), errors
        message = errors.strip().splitlines()[-1]
        assert message.startswith("augrec: /")
        assert str(out) in message
        assert "Traceback" not in errors
        left = list((out / "checkpoints").glob("step-*")) if out.exists() else []
        reached.add((len(left), (out / "bundle").exists()))
        for path in left:
            Checkpoints.read(path)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        if (out / "config.json").exists():
            code, errors = forks.run(["train", "--resume", "--out", out])
        else:
            code, errors = forks.run(command(out))
        assert code == 0, errors
        assert outcome(out) == outcome(whole)
    assert len(reached) >= 3
