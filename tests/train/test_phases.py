"""Phases: who runs when, what each moves, and stopping between any two batches of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from augrec.seams import Additions, Group, Phase, Plugin
from augrec.typed import Config


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
    whole, _ = with_toy(make, name="whole", train={"epochs": 3})
    whole.loop.run()
    cut, _ = with_toy(make, name="cut", train={"epochs": 3})
    assert stop_at <= 3 * len(cut.loop.batches)
    snapshot = cut.stop_after(stop_at)
    again, toy = with_toy(make, name="again", train={"epochs": 3})
    again.loop.resume(snapshot)
    again.loop.run()
    for name, tensor in whole.loop.snapshot().tensors.items():
        assert torch.equal(again.loop.snapshot().tensors[name], tensor), name
    assert again.loop.progress.epoch_seconds != []
    assert toy.epochs[0] == snapshot.progress.epoch + 1
