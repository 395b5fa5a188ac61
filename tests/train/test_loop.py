"""The order of things in a run: phases, validation, stopping, clipping, lines, resume."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from augrec.errors import Interrupted, NumericalError
from augrec.seams import Additions, Group, Phase, Plugin, Prepared
from augrec.train.callbacks import Callback
from augrec.train.prepare import key_of, prepare
from augrec.train.state import Checkpoints
from augrec.typed import Config


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


class ToyConfig(Config):
    """Nothing to set."""


class Toy(Plugin):
    """One phase before the encoder's and two after it, as MCLRec has; `after` names the group the first moves."""

    name = "toy"
    acts = frozenset({"phases"})
    after = "toy"
    detach = True

    def __init__(self, config=None, *, kind, dim, n_items):
        super().__init__(config or ToyConfig(), kind=kind, dim=dim, n_items=n_items)
        self.map = nn.Parameter(torch.eye(dim))
        self.events, self.read, self.epochs = [], [], []

    def groups(self):
        return {"toy": Group(parameters=(self.map,), learning_rate=0.1, clip=0.25)}

    def phases(self):
        return (
            Phase(name="pre", group="toy", loss=self._term("pre")),
            Phase(name="first", group=self.after, loss=self._term("first"), when="after"),
            Phase(name="second", group="toy", loss=self._term("second"), when="after"),
        )

    def _term(self, name):
        def loss(batch, encoded):
            self.events.append(name)
            self.read.append(encoded.query.detach().clone())
            query = encoded.query.detach() if self.detach and self.after == "toy" else encoded.query
            return (query @ self.map).square().sum()

        return loss

    def targets(self, batch, encoded):
        self.events.append("main")
        self.read.append(encoded.query.detach().clone())
        return Additions()

    def start_epoch(self, epoch):
        self.epochs.append(epoch)

    def epoch_log(self):
        return {"seen": len(self.events)}


def with_toy(make, **more):
    attributes = {key: more.pop(key) for key in ("after", "detach") if key in more}
    made = make(plugins=lambda **sizes: [type("Toy", (Toy,), attributes)(**sizes)], **more)
    toy, encode = made.step.plugins[0], made.step.encode

    def noted(batch):
        toy.events.append("encode")
        return encode(batch)

    made.step.encode = noted
    return made, toy


@pytest.mark.parametrize(
    ("after", "wanted"),
    [
        ("toy", ["encode", "pre", "main", "encode", "first", "second"]),
        ("main", ["encode", "pre", "main", "encode", "first", "encode", "second"]),
    ],
)
def test_phases_run_in_order_and_a_moved_encoder_encodes_anew(after, wanted, make):
    made, toy = with_toy(make, after=after, train={"epochs": 1, "learning_rate": 0.1})
    made.loop.run()
    assert toy.events == wanted * len(made.loop.batches)
    for number in range(len(made.loop.batches)):
        pre, main, first, second = toy.read[4 * number : 4 * number + 4]
        assert torch.equal(pre, main)
        assert not torch.equal(main, first)
        assert torch.equal(first, second) == (after == "toy")
    assert toy.epochs == [1]
    assert made.lines[0]["toy/seen"] == len(toy.events)
    assert made.lines[0]["loss"].keys() == {"pre", "bpr", "l2", "first", "second"}


@pytest.mark.parametrize("detach", [True, False])
def test_a_phase_moves_its_own_group_only(detach, make):
    plain = make(name="plain")
    plain.loop.run()
    made, toy = with_toy(make, detach=detach)
    before = toy.map.detach().clone()
    made.loop.run()
    # The phases read the encoder but belong to another group: the encoder's path is that of a run without them. The
    # encodings after the main phase draw negatives of their own.
    assert not torch.equal(toy.map, before)
    if detach:
        leaky, _ = with_toy(make, detach=False, name="leaky")
        leaky.loop.run()
        assert torch.equal(leaky.step.backbone.nodes, made.step.backbone.nodes)
        assert torch.equal(leaky.step.plugins[0].map, toy.map)
    first = [one["loss"]["bpr"] for one in (plain.lines[0], made.lines[0])]
    assert first[0] == pytest.approx(first[1], rel=0.02)


def test_gradients_are_clipped_by_group(make):
    norms = {"main": [], "toy": []}
    made, _ = with_toy(make, train={"clip": 1e-3, "epochs": 1})
    for name, optimiser in made.loop.optimisers.items():
        group = made.loop.groups[name]

        def note(*_, name=name, group=group):
            norms[name].append(torch.stack([p.grad.norm() for p in group.parameters]).norm().item())

        optimiser.register_step_pre_hook(note)
    made.loop.run()
    assert len(norms["toy"]) == 3 * len(norms["main"])
    assert norms["main"] == [pytest.approx(1e-3, rel=1e-4)] * len(made.loop.batches)
    assert norms["toy"] == [pytest.approx(0.25, rel=1e-4)] * 3 * len(made.loop.batches)


def test_parameters_of_no_group_train_with_the_encoder(make):
    class Loose(Toy):
        def groups(self):
            return {}

        def phases(self):
            return ()

        def losses(self, batch, encoded):
            return {"own": (encoded.query.detach() @ self.map).square().sum()}

    made = make(plugins=lambda **sizes: [Loose(**sizes)], train={"weight_decay": 0.5, "learning_rate": 0.01})
    toy = made.step.plugins[0]
    assert list(made.loop.groups) == ["main"]
    assert any(one is toy.map for one in made.loop.groups["main"].parameters)
    settings = made.loop.optimisers["main"].param_groups[0]
    assert (settings["lr"], settings["weight_decay"]) == (0.01, 0.5)
    made.loop.run()
    assert not torch.equal(toy.map, torch.eye(toy.dim))
    assert "toy/own" in made.lines[0]["loss"]


@pytest.mark.parametrize("stop_at", range(1, 10))
def test_stopping_after_any_step_and_going_on_gives_the_same_bytes(stop_at, make):
    class StopAt(Callback):
        def on_step(self, epoch, batch, loss):
            nonlocal left
            left -= 1
            if left == 0:
                stop.number = 15

    whole, _ = with_toy(make, name="whole", train={"epochs": 3})
    whole.loop.run()
    cut, _ = with_toy(make, name="cut", train={"epochs": 3}, callbacks=[StopAt()])
    left, stop = stop_at, SimpleNamespace(number=None)
    assert stop_at <= 3 * len(cut.loop.batches)

    def three_epochs() -> None:
        for _ in range(3):
            cut.loop._epoch(stop)

    with pytest.raises(Interrupted):
        three_epochs()
    again, toy = with_toy(make, name="again", train={"epochs": 3})
    snapshot = Checkpoints(cut.folder / "checkpoints").latest()
    assert snapshot.progress.steps == stop_at
    again.loop.resume(snapshot)
    again.loop.run()
    for name, tensor in whole.loop.snapshot().tensors.items():
        assert torch.equal(again.loop.snapshot().tensors[name], tensor), name
    assert again.loop.progress.epoch_seconds != []
    assert toy.epochs[0] == snapshot.progress.epoch + 1


class Fitted(Plugin):
    """Prepares something that takes long."""

    name = "fitted"
    acts = frozenset({"weights"})
    prepares = True
    times = 0

    def prepare(self, train, fit, *, seed):
        type(self).times += 1
        return Prepared(tensors={"x": torch.arange(3.0) + seed})

    def load_prepared(self, prepared, train):
        self.got = prepared.tensors["x"]


def test_prepared_state_is_kept_by_what_it_depends_on(log, tmp_path):
    kind = type("Fitted", (Fitted,), {"times": 0})
    plugin = kind(ToyConfig(), kind="pairs", dim=2, n_items=3)
    part = log.part(torch.arange(len(log)).numpy() != 5)
    for train, seed in ((log, 0), (log, 0), (part, 0), (log, 1)):
        assert prepare([plugin], train, None, seed=seed, cache=tmp_path) is train
        assert torch.equal(plugin.got, torch.arange(3.0) + seed)
    assert kind.times == 3
    assert len({key_of(plugin, train, seed) for train, seed in ((log, 0), (part, 0), (log, 1))}) == 3
    # Damaged: made again, not trusted and not fatal.
    folder = tmp_path / key_of(plugin, log, 0)
    (folder / "tensors.safetensors").write_bytes(b"?")
    prepare([plugin], log, None, seed=0, cache=tmp_path)
    prepare([plugin], log, None, seed=0, cache=tmp_path)
    assert kind.times == 4
    prepare([plugin], log, None, seed=0, cache=None)
    assert kind.times == 5


def test_a_value_that_is_no_number_never_becomes_the_best(make):
    made, _ = validated(make, [math.nan, 0.5], epochs=2)
    with pytest.raises(NumericalError, match="m is nan"):
        made.loop.run()
