"""GRU4Rec over packed rows against the recurrence written out, row by row, in float64."""

from __future__ import annotations

import pytest
import torch

from augrec.backbones.gru4rec import GRU4Rec, GRU4RecConfig
from augrec.testing.sequence_checks import tokens_of

ROWS = ([3, 1, 4, 1, 5], [2], [7, 1, 8, 2, 8, 1], [2, 8], [6, 6, 6])


def make(layers=1):
    config = GRU4RecConfig(dim=6, hidden=10, layers=layers, max_length=8)
    model = GRU4Rec(config, n_users=3, n_items=9, generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        model.out.bias.add_(0.3)
    return model


def reference(model, rows, layers):
    """The GRU of Cho et al. 2014 in torch's gate order (reset, update, new), without biases."""
    w = {name: value.detach().double() for name, value in model.state_dict().items()}
    states = []
    for row in rows:
        inputs = [w["item"][item] for item in row]
        for n in range(layers):
            h, outputs = torch.zeros(10, dtype=torch.float64), []
            for x in inputs:
                xr, xz, xn = (w[f"gru.weight_ih_l{n}"] @ x).chunk(3)
                hr, hz, hn = (w[f"gru.weight_hh_l{n}"] @ h).chunk(3)
                reset, update = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
                h = (1 - update) * torch.tanh(xn + reset * hn) + update * h
                outputs.append(h)
            inputs = outputs
        states += [w["out.weight"] @ h + w["out.bias"] for h in inputs]
    return torch.stack(states)


@pytest.mark.parametrize("gradient", [True, False], ids=["training", "ranking"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("rows", [ROWS, ROWS[1:2], ([1, 2], [3, 4])], ids=["mixed", "single", "equal"])
def test_packed_equals_the_recurrence(layers, rows, gradient) -> None:
    model = make(layers)
    with torch.set_grad_enabled(gradient):
        found = model.encode(tokens_of(rows), model.tables())
    assert torch.allclose(found.double(), reference(model, rows, layers), atol=1e-6)


def test_no_tokens_give_no_states() -> None:
    model = make()
    assert model.encode(tokens_of(()), model.tables()).shape == (0, 6)
    assert model.encode(tokens_of(([], [])), model.tables()).shape == (0, 6)
