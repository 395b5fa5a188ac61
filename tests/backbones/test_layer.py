"""A layer whose gradient is written out, against the same layer left to autograd."""

from __future__ import annotations

import pytest
import torch

from augrec.backbones import layer
from augrec.backbones.transformer import TransformerStack
from augrec.testing.sequence_checks import tokens_of

EQUAL, MIXED = [[1, 2, 3]] * 50, [[1] * (1 + n % 7) for n in range(40)]


def run(rows, *, by_hand, causal=True, dropout=0.5, attention_dropout=0.25, train=True, frozen=(), autocast=False):
    """What a stack makes of `rows`, and the gradients of its input and parameters; the same weights and draws in
    every call."""
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        if not by_hand:
            patch.setattr(layer, "own_product", lambda x, weight: False)
        torch.manual_seed(3)
        rates = {"dropout": dropout, "attention_dropout": attention_dropout}
        stack = TransformerStack(dim=16, layers=2, heads=2, inner=24, **rates).train(train)
        for name, parameter in stack.named_parameters():
            parameter.data.add_(torch.randn(parameter.shape), alpha=0.1)
            parameter.requires_grad_(name not in frozen)
        x = torch.randn(sum(map(len, rows)), 16, requires_grad=True)
        weight = torch.randn(x.shape)
        with torch.autocast("cpu", enabled=autocast):
            found = stack(x, tokens_of(rows), causal=causal)
        (found * weight).sum().backward()
    return found, [x.grad, *(parameter.grad for parameter in stack.parameters())]


def nodes(found):
    """The names of the nodes that autograd keeps of a tensor."""
    seen, waiting = set(), [found.grad_fn]
    while waiting:
        one = waiting.pop()
        if one is not None and one not in seen:
            seen.add(one)
            waiting.extend(before for before, _ in one.next_functions)
    return [one.name() for one in seen]


@pytest.mark.parametrize("rows", [EQUAL, MIXED, [[5]]], ids=["equal", "mixed", "one token"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("dropout", "attention_dropout"), [(0.5, 0.25), (0.1, 0.0), (0.0, 0.5)])
def test_gradient_by_hand_is_autograds_with_the_same_draws(rows, causal, dropout, attention_dropout) -> None:
    rates = {"dropout": dropout, "attention_dropout": attention_dropout}
    (found, mine), (wanted, theirs) = (run(rows, by_hand=one, causal=causal, **rates) for one in (True, False))
    assert sum("_Attention" in name for name in nodes(found)) == 2
    assert not any("_Attention" in name for name in nodes(wanted))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    for own, right in zip(mine, theirs, strict=True):
        torch.testing.assert_close(own, right, rtol=1e-4, atol=1e-4)


def test_evaluation_drops_nothing() -> None:
    found, _ = run(MIXED, by_hand=True, train=False)
    wanted, _ = run(MIXED, by_hand=False, dropout=0.0, attention_dropout=0.0)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_weights_that_are_held_get_no_gradient_and_change_no_other() -> None:
    held = ("0.qkv.weight", "0.narrow.bias", "1.norm1.weight")
    _, all_of_them = run(MIXED, by_hand=True)
    _, found = run(MIXED, by_hand=True, frozen=held)
    assert sum(one is None for one in found) == len(held)
    assert all(one is None or torch.equal(one, right) for one, right in zip(found, all_of_them, strict=True))


def test_rows_far_apart_in_length_and_lower_precision_are_left_to_autograd() -> None:
    far = [[1] * 40, *([1] for _ in range(60))]
    assert not any("_Attention" in name for name in nodes(run(far, by_hand=True)[0]))
    none = {"dropout": 0.0, "attention_dropout": 0.0}
    found, _ = run(MIXED, by_hand=True, autocast=True, **none)
    assert not any("_Attention" in name for name in nodes(found))
    torch.testing.assert_close(found.float(), run(MIXED, by_hand=False, **none)[0], rtol=0.1, atol=0.1)
