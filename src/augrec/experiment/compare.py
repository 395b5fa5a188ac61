"""Augmentations beside their controls: equal budgets, one split, paired tests, and words that fit the evidence."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from augrec import __version__
from augrec.data.interactions import Interactions
from augrec.data.readers import read_interactions
from augrec.errors import UsageError
from augrec.evaluate.sampled import PREFIX
from augrec.experiment.cells import plan, seeded
from augrec.experiment.directory import locked
from augrec.experiment.grid import Grid, Planned, round_robin, versions
from augrec.experiment.paired import metric_names
from augrec.experiment.protocols import spelled_out
from augrec.experiment.record import finite
from augrec.experiment.record import record as describe
from augrec.experiment.result import select_metric
from augrec.experiment.tables import markdown
from augrec.experiment.weights import choose_weights, weighted
from augrec.storage import write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from augrec.experiment.cells import Plan
    from augrec.experiment.spread import Spread
    from augrec.train.callbacks import Callback

_TESTED = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


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
    protocol: str | None = None,
    seeds: int = 5,
    epochs: int | None = None,
    arms: Sequence[str] = (),
    tune_weight: Sequence[float] = (),
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    budget_minutes: float | None = None,
    out: str | Path | None = None,
    callbacks: Callable[[Planned], Sequence[Callback]] | None = None,
    spread: Spread | None = None,
) -> Comparison:
    """Trains and tests the baselines, the base, the noise arms, `arms` and the augmentations over `seeds` seeds.

    All cells share one split (its seed is fixed, the training seed varies), so per-user values are paired. Finished
    runs below `out` are reused and unfinished ones resumed. `tune_weight` lists values of `weight` (ADAR's lambda)
    from which each augmented cell takes its best on validation under seed 0. `protocol` is one of docs/protocols.md by
    its name (P1, P1d, P2). Writes compare.json and compare.md.

    Raises `UsageError` and its kind for whatever is wrong with the arguments, before anything is trained.
    """
    source = None
    if not isinstance(data, str | Path):
        source = data if isinstance(data, Interactions) else read_interactions(data)
        data = source.name
    if seeds < 1:
        raise UsageError(f"--seeds: must be at least 1 (got {seeds})")
    if protocol is not None:
        objective, split, overrides = spelled_out(
            protocol, model=model, objective=objective, split=split, overrides=overrides
        )
    planned = plan(
        data=str(data), model=model, augment=augment, objective=objective, preset=preset, split=split, epochs=epochs,
        arms=arms, overrides=overrides,
    )  # fmt: skip
    metric = select_metric(planned.configs["base"])
    folder = Path(out) if out is not None else _folder(planned)
    grid = Grid(folder, source=source, budget_minutes=budget_minutes, callbacks=callbacks, spread=spread)
    weights, left, refused = choose_weights(grid, planned, tune_weight, metric)
    configs = {
        name: weighted(config, weights["chosen"].get(name))
        for name, config in planned.configs.items()
        if name not in weights["open"]
    }
    outcome = grid.run(round_robin(seeded(planned, configs, seeds)))
    known = metric_names(planned.configs["base"])
    shown = [metric.removeprefix(PREFIX), *_TESTED]
    metrics = [name for name in dict.fromkeys(shown) if name in known]
    command = _command(
        data=str(data), model=model, augment=augment, objective=objective, preset=preset, split=split, seeds=seeds,
        epochs=epochs, arms=arms, tune_weight=tune_weight, overrides=overrides, out=folder,
    )  # fmt: skip
    record = {
        "augrec": __version__,
        "command": command,
        "versions": versions(),
        **describe(planned, configs, outcome.finished, selected=metric, metrics=metrics, seeds=seeds),
        "weights": {**weights, "open": sorted(weights["open"])},
        "left_out": planned.left_out | refused | dict(outcome.refused),
        "left": [f"{one.cell} seed {one.config.seed}" for one in (*left, *outcome.left)]
        + [f"{name}: all seeds, once its weight is chosen" for name in sorted(weights["open"] - set(refused))],
    }
    record = finite(record)
    with locked(folder):
        write_file(folder / "compare.json", (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
        write_file(folder / "compare.md", markdown(record).encode())
    return Comparison(directory=folder, record=record)


def _folder(planned: Plan) -> Path:
    base = planned.configs["base"]
    names = [name for name, cell in planned.cells.items() if cell.role == "augmentation"]
    return Path("runs") / "-".join(["compare", Path(base.data).stem, base.model, str(base.objective), *names])


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
