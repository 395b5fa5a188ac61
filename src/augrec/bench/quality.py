"""Time to the same validation quality: epochs from recorded curves, seconds an epoch and an evaluation from this run.

A curve recorded on a busy machine says how many epochs a quality takes and nothing of time; a quiet run's rows say what
an epoch costs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from augrec.bench.judge import goal_record
from augrec.bench.record import ArmRecord, RowRecord, Spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from augrec.bench.rows import Row

SHARE = 0.95


def read_curve(path: Path) -> dict[int, float]:
    """Validation NDCG@10 by epoch of a metrics.jsonl or a peer's curve; a resumed run's later line wins."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {line["epoch"]: float(line["valid"]["ndcg@10"]) for line in lines if line.get("valid")}


def reach(curve: Mapping[int, float], target: float) -> tuple[int, int] | None:
    """Epochs to the target and validations made on the way; None where it is never reached."""
    for number, epoch in enumerate(sorted(curve), start=1):
        if curve[epoch] >= target:
            return epoch, number
    return None


def quality_record(row: Row, threads: int, found: Sequence[RowRecord], curves: Path | None) -> RowRecord:
    """The row out of the rows `found` so far, or the reason why not."""
    given = row.arms[0].settings
    made = RowRecord(
        name=row.name, about=row.about, unit=row.unit, threads=threads, equal=row.equal, unequal=row.unequal
    )  # fmt: skip

    def without(reason: str) -> RowRecord:
        return made.model_copy(update={"reason": reason, "goals": [goal_record(goal, []) for goal in row.goals]})

    if curves is None:
        return without("no recorded validation curves: name their folder with --curves")
    paths = {"augrec": curves / given["ours"], "recbole": curves / given["theirs"]}
    missing = [str(path) for path in paths.values() if not path.is_file()]
    if missing:
        return without(f"no such curve: {', '.join(missing)}")
    read = {name: read_curve(path) for name, path in paths.items()}
    target = SHARE * max(read["recbole"].values())
    seconds, infos = {}, {}
    for name, curve in read.items():
        steps = reach(curve, target)
        cost = [_median(found, given["epoch"], threads, name)]
        cost.append(_median(found, given["evaluate"], threads, name if name == "augrec" else given["judge"]))
        if steps is None:
            return without(f"{name}'s curve never reaches {target:.4f}")
        if cost[0] is None or cost[1] is None:
            return without(f"{name} has no time in {given['epoch']} or {given['evaluate']}: run these rows with it")
        seconds[name] = steps[0] * cost[0] + steps[1] * cost[1]
        infos[name] = {"epochs": steps[0], "validations": steps[1], "target": target, "recorded_epochs": max(curve)}
    arms = [_arm(name, seconds[name], seconds["augrec"], infos[name]) for name in read]
    return made.model_copy(update={"arms": arms, "goals": [goal_record(goal, arms) for goal in row.goals]})


def _median(found: Sequence[RowRecord], name: str, threads: int, arm: str) -> float | None:
    for row in found:
        for one in row.arms if (row.name, row.threads) == (name, threads) else ():
            if one.name == arm and one.seconds is not None:
                return one.seconds.median
    return None


def _arm(name: str, seconds: float, ours: float, info: dict[str, Any]) -> ArmRecord:
    ratio = None if name == "augrec" else Spread(median=seconds / ours, p10=seconds / ours, p90=seconds / ours)
    return ArmRecord(
        name=name, program=name, state="run", seconds=Spread(median=seconds, p10=seconds, p90=seconds), ratio=ratio,
        extrapolated=True, info=info,
    )  # fmt: skip
