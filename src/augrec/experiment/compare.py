"""Augmentations beside their controls: equal budgets, one split, paired tests, and words that fit the evidence."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from augrec import __version__
from augrec.data.interactions import Interactions
from augrec.data.readers import read_interactions
from augrec.errors import UsageError
from augrec.experiment.cells import plan
from augrec.experiment.directory import locked
from augrec.experiment.grid import Finished, Grid, Planned, command_of, round_robin, versions
from augrec.experiment.paired import compare_cells, conclusion, metric_names, read_per_user, standing
from augrec.experiment.result import select_metric
from augrec.experiment.tables import markdown
from augrec.experiment.weights import choose_weights, weighted
from augrec.storage import write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from augrec.experiment.cells import Plan
    from augrec.experiment.config import RunConfig
    from augrec.train.callbacks import Callback

_TESTED = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
_BUDGET = ("epochs", "patience", "evaluate_every", "batch_size", "learning_rate", "weight_decay")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison, finished or cut short by its time budget."""

    directory: Path
    record: dict[str, Any]
    """What compare.json holds."""


def compare(
    data: Any = "beauty",
    *,
    model: str,
    augment: Sequence[str],
    objective: str | None = None,
    preset: str = "default",
    split: str | None = None,
    seeds: int = 5,
    epochs: int | None = None,
    arms: Sequence[str] = (),
    tune_weight: Sequence[float] = (),
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    budget_minutes: float | None = None,
    out: str | Path | None = None,
    callbacks: Callable[[Planned], Sequence[Callback]] | None = None,
) -> Comparison:
    """Trains and tests the baselines, the base, the noise arms, `arms` and the augmentations over `seeds` seeds.

    All cells share one split (its seed is fixed, the training seed varies), so per-user values are paired. Finished
    runs below `out` are reused and unfinished ones resumed. `tune_weight` lists values of `weight` (ADAR's lambda)
    from which each augmented cell takes its best on validation under seed 0. Writes compare.json and compare.md.

    Raises `UsageError` and its kind for whatever is wrong with the arguments, before anything is trained.
    """
    source = None
    if not isinstance(data, str | Path):
        source = data if isinstance(data, Interactions) else read_interactions(data)
        data = source.name
    if seeds < 1:
        raise UsageError(f"--seeds: must be at least 1 (got {seeds})")
    planned = plan(
        data=str(data), model=model, augment=augment, objective=objective, preset=preset, split=split, epochs=epochs,
        arms=arms, overrides=overrides,
    )  # fmt: skip
    metric = select_metric(planned.configs["base"])
    folder = Path(out) if out is not None else _folder(planned)
    grid = Grid(folder, source=source, budget_minutes=budget_minutes, callbacks=callbacks)
    weights, left, refused = choose_weights(grid, planned, tune_weight, metric)
    configs = {
        name: weighted(config, weights["chosen"].get(name))
        for name, config in planned.configs.items()
        if name not in weights["open"]
    }
    alone = {name for name in configs if planned.cells[name].role == "baseline"}
    cells = {
        name: [replace(config, seed=seed) for seed in range(1 if name in alone else seeds)]
        for name, config in configs.items()
    }
    outcome = grid.run(round_robin(cells))
    command = _command(
        data=str(data), model=model, augment=augment, objective=objective, preset=preset, split=split, seeds=seeds,
        epochs=epochs, arms=arms, tune_weight=tune_weight, overrides=overrides, out=folder,
    )  # fmt: skip
    record = {
        "augrec": __version__,
        "command": command,
        "versions": versions(),
        **_record(planned, configs, outcome.finished, metric, seeds),
        "weights": {**weights, "open": sorted(weights["open"])},
        "left_out": planned.left_out | refused | dict(outcome.refused),
        "left": [f"{one.cell} seed {one.config.seed}" for one in (*left, *outcome.left)]
        + [f"{name}: all seeds, once its weight is chosen" for name in sorted(weights["open"] - set(refused))],
    }
    record = _finite(record)
    with locked(folder):
        write_file(folder / "compare.json", (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
        write_file(folder / "compare.md", markdown(record).encode())
    return Comparison(directory=folder, record=record)


def _folder(planned: Plan) -> Path:
    base = planned.configs["base"]
    names = [name for name, cell in planned.cells.items() if cell.role == "augmentation"]
    return Path("runs") / "-".join(["compare", Path(base.data).stem, base.model, str(base.objective), *names])


def _record(
    planned: Plan, configs: Mapping[str, RunConfig], finished: Sequence[Finished], metric: str, seeds: int
) -> dict[str, Any]:
    """Everything the finished runs say."""
    by_cell: dict[str, list[Finished]] = {}
    for one in finished:
        by_cell.setdefault(one.cell, []).append(one)
    base: RunConfig = planned.configs["base"]
    known = metric_names(base)
    metrics = [metric, *(name for name in _TESTED if name in known and name != metric)]
    tested = {name: runs for name, runs in by_cell.items() if "test" in runs[0].result}
    per_user = {
        name: read_per_user({one.config.seed: one.directory / "per_user.parquet" for one in runs}, metrics)
        for name, runs in tested.items()
        if planned.cells[name].role != "baseline"
    }
    pairs = [(a, b) for a, b in planned.pairs if a in per_user and b in per_user]
    rows = compare_cells(per_user, pairs, metrics)
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
            "selected_on": f"valid {metric}",
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


def _finite(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _command(*, augment: Sequence[str], overrides: Mapping[str, Mapping[str, Any]] | None, **options: Any) -> str:
    """The command that makes this comparison again."""
    words = ["augrec", "compare", "--augment", ",".join(augment)]
    for name, value in options.items():
        if value is None or value == () or value == []:
            continue
        text = ",".join(str(one) for one in value) if isinstance(value, list | tuple) else str(value)
        words += [f"--{name.replace('_', '-')}", text]
    for part, fields in (overrides or {}).items():
        for key, value in fields.items():
            words += ["--set", f"{part}.{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)
