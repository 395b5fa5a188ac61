"""Cells of a recipe as runs: what can run here, with which weights, under which seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from augrec.data.catalog import locate
from augrec.errors import ConfigError, DataError, UsageError
from augrec.experiment.cells import Cell, Plan, complete, known_parts, method_of, seeded
from augrec.experiment.outcome import unknown_name
from augrec.experiment.paired import metric_names
from augrec.experiment.recipes import select
from augrec.experiment.recipes.base import HOW
from augrec.experiment.registry import nearest
from augrec.experiment.result import select_metric
from augrec.experiment.weights import choose_weights, weighted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from augrec.experiment.config import RunConfig
    from augrec.experiment.grid import Grid
    from augrec.experiment.recipes.base import Paper, RecipeCell, Settings, Table, Tune


@dataclass(frozen=True, kw_only=True)
class Job:
    """A cell with its plan, or with the reason why it has none."""

    key: str
    """TABLE/CELL."""
    table: Table
    cell: RecipeCell
    plan: Plan | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """The runs of a cell by row, and rows that cannot run yet with the reason."""

    seeds: Mapping[str, Sequence[RunConfig]]
    open: Mapping[str, str] = field(default_factory=dict)


def make_jobs(chosen: Sequence[tuple[Table, RecipeCell]], given: Settings, grid: Grid) -> list[Job]:
    """Plans every cell that can run here. Raises `UsageError` for overrides that no cell takes."""
    jobs = []
    parts: dict[str, None] = {}
    for table, cell in chosen:
        key, reason, plan = f"{table.name}/{cell.name}", missing(cell, grid.data_dir), None
        if not reason:
            try:
                plan = plan_cell(cell, {})
                grid.log_of(plan.configs["base"])
            except UsageError as error:
                plan, reason = None, str(error)
        if plan is not None:
            parts |= dict.fromkeys(_parts(cell))
            plan = plan_cell(cell, given)
            if table.protocol == "full" and cell.primary not in metric_names(plan.configs["base"]):
                raise ConfigError(f"--set evaluate.ks leaves out {cell.primary}, on which {key} is judged")
        jobs.append(Job(key=key, table=table, cell=cell, plan=plan, reason=reason))
    known = list(parts)
    for part in given:
        if known and part not in known:
            raise ConfigError(
                f"--set {part}.…: none of these cells has a part '{part}'{nearest(part, known)} "
                f"Parts: {', '.join(known)}"
            )
    return jobs


def missing(cell: RecipeCell, data_dir: Path | None) -> str:
    """Why a cell cannot run here: a name augrec has not, or data that are not on this machine; empty where it can."""
    reason = unknown_name(cell)
    if reason:
        return reason
    try:
        locate(cell.data, folder=data_dir)
    except DataError:
        what = f" ({HOW[cell.data]})" if cell.data in HOW else ""
        return (
            f"the data set '{cell.data}'{what} is not on this machine: make {cell.data}.parquet of its file with "
            f"augrec data import FILE --out {cell.data}.parquet and put it into the folder AUGREC_DATA (or --data-dir)"
        )
    return ""


def _cells(cell: RecipeCell) -> tuple[Cell, dict[str, Cell]]:
    """The base and the rows beside it."""
    base = Cell(
        name="base", role="base", model=cell.model, augment=cell.base, preset=cell.preset if cell.base else "default"
    )
    controls = tuple(arm.name for arm in cell.arms if arm.control)
    rows = {
        arm.name: Cell(
            name=arm.name,
            role="augmentation" if arm.claim else "arm",
            model=cell.model,
            augment=(*cell.base, *arm.augment),
            preset=arm.preset or cell.preset,
            controls=controls if arm.claim else (),
            settings=arm.settings,
        )
        for arm in cell.arms
    }
    return base, rows


def _parts(cell: RecipeCell) -> list[str]:
    base, rows = _cells(cell)
    return known_parts(base, cell.objective, rows.values())


def plan_cell(cell: RecipeCell, given: Settings) -> Plan:
    """The plan of a cell: overrides of its parts stand over its own settings, a row's settings over both."""
    base, rows = _cells(cell)
    parts = _parts(cell)
    merged = {name: dict(fields) for name, fields in cell.settings.items()}
    for name, fields in given.items():
        if name in parts:
            merged[name] = {**merged.get(name, {}), **fields}
    return complete(
        base,
        rows,
        data=cell.data,
        objective=cell.objective,
        split=cell.split,
        preset=cell.preset,
        noise=cell.noise,
        overrides=merged,
    )


def shared_weights(paper: Paper, jobs: Sequence[Job], given: Settings, grid: Grid) -> dict[str, Any]:
    """What each choice of a weight found, by the cell it is made on.

    `values` gives the weight of each augmentation; it is None where the weight was set with --set, so that nothing is
    chosen. `reason` says why there is no choice. Raises as `Grid.run`.
    """
    found: dict[str, Any] = {}
    tunes: dict[Tune, None] = dict.fromkeys(job.cell.tune for job in jobs if job.plan is not None and job.cell.tune)
    for tune in tunes:
        ready = {job.key: job for job in jobs}
        job = ready.get(tune.cell) or make_jobs(select(f"{paper.name}/{tune.cell}")[1], {}, grid)[0]
        methods = [name for arm in job.cell.arms if arm.claim for name in arm.augment]
        if any("weight" in given.get(name, {}) for name in methods):
            found[tune.cell] = {"values": None, "reason": "", "grid": []}
            continue
        if job.plan is None:
            reason = f"its weight is chosen on {paper.name}/{tune.cell}, which cannot run: {job.reason}"
            found[tune.cell] = {"values": {}, "reason": reason, "grid": list(tune.values)}
            continue
        plan = plan_cell(job.cell, given)
        claims = [arm.name for arm in job.cell.arms if arm.claim]
        names = dict.fromkeys(name for claim in claims for name in (claim, *plan.cells[claim].controls))
        part = Plan(
            cells={name: plan.cells[name] for name in names},
            configs={name: plan.configs[name] for name in names},
            left_out={},
        )
        chosen, _, _ = choose_weights(grid, part, tune.values, select_metric(plan.configs["base"]))
        values = {name: value for one in chosen["chosen"].values() for name, value in one.items()}
        reason = f"its weight, chosen on {paper.name}/{tune.cell}, is still open" if chosen["open"] else ""
        found[tune.cell] = {**chosen, "open": sorted(chosen["open"]), "values": values, "reason": reason}
    return found


def runs_of_job(job: Job, weights: Mapping[str, Any], seeds: int) -> Runs:
    """The runs of a planned cell with the chosen weights. An augmentation without a choice of its own takes that of
    the method it is an arm of."""
    assert job.plan is not None
    chosen: Mapping[str, Any] = weights[job.cell.tune.cell] if job.cell.tune else {"values": None}
    configs: dict[str, RunConfig] = {}
    waiting: dict[str, str] = {}
    for name, config in job.plan.configs.items():
        cell = job.plan.cells[name]
        own: dict[str, float] = {}
        added = cell.augment[len(job.cell.base) :] if cell.role not in ("base", "baseline") else ()
        for part in added:
            fixed = "weight" in cell.settings.get(part, {}) or not hasattr(config.part(part), "weight")
            if chosen["values"] is None or fixed:
                continue
            value = chosen["values"].get(part, chosen["values"].get(method_of(part)))
            if value is None:
                waiting[name] = chosen["reason"]
            else:
                own[part] = value
        if name not in waiting:
            configs[name] = weighted(config, own)
    return Runs(seeds=seeded(job.plan, configs, seeds), open=waiting)
