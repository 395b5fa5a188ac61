"""What this machine does at its best: bytes moved and operations done a second, for floors."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from augrec.linear import matmul

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Rates:
    """What this machine moves and multiplies; all of it in `info`. Settings: `size` in MB of what is copied."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        size = int(settings.get("size", 256))
        self.info = {
            "memory_bandwidth": _bandwidth(size * 2**20, 5), "cache_bandwidth": _bandwidth(2**21, 200),
            "gemm_rate": _gemm(2048 if size >= 128 else 512),
        }  # fmt: skip

    def ready(self) -> None:
        """Nothing."""

    def unit(self) -> None:
        """Nothing: rates are measured once."""


def _bandwidth(size: int, times: int) -> float:
    """Bytes read and written a second by the best of some copies of `size` bytes."""
    source, target = torch.ones(size // 4), torch.empty(size // 4)
    return 2 * size / _best(lambda: target.copy_(source), times)


def _gemm(width: int) -> float:
    """Floating-point operations a second of float32 products."""
    a, b = torch.rand(width, width), torch.rand(width, width)
    return 2 * width**3 / min(_best(lambda: matmul(a, b), 5), _best(lambda: torch.mm(a, b), 5))


def _best(trial: Callable[[], Any], times: int) -> float:
    trial()
    found = float("inf")
    for _ in range(times):
        begun = time.perf_counter()
        trial()
        found = min(found, time.perf_counter() - begun)
    return found
