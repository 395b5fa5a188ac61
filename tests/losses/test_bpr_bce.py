from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from augrec.errors import UsageError
from augrec.losses import bce, bpr


def make(rows: int = 6, negatives: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(7)
    f64 = torch.float64
    positive = torch.randn(rows, generator=g, dtype=f64).requires_grad_()
    negative = torch.randn(rows, negatives, generator=g, dtype=f64).requires_grad_()
    offset = torch.randn(rows, generator=g, dtype=f64).requires_grad_()
    weight = torch.rand(rows, generator=g, dtype=f64).requires_grad_()
    share = torch.rand(rows, negatives, generator=g, dtype=f64)
    return positive, negative, offset, weight, share


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_bpr_equals_the_definition_and_gradcheck(count: int, weighted: bool) -> None:
    positive, negative, offset, weight, share = make(negatives=count)
    a = share if weighted else torch.ones_like(share)
    expected = torch.zeros((), dtype=torch.float64)
    for m in range(6):
        inner = sum(float(a[m, k]) * (negative[m, k] + offset[m] - positive[m]).exp() for k in range(count))
        expected = expected + weight[m] * (1 + inner).log()

    def loss(p: Tensor, n: Tensor, o: Tensor, w: Tensor) -> Tensor:
        return bpr(p, n, offset=o, weight=w, negative_weight=share if weighted else None)

    torch.testing.assert_close(loss(positive, negative, offset, weight), expected / 6, rtol=1e-13, atol=1e-13)
    assert torch.autograd.gradcheck(loss, (positive, negative, offset, weight))


def test_bpr_closed_forms() -> None:
    ties = bpr(torch.full((3,), 2.0), torch.full((3, 1), 2.0))
    assert ties.item() == pytest.approx(math.log(2), rel=1e-6)
    many = bpr(torch.zeros(3), torch.zeros(3, 9))
    assert many.item() == pytest.approx(math.log(10), rel=1e-6)
    assert bpr(torch.zeros(3), torch.zeros(3, 0)).item() == 0


def test_bpr_shared_negative_weights_and_zero_weights() -> None:
    positive, negative, _, _, _ = make()
    shared = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    loss = bpr(positive, negative, negative_weight=shared)
    torch.testing.assert_close(loss, bpr(positive, negative[:, ::2]))
    grad = torch.autograd.grad(bpr(positive, negative, negative_weight=torch.zeros(4)), (positive, negative))
    assert all(torch.equal(g, torch.zeros_like(g)) for g in grad)
    assert torch.autograd.grad(loss, negative)[0][:, 1::2].abs().max() == 0


@pytest.mark.parametrize("count", [1, 3])
def test_bpr_is_stable_at_large_scores(count: int) -> None:
    positive = torch.tensor([1e4, -1e4], requires_grad=True)
    negative = torch.tensor([[-1e4], [1e4]]).expand(2, count).clone().requires_grad_()
    loss = bpr(positive, negative)
    loss.backward()
    assert loss.item() == pytest.approx(1e4, rel=1e-4)
    assert positive.grad is not None
    torch.testing.assert_close(positive.grad, torch.tensor([0.0, -0.5]))


def test_bpr_small_terms_keep_their_digits() -> None:
    loss = bpr(torch.tensor([40.0], dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64))
    assert loss.item() == pytest.approx(math.exp(-40), rel=1e-12)


@pytest.mark.parametrize("count", [1, 4])
def test_bce_equals_the_definition_and_gradcheck(count: int) -> None:
    positive, negative, extra, weight, share = make(negatives=count)
    expected = torch.zeros((), dtype=torch.float64)
    for m in range(6):
        expected = expected - weight[m] * torch.sigmoid(positive[m]).log()
        for k in range(count):
            expected = expected - share[m, k] * (1 - torch.sigmoid(negative[m, k])).log() / count
        expected = expected - 0.3 * (1 - torch.sigmoid(extra[m])).log()

    def loss(p: Tensor, n: Tensor, e: Tensor, w: Tensor) -> Tensor:
        return bce(p, n, weight=w, negative_weight=share, extra=e, extra_weight=0.3)

    torch.testing.assert_close(loss(positive, negative, extra, weight), expected / 6, rtol=1e-12, atol=1e-13)
    assert torch.autograd.gradcheck(loss, (positive, negative, extra, weight))


def test_bce_with_one_negative_is_twice_the_mean_binary_cross_entropy_of_torch() -> None:
    positive, negative, _, _, _ = make(negatives=1)
    scores = torch.cat([positive, negative[:, 0]])
    labels = torch.cat([torch.ones(6), torch.zeros(6)]).double()
    torch.testing.assert_close(bce(positive, negative), 2 * F.binary_cross_entropy_with_logits(scores, labels))
    torch.testing.assert_close(bce(positive, negative.expand(6, 5)), bce(positive, negative))


def test_bce_parts() -> None:
    positive, negative, _, _, _ = make()
    alone = bce(positive)
    torch.testing.assert_close(alone, F.softplus(-positive).mean())
    torch.testing.assert_close(bce(positive, negative, weight=torch.zeros(6)), F.softplus(negative).mean())
    torch.testing.assert_close(bce(positive, negative[:, :0]), alone)
    rows = bce(positive, extra=negative[:, :2], extra_weight=torch.tensor([1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(rows, alone + F.softplus(negative[:, 0]).mean())
    assert bce(torch.zeros(2), torch.zeros(2, 3)).item() == pytest.approx(2 * math.log(2), rel=1e-6)


def test_bce_is_stable_at_large_scores() -> None:
    positive = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = bce(positive, torch.tensor([[-1e4], [1e4]]))
    loss.backward()
    assert loss.item() == pytest.approx(1e4, rel=1e-4)
    assert positive.grad is not None
    assert positive.grad.isfinite().all()


@pytest.mark.parametrize("loss", [bpr, bce])
def test_rows_of_weight_zero_empty_rows_and_half_precision(loss: object) -> None:
    assert callable(loss)
    positive, negative, _, _, _ = make()
    weight = torch.tensor([1.0, 1, 0, 1, 1, 1], dtype=torch.float64)
    grad = torch.autograd.grad(loss(positive, negative, weight=weight), positive)[0]
    assert grad[2] == 0
    assert (grad[weight.bool()] != 0).all()
    empty = loss(positive[:0], negative[:0])
    assert empty.item() == 0
    assert torch.equal(torch.autograd.grad(empty, negative)[0], torch.zeros(6, 4, dtype=torch.float64))
    half = positive.detach().bfloat16().requires_grad_()
    value = loss(half, negative.bfloat16())
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert half.grad is not None
    assert half.grad.isfinite().all()


def test_column_shapes_are_refused_instead_of_broadcast() -> None:
    positive, negative, offset, weight, _ = make()
    for function in (bpr, bce):
        with pytest.raises(UsageError, match="positive"):
            function(positive[:, None], negative)
        with pytest.raises(UsageError, match="negatives"):
            function(positive, negative[:5])
        with pytest.raises(UsageError, match="weight"):
            function(positive, negative, weight=weight[:, None])
        with pytest.raises(UsageError, match="negative_weight"):
            function(positive, negative, negative_weight=torch.ones(6, 1))
    with pytest.raises(UsageError, match="offset"):
        bpr(positive, negative, offset=offset[:, None])
    with pytest.raises(UsageError, match="extra"):
        bce(positive, negative, extra=offset[:5])
