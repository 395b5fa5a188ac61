"""An arm as a child process: long-lived, spoken to over pipes, its death a reason and never a crash."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from augrec.bench.timing import ArmFailed, Turn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

HOST = Path(__file__).resolve().parent / "peers" / "host.py"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS")


class Child:
    """One arm of a row. Use as a context manager: the process is gone afterwards, whatever happened."""

    def __init__(
        self, python: str, module: str, *, threads: int, environment: Mapping[str, str], patience: float = 900.0
    ) -> None:
        """`python` runs `host.py MODULE` with so many threads; an answer may take `patience` seconds."""
        self.patience = patience
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by kill()
        settings = {**os.environ, **dict.fromkeys(_THREADS, str(threads)), **environment}
        try:
            self._process = subprocess.Popen(  # noqa: S603 - a program of ours, arguments of ours, no shell
                [python, "-u", str(HOST), module],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=settings, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._log.close()
            raise ArmFailed(f"{python} does not start: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.kill()

    def open(self, task: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Makes the arm ready; what it knows of itself. Raises `ArmFailed`."""
        info: dict[str, Any] = self._ask({"op": "open", "task": task, "settings": dict(settings)})["info"]
        return info

    def turn(self, *, units: int, warm: int) -> Turn:
        """As `timing.Runner`."""
        found = self._ask({"op": "turn", "units": units, "warm": warm})
        return Turn(
            seconds=tuple(found["seconds"]), processor=tuple(found["processor"]), spent=float(found["spent"])
        )  # fmt: skip

    def close(self, *, where: bool = False) -> tuple[int, dict[str, float]]:
        """Ends it; its peak resident memory in MB, and with `where` what a unit's time was spent on."""
        found = self._ask({"op": "close", "where": where})
        return int(found["peak_rss_mb"]), dict(found.get("where", {}))

    def kill(self) -> None:
        """Ends the process and its children, if any are left."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self._log.close()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, OSError):
            raise ArmFailed(self._death()) from None
        line = self._line(time.monotonic() + self.patience)
        try:
            found: dict[str, Any] = json.loads(line)
        except ValueError:
            raise ArmFailed(f"it said {line[:80]!r}, which is not JSON") from None
        if not found.get("ok"):
            raise ArmFailed(str(found.get("error", "it gave no reason")))
        return found

    def _line(self, deadline: float) -> bytes:
        """One line of standard output. Never more than one is under way, so nothing is left in a buffer."""
        assert self._process.stdout is not None
        line, descriptor = b"", self._process.stdout.fileno()
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.kill_quietly()
                raise ArmFailed(f"no answer within {self.patience:g} s")
            more = os.read(descriptor, 1 << 16)
            if not more:
                raise ArmFailed(self._death())
            line += more
        return line

    def kill_quietly(self) -> None:
        """Ends a process that does not answer; what it wrote stays readable."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _death(self) -> str:
        """How it died, with the last line it wrote."""
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        how = f"stopped by {signal.Signals(-code).name}" if code < 0 else f"left with exit code {code}"
        return f"{how}: {lines[-1].strip()[:300]}" if lines else how
