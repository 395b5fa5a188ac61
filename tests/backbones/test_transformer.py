"""The packed transformer seeing both ways, against torch's own attention over padded rows in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from augrec.augment.compose import check_combination
from augrec.backbones.gru4rec import GRU4Rec, GRU4RecConfig
from augrec.backbones.padding import Blocks
from augrec.backbones.sasrec import SASRec, SASRecConfig
from augrec.backbones.transformer import TransformerStack
from augrec.errors import UnsupportedCombinationError
from augrec.objectives.softmax import Softmax, SoftmaxConfig
from augrec.seams import Needs, Plugin
from augrec.testing import tiny_log
from augrec.testing.sequence_checks import tokens_of
from augrec.typed import Config

ROWS = ([3, 1, 4, 1, 5], [2], [7, 1, 8, 2, 8, 1], [2, 8])
FAR_APART = (*ROWS, *([n, 1, n] for n in range(20)), list(range(40)), [1] * 17, [])
"""Rows that are padded in several blocks."""
DIM, HEADS = 12, 3


def make(layers=2):
    torch.manual_seed(0)
    sizes = {"dim": DIM, "heads": HEADS, "inner": 20, "dropout": 0.0, "attention_dropout": 0.0}
    return TransformerStack(layers=layers, **sizes).double()


def reference(stack, x, rows, causal):
    """Each row alone through torch's own attention."""
    out = []
    for part in x.split([len(row) for row in rows]):
        h = part[None]
        for layer in stack:
            q, k, v = (
                y.view(1, -1, HEADS, DIM // HEADS).transpose(1, 2)
                for y in F.linear(h, layer.qkv.weight, layer.qkv.bias).chunk(3, -1)
            )
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).reshape(h.shape)
            h = F.layer_norm(h + layer.out(mixed), (DIM,), layer.norm1.weight, layer.norm1.bias, 1e-12)
            h = F.layer_norm(
                h + layer.narrow(F.gelu(layer.wide(h))), (DIM,), layer.norm2.weight, layer.norm2.bias, 1e-12
            )
        out.append(h[0])
    return torch.cat(out)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "rows", [ROWS, ([1, 2], [3, 4]), ([5],), FAR_APART], ids=["mixed", "equal", "single", "far apart"]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_packed_equals_each_row_alone(rows, causal, dtype) -> None:
    """In float32 rows are added up to a size that products are compiled for (`linear.missing_rows`)."""
    exact, stack = make(), make().to(dtype)
    x = torch.randn(sum(map(len, rows)), DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first, second = x.clone().to(dtype).requires_grad_(), x.clone().requires_grad_()
    found, wanted = stack(first, tokens_of(rows), causal=causal), reference(exact, second, rows, causal)
    assert found.shape == x.shape
    near = 1e-11 if dtype is torch.float64 else 2e-5
    assert torch.allclose(found.double(), wanted, atol=near)
    weight = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (found * weight).sum().backward()
    (wanted * weight).sum().backward()
    for mine, right in zip((first, *stack.parameters()), (second, *exact.parameters()), strict=True):
        assert torch.allclose(mine.grad.double(), right.grad, rtol=near, atol=10 * near)


def test_rows_far_apart_in_length_are_padded_apart() -> None:
    x = torch.zeros(1)
    assert [part[1].length for part in Blocks(tokens_of(FAR_APART), x, HEADS, causal=True).parts] == [6, 17, 40]
    assert len(Blocks(tokens_of(ROWS), x, HEADS, causal=True).parts) == 1
    even = tokens_of([list(range(30 + n % 3)) for n in range(40)])
    assert len(Blocks(even, x, HEADS, causal=False).parts) == 1


def test_who_sees_whom() -> None:
    """Changing one token changes every state of its row and no other row's; causal, only those after it."""
    stack, tokens = make(), tokens_of(ROWS)
    x = torch.randn(len(tokens.ids), DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    other = x.clone()
    other[3] += 1.0
    both = (stack(other, tokens, causal=False) != stack(x, tokens, causal=False)).any(1)
    after = (stack(other, tokens, causal=True) != stack(x, tokens, causal=True)).any(1)
    assert both.tolist() == (tokens.rows == 0).tolist()
    assert after.nonzero().flatten().tolist() == [3, 4]


def test_an_empty_row_leaves_values_and_gradients_finite() -> None:
    stack = make()
    x = torch.randn(3, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    out = stack(x, tokens_of(([1, 2], [], [3])), causal=False)
    out.square().sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in stack.parameters())


class NoConfig(Config):
    """Nothing to set."""


class Borrowing(Plugin):
    """Runs the encoder's own layers."""

    name = "borrowing"
    acts = frozenset({"views"})
    needs = Needs(mix=True)


def test_tables_carry_the_encoders_layers_and_who_has_none_is_refused() -> None:
    log, sizes = tiny_log(), {"n_users": 3, "n_items": 9}
    plugin = Borrowing(NoConfig(), kind="sequences", dim=12, n_items=9)
    objective = Softmax(SoftmaxConfig(), train=log)
    sasrec = SASRec(SASRecConfig(dim=12, heads=3), **sizes).eval()
    tokens = tokens_of(ROWS)
    x = torch.randn(len(tokens.ids), 12, generator=torch.Generator().manual_seed(1))
    mixed = sasrec.tables().mix(x, tokens)
    assert torch.equal(mixed, sasrec.layers(x, tokens, causal=False))
    assert not torch.equal(mixed, sasrec.layers(x, tokens, causal=True))
    check_combination(sasrec, objective, [plugin])
    gru = GRU4Rec(GRU4RecConfig(dim=12), **sizes)
    assert gru.tables().mix is None
    with pytest.raises(UnsupportedCombinationError, match=r"'borrowing'.*'gru4rec'"):
        check_combination(gru, objective, [plugin])
