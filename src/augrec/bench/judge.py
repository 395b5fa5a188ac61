"""From turns to a row's record: ratios by round, goals, the floor."""

from __future__ import annotations

import statistics
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from augrec.bench import floors
from augrec.bench.record import ArmRecord, FloorRecord, GoalRecord, RowRecord, Spread
from augrec.bench.rows import rows
from augrec.bench.timing import by_round, spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from augrec.bench.rows import Arm, Goal, Row
    from augrec.bench.timing import Measured


def arm_record(
    arm: Arm, found: Measured | None, info: Mapping[str, Any], ours: Measured | None, *, our_scale: float = 1.0,
    peak: int | None = None, reason: str = "",
) -> ArmRecord:  # fmt: skip
    """What is said of an arm. `ours` is None for our own arm, or where ours could not be measured."""
    if found is None or not any(found.seconds):
        why = reason or (found.failure if found else "") or "no reason given"
        return ArmRecord(name=arm.name, program=arm.program, state="not run", reason=why, info=dict(info))
    scale = float(info.get("scale", 1.0))
    pairs = [] if ours is None else by_round(ours, found)
    ratios = [second * scale / max(first * our_scale, 1e-12) for first, second in pairs]
    added = [1e3 * (first * our_scale - second * scale) for first, second in pairs]
    return ArmRecord(
        name=arm.name, program=arm.program, state="run", reason=found.failure,
        seconds=_spread(scale * one for turn in found.seconds for one in turn),
        processor=_spread(scale * one for turn in found.processor for one in turn),
        ratio=_spread(ratios), added_ms=_spread(added), units=sum(len(turn) for turn in found.seconds),
        extrapolated=bool(info.get("extrapolated", False)), peak_rss_mb=peak,
        foreign=round(statistics.mean(found.foreign), 3) if found.foreign else None, info=dict(info),
    )  # fmt: skip


def _spread(values: Any) -> Spread | None:
    found = spread(values)
    return None if found is None else Spread(**found)


def recorded(row: Row, ours: ArmRecord | None) -> list[ArmRecord]:
    """The row's figures of peers that are not run."""
    found = []
    for name, given in row.recorded.items():
        value = float(given["seconds"])
        ratio = value / ours.seconds.median if ours is not None and ours.seconds is not None else None
        found.append(
            ArmRecord(
                name=name, program=name, state="recorded", reason=str(given["source"]),
                seconds=Spread(median=value, p10=value, p90=value), peak_rss_mb=given.get("peak_rss_mb"),
                ratio=None if ratio is None else Spread(median=ratio, p10=ratio, p90=ratio),
            )
        )  # fmt: skip
    return found


def goal_record(
    goal: Goal, arms: Sequence[ArmRecord], *, slope: float | None = None, peak: int | None = None
) -> GoalRecord:
    """Whether a goal is met by the medians; `slope` and `peak` (MB) are of rows that have no arms."""
    by_name = {one.name: one for one in arms}
    ours, other = arms[0] if arms else None, by_name.get(goal.against)
    found: float | None = None
    if goal.kind == "slope":
        found = slope
    elif goal.kind == "seconds" and ours is not None and ours.seconds is not None:
        found = ours.seconds.median
    elif goal.kind == "memory":
        most = peak if ours is None else ours.peak_rss_mb
        found = None if most is None else float(most)
    elif other is not None and other.ratio is not None:
        found = other.ratio.median
        if goal.kind == "ratio":
            found = 1 / found
        elif goal.kind == "added":
            found = None if other.added_ms is None else other.added_ms.median
    met = None if found is None else found >= goal.wanted if goal.kind == "faster" else found <= goal.wanted
    return GoalRecord(kind=goal.kind, against=goal.against, wanted=goal.wanted, aim=goal.aim, found=found, met=met)


def floor_record(row: Row, ours: ArmRecord, rates: Mapping[str, float]) -> FloorRecord | None:
    """Ours against the machine, where the row says how to count and the machine's rates are known."""
    if not row.floor or ours.seconds is None or not rates:
        return None
    needed = floors.cost(row.floor, ours.info)
    if needed is None:
        return None
    found = floors.seconds(needed, rates)
    return FloorRecord(**found, ratio=ours.seconds.median / float(found["seconds"]))


def with_floors(found: Sequence[RowRecord], rates: Mapping[str, Mapping[str, float]]) -> list[RowRecord]:
    """Rows with the floors that they have taken anew by `rates` (by threads)."""
    known = {row.name: row for row in rows()}
    made = []
    for one in found:
        row, machine = known.get(one.name), rates.get(str(one.threads), {})
        floor = floor_record(row, one.arms[0], machine) if row is not None and one.floor is not None else None
        made.append(one if floor is None else one.model_copy(update={"floor": floor}))
    return made


def row_record(
    row: Row, threads: int, measured: Mapping[str, Measured], infos: Mapping[str, Mapping[str, Any]],
    peaks: Mapping[str, int], reasons: Mapping[str, str], rates: Mapping[str, float],
    where: Mapping[str, float] = MappingProxyType({}),
) -> RowRecord:  # fmt: skip
    """The row at one thread count. `reasons` are of arms that never began, `where` is of our own."""
    own = row.arms[0]
    ours, scale = measured.get(own.name), float(infos.get(own.name, {}).get("scale", 1.0))
    arms = [
        arm_record(
            arm, measured.get(arm.name), infos.get(arm.name, {}), None if arm is own else ours, our_scale=scale,
            peak=peaks.get(arm.name), reason=reasons.get(arm.name, ""),
        )
        for arm in row.arms
    ]  # fmt: skip
    arms += recorded(row, arms[0])
    return RowRecord(
        name=row.name, about=row.about, unit=row.unit, threads=threads, equal=row.equal, unequal=row.unequal, arms=arms,
        goals=[goal_record(goal, arms) for goal in row.goals], floor=floor_record(row, arms[0], rates),
        where=dict(where),
    )  # fmt: skip
