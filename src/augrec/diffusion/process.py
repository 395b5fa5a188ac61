"""The Gaussian diffusion process: noising, posterior, conversions and single reverse steps.

Steps t are integers in 0..T, given as one int or as a tensor (B,) with one step per row of x (B, D).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from augrec.diffusion.schedules import Schedule
from augrec.errors import ConfigError

Sampler = Literal["mean", "ddpm", "ddim"]
"""mean: DDPM's posterior mean, no noise added; ddpm: with posterior noise; ddim: deterministic DDIM (eta = 0)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Coefficients:
    """x_{t-1} = keep_t x_t + push_t eps_theta(x_t, t) + fresh_t z, z ~ N(0, I); (T+1,) float64, (1, 0, 0) at 0."""

    keep: Tensor
    """Factor of the state."""
    push: Tensor
    """Factor of the predicted noise."""
    fresh: Tensor
    """Standard deviation of the added noise: 0 for the samplers mean and ddim, and always 0 at t = 1."""


def _rows(table: Tensor, t: Tensor | int, x: Tensor) -> Tensor:
    """Values of `table` at step t in x's dtype and device, shaped to broadcast over the last axis of x."""
    if isinstance(t, int):
        return table[t].to(x)
    return table.to(t.device)[t].to(x).unsqueeze(-1)


def q_sample(schedule: Schedule, x0: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise (DDPM eq. 4)."""
    return _rows(schedule.alpha_bar.sqrt(), t, x0) * x0 + _rows((1 - schedule.alpha_bar).sqrt(), t, x0) * noise


def x0_from_noise(schedule: Schedule, x_t: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
    """The x_0 that gives x_t under `noise`; undefined where alpha_bar_t = 0."""
    return (x_t - _rows((1 - schedule.alpha_bar).sqrt(), t, x_t) * noise) / _rows(schedule.alpha_bar.sqrt(), t, x_t)


def noise_from_x0(schedule: Schedule, x_t: Tensor, t: Tensor | int, x0: Tensor) -> Tensor:
    """The noise that leads from x_0 to x_t; undefined at t = 0."""
    return (x_t - _rows(schedule.alpha_bar.sqrt(), t, x_t) * x0) / _rows((1 - schedule.alpha_bar).sqrt(), t, x_t)


def _previous(schedule: Schedule) -> Tensor:
    """alpha_bar_{t-1} at index t; entry 0 is 1."""
    return torch.cat([schedule.alpha_bar[:1], schedule.alpha_bar[:-1]])


def _posterior_variances(schedule: Schedule) -> Tensor:
    variance = schedule.beta * (1 - _previous(schedule)) / (1 - schedule.alpha_bar)
    variance[0] = 0.0
    return variance


def posterior_coefficients(schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Factors of x_0 and x_t, both (T+1,) float64, in the mean of q(x_{t-1} | x_t, x_0) (DDPM eq. 7); (1, 0) at t = 1.

    With an x_0-predicting network and no fresh noise this is a deterministic reverse step: x_{t-1} is the first factor
    times the prediction plus the second times x_t. Entry 0 is (1, 0).
    """
    previous, rest = _previous(schedule), 1 - schedule.alpha_bar
    of_x0 = schedule.beta * previous.sqrt() / rest
    of_xt = (1 - previous) * schedule.alpha.sqrt() / rest
    of_x0[:2], of_xt[:2] = 1.0, 0.0
    return of_x0, of_xt


def posterior_mean(schedule: Schedule, x0: Tensor, x_t: Tensor, t: Tensor | int) -> Tensor:
    """Mean of q(x_{t-1} | x_t, x_0) (DDPM eq. 7), t >= 1."""
    of_x0, of_xt = posterior_coefficients(schedule)
    return _rows(of_x0, t, x0) * x0 + _rows(of_xt, t, x_t) * x_t


def posterior_variance(schedule: Schedule, t: Tensor | int) -> Tensor:
    """Variance of q(x_{t-1} | x_t, x_0) (DDPM eq. 7), float64, the shape of t; 0 at t = 1."""
    table = _posterior_variances(schedule)
    return table[t] if isinstance(t, int) else table.to(t.device)[t]


def reverse_coefficients(schedule: Schedule, sampler: Sampler) -> Coefficients:
    """Coefficients of one reverse step with a noise-predicting network.

    mean and ddpm: DDPM eq. 11 (mu = (x_t - beta_t / sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_t)); ADAR's eq. 10 with the
    bar its printed root has lost (without it each step takes away sqrt((1 - alpha_bar_t) / beta_t) times too much).
    ddim: Song et al. 2021, eq. 12, with eta = 0.

    Raises:
        ConfigError: an unknown sampler, or a schedule that reaches alpha_bar = 0.
    """
    if not bool((schedule.alpha_bar > 0).all()):
        raise ConfigError(
            f"schedule {schedule.name!r} reaches alpha_bar = 0: a noise-predicting network cannot reverse it; "
            "use a schedule that keeps some signal"
        )
    if sampler not in ("mean", "ddpm", "ddim"):
        raise ConfigError(f"unknown sampler {sampler!r}; choose mean, ddpm or ddim")
    sigma = (1 - schedule.alpha_bar).sqrt()
    fresh = torch.zeros_like(sigma)
    if sampler == "ddim":
        previous = _previous(schedule)
        keep = (previous / schedule.alpha_bar).sqrt()
        push = (1 - previous).sqrt() - keep * sigma
    else:
        keep = schedule.alpha.rsqrt()
        push = -keep * schedule.beta / sigma
        if sampler == "ddpm":
            fresh = _posterior_variances(schedule).sqrt()
    keep[0], push[0] = 1.0, 0.0
    return Coefficients(keep=keep, push=push, fresh=fresh)


def reverse_step(
    schedule: Schedule,
    x_t: Tensor,
    t: Tensor | int,
    noise_prediction: Tensor,
    *,
    sampler: Sampler = "ddpm",
    noise: Tensor | None = None,
) -> Tensor:
    """x_{t-1} from x_t and the predicted noise, t >= 1.

    Args:
        noise: (B, D) standard normal values for the sampler ddpm; None takes the posterior mean.
    """
    coefficients = reverse_coefficients(schedule, sampler)
    step = _rows(coefficients.keep, t, x_t) * x_t + _rows(coefficients.push, t, x_t) * noise_prediction
    return step if noise is None else step + _rows(coefficients.fresh, t, x_t) * noise
