"""Conformance checks of an augmentation. In a test of your own package:

    from augrec.testing import augmentation_checks

    @pytest.mark.parametrize(("name", "check"), augmentation_checks(MyPlugin, backbone=MF))
    def test_conformance(name, check):
        check()

or all at once, without pytest: `check_augmentation(MyPlugin, backbone=MF)`.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from safetensors.torch import load, save

from augrec.augment.compose import check_combination
from augrec.errors import ConfigError, UnsupportedCombinationError
from augrec.experiment.build import fit as fit_plain
from augrec.experiment.registry import entries
from augrec.seams import Plugin, Seam
from augrec.testing import addition_checks, isolation_checks
from augrec.testing.assemble import fit, make_objective, random_states, train_on
from augrec.testing.asserting import finite, require, same_bytes
from augrec.testing.augmentation_case import AugmentationCase, Declared
from augrec.testing.check_backbone import NONE, run_all
from augrec.testing.logs import tiny_log
from augrec.train.prepare import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from augrec.typed import Config


def check_config_round_trip(case: AugmentationCase) -> None:
    """Settings written as JSON come back equal, unknown fields are refused, every field has a docstring."""
    kind = type(case.config)
    again = kind.model_validate_json(case.config.model_dump_json())
    require(again == case.config, f"{kind.__name__}: {case.config!r} came back from JSON as {again!r}")
    try:
        kind.model_validate({**case.config.model_dump(), "no_such_field": 1})
    except ValueError:
        pass
    else:
        raise AssertionError(f"{kind.__name__} accepts unknown fields: derive it from augrec.typed.Config")
    bare = [name for name, field in kind.model_fields.items() if not field.description]
    require(not bare, f"{kind.__name__}: no docstring under {', '.join(bare)}")


def check_presets(case: AugmentationCase) -> None:
    """Every preset gives valid settings or is refused by name; "default" changes nothing."""
    kind = type(case.config)
    for name in ("default", "paper", "published-code", "robust"):
        try:
            fields = dict(case.plugin.preset(name, kind=case.kind))
        except ConfigError as error:
            require(name in str(error), f"preset '{name}' is refused without being named: {error}")
            continue
        made = kind.model_validate(fields)
        require(name != "default" or made == kind(), f"preset 'default' sets {fields}")


def check_declares_itself(case: AugmentationCase) -> None:
    """Name, seams and needs are declared; phases move known groups; groups own their parameters alone."""
    plugin = case.made()
    require(isinstance(plugin, Plugin), f"{type(plugin).__name__} is no augrec.seams.Plugin")
    unknown = plugin.acts - set(get_args(Seam))
    require(plugin.acts and not unknown, f"acts must name seams out of {get_args(Seam)}, got {set(plugin.acts)}")
    require(case.kind in plugin.needs.kinds, f"the plug-in does not work on {case.kind}; test it on another backbone")
    groups = plugin.groups()
    for phase in plugin.phases():
        require(phase.group in {"main", *groups}, f"phase '{phase.name}' moves '{phase.group}', which nobody declares")
        require(phase.loss is not None, f"phase '{phase.name}' has no loss; the ranking phase is the loop's")
    require(not plugin.phases() or "phases" in plugin.acts, "it has phases, but `acts` does not name 'phases'")
    own = {id(parameter) for parameter in plugin.parameters()}
    claimed = [id(parameter) for group in groups.values() for parameter in group.parameters]
    require(set(claimed) <= own, "a group holds parameters that are not the plug-in's")
    require(len(claimed) == len(set(claimed)), "a parameter is in two groups")


def check_loss_falls(case: AugmentationCase) -> None:
    """A few epochs on a tiny log: the losses stay finite and the mean ranking loss falls."""
    batches, trial = case.trial().learning()
    before = trial.mean_ranking_loss(batches)
    losses = fit(trial).losses
    require(all(torch.isfinite(torch.tensor(losses))), "a loss is not finite")
    after, epochs = trial.mean_ranking_loss(batches), trial.config.epochs
    require(after < before, f"{epochs} epochs took the ranking loss from {before:.5f} to {after:.5f}")


def check_reproducible(case: AugmentationCase) -> None:
    """The same seed twice ends in the same bytes, and no global random state is touched."""
    states = random_states()
    first, again = (fit(case.anew().trial(seed=3)).weights for _ in range(2))
    same_bytes(again, first, "two runs of one seed")
    require(random_states() == states, "a global random state was left changed: draw from torch's default generator")


def check_prepare(case: AugmentationCase) -> None:
    """What it prepares depends on train rows, settings and seed alone, fits a file, and is given back unchanged."""
    plugin = case.made()
    if not plugin.prepares:
        return
    log, states = tiny_log(), random_states()
    rows = log.item.copy()
    first, again = (case.made(seed=seed).prepare(log, fit_plain, seed=0) for seed in (0, 5))
    require(random_states() == states, "prepare() left a global random state changed")
    require(bool((log.item == rows).all()), "prepare() changed the train log")
    if first.train is None:
        require(first.tensors, "prepare() gave neither tensors nor a rewritten log")
        same_bytes(dict(again.tensors), dict(first.tensors), "two preparations")
        for name, tensor in load(save({k: v.contiguous() for k, v in first.tensors.items()})).items():
            finite(tensor, f"prepared '{name}'")
    before = {name: tensor.clone() for name, tensor in first.tensors.items()}
    plugin.load_prepared(first, first.train or log)
    same_bytes(dict(first.tensors), before, "prepared tensors, which others share, after load_prepared()")
    keys = {key_of(plugin, one, 0) for one in (log, log.part(np.arange(len(log)) != 4), tiny_log(seed=1))}
    require(len(keys) == 3, "another train log must give another key of the prepared state")
    json.dumps(plugin.prepared_key(0), allow_nan=False)


def check_objectives(case: AugmentationCase) -> None:
    """It trains with every objective it does not clash with; a clash is refused when built, naming both."""
    log = tiny_log()
    backbone, plugin = case.backbone.fresh(log), case.made(log)
    supported = 0
    for entry in entries().values():
        if entry.family != "objective":
            continue
        objective = make_objective(entry.name, log)
        if backbone.kind not in objective.needs.kinds:
            continue  # refused without this plug-in too
        clash = bool(plugin.acts & objective.refuses) or (plugin.needs.negatives and not objective.samples)
        try:
            check_combination(backbone, objective, [plugin])
        except UnsupportedCombinationError as error:
            require(clash, f"refused on objective '{objective.name}' without a reason: {error}")
            require(
                plugin.name in str(error) and objective.name in str(error),
                f"the refusal on '{objective.name}' must name both parts: {error}",
            )
            continue
        require(not clash, f"the clash with objective '{objective.name}' was not refused")
        trial = case.trial(log, objective=entry.name, learning_rate=1e-3)
        batch = trial.first_batch()
        before = trial.ranking_loss(batch)
        train_on(trial, batch, steps=3)
        after = trial.ranking_loss(batch)
        require(
            after < before,
            f"with objective '{entry.name}' 3 steps took the ranking loss from {before:.6f} to {after:.6f}",
        )
        supported += 1
    require(supported > 0, "no objective supports it")


def check_refuses_other_kinds(case: AugmentationCase) -> None:
    """A backbone of a kind it does not support is refused, naming both."""
    plugin, backbone = case.made(), case.backbone.fresh()
    objective = make_objective(case.objective, tiny_log())
    for kind in {"pairs", "sequences"} - plugin.needs.kinds:
        backbone.kind = kind  # type: ignore[misc, assignment]
        try:
            check_combination(backbone, objective, [plugin])
        except UnsupportedCombinationError as error:
            require(plugin.name in str(error), f"the refusal must name the plug-in: {error}")
        else:
            raise AssertionError(f"a {kind} backbone was not refused, though needs.kinds leaves it out")


def check_epoch_log(case: AugmentationCase) -> None:
    """Its figures for metrics.jsonl are plain JSON, finite, and the same twice from the same run."""
    lines = []
    for _ in range(2):
        trial = case.trial(epochs=1)
        lines.append(fit(trial).lines)
    json.dumps(lines[0], allow_nan=False)
    require(lines[0] == lines[1], "the epoch's figures differ between two equal runs")


EVERY: tuple[Callable[[AugmentationCase], None], ...] = (
    check_config_round_trip, check_presets, check_declares_itself, check_loss_falls, check_reproducible, check_prepare,
    check_objectives, check_refuses_other_kinds, check_epoch_log, *isolation_checks.EVERY, *addition_checks.EVERY,
)  # fmt: skip


def augmentation_checks(
    plugin: Any,
    config: Config | None = None,
    *,
    backbone: Any,
    objective: str | None = None,
    off: Config | None = None,
    declared: Declared | None = None,
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(name, check) for every check; a check takes nothing and raises AssertionError.

    Args:
        plugin: a class `Class(config, *, kind, dim, n_items)` with its typed config as `Class.Config`.
        config: settings under test; by default `Class.Config()`.
        backbone: what it is tested on; see `backbone_checks`.
        objective: registered objective; by default bpr on pairs, softmax on sequences, and bpr where that clashes.
        off: settings that switch it off; by default `config` with the fields of `Plugin.off`.
        declared: what it does that others must not do.
    """
    case = AugmentationCase.of(plugin, config, off, backbone, objective, declared or Declared())
    for check in EVERY:
        yield check.__name__.removeprefix("check_"), partial(check, case)


def check_augmentation(
    plugin: Any,
    config: Config | None = None,
    *,
    backbone: Any,
    objective: str | None = None,
    off: Config | None = None,
    declared: Declared | None = None,
    expected_failures: Mapping[str, str] = NONE,
) -> None:
    """Runs `augmentation_checks`; raises one AssertionError that lists every check that failed.

    `expected_failures` names checks that may fail, each with its reason; one that passes after all is a failure too.
    """
    checks = augmentation_checks(plugin, config, backbone=backbone, objective=objective, off=off, declared=declared)
    run_all(checks, expected_failures)
