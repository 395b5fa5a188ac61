"""A resolved run to the parts that train: the one place where names become objects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning_fabric import Fabric

from augrec.augment.compose import check_combination, check_kind
from augrec.backbones.base import Backbone, InnerProductScorer, SequenceBackbone
from augrec.batches.pairs import PairBatches
from augrec.batches.sequences import Rows, SequenceBatches
from augrec.batches.users import UserBatches
from augrec.data.catalog import load as load_data
from augrec.data.filters import drop_duplicates, k_core, min_rating
from augrec.errors import DataError, UnsupportedCombinationError
from augrec.evaluate.protocol import EvaluateConfig, evaluate
from augrec.experiment.registry import find
from augrec.seams import Group
from augrec.splits import Split, make_split
from augrec.train.config import PAIR_BATCH, SPARSE_ROWS, TARGET_BATCH, USER_BATCH, TrainConfig
from augrec.train.loop import Loop
from augrec.train.prepare import prepare
from augrec.train.step import TrainStep
from augrec.train.streams import Streams
from augrec.train.threads import fastest_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from augrec.data.interactions import Interactions
    from augrec.experiment.config import DataConfig, RunConfig
    from augrec.seams import Objective, Plugin


_JUDGED = 2000
"""Users, a seeded sample, that a model trained inside `prepare` is validated on."""
Batches = PairBatches | SequenceBatches | UserBatches


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything a loop is made of."""

    step: TrainStep
    batches: Batches
    groups: Mapping[str, Group]


def read_split(run: RunConfig, source: Any = None) -> Split:
    """The run's log (or `source`, already read), filtered and split as its config says."""
    log = load_data(run.data) if source is None else source
    options: DataConfig = run.part("data")
    if options.min_rating is not None:
        log = min_rating(log, options.min_rating)
    if options.drop_duplicates:
        log = drop_duplicates(log)
    if options.user_core or options.item_core:
        log = k_core(log, user_k=options.user_core, item_k=options.item_core)
    if not len(log):
        raise DataError(
            f"{log.name}: no interactions are left after the filters; lower data.user_core, data.item_core or "
            f"data.min_rating"
        )
    return make_split(log, run.part("split"))


def build(run: RunConfig, train: Interactions, *, seed: int, cache: Path | None = None) -> Parts:
    """Backbone, objective, plug-ins and batches on a train log; refuses combinations that cannot work."""
    streams = Streams(seed)
    kind = find(run.model, ("backbone",), option="--model").load()
    config = run.part(run.model)
    plugins: list[Plugin] = []
    for name in run.augment:
        made = find(name, ("augmentation",), option="--augment").load()
        check_kind(kind, made)
        with streams.use(f"initialisation/{made.name}"):
            plugins.append(made(run.part(name), kind=kind.kind, dim=kind.width(config), n_items=train.n_items))
        plugins[-1].adopt({part: run.part(part) for part in plugins[-1].shared})
    ranking = find(run.objective or "", ("objective",), option="--objective").load()
    objective = ranking(run.part(run.objective or ""), train=train)
    options: dict[str, Any] = {}
    if kind.kind == "sequences":
        options["mask_token"] = objective.needs.mask_token or any(one.needs.mask_token for one in plugins)

    def backbone_on(log: Interactions) -> Backbone:
        with Streams(seed).use("initialisation"):
            made: Backbone = kind(config, n_users=log.n_users, n_items=log.n_items, train=log, **options)
        return made

    backbone = backbone_on(train)
    check_combination(backbone, objective, plugins)
    plugins = [plugin for plugin in plugins if plugin.active]
    prepared = prepare(plugins, train, fit, seed=seed, cache=cache)
    if prepared is not train:
        train, backbone = prepared, backbone_on(prepared)
        objective = ranking(run.part(run.objective or ""), train=train)
    options_: TrainConfig = run.part("train")
    batches = make_batches(backbone, train, options_.batch_size, rows=options_.rows)
    if not len(batches):
        raise DataError(
            f"{train.name}: the train part holds nothing to learn from ({len(train)} events); every user needs more "
            f"events"
        )
    step = make_step(backbone, objective, plugins, options_, seed=seed)
    return Parts(step=step, batches=batches, groups=parameter_groups(step, options_))


def make_batches(
    backbone: Backbone, train: Interactions, batch_size: int | None = None, *, rows: Rows = "whole"
) -> Batches:
    """The batches a backbone trains on. Raises `UnsupportedCombinationError` for rows it cannot be trained with."""
    if isinstance(backbone, SequenceBackbone):
        if backbone.masking is not None and (rows != "whole" or train.candidates is not None):
            what = "split.target_domain" if rows == "whole" else f"train.rows={rows}"
            raise UnsupportedCombinationError(
                f"{backbone.name} learns hidden items of whole rows, any of which may be hidden; {what} asks for "
                f"certain ones: choose a causal backbone, such as sasrec"
            )
        size = batch_size or TARGET_BATCH
        return SequenceBatches(train, batch_size=size, max_length=backbone.max_length, rows=rows)
    if rows != "whole":
        raise UnsupportedCombinationError(
            f"train.rows={rows}: {backbone.name} has no rows of sequences; leave it at whole"
        )
    if backbone.kind == "users":
        replacement = bool(getattr(backbone, "with_replacement", False))
        return UserBatches(train, batch_size=batch_size or USER_BATCH, replacement=replacement)
    return PairBatches(train, batch_size=batch_size or PAIR_BATCH)


def make_step(
    backbone: Backbone, objective: Objective, plugins: Sequence[Plugin], config: TrainConfig, *, seed: int
) -> TrainStep:
    """The step that a loop repeats; says which of the backbone's gradients are sparse. Raises
    `UnsupportedCombinationError` where `train.sparse` asks for them and they cannot be."""
    table = None if objective.needs.every_item else backbone.looked_up()
    if config.sparse and (table is None or config.weight_decay):
        what = "train.weight_decay moves every row" if config.weight_decay else (
            f"{backbone.name} with objective {objective.name} reads every row of its table at every step"
        )  # fmt: skip
        raise UnsupportedCombinationError(f"train.sparse=true: {what}; leave train.sparse out")
    # A plug-in may read the table without looking rows up, and would see late ones: only where it is asked for.
    large = table is not None and len(table) >= SPARSE_ROWS and not config.weight_decay and not plugins
    backbone.sparse = large if config.sparse is None else config.sparse
    return TrainStep(backbone, objective, plugins, Streams(seed))


def parameter_groups(step: TrainStep, config: TrainConfig) -> dict[str, Group]:
    """The "main" group (the encoder and whatever plug-in parameters nobody claims) and the plug-ins' own."""
    groups: dict[str, Group] = {}
    for plugin in step.plugins:
        groups |= plugin.groups()  # type: ignore[operator]
    claimed = {id(parameter) for group in groups.values() for parameter in group.parameters}
    main = tuple(p for p in step.parameters() if id(p) not in claimed and p.requires_grad)
    own = Group(parameters=main, learning_rate=config.learning_rate, weight_decay=config.weight_decay, clip=config.clip)
    return {"main": own, **groups}


def choose_threads(parts: Parts) -> int:
    """Measures forward and backward of a few batches at several thread counts; weights, gradients and streams are left
    as found."""
    step, streams = parts.step, parts.step.streams
    before = streams.state()
    weights = {name: value.clone() for name, value in step.state_dict().items()}
    with streams.use("batches"):
        batches = [batch for batch, _ in zip(parts.batches.epoch(), range(3), strict=False)]
    step.train()

    def trial() -> None:
        for batch in batches:
            begun = step.begin(batch)
            for number in range(len(step.phases)):
                torch.stack(list(step(begun, number).values())).sum().backward()
        step.zero_grad(set_to_none=True)

    chosen = fastest_threads(trial)
    step.begin(batches[0])
    step.load_state_dict(weights)
    streams.load(before)
    return chosen


def make_fabric(device: str) -> Fabric:
    """One process on one device; several processes come with a launcher."""
    return Fabric(accelerator=device, devices=1)


def fit(
    backbone: Backbone,
    *,
    objective: str,
    train: Interactions,
    epochs: int,
    seed: int,
    valid: Interactions | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> Backbone:
    """`seams.Fit`: a backbone trained with the named objective's defaults and no plug-in."""
    kind = find(objective, ("objective",), option="objective").load()
    config = TrainConfig.model_validate({"epochs": epochs, **settings})
    step = make_step(backbone, kind(kind.Config(), train=train), (), config, seed=seed)
    validate = None
    if valid is not None and len(valid):
        split = Split(name="prepare", train=train, valid=valid, test=train.part(np.zeros(len(train), dtype=bool)))
        options = EvaluateConfig(ks=(10,), max_users=_JUDGED, seed=0)
        validate = validator(step, lambda scorer: evaluate(scorer, split, "valid", options).metrics.mean)
    Loop(
        fabric=make_fabric("cpu"),
        step=step,
        batches=make_batches(backbone, train, config.batch_size, rows=config.rows),
        groups=parameter_groups(step, config),
        config=config,
        select="ndcg@10",
        validate=validate,
    ).run()
    return backbone


def validator(
    step: TrainStep, evaluate: Callable[[InnerProductScorer], Mapping[str, float]]
) -> Callable[[], Mapping[str, float]]:
    """Validation metrics of the step's backbone under its current weights; the step is back in training mode
    afterwards."""

    def validate() -> Mapping[str, float]:
        metrics = evaluate(InnerProductScorer(step.backbone))
        step.train()
        return metrics

    return validate
