"""What a reproduced cell says beside the published figures: the verdict, and the record of the cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from augrec.evaluate.metrics import flag_published
from augrec.experiment.paired import standing
from augrec.experiment.registry import entries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from augrec.experiment.cells import Plan
    from augrec.experiment.recipes.base import Figures, RecipeCell, Table

REPRODUCED, BETTER, NO_GAIN, NOT_RUN = "reproduced", "base already better", "no gain", "not run"
FIGURES_ONLY = "figures only"
"""The verdict of a cell in which nothing is claimed: a plain row, or a sweep."""
_TESTS = ("a", "b", "metric", "seeds", "users", "difference", "low", "high", "relative", "p_t", "p_wilcoxon",
          "p_permutation", "p_seeds", "holm_permutation", "finding")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A verdict, why, and what its seeds allow to be said."""

    verdict: str
    detail: str
    standing: str = ""


def judge(
    claim: str,
    controls: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    metric: str,
    base: float | None,
    published: float | None,
) -> Judged:
    """The verdict on `claim` from the paired tests `rows` of its cell, on one metric.

    `reproduced`: above the base and above every control, each by `paired.finding` (permutation test over users under
    Holm, and from two seeds on the t-test over seeds, both at 5 %). Else `base already better` where the mean of our
    plain `base` is at or above the `published` figure of the augmented row (None: nothing comparable is published).
    Else `no gain`. `not run` while the test against the base or a control is missing.
    """
    found = {row["b"]: row for row in rows if row["a"] == claim and row["metric"] == metric}
    missing = [name for name in ("base", *controls) if name not in found]
    if missing:
        return Judged(verdict=NOT_RUN, detail=f"no test of {claim} against {', '.join(missing)} yet")
    said = _standing(min(len(found[name]["seeds"]) for name in ("base", *controls)))
    level = [name for name in controls if found[name]["finding"] != "higher"]
    gain = _against(found["base"], "base")
    already = base is not None and published is not None and base >= published
    beside = f"; the plain base, {base:.4f}, is at or above the published augmented {published:.4f}" if already else ""
    if found["base"]["finding"] == "higher" and not level:
        over = " and ".join([gain, *(_against(found[name], name) for name in controls)])
        alone = "" if controls else "; no noise arm is known for it"
        return Judged(verdict=REPRODUCED, detail=f"{over}{alone}{beside}", standing=said)
    why = gain
    if found["base"]["finding"] == "higher":
        why += " but " + ", ".join(_against(found[name], name) for name in level)
    if already:
        return Judged(verdict=BETTER, detail=f"{beside.removeprefix('; ')}; {claim} is {why}", standing=said)
    return Judged(verdict=NO_GAIN, detail=f"{claim} is {why}", standing=said)


def _standing(seeds: int) -> str:
    return "one seed: indication only" if seeds == 1 else standing(seeds)


def _against(row: Mapping[str, Any], name: str) -> str:
    share = "" if row["relative"] is None else f" ({row['relative']:+.1%})"
    words = {
        "higher": f"above {name}{share}",
        "lower": f"below {name}{share}",
        "none": f"not shown to differ from {name}{share}",
    }
    if row["finding"] == "users only":
        side = "above" if row["difference"] > 0 else "below"
        return f"{side} {name}{share} for these trained models, but not beyond the luck of seeds"
    return words[row["finding"]]


def flags(table: Table, cell: RecipeCell) -> dict[str, list[str]]:
    """Why published rows of a cell cannot be right, by row; rows that hold are left out."""
    rows: dict[str, Figures] = {"base": cell.published} | {arm.name: arm.published for arm in cell.arms}
    found = {}
    for name, figures in rows.items():
        # With one target recall is HR, by which name the identity goes.
        renamed = {key.replace("recall@", "hr@") if cell.single_target else key: one for key, one in figures.items()}
        reasons = flag_published(renamed, decimals=table.decimals, single_target=cell.single_target)
        if reasons:
            found[name] = reasons
    return found


def outline(table: Table, cell: RecipeCell) -> dict[str, Any]:
    """The part of a cell's record that the recipe alone gives."""
    published = {"base": dict(cell.published)} | {arm.name: dict(arm.published) for arm in cell.arms}
    return {
        "data": cell.data,
        "model": cell.model,
        "objective": cell.objective,
        "base": list(cell.base),
        "primary": cell.primary,
        "protocol": table.protocol,
        "comparable": cell.comparable,
        "claims": [arm.name for arm in cell.arms if arm.claim],
        "published": {name: figures for name, figures in published.items() if figures},
        "published_gain": {
            arm.name: {
                name: value / cell.published[name] - 1
                for name, value in arm.published.items()
                if name in cell.published
            }
            for arm in cell.arms
            if arm.published and cell.published
        },
        "flags": flags(table, cell),
        "lacks": unknown_name(cell),
    }


def not_run(table: Table, cell: RecipeCell, reason: str) -> dict[str, Any]:
    """The record of a cell without runs."""
    return outline(table, cell) | {"verdict": NOT_RUN, "detail": reason, "standing": "", "rows": [], "tests": []}


def unknown_name(cell: RecipeCell) -> str:
    """Says which name of a cell augrec has not, or what the cell's data do not have; empty where nothing is amiss."""
    known = entries()
    added = [name for arm in cell.arms for name in arm.augment]
    for name in (cell.model, *([cell.objective] if cell.objective else []), *cell.base, *added):
        if name not in known:
            return f"augrec has no '{name}'"
    return cell.lacks


def outcome(
    table: Table,
    cell: RecipeCell,
    planned: Plan,
    said: Mapping[str, Any],
    missing: Sequence[str],
) -> dict[str, Any]:
    """The record of a cell: every row's figures, the tests' outcomes (not the values of users), and the verdict.

    `said` is what `record.record` makes of the finished runs, `missing` names runs that are not there, with reasons.
    """
    rows = [_row(one) for one in said["cells"]]
    by_name = {row["row"]: row for row in rows}
    base = by_name.get("base", {}).get("test", {}).get(cell.primary)
    verdicts = {}
    for arm in cell.arms:
        if arm.claim:
            verdicts[arm.name] = judge(
                arm.name,
                planned.cells[arm.name].controls,
                said["comparisons"],
                metric=cell.primary,
                base=base["mean"] if base else None,
                published=arm.published.get(cell.primary) if cell.comparable else None,
            )
    if verdicts:
        judged = next(iter(verdicts.values()))
    elif all(name in by_name for name, one in planned.cells.items() if one.role != "baseline"):
        judged = Judged(verdict=FIGURES_ONLY, detail="nothing is claimed here", standing="")
    else:
        judged = Judged(verdict=NOT_RUN, detail="")
    detail = judged.detail
    if judged.verdict == NOT_RUN and missing:
        detail = "; ".join(one for one in (detail, f"missing: {', '.join(missing)}") if one)
    return outline(table, cell) | {
        "verdict": judged.verdict,
        "detail": detail,
        "standing": judged.standing,
        "verdicts": {name: one.__dict__ for name, one in verdicts.items()} if len(verdicts) > 1 else {},
        "rows": rows,
        "tests": [{name: row[name] for name in _TESTS} for row in said["comparisons"]],
        "left_out": dict(planned.left_out),
        "missing": list(missing),
        "sha": {"data": (said["data"] or {}).get("sha256"), "split": (said["split"] or {}).get("sha256")},
    }


def _row(one: Mapping[str, Any]) -> dict[str, Any]:
    """One row of a cell: means and deviations over seeds, gains, the weight, its runs and the command of the first."""
    kept = ("role", "augment", "preset", "weight", "seeds", "epochs_best", "not_stopped_early", "test", "gain")
    runs = [run["directory"].rpartition("/")[2] for run in one["runs"]]
    return {"row": one["cell"]} | {name: one[name] for name in kept} | {"configs": runs, "command": one["command"]}
