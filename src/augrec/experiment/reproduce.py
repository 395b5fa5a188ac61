"""Published tables made again: recipes to runs, runs to verdicts beside the published figures."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from augrec.errors import UsageError
from augrec.experiment.directory import locked
from augrec.experiment.grid import Grid, Outcome, Planned, config_hash, round_robin
from augrec.experiment.jobs import Job, Runs, make_jobs, missing, runs_of_job, shared_weights
from augrec.experiment.ledger import add_cells, add_runs, label, read_cells, state_of
from augrec.experiment.outcome import not_run, outcome, unknown_name
from augrec.experiment.recipes import select
from augrec.experiment.record import finite, record
from augrec.experiment.result import select_metric
from augrec.experiment.sampled import PER_USER, sampled99

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from augrec.experiment.cells import Plan
    from augrec.experiment.recipes.base import Paper, Settings
    from augrec.experiment.spread import Spread
    from augrec.train.callbacks import Callback


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Cells made again, finished or cut short by the time budget."""

    directory: Path
    """Where the runs lie."""
    ledger: Path
    """A line a run; the cell records lie beside it."""
    record: dict[str, Any]
    """The paper, the chosen weights and the record of every cell that was asked for."""


def reproduce(
    target: str,
    *,
    seeds: int | None = None,
    budget_minutes: float | None = None,
    out: str | Path = "runs/reproduce",
    data_dir: str | Path | None = None,
    ledger: str | Path | None = None,
    overrides: Settings | None = None,
    callbacks: Callable[[Planned], Sequence[Callback]] | None = None,
    spread: Spread | None = None,
) -> Reproduction:
    """Makes the runs of PAPER[/TABLE[/CELL]] and sets them beside the published figures.

    Runs lie below `out`, by the hash of their settings, so cells, tables and papers share them and the same call goes
    on where the last one stopped. `seeds` training seeds a row (default: the recipe's); `data_dir` stands in for
    AUGREC_DATA; `overrides` hold for every cell that has the part. `ledger` (default `out`/PAPER.jsonl) takes a line a
    run, the file PAPER_cells.json beside it a record a cell. A cell that cannot run here (a method augrec has not, a
    data set that is missing) is recorded as `not run` with the reason.

    Raises `UsageError` for names that are not known and values that are wrong, before anything is trained.
    """
    paper, chosen = select(target)
    if seeds is not None and seeds < 1:
        raise UsageError(f"--seeds: must be at least 1 (got {seeds})")
    count = paper.seeds if seeds is None else seeds
    folder, given = Path(out), {name: dict(fields) for name, fields in (overrides or {}).items()}
    data = None if data_dir is None else _folder(Path(data_dir))
    grid = Grid(folder, budget_minutes=budget_minutes, callbacks=callbacks, spread=spread, data_dir=data)
    jobs = make_jobs(chosen, given, grid)
    weights = shared_weights(paper, jobs, given, grid)
    wanted = {job.key: runs_of_job(job, weights, count) for job in jobs if job.plan is not None}
    # A run that several cells ask for is made once.
    order = round_robin({f"{key} {name}": row for key, runs in wanted.items() for name, row in runs.seeds.items()})
    unique = {config_hash(one.config): one.config for one in order}
    done = grid.run([Planned(cell=label(config), config=config) for config in unique.values()])
    cells = {
        job.key: not_run(job.table, job.cell, job.reason)
        if job.plan is None
        else _record(job, job.plan, wanted[job.key], grid, done, count)
        for job in jobs
    }
    for key, one in cells.items():
        one["seeds"], one["set"] = count, given
        one["command"] = command(f"{paper.name}/{key}", count, given)
    cells = finite(cells)
    place = folder / f"{paper.name}.jsonl" if ledger is None else Path(ledger)
    with locked(folder):
        add_runs(place, grid.finished.values())
        add_cells(place, about(paper), cells, _others(paper))
    said = {"paper": paper.name, "weights": finite(weights), "ledger": str(place), "cells": cells}
    return Reproduction(directory=folder, ledger=place, record=said)


def states(
    target: str, *, out: str | Path = "runs/reproduce", data_dir: str | Path | None = None,
    ledger: str | Path | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """What cells there are below PAPER[/TABLE[/CELL]] and how they stand: recorded, ready, or why they cannot run."""
    paper, chosen = select(target)
    place = Path(out) / f"{paper.name}.jsonl" if ledger is None else Path(ledger)
    known = read_cells(place)["cells"]
    data = None if data_dir is None else _folder(Path(data_dir))
    rows = []
    for table, cell in chosen:
        key = f"{table.name}/{cell.name}"
        reason = missing(cell, data)
        rows.append(
            {
                "cell": f"{paper.name}/{key}",
                "data": cell.data,
                "model": "+".join((cell.model, *cell.base)),
                "rows": [arm.name for arm in cell.arms],
                "state": state_of(known.get(key)) or (f"not run: {reason}" if reason else "ready"),
            }
        )
    return rows


def _record(job: Job, plan: Plan, runs: Runs, grid: Grid, done: Outcome, seeds: int) -> dict[str, Any]:
    """The record of a cell from whatever of its runs is finished."""
    finished, left = [], dict(runs.open)
    for name, row in runs.seeds.items():
        for config in row:
            one = grid.finished.get(config_hash(config))
            if one is None:
                title = f"{label(config)} seed {config.seed}"
                why = done.refused.get(title, "the time budget ended")
                left[f"{name} seed {config.seed}"] = why
            else:
                one = replace(one, cell=name)
                finished.append(sampled99(one, grid) if job.table.protocol == "sampled99" else one)
    base = plan.configs["base"]
    known = finished[0].result.get("test", {}) if finished else {}
    metrics = [job.cell.primary, *(name for name in job.table.metrics if name in known and name != job.cell.primary)]
    said = record(
        plan,
        {name: row[0] for name, row in runs.seeds.items()},
        finished,
        selected=select_metric(base),
        metrics=metrics,
        seeds=seeds,
        per_user=PER_USER if job.table.protocol == "sampled99" else "per_user.parquet",
    )
    return outcome(job.table, job.cell, plan, said, [f"{name} ({why})" for name, why in left.items()])


def command(target: str, seeds: int, given: Settings) -> str:
    """The command that makes a cell again."""
    words = ["augrec", "reproduce", target, "--seeds", str(seeds)]
    for part, fields in given.items():
        for name, value in fields.items():
            words += ["--set", f"{part}.{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def about(paper: Paper) -> dict[str, Any]:
    """What a file of cell records says of the paper."""
    tables = {
        table.name: {
            "title": table.title, "place": table.place, "metrics": list(table.metrics), "protocol": table.protocol,
            "notes": list(table.notes),
        }
        for table in paper.tables
    }  # fmt: skip
    return {"paper": paper.name, "title": paper.title, "source": paper.source, "tables": tables}


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise UsageError(f"--data-dir {path}: is not a folder; give the folder that holds NAME.parquet")
    return path


def _others(paper: Paper) -> dict[str, Any]:
    """A record without runs for every cell of a paper; what this machine lacks does not stand in it."""
    found = {}
    for table in paper.tables:
        for cell in table.cells:
            made = not_run(table, cell, unknown_name(cell) or "not asked for yet")
            made["command"] = command(f"{paper.name}/{table.name}/{cell.name}", paper.seeds, {})
            found[f"{table.name}/{cell.name}"] = made
    return found
