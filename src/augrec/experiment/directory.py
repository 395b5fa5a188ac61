"""The run directory: who may write in it, and the files at its top."""

from __future__ import annotations

import fcntl
import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from augrec.errors import AugrecError, UsageError
from augrec.storage import write_file

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def locked(folder: Path, *, what: str = "folder") -> Iterator[None]:
    """Makes `folder` where it is missing and keeps a second process out of it. `what` it is stands in the messages.

    Raises `UsageError` where it is a file, cannot be written or is in use.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file, not a {what}; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"{folder}: another process is using this {what}; wait for it or choose another --out"
            ) from None
        yield


class RunDirectory:
    """Paths of a run; `open` takes the lock that keeps a second process out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.result = path / "config.json", path / "result.json"
        self.metrics, self.checkpoints = path / "metrics.jsonl", path / "checkpoints"
        self.bundle, self.per_user = path / "bundle", path / "per_user.parquet"

    @contextmanager
    def open(self, *, resume: bool) -> Iterator[RunDirectory]:
        """Locks the directory for this process. Raises `UsageError` where it is in use, or holds a run and `resume` is
        off."""
        if resume and not self.path.is_file() and not self.config.exists():
            raise UsageError(
                f"{self.path}: holds no run to resume (config.json is missing); leave out --resume to start one"
            )
        with locked(self.path, what="run directory"):
            # Asked under the lock: a run that started in between must not be written over.
            if not resume and self.config.exists():
                raise UsageError(f"{self.path}: already holds a run; go on with --resume, or choose another --out")
            yield self

    def write_json(self, path: Path, values: dict[str, Any]) -> None:
        """Replaces a JSON file whole or not at all."""
        write_file(path, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())

    def read_json(self, path: Path) -> dict[str, Any]:
        """A JSON object of this run. Raises `UsageError` where there is none, `AugrecError` where it is damaged."""
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError:
            raise UsageError(f"{path}: no such file; is {self.path} a finished augrec run?") from None
        except (OSError, ValueError) as error:
            raise AugrecError(f"{path}: cannot be read ({error})") from None
        if not isinstance(values, dict):
            raise AugrecError(f"{path}: holds no JSON object")
        return values
