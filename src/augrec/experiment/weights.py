"""The weight of an augmentation (ADAR's lambda), chosen on validation with one seed."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from augrec.errors import UsageError
from augrec.experiment.grid import Grid, Planned, config_hash, round_robin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from augrec.experiment.cells import Plan
    from augrec.experiment.config import RunConfig


def weighted(config: RunConfig, weights: Mapping[str, float] | None) -> RunConfig:
    """The run with other weights of its augmentations."""
    if not weights:
        return config
    parts = dict(config.parts)
    for name, value in weights.items():
        parts[name] = type(parts[name]).model_validate({**parts[name].model_dump(), "weight": value})
    return replace(config, parts=parts)


def choose_weights(
    grid: Grid, planned: Plan, values: Sequence[float], metric: str
) -> tuple[dict[str, Any], list[Planned], dict[str, str]]:
    """For each augmented cell the weight with the best validation value under seed 0; of equals the first listed."""
    weights: dict[str, Any] = {"grid": list(values), "selected_on": f"valid {metric}, seed 0"}
    weights |= {"chosen": {}, "valid": {}, "open": set()}
    if not values:
        return {**weights, "selected_on": None}, [], {}
    if not all(0 < value <= 1 for value in values):
        raise UsageError(f"--tune-weight: give values above 0 and at most 1, as 0.1,0.2,0.5 (got {list(values)})")
    trials: dict[str, list[tuple[dict[str, float], RunConfig]]] = {}
    for name, cell in planned.cells.items():
        config = planned.configs[name]
        held = [one for one in cell.augment if hasattr(config.part(one), "weight")]
        combinations = itertools.product(dict.fromkeys(values), repeat=len(held)) if held else ()
        settings = [dict(zip(held, chosen, strict=True)) for chosen in combinations]
        if settings:
            trials[name] = [(one, weighted(config, one)) for one in settings]
    outcome = grid.run(round_robin({name: [config for _, config in tried] for name, tried in trials.items()}))
    found = {(one.cell, one.directory.name): one.result for one in outcome.finished}
    waiting = {one.cell for one in outcome.left}
    refused = dict(outcome.refused)
    for name, tried in trials.items():
        valid: list[tuple[dict[str, float], float]] = []
        for setting, config in tried:
            result = found.get((name, config_hash(config)))
            if result is not None and "valid" not in result:
                raise UsageError(
                    "--tune-weight chooses on the validation part, and this split has none; set split.valid"
                )
            if result is not None:
                valid.append((setting, float(result["valid"][metric])))
        weights["valid"][name] = [{**setting, metric: value} for setting, value in valid]
        if name in waiting:
            weights["open"].add(name)
        elif valid:
            weights["chosen"][name] = max(valid, key=lambda one: one[1])[0]
        else:
            weights["open"].add(name)
            refused[name] = "it trains with none of the weights"
    return weights, list(outcome.left), refused
