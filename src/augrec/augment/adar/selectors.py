"""Which step of the chain serves as negative: equation 11, Theorem 1 and the fixed rules they are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from augrec.augment.adar.config import AdarConfig, Rounding
from augrec.diffusion.schedules import Schedule
from augrec.errors import UsageError

MAX_EXPONENT = 20.0
"""Bound of k * score: sigmoid(exp(20)) is 1 in float32 long before."""
MIXED_LEVELS = ((2, 0.7), (4, 0.8), (8, 0.9), (10, 1.0))
"""DMNS's synthetic levels: (divisor of T, weight), from the noisiest to the cleanest."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Chosen steps."""

    step: Tensor
    """(M,) int64 in 0..T."""
    real: Tensor | None = None
    """(M,) float32 unrounded step for rounding lerp, where `step` is its floor."""


def eq11_fraction(score: Tensor, *, omega: float, k: float) -> Tensor:
    """t*/T = sigmoid(omega exp(k p_s)) (eq. 11) of scores (M,), float32, in [0.5, 1]."""
    return torch.sigmoid(omega * torch.exp((k * score.float()).clamp(max=MAX_EXPONENT)))


def round_steps(fraction: Tensor, steps: int, *, rounding: Rounding, allow_T: bool) -> Selection:
    """Steps for fractions t*/T (M,). A score that is not a number counts as 1, so that the loss can report it."""
    real = (torch.nan_to_num(fraction, nan=1.0) * steps).clamp(min=0, max=steps if allow_T else steps - 1)
    if rounding == "lerp":
        return Selection(step=real.floor().to(torch.int64), real=real)
    whole = {"floor": torch.floor, "round": torch.round, "ceil": torch.ceil}[rounding](real)
    return Selection(step=whole.to(torch.int64))


def theorem_steps(positive: Tensor, negative: Tensor, alpha_bar: Tensor) -> Tensor:
    """(M,) int64: first t >= 1 at which the noised positive's expected score falls to the negative's (Theorem 1).

    sqrt(alpha_bar_t) mu+ <= mu-, so alpha_bar_t <= (mu- / mu+)^2; T where no step gets there or mu- <= 0; 1 where the
    positive already scores no higher than the negative, or not above 0.

    Args:
        positive: (M,) scores mu+.
        negative: (M,) scores mu-.
        alpha_bar: (T+1,) falling, entry 0 is 1.
    """
    positive, negative = positive.float(), negative.float()
    steps = len(alpha_bar) - 1
    ratio = (negative / positive.clamp(min=1e-30)).clamp(min=0, max=1)
    first = torch.searchsorted(-alpha_bar[1:].float(), -ratio.square()) + 1
    chosen = torch.where(negative <= 0, steps, first.clamp(max=steps))
    return torch.where((positive <= 0) | (negative >= positive), 1, chosen)


class StepSelector(nn.Module):
    """Chooses t* for rows of a batch; keeps running score moments and a histogram of its choices."""

    alpha_bar: Tensor
    score_mean: Tensor
    score_square: Tensor
    score_updates: Tensor
    histogram: Tensor

    def __init__(self, config: AdarConfig, schedule: Schedule) -> None:
        super().__init__()
        self.config, self.steps = config, schedule.steps
        self.register_buffer("alpha_bar", schedule.alpha_bar.float(), persistent=False)
        self.register_buffer("score_mean", torch.zeros(()))
        self.register_buffer("score_square", torch.zeros(()))
        self.register_buffer("score_updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("histogram", torch.zeros(schedule.steps + 1, dtype=torch.int64))

    @property
    def top(self) -> int:
        """Highest step this selector may choose."""
        return self.steps if self.config.allow_T else self.steps - 1

    @torch.no_grad()
    def forward(
        self,
        query: Tensor,
        positive: Tensor,
        *,
        positive_score: Tensor,
        negative_score: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Selection:
        """Steps for M rows.

        Args:
            query: (M, D).
            positive: (M, D) vectors of the positives.
            positive_score: (M,) p_s, as the model scores.
            negative_score: (M,) score of a sampled negative, for `theorem` without rho.
            generator: source of randomness of `random`.

        Raises:
            UsageError: `theorem` has neither negative scores nor rho.
        """
        config, rows = self.config, len(query)
        if config.selector == "eq11":
            fraction = eq11_fraction(self._score(query, positive, positive_score), omega=config.omega, k=config.k)
            return round_steps(fraction, self.steps, rounding=config.rounding, allow_T=config.allow_T)
        if config.selector == "theorem":
            if config.rho is not None:
                negative_score = config.rho * positive_score
            elif negative_score is None:
                raise UsageError(
                    "adar: selector theorem needs negative scores; use a loss with sampled negatives or set rho"
                )
            chosen = theorem_steps(positive_score, negative_score, self.alpha_bar)
            return Selection(step=chosen.clamp(max=self.top))
        if config.selector == "random":
            source = query.device if generator is None else generator.device
            drawn = torch.randint(0, self.top + 1, (rows,), generator=generator, device=source)
            return Selection(step=drawn.to(query.device))
        if config.selector == "mixed":
            return Selection(step=torch.full((rows,), mixed_levels(self.steps)[0], device=query.device))
        fraction = torch.full((rows,), config.fixed_fraction, device=query.device)
        return round_steps(fraction, self.steps, rounding=config.rounding, allow_T=config.allow_T)

    def record(self, step: Tensor) -> None:
        """Count chosen steps (M,) in the histogram."""
        self.histogram.add_(torch.bincount(step, minlength=self.steps + 1))

    def _score(self, query: Tensor, positive: Tensor, score: Tensor) -> Tensor:
        score = score.float()
        if self.config.score == "cosine":
            return F.cosine_similarity(query.float(), positive.float(), dim=1)
        if self.config.score == "sigmoid":
            return torch.sigmoid(score)
        if self.config.score == "standardised":
            momentum = self.config.score_momentum
            if self.training and len(score) > 0:
                self.score_mean.lerp_(score.mean(), 1 - momentum)
                self.score_square.lerp_(score.square().mean(), 1 - momentum)
                self.score_updates.add_(1)
            seen = (1 - momentum ** self.score_updates.float()).clamp(min=1e-12)
            mean = self.score_mean / seen
            variance = (self.score_square / seen - mean.square()).clamp(min=1e-12)
            return torch.where(self.score_updates > 0, (score - mean) * variance.rsqrt(), score)
        return score


def mixed_levels(steps: int) -> list[int]:
    """Falling steps T/2, T/4, T/8, T/10 of the mixed arm."""
    return [steps // divisor for divisor, _ in MIXED_LEVELS]
