"""Runs one arm of a row in a process of its own: JSON lines in on standard input, JSON lines out on standard output.

Run as a program, `python host.py MODULE`, by any Python: standard library only. MODULE has `open_work(task, settings)`,
which gives a `Work`. Requests: {"op": "open", "task": ..., "settings": {...}}, {"op": "turn", "units": n, "warm": m},
{"op": "close", "where": false}. Every answer has "ok"; where that is false, "error" says why.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, Protocol, TextIO


class Work(Protocol):
    """What an arm does."""

    info: dict[str, Any]
    """What is known before anything is timed: sizes, versions, `scale` (a unit times it is what the row is about)."""

    def ready(self) -> None:
        """Before each unit, not timed."""

    def unit(self) -> None:
        """One unit."""

    def where(self) -> dict[str, float]:
        """The largest shares of a unit's time by what it was spent on; only asked of works that have it."""


def spent() -> float:
    """Processor seconds of this process and its finished children."""
    every = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in every)


def peak_mb() -> int:
    """Peak resident memory of this process or of its largest finished child, in MB.

    Linux carries the peak of the program that started this one over into `ru_maxrss`; VmHWM begins anew.
    """
    unit = 1024 if sys.platform != "darwin" else 1024 * 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        own = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), own)
    return int(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)) // unit


def take_turn(work: Work, units: int, warm: int) -> dict[str, Any]:
    """Seconds and processor seconds of each counted unit."""
    begun = spent()
    seconds, processor = [], []
    for number in range(warm + units):
        work.ready()
        cpu, start = spent(), time.perf_counter()
        work.unit()
        took, used = time.perf_counter() - start, spent() - cpu
        if number >= warm:
            seconds.append(took)
            processor.append(used)
    return {"seconds": seconds, "processor": processor, "spent": spent() - begun}


def answer(module: Any, work: Work | None, request: dict[str, Any]) -> tuple[Work | None, dict[str, Any]]:
    """The work after a request, and what is said."""
    if request["op"] == "open":
        work = module.open_work(request["task"], request["settings"])
        return work, {"info": work.info}
    if request["op"] == "turn" and work is not None:
        return work, take_turn(work, request["units"], request["warm"])
    if request["op"] == "close":
        found: dict[str, Any] = {"peak_rss_mb": peak_mb()}
        if request.get("where"):
            found["where"] = work.where()  # type: ignore[union-attr]
        return work, found
    raise ValueError(f"cannot {request['op']} now")


def serve(module: Any, asked: TextIO, said: TextIO) -> None:
    """Answers until it is told to close or standard input ends."""
    work: Work | None = None
    for line in asked:
        request = json.loads(line)
        try:
            work, found = answer(module, work, request)
            found["ok"] = True
        except Exception as error:  # Whatever a peer's code raises is the row's reason.
            words = " ".join(str(error).split())
            found = {"ok": False, "error": f"{type(error).__name__}: {words}"[:500]}
        said.write(json.dumps(found) + "\n")
        said.flush()
        if request["op"] == "close":
            return


def main() -> None:
    """Keeps the pipe to the parent for itself: whatever a library prints goes to standard error."""
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    folder = str(Path(__file__).resolve().parent)
    # As a program its folder stands first already; a package of the parent's must never be found here.
    sys.path[:] = [folder, *(one for one in sys.path if one != folder)]
    serve(importlib.import_module(sys.argv[1]), sys.stdin, said)


if __name__ == "__main__":
    main()
