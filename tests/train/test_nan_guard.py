"""A value that is not finite stops a run before it reaches the weights, and says where it came from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from augrec.cli import main
from augrec.errors import NumericalError
from augrec.experiment import registry
from augrec.seams import Group, Phase, Plugin
from augrec.train.callbacks import Callback
from augrec.train.state import Checkpoints
from augrec.typed import Config


class PoisonConfig(Config):
    """What goes wrong, and at which batch."""

    batch: int = 3
    """Batch, counted from 1 over all epochs, that it happens in."""
    kind: str = "nan"
    """nan, inf: the value of a term; gradient: a finite term with such a gradient; phase: the term of a phase."""


class _BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sum() * 0.0

    @staticmethod
    def backward(ctx, *grads):
        bad = torch.zeros(ctx.shape)
        bad.view(-1)[0] = math.nan
        return bad


class _BadGradientOf(_BadGradient):
    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        return x.sum() * 0.0


class Poison(Plugin):
    """A term that turns bad at a given batch."""

    name = "poison"
    acts = frozenset({"losses"})
    Config = PoisonConfig

    def __init__(self, config, *, kind, dim, n_items):
        super().__init__(config, kind=kind, dim=dim, n_items=n_items)
        self.own = nn.Parameter(torch.ones(2))
        self.seen = 0

    def groups(self):
        return {"poison": Group(parameters=(self.own,), learning_rate=0.1)}

    def phases(self):
        return (Phase(name="poisoned", group="poison", loss=self.loss),)

    def loss(self, batch, encoded):
        self.seen += 1
        bad = self.config.kind == "phase" and self.seen == self.config.batch
        return self.own.square().sum() * (math.nan if bad else 1.0)

    def losses(self, batch, encoded):
        fine = encoded.query.sum() * 0.0
        if self.seen != self.config.batch:
            return {"term": fine}
        if self.config.kind == "gradient":
            return {"term": _BadGradientOf.apply(encoded.query)}
        return {"term": fine + {"nan": math.nan, "inf": math.inf}.get(self.config.kind, 0.0)}


class Watch(Callback):
    """Keeps the weights after every good batch."""

    def __init__(self):
        self.step, self.weights = None, None

    def on_step(self, epoch, batch, loss):
        self.weights = {name: value.clone() for name, value in self.step.named_parameters()}


def poisoned(make, watch, kind, batch=6, **more):
    made = make(
        plugins=lambda **sizes: [Poison(PoisonConfig(kind=kind, batch=batch), **sizes)], callbacks=[watch], **more
    )
    watch.step = made.step
    return made


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("nan", "loss term 'poison/term' is nan"),
        ("inf", "loss term 'poison/term' is inf"),
        ("gradient", "the gradient of 'backbone.nodes' in phase 'main' is not finite"),
        ("phase", "loss term 'poisoned' is nan"),
    ],
)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_bad_value_stops_before_the_update(kind, named, clip, make):
    watch = Watch()
    made = poisoned(make, watch, kind, train={"clip": clip, "epochs": 5})
    size = len(made.loop.batches)
    assert 1 < size < 6
    with pytest.raises(NumericalError) as caught:
        made.loop.run()
    epoch, batch = 5 // size + 1, 5 % size + 1
    assert str(caught.value).startswith(f"{named} in epoch {epoch}, batch {batch} (first users [")
    main = {name: value for name, value in made.step.named_parameters() if "poison" not in name and "own" not in name}
    assert main
    assert all(torch.equal(value, watch.weights[name]) for name, value in main.items())
    if kind == "phase":
        assert torch.equal(made.step.plugins[0].own, watch.weights["plugins.0.own"])
    snapshot = Checkpoints(made.folder / "checkpoints").latest()
    assert snapshot is not None
    assert snapshot.progress.epoch == epoch - 1
    assert all(bool(torch.isfinite(value).all()) for value in snapshot.tensors.values() if value.is_floating_point())


def test_a_gradient_norm_past_float32_is_refused(make):
    # Every gradient is finite, but their norm is not: clipping would silently set them all to zero.
    class Huge(Poison):
        def phases(self):
            return ()

        def losses(self, batch, encoded):
            return {"term": encoded.query.sum() * 1e30}

    made = make(plugins=lambda **s: [Huge(PoisonConfig(), **s)], train={"clip": 1.0})
    before = made.step.backbone.nodes.detach().clone()
    with pytest.raises(NumericalError, match="gradient norm of phase 'main' is inf in epoch 1, batch 1"):
        made.loop.run()
    assert torch.equal(made.step.backbone.nodes, before)


@pytest.mark.parametrize("when", ["seen", "unseen"])
def test_a_bad_weight_is_named_and_never_saved(when, make):
    class Spoil(Callback):
        def on_step(self, epoch, batch, loss):
            if epoch == 2 and batch == (1 if when == "seen" else size):
                with torch.no_grad():
                    made.step.backbone.nodes[row] = math.nan

    made = make(callbacks=[Spoil()], train={"epochs": 4})
    size, row = len(made.loop.batches), slice(None) if when == "seen" else 0
    wanted = "loss term 'bpr' is nan in epoch 2, batch 2" if when == "seen" else (
        f"parameter 'backbone.nodes' is not finite after epoch 2, batch {size}"
    )  # fmt: skip
    with pytest.raises(NumericalError, match=wanted):
        made.loop.run()
    snapshot = Checkpoints(made.folder / "checkpoints").latest()
    assert snapshot is not None
    assert snapshot.progress.epoch == 1
    assert bool(torch.isfinite(snapshot.tensors["model/backbone.nodes"]).all())
    assert len(made.lines) == 1


def test_the_command_line_says_it_once(log_file, tmp_path, monkeypatch, capsys):
    known = registry.entries()
    entry = registry.Entry(name="poison", family="augmentation", target=f"{__name__}:Poison", about="goes wrong")
    monkeypatch.setattr(registry, "entries", lambda: known | {"poison": entry})
    out = tmp_path / "run"
    arguments = ["train", "--data", str(log_file), "--model", "mf", "--augment", "poison", "--set", "mf.dim=4"]
    arguments += ["--set", "train.batch_size=150", "--set", "poison.batch=7", "--set", "train.threads=1"]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--out", str(out)])
    assert end.value.code == 1
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("mf + poison: epoch")]
    assert len(said) == 1
    assert said[0].startswith("augrec: loss term 'poison/term' is nan in epoch 2, batch ")
    assert not (out / "result.json").exists()
    snapshot = Checkpoints(out / "checkpoints").latest()
    assert snapshot is not None
    assert snapshot.progress.epoch == 1
