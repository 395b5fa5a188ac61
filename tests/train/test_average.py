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


def test_rows_with_sparse_gradients_are_averaged_as_if_all_were_at_every_step():
    """Against the formula in float64: rows touched now and then, a dense gradient among them, saved in between."""

    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = torch.nn.Parameter(torch.randn(12, 3, dtype=torch.float64))
            self.bias = torch.nn.Parameter(torch.randn(4, dtype=torch.float64))

    def move(number: int) -> None:
        rows = torch.randperm(12, generator=generator)[: number % 5 + 1].sort().values
        change = torch.randn(len(rows), 3, dtype=torch.float64, generator=generator)
        gradient = torch.sparse_coo_tensor(rows[None], change, (12, 3), is_coalesced=True, check_invariants=True)
        module.rows.grad = gradient.to_dense() if number == 4 else gradient
        module.bias.grad = torch.randn(4, dtype=torch.float64, generator=generator)
        if number == 2:
            module.rows.grad = None
        average.prepare()
        with torch.no_grad():
            for parameter in (one for one in (module.rows, module.bias) if one.grad is not None):
                parameter -= parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
        average.update()
        weights.append((module.rows.detach().clone(), module.bias.detach().clone()))

    generator = torch.Generator().manual_seed(0)
    module, weights = Table(), []
    start = (module.rows.detach().clone(), module.bias.detach().clone())
    average = Average(module, decay=0.8)
    for number in range(9):
        move(number)
        if number == 6:
            saved = {name: value.clone() for name, value in average.state().items()}
            average = Average(module, decay=0.8)
            average.load(saved)
    with average.in_place():
        for place, parameter in enumerate((module.rows, module.bias)):
            wanted = written_out(start[place], [one[place] for one in weights], 0.8)
            assert torch.allclose(parameter, wanted, rtol=1e-12, atol=1e-12)
    assert torch.equal(module.rows, weights[-1][0])
