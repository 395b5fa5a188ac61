from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from augrec.backbones.dropout import Dropout, dropout
from augrec.errors import UsageError

RATES = [0.5, 0.25, 0.75, 0.1, 0.2, 1 / 3, 0.9]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        yield


@pytest.mark.parametrize("p", RATES)
def test_share_of_zeros_mean_and_variance_follow_the_law(p: float) -> None:
    count = 400_003
    x = torch.ones(count, dtype=torch.float64)
    y = dropout(x, p)
    sigma = math.sqrt(p * (1 - p) / count)
    assert abs(float((y == 0).double().mean()) - p) < 4 * sigma + 2**-17
    assert abs(float(y.mean()) - 1) < 4 * math.sqrt(p / (1 - p) / count)
    variance = p / (1 - p)
    fourth = p + (p / (1 - p)) ** 4 * (1 - p)  # E (y - 1)^4
    assert abs(float((y - 1).square().mean()) - variance) < 4 * math.sqrt((fourth - variance**2) / count) + 1e-4
    assert torch.unique(y).tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-4)


@pytest.mark.parametrize("p", RATES)
def test_neighbours_columns_and_calls_are_independent(p: float) -> None:
    """Elements that share a random word, at any distance, and two calls in a row, are uncorrelated."""
    count = 2**18
    keep = (dropout(torch.ones(count), p) != 0).double() - (1 - p)
    second = (dropout(torch.ones(count), p) != 0).double() - (1 - p)
    sigma = p * (1 - p) / math.sqrt(count)
    for lag in (1, 2, 3, 4, 7, 8, 16, 64, count // 8, count // 4, count // 2):
        assert abs(float((keep * keep.roll(lag)).mean())) < 5 * sigma + 1e-9, lag
    assert abs(float((keep * second).mean())) < 5 * sigma


@pytest.mark.parametrize("p", RATES)
def test_gradient_is_the_mask_times_the_scale(p: float) -> None:
    x = torch.randn(33, 7, requires_grad=True)
    y = Dropout(p)(x)
    upstream = torch.randn(33, 7)
    y.backward(upstream)
    mask = y.detach() != 0
    scale = (y / x).detach()[mask]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(mask, upstream * scale[0], 0.0))
    torch.testing.assert_close(scale, torch.full_like(scale, 1 / (1 - p)), rtol=2e-4, atol=0)


def test_double_backward_sees_the_same_mask() -> None:
    x = torch.randn(50, requires_grad=True, dtype=torch.float64)
    y = dropout(x, 0.5)
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, torch.where(y.detach() != 0, 8.0, 0.0).double())


def test_evaluation_and_p_zero_are_the_identity_and_draw_nothing() -> None:
    x = torch.randn(5)
    before = torch.get_rng_state()
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(Dropout(1.0)(x), torch.zeros(5))


@pytest.mark.parametrize("p", RATES)
def test_the_same_generator_state_gives_the_same_mask(p: float) -> None:
    x = torch.ones(1_001)
    state = torch.get_rng_state()
    first = dropout(x, p)
    other = dropout(x, p)
    torch.set_rng_state(state)
    assert torch.equal(first, dropout(x, p))
    assert not torch.equal(first, other)


@pytest.mark.parametrize("p", [0.5, 0.25, 0.1])
@pytest.mark.parametrize("shape", [(), (1,), (63,), (65,), (3, 5, 7), (0,), (4, 0, 2)])
def test_any_shape_dtype_and_layout(p: float, shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        y = dropout(torch.ones(shape, dtype=dtype), p)
        assert y.shape == shape
        assert y.dtype == dtype
    strided = torch.arange(1.0, 36.0).view(5, 7).t()
    y = dropout(strided, p)
    torch.testing.assert_close(y[y != 0], (strided / (1 - p))[y != 0], rtol=1e-4, atol=0)


def test_rates_at_the_ends_of_the_resolution() -> None:
    x = torch.ones(1_000)
    assert torch.equal(dropout(x, 1e-9), x)
    assert dropout(x, 1 - 1e-9).isfinite().all()


def test_other_devices_take_torchs_own() -> None:
    assert dropout(torch.ones(3, device="meta"), 0.5).device.type == "meta"


def test_as_strong_as_torchs_own() -> None:
    x = torch.randn(200, 500)
    ours, theirs = dropout(x, 0.3), F.dropout(x, 0.3)
    assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.02)


def test_bad_rate_is_refused() -> None:
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="0 <= p <= 1"):
            Dropout(p)
