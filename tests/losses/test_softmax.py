from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from augrec.errors import UsageError
from augrec.losses import full_softmax, sampled_softmax, sampled_softmax_from_scores

# Switching oneDNN off for a block warns about a kind of GPU that is not there.
pytestmark = pytest.mark.filterwarnings("ignore:TF32 acceleration")


def make(rows: int = 7, items: int = 11, width: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(3)
    query = torch.randn(rows, width, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    table = torch.randn(items, width, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    target = torch.randint(items, (rows,), generator=g)
    target[:2] = target[-1]  # a repeated target: its gradient rows must add up
    offset = torch.randn(rows, generator=g, dtype=torch.float64).requires_grad_()
    weight = torch.rand(rows, generator=g, dtype=torch.float64).requires_grad_()
    return query, table, target, offset, weight


def slow(query: Tensor, table: Tensor, target: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    """The definition, one row and one item at a time."""
    total = query.new_zeros(())
    for m in range(len(query)):
        logits = [(query[m] * table[i]).sum() for i in range(len(table))]
        t = int(target[m])
        logits[t] = logits[t] - offset[m]
        normaliser = sum((s.exp() for s in logits), start=query.new_zeros(()))
        total = total + weight[m] * (normaliser.log() - logits[t])
    return total / len(query)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100, None])
def test_full_softmax_equals_the_definition_and_its_gradients(chunk: int | None) -> None:
    leaves = make()
    query, table, target, offset, weight = leaves
    inputs = (query, table, offset, weight)
    expected = slow(query, table, target, offset, weight)
    loss = full_softmax(query, table, target, offset=offset, weight=weight, chunk=chunk)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=1e-13)
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_full_softmax_gradcheck(reduction: str) -> None:
    query, table, target, offset, weight = make(5, 6, 2)

    def loss(q: Tensor, w: Tensor, o: Tensor, r: Tensor) -> Tensor:
        return full_softmax(q, w, target, offset=o, weight=r, chunk=2, reduction=reduction)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(loss, (query, table, offset, weight))


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize(("rows", "items"), [(1, 1), (1, 5), (65, 1), (130, 2_001), (3, 70_001)])
def test_full_softmax_float32_agrees_with_torch(rows: int, items: int, onednn: bool) -> None:
    query, table, target, _, _ = make(rows, items, 17, torch.float32)
    expected = F.cross_entropy(query.double() @ table.double().T, target)
    with torch.backends.mkldnn.flags(enabled=onednn):
        loss = full_softmax(query, table, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=1e-6)
    inputs = (query, table)
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7 + 1e-4 * float(theirs.abs().max()))


def test_full_softmax_sum_is_rows_times_mean() -> None:
    query, table, target, _, _ = make()
    total = full_softmax(query, table, target, reduction="sum")
    torch.testing.assert_close(total, 7 * full_softmax(query, table, target))


def test_full_softmax_at_ties_is_the_log_of_the_catalogue() -> None:
    loss = full_softmax(torch.zeros(4, 3), torch.ones(1_000, 3), torch.tensor([0, 1, 2, 999]))
    assert loss.item() == pytest.approx(math.log(1_000), rel=1e-6)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_full_softmax_is_stable_at_large_logits(size: float) -> None:
    query = torch.full((2, 1), size, requires_grad=True)
    table = torch.tensor([[1.0], [0.0], [-1.0]], requires_grad=True)
    loss = full_softmax(query, table, torch.tensor([0, 2]), reduction="sum")
    loss.backward()
    assert loss.item() == pytest.approx(2e4, rel=1e-6)  # one row is sure and right (0), the other sure and wrong
    assert query.grad is not None
    assert table.grad is not None
    assert query.grad.isfinite().all()
    assert table.grad.isfinite().all()


def test_full_softmax_scales_with_the_incoming_gradient_and_survives_two_backward_passes() -> None:
    query, table, target, _, _ = make()
    loss = full_softmax(query, table, target)
    (once,) = torch.autograd.grad(loss, query, retain_graph=True)
    (scaled,) = torch.autograd.grad(loss * -2.5, query, retain_graph=True)
    (again,) = torch.autograd.grad(loss, query)
    torch.testing.assert_close(scaled, -2.5 * once)
    assert torch.equal(once, again)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_full_softmax_in_half_precision_accumulates_in_float32(dtype: torch.dtype) -> None:
    query, table, target, _, _ = make(40, 3_000, 8, dtype)
    loss = full_softmax(query, table, target)
    loss.backward()
    expected = F.cross_entropy(query.detach().double() @ table.detach().double().T, target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)  # far below the 4e-3 of bfloat16 itself
    assert query.grad is not None
    assert query.grad.dtype == dtype
    assert query.grad.isfinite().all()
    assert table.grad is not None
    assert table.grad.dtype == dtype
    assert table.grad.isfinite().all()


def test_full_softmax_ignores_autocast() -> None:
    query, table, target, _, _ = make(40, 300, 8, torch.float32)
    plain = full_softmax(query, table, target)
    with torch.backends.mkldnn.flags(enabled=False), torch.autocast("cpu", dtype=torch.bfloat16):
        cast = full_softmax(query, table, target)
    assert cast.item() == pytest.approx(plain.item(), rel=1e-6)


def test_full_softmax_row_of_weight_zero_contributes_nothing() -> None:
    query, table, target, _, _ = make()
    weight = torch.ones(7, dtype=torch.float64)
    weight[3] = 0
    keep = weight.bool()
    loss = full_softmax(query, table, target, weight=weight, reduction="sum")
    rest = full_softmax(query[keep], table, target[keep], reduction="sum")
    torch.testing.assert_close(loss, rest)
    grad_query, grad_table = torch.autograd.grad(loss, (query, table))
    _, rest_table = torch.autograd.grad(rest, (query, table))
    assert torch.equal(grad_query[3], torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(grad_table, rest_table)


def test_full_softmax_makes_only_the_gradients_asked_for() -> None:
    query, table, target, _, _ = make()
    assert not full_softmax(query.detach(), table.detach(), target).requires_grad
    with torch.no_grad():
        value = full_softmax(query, table, target)
    assert not value.requires_grad
    loss = full_softmax(query, table.detach(), target)
    assert torch.equal(value, loss.detach())
    loss.backward()
    assert query.grad is not None
    assert table.grad is None


def test_full_softmax_without_rows_is_zero_with_zero_gradient() -> None:
    query = torch.zeros(0, 3, requires_grad=True)
    table = torch.randn(5, 3, requires_grad=True)
    loss = full_softmax(query, table, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert table.grad is not None
    assert torch.equal(table.grad, torch.zeros(5, 3))


def test_full_softmax_refuses_a_second_derivative() -> None:
    query, table, target, _, _ = make()
    with pytest.raises(UsageError, match="no second derivative"):
        torch.autograd.grad(full_softmax(query, table, target), query, create_graph=True)


def test_full_softmax_refuses_bad_input() -> None:
    query, table, target, _, _ = make()
    with pytest.raises(UsageError, match="id 11"):
        full_softmax(query, table, torch.full((7,), 11))
    with pytest.raises(UsageError, match="do not match"):
        full_softmax(query, table[:, :2], target)
    with pytest.raises(UsageError, match=r"weight has shape \(7, 1\)"):
        full_softmax(query, table, target, weight=torch.ones(7, 1))
    with pytest.raises(UsageError, match="chunk"):
        full_softmax(query, table, target, chunk=0)
    with pytest.raises(UsageError, match="reduction"):
        full_softmax(query, table, target, reduction="none")  # type: ignore[arg-type]


def test_sampled_softmax_equals_the_definition_and_gradcheck() -> None:
    query, table, target, offset, weight = make()
    sampled = torch.tensor([0, 3, 3, int(target[0]), 9])
    log_q = torch.log_softmax(torch.randn(11, generator=torch.Generator().manual_seed(1), dtype=torch.float64), 0)
    total = torch.zeros((), dtype=torch.float64)
    for m in range(7):
        own = query[m] @ table[target[m]] - offset[m] - log_q[target[m]]
        others = [query[m] @ table[j] - log_q[j] for j in sampled if j != target[m]]
        total = total + weight[m] * (torch.stack([own, *others]).exp().sum().log() - own)

    def loss(q: Tensor, w: Tensor, o: Tensor, r: Tensor) -> Tensor:
        return sampled_softmax(
            q, w, target, sampled, log_q_target=log_q[target], log_q_sampled=log_q[sampled], offset=o, weight=r
        )

    torch.testing.assert_close(loss(query, table, offset, weight), total / 7, rtol=1e-13, atol=1e-13)
    assert torch.autograd.gradcheck(loss, (query, table, offset, weight))


def test_sampled_softmax_over_every_item_is_full_softmax() -> None:
    query, table, target, offset, weight = make()
    every = torch.arange(11)
    sampled = sampled_softmax(query, table, target, every, offset=offset, weight=weight)
    torch.testing.assert_close(sampled, full_softmax(query, table, target, offset=offset, weight=weight))
    with_hits = sampled_softmax(query, table, target, every, remove_accidental_hits=False)
    assert with_hits > full_softmax(query, table, target)


def test_log_q_correction_removes_the_popularity_bias_of_the_sampler() -> None:
    """With many samples the corrected gradient points to the full softmax's minimum, the uncorrected one does not."""
    g = torch.Generator().manual_seed(5)
    probability = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    table = torch.eye(4, dtype=torch.float64)
    # At logits = log p the full softmax is at its minimum when targets follow p.
    query = probability.log().expand(4_000, 4).clone()
    target = torch.multinomial(probability, 4_000, replacement=True, generator=g)
    skewed = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64)
    sampled = torch.multinomial(skewed, 4_000, replacement=True, generator=g)
    log_q = skewed.log()

    def slope(corrected: bool) -> float:
        q = query.clone().requires_grad_()
        extra = {"log_q_target": log_q[target], "log_q_sampled": log_q[sampled]} if corrected else {}
        loss = sampled_softmax(q, table, target, sampled, remove_accidental_hits=False, **extra)
        return float(torch.autograd.grad(loss, q)[0].sum(0).abs().max())

    assert slope(True) < 0.03
    assert slope(False) > 0.1


def test_sampled_softmax_edges() -> None:
    query, table, target, _, _ = make()
    assert sampled_softmax(query, table, target, torch.zeros(0, dtype=torch.int64)).item() == 0
    empty = sampled_softmax(query[:0], table, target[:0], torch.arange(3))
    (grad,) = torch.autograd.grad(empty, table)
    assert empty.item() == 0
    assert torch.equal(grad, torch.zeros_like(grad))
    big = sampled_softmax_from_scores(torch.tensor([1e4, -1e4]), torch.tensor([[-1e4], [1e4]]))
    assert big.item() == pytest.approx(1e4)
    half = sampled_softmax(query.bfloat16(), table.bfloat16(), target, torch.arange(5))
    assert half.dtype == torch.float32
    assert half.isfinite()
    with pytest.raises(UsageError, match="together"):
        sampled_softmax(query, table, target, torch.arange(3), log_q_sampled=torch.zeros(3))
    with pytest.raises(UsageError, match="log_q_sampled"):
        sampled_softmax(
            query, table, target, torch.arange(3), log_q_target=torch.zeros(7), log_q_sampled=torch.zeros(4)
        )
    with pytest.raises(UsageError, match="sampled_ids contains id -1"):
        sampled_softmax(query, table, target, torch.tensor([-1]))
