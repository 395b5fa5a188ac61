"""Validation, stopping, lines and checkpoints of a run."""

from __future__ import annotations

import math

import pytest
import torch

from augrec.errors import NumericalError
from augrec.train.callbacks import Callback


class Validator:
    """Hands out given values and keeps the weights they were given for."""

    def __init__(self, *values: float) -> None:
        self.values, self.weights, self.made, self.epochs = values, [], None, []

    def __call__(self) -> dict[str, float]:
        self.weights.append(self.made.step.backbone.nodes.detach().clone())
        self.epochs.append(self.made.loop.progress.epoch + 1)
        return {"m": self.values[len(self.weights) - 1], "other": 1.0}


def validated(make, values, **train):
    validator = Validator(*values)
    validator.made = make(validate=validator, train=train)
    return validator.made, validator


def test_stops_after_patience_and_restores_the_best(make):
    made, validator = validated(make, [0.1, 0.4, 0.3, 0.4, 0.2, 0.9], epochs=20, patience=3)
    progress = made.loop.run()
    assert (progress.epoch, progress.best_epoch, progress.best_value) == (5, 2, 0.4)
    assert progress.stopped_early
    assert torch.equal(made.step.backbone.nodes, validator.weights[1])
    assert not made.step.training
    assert [line["best_epoch"] for line in made.lines] == [1, 2, 2, 2, 2]
    assert [line["valid"]["m"] for line in made.lines] == [0.1, 0.4, 0.3, 0.4, 0.2]
    # Stopped for good: going on changes nothing.
    again = make(validate=Validator(), train={"epochs": 20, "patience": 3}, name="again", checkpoints=False)
    again.loop.resume(made.loop.checkpoints.latest())
    assert again.loop.run().epoch == 5
    assert torch.equal(again.step.backbone.nodes, validator.weights[1])


def test_a_better_value_starts_patience_anew(make):
    made, _ = validated(make, [0.5, 0.4, 0.6, 0.5, 0.5], epochs=20, patience=2)
    assert made.loop.run().epoch == 5


def test_evaluate_every_and_the_last_epoch(make):
    made, validator = validated(make, [0.1, 0.2, 0.15], epochs=5, evaluate_every=2)
    progress = made.loop.run()
    assert validator.epochs == [2, 4, 5]
    assert (progress.epoch, progress.best_epoch, progress.stopped_early) == (5, 4, False)
    assert [line["valid"] is None for line in made.lines] == [True, False, True, False, False]
    assert torch.equal(made.step.backbone.nodes, validator.weights[1])


def test_without_validation_every_epoch_runs_and_the_last_weights_stay(make):
    made = make(train={"epochs": 4, "patience": 1})
    progress = made.loop.run()
    assert (progress.epoch, progress.best_epoch, progress.best_value, progress.stopped_early) == (4, 0, None, False)
    last = made.loop.checkpoints.latest()
    assert torch.equal(made.step.backbone.nodes, last.tensors["model/backbone.nodes"])
    assert not [name for name in last.tensors if name.startswith("best/")]
    assert all(line["valid"] is None and line["best_value"] is None for line in made.lines)


def test_checkpoint_every(make):
    saved = []
    made = make(train={"epochs": 5, "checkpoint_every": 2})
    keep = made.loop.checkpoints.save
    made.loop.checkpoints.save = lambda snapshot: saved.append(snapshot.progress.epoch) or keep(snapshot)
    made.loop.run()
    assert saved == [2, 4, 5]


class Recorder(Callback):
    def __init__(self):
        self.starts, self.losses, self.ended = [], [], 0

    def on_epoch_start(self, epoch, batches, done):
        self.starts.append((epoch, batches, done))

    def on_step(self, epoch, batch, loss):
        self.losses.append((epoch, batch, loss))

    def on_end(self):
        self.ended += 1


def test_a_line_holds_the_mean_of_each_term(make):
    recorder, terms = Recorder(), []
    made = make(callbacks=[recorder], train={"epochs": 3})
    train_batch = made.loop._train_batch
    made.loop._train_batch = lambda batch: terms.append(train_batch(batch)) or terms[-1]
    made.loop.run()
    size = len(made.loop.batches)
    assert recorder.starts == [(epoch, size, 0) for epoch in (1, 2, 3)]
    assert [(epoch, batch) for epoch, batch, _ in recorder.losses] == [
        (e, b) for e in (1, 2, 3) for b in range(1, size + 1)
    ]
    assert recorder.ended == 1
    for number, line in enumerate(made.lines):
        own = terms[number * size : (number + 1) * size]
        assert list(line) == ["epoch", "loss", "valid", "selected_on", "best_epoch", "best_value", "seconds"]
        assert line["epoch"] == number + 1
        assert line["loss"].keys() == {"bpr", "l2"}
        for name, value in line["loss"].items():
            assert value == pytest.approx(math.fsum(one[name] for one in own) / size, rel=1e-12)
    assert [loss for _, _, loss in recorder.losses] == [pytest.approx(sum(one.values())) for one in terms]


def test_every_batch_is_trained_on_in_training_mode_after_validations_too(make):
    modes, made = [], None

    def validate():
        made.loop.step.eval()
        return {"m": 0.5}

    made = make(validate=validate, train={"epochs": 2})
    train_batch = made.loop._train_batch
    made.loop._train_batch = lambda batch: (
        modes.append({one.training for one in made.loop.step.modules()}) or train_batch(batch)
    )
    made.loop.run()
    assert modes == [{True}] * (2 * len(made.loop.batches))


def test_a_value_that_is_no_number_never_becomes_the_best(make):
    made, _ = validated(make, [math.nan, 0.5], epochs=2)
    with pytest.raises(NumericalError, match="m is nan"):
        made.loop.run()
