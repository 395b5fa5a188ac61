"""What finished runs of a plan say: a row a cell, paired tests, and the protocol they share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from augrec.experiment.grid import command_of
from augrec.experiment.paired import by_activity, compare_cells, conclusion, read_per_user, standing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from augrec.experiment.cells import Plan
    from augrec.experiment.config import RunConfig
    from augrec.experiment.grid import Finished

_BUDGET = ("epochs", "patience", "evaluate_every", "batch_size", "learning_rate", "weight_decay")


def record(
    planned: Plan,
    configs: Mapping[str, RunConfig],
    finished: Sequence[Finished],
    *,
    selected: str,
    metrics: Sequence[str],
    seeds: int,
    per_user: str = "per_user.parquet",
) -> dict[str, Any]:
    """Everything the finished runs say. `selected` is the validation metric of the runs, the first of `metrics` the
    one conclusions are drawn on; `per_user` the file of per-user test values in a run's directory."""
    by_cell: dict[str, list[Finished]] = {}
    for one in finished:
        by_cell.setdefault(one.cell, []).append(one)
    base: RunConfig = planned.configs["base"]
    metric = metrics[0]
    tested = {name: runs for name, runs in by_cell.items() if "test" in runs[0].result}
    values = {
        name: read_per_user({one.config.seed: one.directory / per_user for one in runs}, metrics)
        for name, runs in tested.items()
        if planned.cells[name].role != "baseline"
    }
    pairs = [(a, b) for a, b in planned.pairs if a in values and b in values]
    rows = compare_cells(values, pairs, metrics)
    ends = [
        conclusion(name, cell.controls, rows, metric)
        for name, cell in planned.cells.items()
        if cell.role in ("augmentation", "arm")
    ]
    first = finished[0].result if finished else {}
    train = base.part("train")
    return {
        "data": first.get("data"),
        "split": first.get("split"),
        "protocol": {
            **{key: value for key, value in first.get("protocol", {}).items() if key != "selected_on"},
            "selected_on": f"valid {selected}",
            "split_seed": "fixed for all cells and seeds; only the training seed varies, so users are paired",
            "budget": {name: getattr(train, name) for name in _BUDGET},
            "seeds": list(range(seeds)),
            "standing": standing(seeds),
            "tests": "per-user differences of seed means: t, Wilcoxon, sign flips, bootstrap interval 95 %; Holm over "
            f"all {len(rows)} comparisons; paired t-test over seed means",
            "primary": metric,
        },
        "cells": [_cell(planned, name, configs[name], by_cell[name], by_cell) for name in configs if name in by_cell],
        "comparisons": rows,
        "conclusions": ends,
        "by_activity": by_activity(values, metric),
    }


def _cell(
    planned: Plan, name: str, config: RunConfig, runs: Sequence[Finished], all_runs: Mapping[str, Sequence[Finished]]
) -> dict[str, Any]:
    """One row: means and spread over seeds, and relative gains over the base and the noise arms."""
    cell, results = planned.cells[name], [one.result for one in runs]
    weights = {one: getattr(config.part(one), "weight", None) for one in cell.augment}
    test = _spread([result.get("test", {}) for result in results])
    return {
        "cell": name,
        "role": cell.role,
        "model": cell.model,
        "augment": list(cell.augment),
        "objective": config.objective,
        "preset": config.preset if cell.augment else None,
        "weight": {key: value for key, value in weights.items() if value is not None},
        "seeds": [one.config.seed for one in runs],
        "epochs_best": [result["epochs"]["best"] for result in results],
        "epochs_run": [result["epochs"]["run"] for result in results],
        "not_stopped_early": 0
        if cell.role == "baseline"
        else sum(not result["epochs"]["stopped_early"] for result in results),
        "valid": _spread([result.get("valid", {}) for result in results]),
        "test": test,
        "beyond_accuracy": _spread([result["beyond_accuracy"] for result in results]),
        "gain": {
            control: _gains([result.get("test", {}) for result in results], all_runs[control], runs)
            for control in ("base", *cell.controls)
            if control in all_runs and control != name and cell.role != "baseline"
        },
        "seconds": {
            key: round(float(np.mean([result["seconds"][key] for result in results])), 3)
            for key in ("train", "epoch_median", "evaluate")
        },
        "runs": [{"seed": one.config.seed, "directory": f"runs/{one.directory.name}"} for one in runs],
        "command": command_of(runs[0].config),
    }


def _spread(values: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation (None for one value) of each figure over seeds."""
    return {
        name: {
            "mean": float(np.mean([one[name] for one in values])),
            "std": float(np.std([one[name] for one in values], ddof=1)) if len(values) > 1 else None,
        }
        for name in values[0]
    }


def _gains(
    own: Sequence[Mapping[str, float]], control: Sequence[Finished], runs: Sequence[Finished]
) -> dict[str, float | None]:
    """Relative gain of the mean over the seeds both have."""
    other = {one.config.seed: one.result.get("test", {}) for one in control}
    both = [(values, other[one.config.seed]) for values, one in zip(own, runs, strict=True) if one.config.seed in other]
    found: dict[str, float | None] = {}
    for name in both[0][0] if both else ():
        a, b = (sum(pair[side][name] for pair in both) for side in (0, 1))
        found[name] = a / b - 1 if b else None
    return found


def finite(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
