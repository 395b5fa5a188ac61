"""How time and memory grow with the log: synthetic logs of growing size, each in a process of its own."""

from __future__ import annotations

import math
import statistics
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from augrec.bench.child import Child
from augrec.bench.record import GrowthRecord, PointRecord
from augrec.bench.timing import ArmFailed, busy_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

SIZES, LARGE, QUICK_SIZES = (10**5, 10**6, 10**7), (10**8,), (5_000, 10_000, 20_000)
"""Events of the logs."""
_SECONDS = 5.0
"""Shorter units are repeated for about so long."""
_PAIRS = MappingProxyType({"train": {"batch_size": 65_536}})
_TRAIN: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "mf": {"model": "mf", "objective": "bpr", "overrides": dict(_PAIRS)},
        "lightgcn": {"model": "lightgcn", "objective": "bpr", "overrides": dict(_PAIRS)},
        # A dense Adam touches the whole catalogue in each step: large batches, and of many steps the first hundred.
        "sasrec": {
            "model": "sasrec", "objective": "sampled-softmax", "batches": 100,
            "overrides": {"train": {"batch_size": 16_384}},
        },
    }
)  # fmt: skip


def make_log(path: Path, *, interactions: int, users: int, items: int, seed: int = 0) -> None:
    """Writes a shuffled log of `interactions` rows as Parquet: user, item, timestamp (s). Every user has two rows at
    least (`interactions` >= 2 `users`), the others fall uniformly; item ranks follow u^3, so a tenth of the items has
    46 % of the events."""
    rng = np.random.default_rng(seed)
    rest = rng.integers(0, users, interactions - 2 * users, dtype=np.int32)
    user = np.concatenate([np.repeat(np.arange(users, dtype=np.int32), 2), rest])
    item = (items * rng.random(interactions) ** 3).astype(np.int32)
    stamp = rng.integers(1_500_000_000, 1_600_000_000, interactions)
    order = rng.permutation(interactions)
    pl.DataFrame({"user": user[order], "item": item[order], "timestamp": stamp[order]}).write_parquet(path)


def sizes_of(interactions: int) -> tuple[int, int]:
    """Users and items of a log."""
    return max(interactions // 20, 1), min(max(interactions // 100, 10**4), 10**6)


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Of log y against log x, by least squares; None for fewer than two different x."""
    x = [math.log(one) for one, _ in points]
    y = [math.log(one) for _, one in points]
    if len(set(x)) < 2:
        return None
    middle, level = statistics.fmean(x), statistics.fmean(y)
    across = sum((a - middle) ** 2 for a in x)
    return sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True)) / across


def run_growth(
    task: str, *, threads: int, folder: Path, quick: bool, large: bool, environment: Mapping[str, str],
    say: Callable[[str], None] = lambda _: None,
) -> GrowthRecord:  # fmt: skip
    """Seconds and peak memory of `task` at every size; logs are made in `folder` and kept for the next task."""
    points = []
    for interactions in QUICK_SIZES if quick else SIZES + (LARGE if large else ()):
        say(f"growth/{task}: {interactions:,} events")
        users, items = sizes_of(interactions)
        log = folder / f"log_{interactions}.parquet"
        if not log.exists():
            make_log(log, interactions=interactions, users=users, items=items)
        known = {"interactions": interactions, "users": users, "items": items}
        try:
            points.append(PointRecord(**known, **_measure(task, log, threads, environment)))
        except ArmFailed as error:
            points.append(PointRecord(**known, reason=str(error)))
    return GrowthRecord(points=points, slope=slope([(p.interactions, p.seconds) for p in points if p.seconds]))


def _measure(task: str, log: Path, threads: int, environment: Mapping[str, str]) -> dict[str, Any]:
    module, settings, kind = "augrec.bench.ours", {"data": str(log), "split": "leave-one-out"}, "train"
    if task == "import":
        module, kind, out = "commands", "command", log.with_suffix(".imported.parquet")
        command = ["-m", "augrec", "data", "import", str(log), "--out", str(out)]
        settings = {"arguments": command, "tried": True}  # type: ignore[dict-item]
    elif task == "evaluate":
        kind = "evaluate"
        settings |= {"model": "mf", "objective": "bpr", "users": 20_000}  # type: ignore[dict-item]
    else:
        settings |= {"unit": "epoch", **_TRAIN[task]}
    with Child(sys.executable, module, threads=threads, environment=environment, patience=7200.0) as child:
        info = child.open(kind, settings)
        before = busy_seconds()
        turn = child.turn(units=1, warm=0)
        spent, took = turn.spent, sum(turn.seconds)
        again = min(int(_SECONDS / max(turn.seconds[0], 1e-9)), 20)
        if again > 1:
            turn = child.turn(units=again, warm=0)
            spent, took = spent + turn.spent, took + sum(turn.seconds)
        after, peak = busy_seconds(), child.close()[0]
    scale = 1.0 if task in ("import", "evaluate") else float(info["scale"])
    seconds = statistics.median(turn.seconds) * scale
    each = info.get("interactions") if kind == "train" else None
    if task == "evaluate":
        each = min(info["evaluated"], 20_000) * info["items"]
    foreign = None if before is None or after is None else max(after - before - spent, 0.0) / max(took, 1e-9)
    # An import reads every event of the log.
    each = each or int(log.stem.partition("_")[2])
    return {
        "seconds": seconds, "nanoseconds_each": 1e9 * seconds / each, "peak_rss_mb": peak,
        "foreign": None if foreign is None else round(foreign, 3),
    }  # fmt: skip
