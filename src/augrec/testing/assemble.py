"""Backbone, objective and plug-ins put together for a few steps, as a run does it but without names or files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from augrec.evaluate.protocol import EvaluateConfig, evaluate
from augrec.experiment.build import Batches, make_batches, make_fabric, parameter_groups, validator
from augrec.experiment.registry import find
from augrec.seams import Additions
from augrec.train.callbacks import Callback
from augrec.train.config import TrainConfig
from augrec.train.loop import Loop
from augrec.train.step import TrainStep
from augrec.train.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from augrec.backbones.base import Backbone
    from augrec.batches.batch import Batch
    from augrec.data.interactions import Interactions
    from augrec.seams import Group, Objective, Plugin
    from augrec.splits.base import Split

BATCH = 32
"""Targets in a batch of the kit's own runs."""


def make_objective(name: str, train: Interactions, **fields: Any) -> Objective:
    """A registered objective on `train`."""
    kind = find(name, ("objective",), option="objective").load()
    made: Objective = kind(kind.Config(**fields), train=train)
    return made


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Parts that can train."""

    step: TrainStep
    batches: Batches
    groups: Mapping[str, Group]
    config: TrainConfig

    @property
    def backbone(self) -> Backbone:
        """The encoder."""
        return self.step.backbone

    def first_batch(self) -> Batch:
        """The first batch of a fresh epoch, as the objective rewrites it."""
        with self.step.streams.use("batches"):
            batch = next(iter(self.batches.epoch()))
        return self.step.begin(batch)

    def learning(self) -> tuple[list[Batch], Trial]:
        """An epoch's batches, whose ranking loss must fall, and the trial with the epochs and rate that take it there.
        (One batch of so small a log may go either way.)

        A bidirectional backbone is asked for last items, as in ranking; it learns from one hidden item where a causal
        one learns from a whole row, and behind a head that ends in a LayerNorm 1e-2 is too much.
        """
        backbone = self.backbone
        if backbone.masking is None:
            return self._epoch(), replace(self, config=self.config.model_copy(update={"epochs": 8}))
        kept, backbone.masking = backbone.masking, replace(backbone.masking, last_share=1.0)
        batches = self._epoch()
        backbone.masking = kept
        config = self.config.model_copy(update={"epochs": 60, "learning_rate": 1e-3})
        groups = {name: replace(group, learning_rate=1e-3) for name, group in self.groups.items()}
        return batches, replace(self, config=config, groups=groups)

    def _epoch(self) -> list[Batch]:
        """The batches of a fresh epoch, as the objective rewrites them."""
        with self.step.streams.use("batches"):
            return [self.step.begin(batch) for batch in list(self.batches.epoch())]

    def loss(self, batch: Batch) -> Tensor:
        """The sum of the main phase's terms."""
        main = next(n for n, phase in enumerate(self.step.phases) if phase.loss is None)
        self.step.moved("main")
        return torch.stack(list(self.step(batch, main).values())).sum()

    def mean_ranking_loss(self, batches: Sequence[Batch]) -> float:
        """The mean of `ranking_loss` over batches."""
        return sum(self.ranking_loss(batch) for batch in batches) / len(batches)

    def ranking_loss(self, batch: Batch) -> float:
        """The ranking loss alone, nothing added, without dropout and with the draws a fresh run starts with.

        A plug-in that trains against the encoder may raise its own share while the recommender learns; this one falls.
        """
        kept, mode = self.step.streams.state(), self.step.training
        self.step.streams.load({})
        self.step.eval()
        with torch.no_grad():
            encoded = self.step.encode(batch)
            with self.step.streams.use("objective"):
                value = self.step.objective(batch, encoded, Additions()).item()
        self.step.train(mode)
        self.step.streams.load(kept)
        return value


def assemble(
    backbone: Callable[[Interactions], Backbone],
    objective: str,
    plugins: Sequence[Plugin],
    train: Interactions,
    *,
    seed: int = 0,
    batch_size: int = BATCH,
    learning_rate: float = 1e-2,
    epochs: int = 2,
) -> Trial:
    """A trial on `train`. `backbone` makes the encoder from the log and draws from torch's default generator, into
    which a stream is swapped."""
    with Streams(seed).use("initialisation"):
        encoder = backbone(train)
    step = TrainStep(encoder, make_objective(objective, train), plugins, Streams(seed))
    config = TrainConfig(epochs=epochs, learning_rate=learning_rate, patience=1000)
    batches = make_batches(encoder, train, batch_size)
    return Trial(step=step, batches=batches, groups=parameter_groups(step, config), config=config)


class Watcher(Callback):
    """Keeps the loss of every step and the weights at the end of every epoch."""

    def __init__(self, step: TrainStep) -> None:
        self.step = step
        self.losses: list[float] = []
        self.weights: dict[str, Tensor] = {}
        self.lines: list[dict[str, Any]] = []

    def on_step(self, epoch: int, batch: int, loss: float) -> None:
        self.losses.append(loss)

    def on_epoch_end(self, line: Mapping[str, Any]) -> None:
        self.weights = {name: value.detach().clone() for name, value in self.step.state_dict().items()}
        self.lines.append({key: value for key, value in line.items() if key != "seconds"})


def make_loop(trial: Trial, *, split: Split | None = None, callbacks: Sequence[Callback] = ()) -> Loop:
    """The training loop over a trial; with a split it validates after every epoch and keeps the best weights."""
    validate = None
    if split is not None:
        options = EvaluateConfig(ks=(5,))
        validate = validator(trial.step, lambda scorer: evaluate(scorer, split, "valid", options).metrics.mean)
    return Loop(
        fabric=make_fabric("cpu"),
        step=trial.step,
        batches=trial.batches,
        groups=trial.groups,
        config=trial.config,
        select="ndcg@5",
        validate=validate,
        callbacks=callbacks,
    )


def fit(trial: Trial, *, split: Split | None = None) -> Watcher:
    """Runs the loop to its end and returns what it showed."""
    watcher = Watcher(trial.step)
    make_loop(trial, split=split, callbacks=(watcher,)).run()
    return watcher


def losses_of(trial: Trial, steps: int) -> list[float]:
    """The main loss of the first `steps` steps."""
    watcher = Watcher(trial.step)
    epochs = -(-steps // len(trial.batches))
    fixed = replace(trial, config=trial.config.model_copy(update={"epochs": epochs}))
    make_loop(fixed, callbacks=(watcher,)).run()
    return watcher.losses[:steps]


def train_on(trial: Trial, batch: Batch, *, steps: int) -> None:
    """Every phase on one batch, `steps` times over."""
    optimisers = {name: torch.optim.Adam(one.parameters, lr=one.learning_rate) for name, one in trial.groups.items()}
    trial.step.train()
    for _ in range(steps):
        trial.step.moved("main")
        for number, phase in enumerate(trial.step.phases):
            loss = torch.stack(list(trial.step(batch, number).values())).sum()
            loss.backward(inputs=list(trial.groups[phase.group].parameters))
            optimisers[phase.group].step()
            optimisers[phase.group].zero_grad()
            trial.step.moved(phase.group)


def encoder_state(trial: Trial) -> dict[str, Tensor]:
    """The encoder's saved state."""
    return {name: value.detach().clone() for name, value in trial.backbone.state_dict().items()}


def random_states() -> tuple[object, ...]:
    """The state of every global random generator, comparable by ==."""
    import random

    import numpy as np

    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return random.getstate(), (kind, bytes(keys), *rest), bytes(torch.get_rng_state().numpy())  # type: ignore[arg-type]


def tensors_of(value: object) -> Iterator[Tensor]:
    """Every tensor inside dataclasses, mappings and sequences."""
    if isinstance(value, torch.Tensor):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_of(getattr(value, field.name))
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors_of(one)
    elif isinstance(value, tuple | list):
        for one in value:
            yield from tensors_of(one)
