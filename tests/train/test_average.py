"""The running average of weights: its formula, what is judged and kept, and resume."""

from __future__ import annotations

import torch

from augrec.train.average import Average
from augrec.train.callbacks import Callback


class Watch(Callback):
    """Keeps the encoder's weights after every step."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def on_step(self, epoch, batch, loss):
        self.weights.append(self.made.step.backbone.nodes.detach().double().clone())


def written_out(start, weights, decay):
    mean = start.double()
    for t, one in enumerate(weights, start=1):
        keep = min(decay, (1 + t) / (10 + t))
        mean = keep * mean + (1 - keep) * one
    return mean


def test_the_average_is_judged_and_kept_and_training_goes_on_from_the_last_weights(make):
    watch, judged = Watch(), []

    def validate():
        judged.append(made.step.backbone.nodes.detach().clone())
        return {"m": float(len(judged))}

    made = make(validate=validate, train={"epochs": 3, "average": 0.9}, callbacks=[watch])
    watch.made = made
    start = made.step.backbone.nodes.detach().clone()
    made.loop.run()
    mean = written_out(start, watch.weights, 0.9)
    assert torch.allclose(judged[-1].double(), mean, atol=1e-6)
    assert torch.equal(made.step.backbone.nodes, judged[-1])
    assert not torch.allclose(mean, watch.weights[-1], atol=1e-4)
    plain = make(validate=lambda: {"m": 1.0}, train={"epochs": 3}, name="plain", callbacks=[last := Watch()])
    last.made = plain
    plain.loop.run()
    assert all(torch.equal(a, b) for a, b in zip(watch.weights, last.weights, strict=True))


def test_without_validation_the_average_of_the_last_epoch_is_kept(make):
    watch = Watch()
    made = make(train={"epochs": 2, "average": 0.5}, callbacks=[watch])
    watch.made = made
    start = made.step.backbone.nodes.detach().clone()
    made.loop.run()
    assert torch.allclose(made.step.backbone.nodes.double(), written_out(start, watch.weights, 0.5), atol=1e-6)


def test_resume_goes_on_with_the_average(make):
    whole = make(train={"epochs": 3, "average": 0.9}, name="whole")
    whole.loop.run()
    half = make(train={"epochs": 1, "average": 0.9}, name="half")
    half.loop.run()
    rest = make(train={"epochs": 3, "average": 0.9}, name="rest")
    rest.loop.resume(half.loop.checkpoints.latest())
    rest.loop.run()
    assert torch.equal(rest.step.backbone.nodes, whole.step.backbone.nodes)


def test_state_round_trip():
    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    average, other = Average(first, decay=0.9), Average(second, decay=0.9)
    average.update()
    other.load({name: value.clone() for name, value in average.state().items()})
    other.put()
    average.put()
    assert torch.equal(first.weight, second.weight)
