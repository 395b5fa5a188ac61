"""How time and memory grow with the log: synthetic logs of growing size, each in a process of its own."""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A synthetic log."""

    interactions: int
    users: int
    items: int


def growing(interactions: int) -> Size:
    """A log of a growth row: 20 events a user, an item for each 100 events, 10^4 at least and 10^6 at most."""
    items = min(max(interactions // 100, 10**4), 10**6)
    return Size(interactions=interactions, users=max(interactions // 20, 1), items=items)


SIZES: Mapping[str, tuple[Size, ...]] = MappingProxyType(
    {"growth": tuple(map(growing, (10**5, 10**6, 10**7))), "million": ()}
)
LARGE: Mapping[str, tuple[Size, ...]] = MappingProxyType(
    {"growth": (growing(10**8),), "million": (Size(interactions=5 * 10**7, users=10**6, items=10**6),)}
)
"""What is added when large logs are asked for."""
QUICK: Mapping[str, tuple[Size, ...]] = MappingProxyType(
    {
        "growth": tuple(map(growing, (5_000, 10_000, 20_000))),
        "million": (Size(interactions=20_000, users=1_000, items=5_000),),
    }
)
_EVALUATED: Mapping[str, int] = MappingProxyType({"growth": 20_000, "million": 50_000})
"""Users who are ranked for."""
_SECONDS = 5.0
"""Shorter units are repeated for about so long."""
_BATCHES = 150
"""Longer epochs are scaled from so many batches."""
_STEPS = 16
"""Batches of a LightGCN epoch, each of which propagates over the whole graph: with batches of one size an epoch would
grow with the square of the log."""


def _training(task: str, size: Size) -> dict[str, Any]:
    """What an epoch is timed with."""
    objective = "sampled-softmax" if task == "sasrec" else "bpr"
    # Large batches: below 262,144 rows a dense Adam touches every row of the table in each step.
    batch = {"mf": 65_536, "lightgcn": -(-size.interactions // _STEPS), "sasrec": 16_384}[task]
    train = {"train": {"batch_size": batch}}
    return {"model": task, "objective": objective, "overrides": train, "batches": _BATCHES}


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


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Of log y against log x, by least squares; None for fewer than two different x."""
    x = [math.log(one) for one, _ in points]
    y = [math.log(one) for _, one in points]
    if len(set(x)) < 2:
        return None
    middle, level = statistics.fmean(x), statistics.fmean(y)
    across = sum((a - middle) ** 2 for a in x)
    return sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True)) / across


def sizes(name: str, *, quick: bool, large: bool) -> tuple[Size, ...]:
    """The logs of a row."""
    family = name.partition("/")[0]
    return QUICK[family] if quick else SIZES[family] + (LARGE[family] if large else ())


def run_growth(
    name: str, *, threads: int, folder: Path, quick: bool, large: bool, environment: Mapping[str, str],
    say: Callable[[str], None] = lambda _: None,
) -> GrowthRecord:  # fmt: skip
    """Seconds and peak memory of a row's task, `name` being FAMILY/TASK, at every size of the family; logs are made in
    `folder` and kept for the next task."""
    family, _, task = name.partition("/")
    points = []
    for size in sizes(name, quick=quick, large=large):
        say(f"{name}: {size.interactions:,} events")
        log = folder / f"log_{size.interactions}_{size.items}.parquet"
        if not log.exists():
            make_log(log, **asdict(size))
        try:
            found = _measure(task, log, size, min(_EVALUATED[family], size.users), threads, environment)
            points.append(PointRecord(**asdict(size), **found))
        except ArmFailed as error:
            points.append(PointRecord(**asdict(size), reason=str(error)))
    return GrowthRecord(points=points, slope=slope([(p.interactions, p.seconds) for p in points if p.seconds]))


def _commands(task: str, log: Path, users: int, threads: int) -> dict[str, Any]:
    """The command that is timed, and what has to be run before it (by each number of threads: its memory counts)."""
    if task == "import":
        out = log.with_suffix(".imported.parquet")
        return {"arguments": ["-m", "augrec", "data", "import", str(log), "--out", str(out)], "tried": True}
    asked, run, lists = (
        log.with_suffix(".users.txt"),
        log.with_suffix(f".run{threads}"),
        log.with_suffix(".lists.parquet"),
    )
    asked.write_text("\n".join(map(str, range(users))), encoding="utf-8")
    train = ["-m", "augrec", "train", "--data", str(log), "--model", "mf", "--epochs", "1", "--out", str(run)]
    for one in ("train.batch_size=65536", f"evaluate.max_users={users}"):
        train += ["--set", one]
    recommend = ["-m", "augrec", "recommend", str(run), "--users", str(asked), "--out", str(lists)]
    return {"arguments": recommend, "tried": True, "before": [train]}


def _measure(
    task: str, log: Path, size: Size, evaluated: int, threads: int, environment: Mapping[str, str]
) -> dict[str, Any]:
    module, kind = "augrec.bench.ours", "train"
    settings: dict[str, Any] = {"data": str(log), "split": "leave-one-out"}
    if task in ("import", "recommend"):
        module, kind, settings = "commands", "command", _commands(task, log, evaluated, threads)
    elif task == "evaluate":
        kind, settings = "evaluate", settings | {"model": "mf", "objective": "bpr", "users": evaluated}
    else:
        settings |= {"unit": "epoch", **_training(task, size)}
    with Child(sys.executable, module, threads=threads, environment=environment, patience=7200.0) as child:
        info = child.open(kind, settings)
        if kind == "train":
            # A first epoch's memory is new to the process; where epochs are short, it is not counted either.
            child.turn(units=1, warm=0)
        before = busy_seconds()
        turn = child.turn(units=1, warm=0)
        spent, took = turn.spent, sum(turn.seconds)
        again = min(int(_SECONDS / max(turn.seconds[0], 1e-9)), 20)
        if again > 1:
            turn = child.turn(units=again, warm=0)
            spent, took = spent + turn.spent, took + sum(turn.seconds)
        after, peak = busy_seconds(), child.close()[0]
    # An evaluation's scale would be for all users: these rows are about a sample.
    scale = float(info["scale"]) if kind == "train" else 1.0
    seconds = statistics.median(turn.seconds) * scale + (float(info["opening"]) if scale > 1 else 0.0)
    each = {"import": size.interactions, "evaluate": evaluated * size.items, "recommend": evaluated * size.items}
    foreign = None if before is None or after is None else max(after - before - spent, 0.0) / max(took, 1e-9)
    return {
        "seconds": seconds, "nanoseconds_each": 1e9 * seconds / each.get(task, info.get("interactions", 1)),
        "peak_rss_mb": peak, "foreign": None if foreign is None else round(foreign, 3),
    }  # fmt: skip
