"""A resolved run to the parts that train: the one place where names become objects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric

from augrec.augment.compose import check_combination
from augrec.backbones.base import Backbone, InnerProductScorer
from augrec.batches.pairs import PairBatches
from augrec.batches.sequences import SequenceBatches
from augrec.data.catalog import load as load_data
from augrec.data.filters import drop_duplicates, k_core, min_rating
from augrec.errors import DataError
from augrec.experiment.registry import find
from augrec.seams import Group
from augrec.splits import make_split
from augrec.train.config import PAIR_BATCH, TARGET_BATCH, TrainConfig
from augrec.train.loop import Loop
from augrec.train.prepare import prepare
from augrec.train.step import TrainStep
from augrec.train.streams import Streams
from augrec.train.threads import fastest_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from augrec.data.interactions import Interactions
    from augrec.experiment.config import DataConfig, RunConfig
    from augrec.seams import Plugin
    from augrec.splits import Split


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything a loop is made of."""

    step: TrainStep
    batches: PairBatches | SequenceBatches
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
        with streams.use(f"initialisation/{made.name}"):
            plugins.append(made(run.part(name), kind=kind.kind, dim=kind.width(config), n_items=train.n_items))
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
    batches: PairBatches | SequenceBatches
    if kind.kind == "pairs":
        batches = PairBatches(train, batch_size=options_.batch_size or PAIR_BATCH)
    else:
        batches = SequenceBatches(train, batch_size=options_.batch_size or TARGET_BATCH, max_length=config.max_length)
    if not len(batches):
        raise DataError(
            f"{train.name}: the train part holds nothing to learn from ({len(train)} events); every user needs more "
            f"events"
        )
    step = TrainStep(backbone, objective, plugins, Streams(seed))
    return Parts(step=step, batches=batches, groups=parameter_groups(step, options_))


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


def fit(backbone: Backbone, *, objective: str, train: Interactions, epochs: int, seed: int) -> Backbone:
    """`seams.Fit`: a backbone trained for a fixed number of epochs with the named objective's defaults and no
    plug-in."""
    kind = find(objective, ("objective",), option="objective").load()
    config = TrainConfig(epochs=epochs)
    batches: PairBatches | SequenceBatches
    if backbone.kind == "pairs":
        batches = PairBatches(train, batch_size=PAIR_BATCH)
    else:
        batches = SequenceBatches(train, batch_size=TARGET_BATCH, max_length=backbone.max_length)  # type: ignore[arg-type]
    step = TrainStep(backbone, kind(kind.Config(), train=train), (), Streams(seed))
    groups = parameter_groups(step, config)
    Loop(fabric=make_fabric("cpu"), step=step, batches=batches, groups=groups, config=config, select="loss").run()
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
