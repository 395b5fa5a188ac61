"""One loop for everything: batches, phases, validation, early stopping, checkpoints, resume."""

from __future__ import annotations

import json
import math
import time
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from augrec.errors import CheckpointError, Interrupted, NumericalError
from augrec.storage import write_bytes, write_file
from augrec.train.average import Average
from augrec.train.fused_adam import FusedAdam
from augrec.train.lazy_adam import LazyAdam
from augrec.train.share import Share
from augrec.train.signals import StopRequest
from augrec.train.state import Progress, Snapshot, prefixed, under

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lightning_fabric import Fabric
    from torch import Tensor

    from augrec.batches.batch import Batch
    from augrec.batches.pairs import PairBatches
    from augrec.batches.sequences import SequenceBatches
    from augrec.batches.users import UserBatches
    from augrec.seams import Group
    from augrec.train.callbacks import Callback
    from augrec.train.config import TrainConfig
    from augrec.train.state import Checkpoints
    from augrec.train.step import TrainStep


class Loop:
    """Trains a `TrainStep` until its epochs are over or validation stops rising.

    `validate` gives validation metrics under the current weights; without it every epoch is run and the last weights
    are kept. Where several processes share the step (`TrainStep.ranks`), each runs the loop, and one is given
    checkpoints, a metrics file and callbacks.
    """

    def __init__(
        self,
        *,
        fabric: Fabric,
        step: TrainStep,
        batches: PairBatches | SequenceBatches | UserBatches,
        groups: Mapping[str, Group],
        config: TrainConfig,
        select: str,
        validate: Callable[[], Mapping[str, float]] | None = None,
        checkpoints: Checkpoints | None = None,
        metrics_file: Path | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.step, self.batches, self.groups, self.config, self.select = step, batches, groups, config, select
        self.validate, self.checkpoints = validate, checkpoints
        self.metrics_file, self.callbacks = metrics_file, callbacks
        self.fabric = fabric
        sparse = step.backbone.looked_up() if step.backbone.sparse else None
        self.shares = {name: Share(group.parameters, step.ranks, sparse=sparse) for name, group in groups.items()}
        self.optimisers = {name: self._optimiser(name) for name in groups}
        self.wrapped = fabric.setup_module(step)
        self._fabric_optimisers: dict[str, Any] = {k: fabric.setup_optimizers(v) for k, v in self.optimisers.items()}
        main = self.optimisers["main"]
        self._catch_up = partial(main.catch_up, sparse) if sparse is not None and isinstance(main, LazyAdam) else None
        step.backbone.on_lookup = self._catch_up
        self.progress = Progress()
        self._best: dict[str, Tensor] = {}
        self._epoch_stream: Tensor | None = None
        self._average = Average(step.backbone, decay=config.average) if config.average is not None else None

    def _optimiser(self, name: str) -> torch.optim.Adam:
        group = self.groups[name]
        kind: type[torch.optim.Adam] = FusedAdam
        if name == "main" and self.step.backbone.sparse:
            kind = LazyAdam
        elif name == "main" and self.config.optimiser == "adamw":
            kind = torch.optim.AdamW
        return kind(self.shares[name].parts, lr=group.learning_rate, weight_decay=group.weight_decay, fused=True)

    def resume(self, snapshot: Snapshot) -> None:
        """Goes back to a saved state: weights, optimisers, streams, place in the epoch, best weights, lines of
        metrics.jsonl."""
        tensors = snapshot.tensors
        try:
            self.step.load_state_dict(under("model", tensors))
            for name, optimiser in self.optimisers.items():
                self.shares[name].load(optimiser, under(f"optimiser/{name}", tensors))
            if self._average is not None:
                self._average.load(under("average", tensors))
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint does not fit the run's settings; config.json was edited, or the run was made by "
                f"another version ({error})"
            ) from error
        self.step.streams.load(under("stream", tensors))
        self._epoch_stream = tensors.get("epoch/batches")
        self._best = {name: value.clone() for name, value in under("best", tensors).items()}
        self.progress = deepcopy(snapshot.progress)
        if self.metrics_file is not None and self.metrics_file.exists():
            lines = self.metrics_file.read_bytes().splitlines(keepends=True)[: self.progress.lines]
            write_file(self.metrics_file, b"".join(lines))

    def snapshot(self) -> Snapshot:
        """All that `resume` wants; where several processes share the step, each makes one, and that of process 0 is
        whole."""
        tensors = prefixed("model", self.step.state_dict())
        for name, optimiser in self.optimisers.items():
            tensors |= prefixed(f"optimiser/{name}", self.shares[name].state(optimiser))
        tensors |= prefixed("stream", self.step.streams.state()) | prefixed("best", self._best)
        if self._epoch_stream is not None:
            tensors["epoch/batches"] = self._epoch_stream
        if self._average is not None:
            tensors |= prefixed("average", self._average.state())
        return Snapshot(tensors=tensors, progress=deepcopy(self.progress))

    def run(self) -> Progress:
        """Trains to the end and puts the best weights into the step. Raises `Interrupted` after saving when asked to
        stop."""
        try:
            with StopRequest() as stop:
                while self.progress.epoch < self.config.epochs and not self.progress.stopped_early:
                    self._epoch(stop)
        finally:
            for callback in self.callbacks:
                callback.on_end()
        if self._best:
            self.step.load_state_dict(self._best)
        elif self._average is not None:
            self._average.put()
        self.step.backbone.on_lookup = None
        self.step.eval()
        return self.progress

    def _epoch(self, stop: StopRequest) -> None:
        progress, number = self.progress, self.progress.epoch + 1
        self.step.train()  # the last epoch's validation left it otherwise
        for callback in self.callbacks:
            callback.on_epoch_start(number, len(self.batches), progress.batch)
        if self.config.decay != 1:
            # From the epoch's number alone, so that a resumed run has nothing to remember.
            rate = self.groups["main"].learning_rate * self.config.decay ** (number - 1)
            for group in self.optimisers["main"].param_groups:
                group["lr"] = rate
        for plugin in self.step.plugins:
            plugin.start_epoch(number)  # type: ignore[operator]
        for batch in self._open_epoch():
            begun = time.perf_counter()
            terms = self._train_batch(batch)
            for name, value in terms.items():
                progress.partial_loss[name] = progress.partial_loss.get(name, 0.0) + value
            progress.batch += 1
            progress.steps += 1
            progress.partial_seconds += time.perf_counter() - begun
            for callback in self.callbacks:
                callback.on_step(number, progress.batch, sum(terms.values()))
            if (asked := self._asked(stop)) is not None:
                self._check_weights()
                self._leave(asked)
        self._close_epoch(number)
        if (asked := self._asked(stop)) is not None:
            self._leave(asked)
        if number % self.config.checkpoint_every == 0 or progress.stopped_early or number == self.config.epochs:
            self._save()

    def _asked(self, stop: StopRequest) -> int | None:
        """The signal that this process, or another of the run, was stopped by."""
        ranks = self.step.ranks
        return stop.number if ranks is None else ranks.largest(stop.number)

    def _leave(self, number: int) -> NoReturn:
        self._save()
        if self.step.ranks is not None:
            self.step.ranks.wait()  # a process that has left would be taken for one that failed
        raise Interrupted(number)

    def _open_epoch(self) -> Iterator[Batch]:
        """The epoch's batches from the saved place on; the stream's state at the epoch's start is kept for a resume
        inside it."""
        streams = self.step.streams
        if self.progress.batch and self._epoch_stream is not None:
            streams.load(streams.state() | {"batches": self._epoch_stream})
        else:
            self._epoch_stream = streams.state_of("batches")
        with streams.use("batches"):
            return self.batches.epoch(start=self.progress.batch)

    def _train_batch(self, batch: Batch) -> dict[str, float]:
        """Every phase of one batch; the value of each term. Nothing is updated from a loss or gradient that is not
        finite."""
        ranks, batch = self.step.ranks, self.step.begin(batch)
        values: dict[str, float] = {}
        for number, phase in enumerate(self.step.phases):
            terms: dict[str, Tensor] = self.wrapped(batch, number)
            loss = torch.stack(list(terms.values())).sum()
            found = [term.item() for term in terms.values()]
            values |= zip(terms, found if ranks is None else ranks.total(found), strict=True)
            bad = [name for name in terms if not math.isfinite(values[name])]
            if bad:
                self._refuse(f"loss term '{bad[0]}' is {values[bad[0]]}", batch)
            optimiser, group = self._fabric_optimisers[phase.group], self.groups[phase.group]
            # Only this phase's parameters: others keep no gradient of a loss that must not move them, and the part of
            # the graph that phases share is not used up.
            self.fabric.backward(loss, inputs=list(group.parameters))
            share = self.shares[phase.group]
            share.collect()
            for parameter, total in zip(share.parameters, share.gradient_sums(), strict=True):
                if not math.isfinite(total):
                    self._refuse(
                        f"the gradient of '{self._name(parameter)}' in phase '{phase.name}' is not finite", batch
                    )
            if group.clip is not None and not math.isfinite(norm := share.clip(group.clip)):
                self._refuse(f"the gradient norm of phase '{phase.name}' is {norm}", batch)
            if phase.group == "main" and self._average is not None:
                self._average.prepare()
            optimiser.step()
            optimiser.zero_grad()
            share.hand_out()
            self.step.moved(phase.group)
            if phase.group == "main" and self._average is not None:
                self._average.update()
        return values

    def _name(self, parameter: Tensor) -> str:
        return next(name for name, one in self.step.named_parameters() if one is parameter)

    def _refuse(self, what: str, batch: Batch) -> None:
        raise NumericalError(
            f"{what} in epoch {self.progress.epoch + 1}, batch {self.progress.batch + 1} (first users "
            f"{batch.user[:5].tolist()}); "
            f"this step was not made and the last checkpoint is intact; try a smaller train.learning_rate or set "
            f"train.clip"
        )

    def _close_epoch(self, number: int) -> None:
        """Validates, notes the best weights, writes the epoch's line."""
        if self._catch_up is not None:
            self._catch_up()
        self._check_weights()
        progress, valid = self.progress, None
        if self.validate is not None and (number % self.config.evaluate_every == 0 or number == self.config.epochs):
            for callback in self.callbacks:
                callback.on_validation_start(number)
            with self._average.in_place() if self._average is not None else nullcontext():
                valid = dict(self.validate())
                self._judge(number, valid[self.select])
        loss = {name: value / progress.batch for name, value in progress.partial_loss.items()}
        line: dict[str, Any] = {"epoch": number, "loss": loss, "valid": valid, "selected_on": self.select}
        line |= {
            "best_epoch": progress.best_epoch,
            "best_value": progress.best_value,
            "seconds": round(progress.partial_seconds, 4),
        }
        for plugin in self.step.plugins:
            line |= {f"{plugin.name}/{key}": value for key, value in plugin.epoch_log().items()}  # type: ignore[operator]
        progress.epoch_seconds.append(round(progress.partial_seconds, 4))
        progress.epoch, progress.batch, progress.partial_seconds, progress.partial_loss = number, 0, 0.0, {}
        if self.metrics_file is not None:
            write_bytes(self.metrics_file, json.dumps(line).encode() + b"\n", append=True)
            progress.lines += 1
        for callback in self.callbacks:
            callback.on_epoch_end(line)

    def _judge(self, number: int, value: float) -> None:
        progress = self.progress
        if not math.isfinite(value):
            raise NumericalError(
                f"validation metric {self.select} is {value} in epoch {number}; nothing can be selected"
            )
        if progress.best_value is None or value > progress.best_value:
            progress.best_value, progress.best_epoch, progress.since_best = value, number, 0
            self._best = {name: tensor.detach().clone() for name, tensor in self.step.state_dict().items()}
        else:
            progress.since_best += 1
            progress.stopped_early = progress.since_best >= self.config.patience

    def _check_weights(self) -> None:
        """Refuses weights that are not finite, so that none are judged or saved."""
        for name, parameter in self.step.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise NumericalError(
                    f"parameter '{name}' is not finite after epoch {self.progress.epoch + 1}, batch "
                    f"{self.progress.batch}; the last checkpoint is intact; try a smaller train.learning_rate or set "
                    f"train.clip"
                )

    def _save(self) -> None:
        if self.checkpoints is not None or self.step.ranks is not None:
            snapshot = self.snapshot()
            if self.checkpoints is not None:
                self.checkpoints.save(snapshot)
