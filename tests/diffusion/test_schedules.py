"""Schedules against their defining identities and slow formulas."""

from __future__ import annotations

import math

import pytest
import torch

from augrec.diffusion import (
    Schedule,
    cosine,
    linear,
    linear_var,
    rescale_zero_terminal_snr,
    scaled_linear,
    sigmoid,
    sqrt,
)
from augrec.errors import ConfigError

ALL = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "sqrt": sqrt,
    "linear_var": lambda steps: linear_var(steps, scale=0.01, noise_min=0.0005, noise_max=0.005),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("steps", [1, 2, 20, 50, 2000])
def test_identities(name: str, steps: int) -> None:
    schedule = ALL[name](steps)
    assert schedule.steps == steps
    assert all(len(t) == steps + 1 and t.dtype == torch.float64 for t in (schedule.beta, schedule.alpha_bar))
    assert schedule.alpha_bar[0] == 1.0
    assert schedule.beta[0] == 0.0
    assert (schedule.alpha_bar.diff() < 0).all()
    assert (schedule.alpha_bar > 0).all()
    product = 1.0
    for t in range(1, steps + 1):
        product *= 1 - float(schedule.beta[t])
        assert math.isclose(product, float(schedule.alpha_bar[t]), rel_tol=1e-9)


def test_published_end_values() -> None:
    assert float(linear(50).alpha_bar[-1]) == pytest.approx(0.603, abs=5e-4)
    assert float(linear(20).alpha_bar[-1]) == pytest.approx(0.817, abs=5e-4)
    assert float(scaled_linear(50).alpha_bar[-1]) == pytest.approx(7.7e-6, rel=0.02)
    assert float(scaled_linear(20).beta.max()) == 0.5
    middle = [float(schedule(50).alpha_bar[round(0.94 * 50)].sqrt()) for schedule in (linear, scaled_linear, cosine)]
    assert middle == pytest.approx([0.81, 0.007, 0.12], abs=0.03)


def test_cosine_is_the_closed_form_away_from_the_clip() -> None:
    schedule = cosine(50)
    expected = [math.cos((t / 50 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(50)]
    assert schedule.alpha_bar[:50].tolist() == pytest.approx([e / expected[0] for e in expected], rel=1e-9)


def test_sqrt_is_the_closed_form_away_from_the_clip() -> None:
    schedule = sqrt(1000)
    for t, value in ((1, 0.9766), (101, 0.689), (501, 0.295), (901, 0.051)):
        assert float(schedule.alpha_bar[t]) == pytest.approx((1 - math.sqrt(t / 1000 + 1e-4)) / 0.99, rel=1e-9)
        assert float(schedule.alpha_bar[t]) == pytest.approx(value, abs=2e-3)


def test_linear_var_levels() -> None:
    schedule = linear_var(10, scale=0.01, noise_min=0.0005, noise_max=0.005)
    even = linear_var(10, scale=0.01, noise_min=0.0005, noise_max=0.005, first_beta=None)
    level = torch.linspace(5e-6, 5e-5, 10, dtype=torch.float64)
    torch.testing.assert_close(1 - even.alpha_bar[1:], level, rtol=1e-9, atol=1e-15)
    expected = (1 - level) * (1 - 1e-5) / (1 - level[0])
    torch.testing.assert_close(schedule.alpha_bar[1:], expected, rtol=1e-14, atol=0)
    assert float(schedule.snr[1]) == pytest.approx(99999, rel=1e-6)
    assert float(schedule.snr[10]) == pytest.approx(18181, rel=1e-4)


def test_zero_terminal_snr_matches_published_values() -> None:
    schedule = rescale_zero_terminal_snr(linear(1000))
    for index, signal in ((0, 0.99995), (10, 0.9989), (100, 0.9458), (250, 0.7203), (500, 0.2743), (750, 0.0514)):
        assert float(schedule.alpha_bar[index + 1].sqrt()) == pytest.approx(signal, abs=6e-5)
    assert schedule.alpha_bar[-1] == 0.0
    with pytest.raises(ConfigError, match="at least 2 steps"):
        rescale_zero_terminal_snr(linear(1))


@pytest.mark.parametrize("beta", [torch.tensor([]), torch.tensor([0.1, 1.5]), torch.tensor([[0.1]])])
def test_bad_betas_are_refused(beta: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="mine"):
        Schedule.from_beta("mine", beta)


@pytest.mark.parametrize("name", ALL)
def test_no_steps_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        ALL[name](0)
