"""How many CPU threads a run uses: measured once, recorded, kept on resume."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


def cores() -> int:
    """CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fastest_threads(trial: Callable[[], None], *, rounds: int = 3) -> int:
    """The thread count of 1, 2, 4, ... and all cores at which `trial` is fastest (best of `rounds`, in turn).

    More threads must win by a tenth, since two threads collapse when anything else runs on the machine.
    """
    counts = sorted({2**n for n in range(cores().bit_length()) if 2**n <= cores()} | {cores()})
    if len(counts) == 1:
        return counts[0]
    before = torch.get_num_threads()
    seconds = dict.fromkeys(counts, float("inf"))
    try:
        for _ in range(rounds):
            for count in counts:
                torch.set_num_threads(count)
                begun = time.perf_counter()
                trial()
                seconds[count] = min(seconds[count], time.perf_counter() - begun)
    finally:
        torch.set_num_threads(before)
    best = counts[0]
    for count in counts[1:]:
        if seconds[count] < 0.9 * seconds[best]:
            best = count
    return best
