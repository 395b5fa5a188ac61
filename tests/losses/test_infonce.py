from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from augrec.errors import UsageError
from augrec.losses import info_nce, nt_xent


def make(rows: int = 5, width: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(11)
    f64 = torch.float64
    anchor = torch.randn(rows, width, generator=g, dtype=f64).requires_grad_()
    positive = torch.randn(rows, width, generator=g, dtype=f64).requires_grad_()
    negatives = torch.randn(4, width, generator=g, dtype=f64).requires_grad_()
    return anchor, positive, negatives, torch.tensor([0, 1, 0, 2, 1])[:rows]


def sim(a: Tensor, b: Tensor, kind: str) -> Tensor:
    dot = (a * b).sum()
    return dot if kind == "dot" else dot / (a.pow(2).sum().sqrt() * b.pow(2).sum().sqrt())


@pytest.mark.parametrize("kind", ["cosine", "dot"])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("in_batch", "given"), [(True, False), (True, True), (False, True)])
def test_info_nce_equals_the_definition_and_gradcheck(kind: str, grouped: bool, in_batch: bool, given: bool) -> None:
    anchor, positive, negatives, group = make()
    weight = torch.linspace(0, 1, 5, dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for b in range(5):
        own = sim(anchor[b], positive[b], kind) / 0.5
        candidates = [own]
        for c in range(5):
            if in_batch and c != b and not (grouped and group[c] == group[b]):
                candidates.append(sim(anchor[b], positive[c], kind) / 0.5)
        if given:
            candidates += [sim(anchor[b], n, kind) / 0.5 for n in negatives]
        expected = expected + weight[b] * (torch.stack(candidates).exp().sum().log() - own)

    def loss(a: Tensor, p: Tensor, n: Tensor) -> Tensor:
        return info_nce(
            a,
            p,
            n if given else None,
            similarity=kind,  # type: ignore[arg-type]
            temperature=0.5,
            in_batch=in_batch,
            group=group if grouped else None,
            weight=weight,
        )

    torch.testing.assert_close(loss(anchor, positive, negatives), expected / 5, rtol=1e-12, atol=1e-13)
    assert torch.autograd.gradcheck(loss, (anchor, positive, negatives))


@pytest.mark.parametrize("kind", ["cosine", "dot"])
@pytest.mark.parametrize("grouped", [False, True])
def test_nt_xent_equals_the_definition_and_gradcheck(kind: str, grouped: bool) -> None:
    first, second, _, group = make()
    views, owner = torch.cat([first, second]), torch.cat([group, group])
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(10):
        partner = (i + 5) % 10
        own = sim(views[i], views[partner], kind) / 0.2
        terms = [own]
        for j in range(10):
            if j not in (i, partner) and not (grouped and owner[j] == owner[i]):
                terms.append(sim(views[i], views[j], kind) / 0.2)
        expected = expected + torch.stack(terms).exp().sum().log() - own

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return nt_xent(a, b, similarity=kind, temperature=0.2, group=group if grouped else None)  # type: ignore[arg-type]

    torch.testing.assert_close(loss(first, second), expected / 10, rtol=1e-12, atol=1e-13)
    assert torch.autograd.gradcheck(loss, (first, second))
    torch.testing.assert_close(loss(second, first), loss(first, second))


def test_closed_forms_at_ties() -> None:
    same = torch.ones(6, 3)
    assert info_nce(same, same).item() == pytest.approx(math.log(6), rel=1e-6)
    assert info_nce(same, same, same[:4]).item() == pytest.approx(math.log(10), rel=1e-6)
    assert nt_xent(same, same).item() == pytest.approx(math.log(11), rel=1e-6)
    assert nt_xent(same[:1], same[:1]).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", [info_nce, nt_xent])
def test_large_scores_half_precision_and_no_rows(loss: object) -> None:
    assert callable(loss)
    anchor, positive, _, _ = make()
    big = (anchor * 100).detach().float().requires_grad_()
    value = loss(big, positive.detach().float() * 100, similarity="dot")
    value.backward()
    assert value.isfinite()
    assert big.grad is not None
    assert big.grad.isfinite().all()
    half = loss(anchor.bfloat16(), positive.bfloat16(), temperature=0.05)
    assert half.dtype == torch.float32
    assert half.isfinite()
    empty = loss(anchor[:0], positive[:0])
    (grad,) = torch.autograd.grad(empty, anchor)
    assert empty.item() == 0
    assert torch.equal(grad, torch.zeros_like(grad))


def test_bad_input_is_refused() -> None:
    anchor, positive, negatives, _ = make()
    with pytest.raises(UsageError, match="nothing to contrast"):
        info_nce(anchor, positive, in_batch=False)
    with pytest.raises(UsageError, match="temperature"):
        nt_xent(anchor, positive, temperature=0)
    with pytest.raises(UsageError, match="shapes"):
        nt_xent(anchor, positive[:4])
    with pytest.raises(UsageError, match="negatives"):
        info_nce(anchor, positive, negatives[:, :2])
    with pytest.raises(UsageError, match="similarity"):
        info_nce(anchor, positive, similarity="euclid")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="group"):
        nt_xent(anchor, positive, group=torch.zeros(5, 1))
