"""The process against moments, Bayes' rule by hand, and diffusers' schedulers."""

from __future__ import annotations

import math

import pytest
import torch

from augrec.diffusion import (
    cosine,
    linear,
    noise_from_x0,
    posterior_mean,
    posterior_variance,
    q_sample,
    rescale_zero_terminal_snr,
    reverse_coefficients,
    reverse_step,
    scaled_linear,
    x0_from_noise,
)
from augrec.errors import ConfigError

SCHEDULES = [linear, scaled_linear, cosine]


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.parametrize("t", [1, 25, 50])
def test_q_sample_moments_within_four_sigma(make, t: int) -> None:
    schedule = make(50)
    count = 40_000
    noise = torch.randn(count, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = q_sample(schedule, torch.full((count, 1), 1.7, dtype=torch.float64), t, noise)
    variance = float(1 - schedule.alpha_bar[t])
    mean = math.sqrt(float(schedule.alpha_bar[t])) * 1.7
    assert abs(float(x.mean()) - mean) < 4 * math.sqrt(variance / count)
    assert abs(float(x.var()) - variance) < 4 * variance * math.sqrt(2 / count)


def test_one_step_at_a_time_has_the_marginal_of_q_sample() -> None:
    schedule = linear(50)
    mean, variance = 1.0, 0.0
    for t in range(1, 31):
        mean *= math.sqrt(float(schedule.alpha[t]))
        variance = variance * float(schedule.alpha[t]) + float(schedule.beta[t])
    one = torch.ones(1, 1, dtype=torch.float64)
    assert float(q_sample(schedule, one, 30, 0 * one)) == pytest.approx(mean, rel=1e-12)
    assert float(q_sample(schedule, 0 * one, 30, one)) == pytest.approx(math.sqrt(variance), rel=1e-12)


@pytest.mark.parametrize("make", SCHEDULES)
def test_conversions_invert_each_other_per_row(make) -> None:
    schedule = make(50)
    x0, noise = torch.randn(2, 49, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.arange(1, 50)
    x = q_sample(schedule, x0, t, noise)
    torch.testing.assert_close(x0_from_noise(schedule, x, t, noise), x0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(noise_from_x0(schedule, x, t, x0), noise, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.parametrize("t", [2, 17, 50])
def test_posterior_is_bayes_rule(make, t: int) -> None:
    """q(x_{t-1}|x_t,x_0) from the product of two normal densities, in precision form."""
    schedule = make(50)
    x0, x_t = 0.7, -1.3
    alpha, beta, previous = (float(v) for v in (schedule.alpha[t], schedule.beta[t], schedule.alpha_bar[t - 1]))
    precision = alpha / beta + 1 / (1 - previous)
    mean = (math.sqrt(alpha) * x_t / beta + math.sqrt(previous) * x0 / (1 - previous)) / precision
    one = torch.ones(1, 1, dtype=torch.float64)
    assert float(posterior_mean(schedule, x0 * one, x_t * one, t)) == pytest.approx(mean, rel=1e-9)
    assert float(posterior_variance(schedule, t)) == pytest.approx(1 / precision, rel=1e-9)


@pytest.mark.parametrize("make", SCHEDULES)
def test_mean_step_is_the_posterior_mean_at_the_predicted_x0(make) -> None:
    schedule = make(50)
    x_t, noise = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.arange(1, 51)
    expected = posterior_mean(schedule, x0_from_noise(schedule, x_t, t, noise), x_t, t)
    torch.testing.assert_close(reverse_step(schedule, x_t, t, noise, sampler="mean"), expected, rtol=1e-6, atol=1e-9)


def test_ddim_step_with_the_true_noise_lands_on_the_forward_path() -> None:
    schedule = scaled_linear(50)
    x0, noise = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    t = torch.arange(1, 51)
    step = reverse_step(schedule, q_sample(schedule, x0, t, noise), t, noise, sampler="ddim")
    torch.testing.assert_close(step, q_sample(schedule, x0, t - 1, noise), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("make", [linear, scaled_linear])
@pytest.mark.parametrize("t", [1, 2, 25, 50])
def test_steps_equal_diffusers(make, t: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    schedule = make(50)
    options = {"trained_betas": schedule.beta[1:].numpy(), "clip_sample": False}
    ddpm = diffusers.DDPMScheduler(num_train_timesteps=50, **options)
    ddim = diffusers.DDIMScheduler(num_train_timesteps=50, set_alpha_to_one=True, **options)
    torch.testing.assert_close(ddpm.alphas_cumprod.double(), schedule.alpha_bar[1:], rtol=1e-5, atol=0)
    for other in (ddpm, ddim):  # in float64, so that the formulas are compared and not their rounding
        other.betas, other.alphas = schedule.beta[1:], schedule.alpha[1:]
        other.alphas_cumprod, other.one = schedule.alpha_bar[1:], torch.ones((), dtype=torch.float64)
        other.set_timesteps(50)
    x, noise_prediction = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    theirs = ddpm.step(noise_prediction, t - 1, x, generator=torch.Generator().manual_seed(9)).prev_sample
    noise = torch.randn(64, 8, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    ours = reverse_step(schedule, x, t, noise_prediction, sampler="ddpm", noise=noise)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    theirs = ddim.step(noise_prediction, t - 1, x, eta=0.0).prev_sample
    ours = reverse_step(schedule, x, t, noise_prediction, sampler="ddim")
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_what_cannot_be_reversed_is_refused() -> None:
    with pytest.raises(ConfigError, match="alpha_bar = 0"):
        reverse_coefficients(rescale_zero_terminal_snr(linear(100)), "ddpm")
    with pytest.raises(ConfigError, match="choose mean, ddpm or ddim"):
        reverse_coefficients(linear(100), "euler")  # type: ignore[arg-type]
