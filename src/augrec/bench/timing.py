"""Turns of A B A B and what is said of them: medians, spread, ratios by round, foreign load.

A turn is some uncounted units (caches warm up again after the other arm's turn) and some counted ones. A ratio is taken
within a round, so that a change of the machine's load meets both arms; the median is over rounds.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One arm's turn."""

    seconds: tuple[float, ...]
    """Of each counted unit, on the clock."""
    processor: tuple[float, ...]
    """Processor seconds of each counted unit, all threads and children together."""
    spent: float = 0.0
    """Processor seconds of the whole turn, uncounted units included."""


class Runner(Protocol):
    """Whatever takes turns."""

    def turn(self, *, units: int, warm: int) -> Turn:
        """`warm` uncounted units, then `units` counted ones. Raises `ArmFailed` when it cannot go on."""
        ...


class ArmFailed(Exception):
    """An arm that cannot be measured, or not any longer; the text is the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How long is measured. Where a unit of some arm takes less than a twentieth of a turn and none takes a whole one,
    turns are a quarter as long and there are four times as many: what else the machine does then changes less within a
    round."""

    rounds: int = 5
    seconds: float = 2.0
    """What a turn aims to take: it decides how many units a turn has."""
    least: int = 1
    most: int = 40
    """Units of a turn."""
    warm: int = 2
    """Uncounted units that a turn begins with; none where a unit takes longer than a turn should."""


QUICK = Effort(rounds=2, seconds=0.1, most=3, warm=1)
"""Shows that a row works; its figures are no measurement."""


@dataclass(kw_only=True)
class Measured:
    """What is known of one arm after its turns."""

    seconds: list[list[float]] = field(default_factory=list)
    """By round, of each counted unit."""
    processor: list[list[float]] = field(default_factory=list)
    foreign: list[float] = field(default_factory=list)
    """By round: processors that neither the arm nor this program kept busy."""
    failure: str = ""
    """Why there is nothing, or nothing more."""


def busy_seconds() -> float | None:
    """Busy processor seconds of the whole machine since it started; None where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return None
    fields = [int(x) for x in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    # The fourth and fifth are idle and waiting for the disk.
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def interleave(
    runners: Mapping[str, Runner],
    effort: Effort,
    *,
    clock: Callable[[], float] = time.perf_counter,
    busy: Callable[[], float | None] = busy_seconds,
    own: Callable[[], float] = time.process_time,
) -> dict[str, Measured]:
    """Every runner's turns: one unit each to learn what a unit costs (not counted), then rounds of one turn each, in
    the given order. A runner that fails is left out from there on; the others go on.

    `clock`, `busy` and `own` (processor seconds of this process) are there for tests.
    """
    found = {name: Measured() for name in runners}
    costs: dict[str, float] = {}

    def attempt(name: str, count: int, warm: int) -> Turn | None:
        try:
            return runners[name].turn(units=count, warm=warm)
        except ArmFailed as error:
            found[name].failure = str(error)
            return None

    for name in runners:
        # Once to load code and make buffers, once to see what a unit costs.
        first = attempt(name, 1, 0)
        if first is not None and first.seconds[0] < effort.seconds:
            first = attempt(name, 1, 0)
        if first is not None:
            costs[name] = first.seconds[0]
    if costs and min(costs.values()) < effort.seconds / 20 and max(costs.values()) < effort.seconds:
        effort = replace(effort, rounds=4 * effort.rounds, seconds=effort.seconds / 4)
    units = {name: _units(cost, effort) for name, cost in costs.items()}
    for _ in range(effort.rounds):
        for name in runners:
            if found[name].failure:
                continue
            begun, before, mine = clock(), busy(), own()
            turn = attempt(name, *units[name])
            if turn is None:
                continue
            found[name].seconds.append(list(turn.seconds))
            found[name].processor.append(list(turn.processor))
            after = busy()
            if before is not None and after is not None:
                others = after - before - turn.spent - (own() - mine)
                found[name].foreign.append(max(others, 0.0) / max(clock() - begun, 1e-9))
    return found


def _units(cost: float, effort: Effort) -> tuple[int, int]:
    """Counted and uncounted units of a turn, when one costs so many seconds."""
    wanted = int(effort.seconds / max(cost, 1e-9))
    return max(effort.least, min(effort.most, wanted)), effort.warm if wanted >= 1 else 0


def quantile(values: Sequence[float], share: float) -> float:
    """The `share` quantile with linear interpolation between order statistics, as numpy's default. `values` not
    empty."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(values: Iterable[float]) -> dict[str, float] | None:
    """median, p10 and p90, or None of nothing."""
    every = list(values)
    if not every:
        return None
    return {"median": statistics.median(every), "p10": quantile(every, 0.1), "p90": quantile(every, 0.9)}


def by_round(first: Measured, second: Measured) -> list[tuple[float, float]]:
    """The median unit of each, for the rounds that both finished."""
    pairs = zip(first.seconds, second.seconds, strict=False)
    return [(statistics.median(a), statistics.median(b)) for a, b in pairs if a and b]
