"""Noise schedules: how much signal is left after t steps.

Every function returns a `Schedule` of float64 tensors indexed by the step t = 0..T, where t = 0 is clean
(`alpha_bar[0] == 1`). Coefficients are cast to the working precision only where they are applied: at t = 1 the value
1 - alpha_bar is near 1e-4, of which float32 keeps three digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from augrec.errors import ConfigError

MAX_BETA = 0.999


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """Variance schedule of a Gaussian diffusion with T steps (Ho, Jain and Abbeel 2020)."""

    name: str
    """Name of the schedule, for messages and results."""
    beta: Tensor
    """(T+1,) float64: variance added by step t; `beta[0] = 0`."""
    alpha: Tensor
    """(T+1,) float64: 1 - beta."""
    alpha_bar: Tensor
    """(T+1,) float64: signal left after t steps, the running product of alpha; `alpha_bar[0] = 1`."""

    @property
    def steps(self) -> int:
        """Number of noising steps T."""
        return len(self.beta) - 1

    @property
    def snr(self) -> Tensor:
        """(T+1,) float64: signal-to-noise ratio alpha_bar / (1 - alpha_bar); infinite at t = 0."""
        return self.alpha_bar / (1 - self.alpha_bar)

    @staticmethod
    def from_beta(name: str, beta: Tensor) -> Schedule:
        """Schedule of the step variances beta_1..beta_T, shape (T,), each in [0, 1].

        Raises:
            ConfigError: `beta` is empty, not one-dimensional, or leaves [0, 1].
        """
        if beta.ndim != 1 or len(beta) == 0:
            raise ConfigError(
                f"schedule {name!r}: betas have shape {tuple(beta.shape)}; give one value per step, T >= 1"
            )
        if not bool(((beta >= 0) & (beta <= 1)).all()):
            low, high = beta.min().item(), beta.max().item()
            raise ConfigError(f"schedule {name!r}: betas span [{low:.4g}, {high:.4g}]; each must lie in [0, 1]")
        full = torch.cat([torch.zeros(1, dtype=torch.float64), beta.detach().to(device="cpu", dtype=torch.float64)])
        alpha = 1 - full
        return Schedule(name=name, beta=full, alpha=alpha, alpha_bar=torch.cumprod(alpha, dim=0))


def _check_steps(name: str, steps: int) -> None:
    if steps < 1:
        raise ConfigError(f"schedule {name!r}: steps = {steps}; it must be at least 1")


def _from_signal(name: str, steps: int, signal: Callable[[float], float], max_beta: float) -> Schedule:
    """beta_t = min(1 - signal(t/T) / signal((t-1)/T), max_beta) (Nichol and Dhariwal 2021)."""
    _check_steps(name, steps)
    beta = [min(1 - signal(t / steps) / signal((t - 1) / steps), max_beta) for t in range(1, steps + 1)]
    return Schedule.from_beta(name, torch.tensor(beta, dtype=torch.float64))


def linear(steps: int, *, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """beta evenly spaced from `beta_start` to `beta_end`, whatever T (DDPM's values for T = 1000).

    At T = 50 this leaves alpha_bar_T = 0.603: the last step is far from pure noise.
    """
    _check_steps("linear", steps)
    return Schedule.from_beta("linear", torch.linspace(beta_start, beta_end, steps, dtype=torch.float64))


def scaled_linear(steps: int, *, beta_start: float = 1e-4, beta_end: float = 0.02, max_beta: float = 0.5) -> Schedule:
    """Linear schedule times 1000 / T, so that x_T is close to N(0, I) at any T; capped at `max_beta`.

    Without the cap, T = 20 ends at beta = 1, where 1 / sqrt(alpha) blows up every error of the denoiser.
    """
    _check_steps("scaled_linear", steps)
    factor = 1000.0 / steps
    beta = torch.linspace(beta_start * factor, beta_end * factor, steps, dtype=torch.float64).clamp(max=max_beta)
    return Schedule.from_beta("scaled_linear", beta)


def cosine(steps: int, *, offset: float = 0.008, max_beta: float = MAX_BETA) -> Schedule:
    """alpha_bar_t ~ cos^2((t/T + s) / (1 + s) * pi/2), s = `offset` (Nichol and Dhariwal 2021, eq. 17)."""

    def signal(fraction: float) -> float:
        return math.cos((fraction + offset) / (1 + offset) * math.pi / 2) ** 2

    return _from_signal("cosine", steps, signal, max_beta)


def sigmoid(steps: int, *, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """beta rising along a logistic curve over [-6, 6] from about `beta_start` to about `beta_end`."""
    _check_steps("sigmoid", steps)
    curve = torch.sigmoid(torch.linspace(-6, 6, steps, dtype=torch.float64))
    return Schedule.from_beta("sigmoid", curve * (beta_end - beta_start) + beta_start)


def sqrt(steps: int, *, offset: float = 1e-4, max_beta: float = MAX_BETA) -> Schedule:
    """alpha_bar_t proportional to 1 - sqrt(t/T + s), s = `offset` (Diffusion-LM, Li et al. 2022; used by CaDiRec)."""

    def signal(fraction: float) -> float:
        return 1 - math.sqrt(fraction + offset)

    return _from_signal("sqrt", steps, signal, max_beta)


def linear_var(
    steps: int,
    *,
    scale: float,
    noise_min: float,
    noise_max: float,
    first_beta: float | None = 1e-5,
    max_beta: float = MAX_BETA,
) -> Schedule:
    """1 - alpha_bar_t evenly spaced from scale * noise_min to scale * noise_max (DiffRec, TI-DiffRec).

    `first_beta` then replaces beta_1, as DiffRec does, which moves all levels by about first_beta - scale * noise_min;
    None keeps the even spacing exactly.
    """
    _check_steps("linear_var", steps)
    variance = torch.linspace(scale * noise_min, scale * noise_max, steps, dtype=torch.float64)
    signal = torch.cat([torch.ones(1, dtype=torch.float64), 1 - variance])
    beta = (1 - signal[1:] / signal[:-1]).clamp(max=max_beta)
    beta[0] = variance[0] if first_beta is None else first_beta
    return Schedule.from_beta("linear_var", beta)


def rescale_zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Shift and scale sqrt(alpha_bar) so that x_T holds no signal and x_1 keeps its own (Lin et al. 2023, alg. 1).

    alpha_bar_T is then exactly 0: noise prediction is undefined at T, so reverse steps need an x_0 prediction there.

    Raises:
        ConfigError: T = 1, where the first and the last step are the same.
    """
    if schedule.steps < 2:
        raise ConfigError(f"schedule {schedule.name!r}: a zero-terminal-SNR rescale needs at least 2 steps")
    root = schedule.alpha_bar[1:].sqrt()
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), root.square()])
    return Schedule.from_beta(schedule.name + "+zero_snr", 1 - alpha_bar[1:] / alpha_bar[:-1])
