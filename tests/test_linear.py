from __future__ import annotations

import pytest
import torch
from torch import nn

from augrec.linear import Linear, few_sizes, matmul, pad_rows, products_at


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 7), (64, 64, 1_001), (0, 3, 4)])
def test_matmul_equals_torch_in_every_layout(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(m, k, generator=g), torch.randn(k, n, generator=g)
    for left in (a, a.t().contiguous().t()):
        for right in (b, b.t().contiguous().t()):
            expected = (a.double() @ b.double()).float()
            torch.testing.assert_close(matmul(left, right), expected, rtol=1e-5, atol=1e-5)


def test_few_sizes_are_few_and_never_an_eighth_too_large() -> None:
    for rows in range(1, 5_000):
        size = few_sizes(rows)
        assert rows <= size <= max(64, rows * 9 // 8 + 1, -(-rows // 64) * 64)
        assert few_sizes(size) == size
    assert len({few_sizes(rows) for rows in range(1, 100_000)}) < 80


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 200])
@pytest.mark.parametrize(("wide", "out"), [(5, 3), (3, 5), (4, 4)])
def test_linear_of_any_number_of_rows_equals_torch(rows: int, wide: int, out: int) -> None:
    torch.manual_seed(0)
    ours, theirs = Linear(wide, out), nn.Linear(wide, out).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(rows, wide, requires_grad=True)
    y = x.detach().double().requires_grad_()
    weight = torch.randn(rows, out)
    (ours(x) * weight).sum().backward()
    (theirs(y) * weight.double()).sum().backward()
    torch.testing.assert_close(ours(x).double(), theirs(y), rtol=1e-5, atol=1e-5)
    for mine, right in zip((x, *ours.parameters()), (y, *theirs.parameters()), strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad.double(), right.grad, rtol=1e-5, atol=1e-5)


def test_pad_rows_adds_zeros_below() -> None:
    x = torch.ones(65, 2)
    padded = pad_rows(x)
    assert padded.shape == (128, 2)
    assert torch.equal(padded[:65], x)
    assert not padded[65:].any()
    assert pad_rows(padded) is padded


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("columns", [0, 1, 7])
@pytest.mark.parametrize("copied", [0, 1 << 19])
def test_products_at_places_are_entries_of_the_product(dtype, columns, copied, monkeypatch) -> None:
    monkeypatch.setattr("augrec.linear._COPIED", copied)
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(n, 16, dtype=torch.float64, generator=generator).to(dtype) for n in (5, 11))
    places = torch.randint(11, (5, columns), generator=generator)
    found = products_at(a, b, places)
    assert found.dtype == dtype
    exact = (a.double() @ b.double().t()).gather(1, places)
    torch.testing.assert_close(
        found.double(),
        exact,
        rtol=1e-2 if dtype is torch.bfloat16 else 1e-5,
        atol=1e-1 if dtype is torch.bfloat16 else 1e-5,
    )
    assert products_at(a[:0], b, places[:0]).shape == (0, columns)
