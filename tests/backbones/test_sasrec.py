"""SASRec over packed rows against a padded transformer in float64, written with torch's own attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from augrec.backbones.padding import Grid
from augrec.backbones.sasrec import SASRec, SASRecConfig
from augrec.testing.sequence_checks import tokens_of

ROWS = ([3, 1, 4, 1, 5], [2], [7, 1, 8, 2, 8, 1], [2, 8], [6, 6, 6, 6, 6, 6])
N_ITEMS = 9


def make(**fields):
    config = SASRecConfig(**{"dim": 12, "heads": 3, "inner": 20, "max_length": 8, "initializer_range": 0.4, **fields})
    model = SASRec(config, n_users=3, n_items=N_ITEMS, generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Biases and norms start at 0 and 1; a reference that forgot them must not pass.
            if "norm" in name or "bias" in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    return model


def reference(model, rows, config):
    """(N, D) float64 states from rows padded at the end, post-norm layers, causal attention."""
    w = {name: value.detach().double() for name, value in model.state_dict().items()}
    length, width = max(map(len, rows)), config.dim // config.heads
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    place = torch.arange(length).expand(len(rows), length)
    if config.positions == "end":
        place = (torch.tensor([len(row) for row in rows])[:, None] - 1 - place).clamp(min=0)

    def norm(x, name):
        return F.layer_norm(x, (config.dim,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def heads(x):
        return x.view(len(rows), length, config.heads, width).transpose(1, 2)

    x = norm(w["item"][ids] + w["position"][place], "norm")
    for n in range(config.layers):
        q, k, v = map(heads, linear(x, f"layers.{n}.qkv").chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
        x = norm(x + linear(mixed, f"layers.{n}.out"), f"layers.{n}.norm1")
        x = norm(x + linear(F.gelu(linear(x, f"layers.{n}.wide")), f"layers.{n}.narrow"), f"layers.{n}.norm2")
    return torch.cat([x[b, : len(row)] for b, row in enumerate(rows)])


@pytest.mark.parametrize("positions", ["start", "end"])
@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ([1, 2], [3, 4]), ([5],)], ids=["mixed", "one", "equal", "single"])
@pytest.mark.parametrize("shape", [{}, {"layers": 1, "heads": 1}, {"layers": 3, "heads": 4}], ids=["2", "1", "3"])
def test_packed_equals_padded(positions, rows, shape) -> None:
    model = make(positions=positions, **shape)
    config = SASRecConfig(**{"dim": 12, "heads": 3, "inner": 20, "max_length": 8, "positions": positions, **shape})
    wanted = reference(model, rows, config)
    with torch.no_grad():
        found = model.encode(tokens_of(rows), model.tables())
        assert torch.allclose(found.double(), wanted, atol=2e-5)
        model.double()
        found = model.encode(tokens_of(rows), model.tables())
    assert torch.allclose(found, wanted, atol=1e-12)


def test_positions_from_the_end_give_the_newest_event_slot_zero() -> None:
    """Rows that end alike but start at other places: counted from the end their last states agree on shared slots."""
    model = make(positions="end")
    with torch.no_grad():
        model.position[1:] = model.position[1]
        start = make(positions="start")
        start.load_state_dict(model.state_dict())
        late = model.encode(tokens_of(([4, 4, 4],)), model.tables())
        early = start.encode(tokens_of(([4, 4, 4],)), start.tables())
    assert torch.allclose(late[0], late[1], atol=1e-6)
    assert not torch.allclose(late[1], late[2], atol=1e-3)
    assert torch.allclose(early[0], early[0])
    assert not torch.allclose(early[0], early[1], atol=1e-3)


def test_the_gradient_equals_the_padded_one() -> None:
    model = make().double()
    config = SASRecConfig(dim=12, heads=3, inner=20, max_length=8)
    weight = torch.randn(sum(map(len, ROWS)), 12, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    state = {name: value.detach().clone().requires_grad_() for name, value in model.state_dict().items()}

    class Holder:
        @staticmethod
        def state_dict():
            return {name: Undetached(value) for name, value in state.items()}

    class Undetached:
        def __init__(self, value):
            self.value = value

        def detach(self):
            return self.value

    (reference(Holder, ROWS, config) * weight).sum().backward()
    (model.encode(tokens_of(ROWS), model.tables()) * weight).sum().backward()
    for name, parameter in model.named_parameters():
        wanted = state[name].grad
        assert torch.allclose(parameter.grad, wanted, atol=1e-10), name


def test_a_grid_pads_and_comes_back() -> None:
    for rows in (ROWS, ([1, 2], [3, 4])):
        tokens = tokens_of(rows)
        packed = torch.randn(len(tokens.ids), 4, generator=torch.Generator().manual_seed(0))
        grid = Grid(tokens)
        block = grid.pad(packed)
        assert block.shape == (len(rows), max(map(len, rows)), 4)
        assert torch.equal(grid.unpad(block), packed)
        for b, row in enumerate(rows):
            assert not block[b, len(row) :].any()


def test_dropout_works_in_training_and_is_off_in_evaluation() -> None:
    model = make(dropout=0.5, attention_dropout=0.5)
    tokens, tables = tokens_of(ROWS), model.tables()
    with torch.no_grad():
        plain = model.encode(tokens, tables)
        assert torch.equal(plain, model.encode(tokens, tables))
        model.train()
        assert not torch.equal(model.encode(tokens, tables), model.encode(tokens, tables))
        for module in model.modules():
            if hasattr(module, "p"):
                module.p = 0.0
        assert torch.allclose(model.encode(tokens, tables), plain, atol=1e-6)
