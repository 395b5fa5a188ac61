"""ADAR on tensors: one module for the method and for every arm it is compared with.

In any training loop, with M rows of query and positive vectors that carry gradient:

    loss = adar.diffusion_loss(positive, query)             # its own optimiser; reaches the denoiser only
    made = adar.augment(query, positive, positive_score=s_i, negative_score=s_j)
    ranking = softplus(s_j + made.weight * (query * made.vectors).sum(1) - s_i).mean()      # eq. 12
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from augrec.augment.adar.config import AdarConfig, Kind
from augrec.augment.adar.generator import DiffusionGenerator
from augrec.augment.adar.selectors import MIXED_LEVELS, Selection, StepSelector, mixed_levels
from augrec.diffusion import schedules
from augrec.diffusion.denoisers import Denoiser, DMNSDenoiser, FiLMDenoiser
from augrec.diffusion.schedules import Schedule
from augrec.errors import UsageError


@dataclass(frozen=True, kw_only=True, eq=False)
class Generated:
    """What an arm adds to M rows."""

    vectors: Tensor | None
    """(M, D) generated negatives e_d, detached; None for off and ridge."""
    t_star: Tensor | None
    """(M,) int64 steps they were taken at; None where there is no step."""
    weight: float
    """Lambda of eq. 12."""
    penalty: Tensor | None = None
    """(M,) term to add to each row's loss, with gradient: ridge only, lambda already in it."""


@dataclass(frozen=True, kw_only=True)
class StepStatistics:
    """Choices of t* since the last reset."""

    histogram: tuple[int, ...]
    """T+1 counts of t* = 0..T."""
    rows: int
    mean: float
    """Mean t*/T; 0 without rows."""
    saturated: float
    """Share of rows at T - 1 or T, where at most one learned step was used."""


def build_schedule(config: AdarConfig, kind: Kind) -> Schedule:
    """The configured noise schedule on a backbone of this kind."""
    steps, start, end = config.resolve_steps(kind), config.beta_start, config.beta_end
    if config.schedule == "cosine":
        return schedules.cosine(steps)
    if config.schedule == "sigmoid":
        return schedules.sigmoid(steps, beta_start=start, beta_end=end)
    if config.schedule == "scaled_linear":
        return schedules.scaled_linear(steps, beta_start=start, beta_end=end)
    return schedules.linear(steps, beta_start=start, beta_end=end)


def build_denoiser(
    config: AdarConfig, schedule: Schedule, width: int, generator: torch.Generator | None = None
) -> Denoiser:
    """The configured denoiser for vectors of this width."""
    if config.arch == "dmns":
        return DMNSDenoiser(width, schedule.steps, generator=generator)
    base = (1 - schedule.alpha_bar).rsqrt()
    base[0] = 0.0
    return FiLMDenoiser(width, base, hidden=config.hidden, generator=generator)


class Adar(nn.Module):
    """ADAR, or one of its control arms, for vectors of one width."""

    spread: Tensor
    spread_updates: Tensor

    def __init__(
        self, config: AdarConfig, *, width: int, kind: Kind = "pairs", generator: torch.Generator | None = None
    ) -> None:
        """
        Args:
            config: settings.
            width: D of query and item vectors (the pooled width, where a backbone concatenates layers).
            kind: decides T where the settings leave it open.
            generator: source of the denoiser's start; None is torch's own.
        """
        super().__init__()
        self.config, self.width = config, width
        schedule = build_schedule(config, kind)
        self.schedule = schedule
        denoiser = build_denoiser(config, schedule, width, generator)
        self.generator = DiffusionGenerator(
            schedule,
            denoiser,
            sampler=config.sampler,
            recon=config.recon,
            recon_clip=config.recon_clip,
            scale=config.scale,
            scale_momentum=config.scale_momentum,
        )
        if not self.trains:
            for parameter in self.parameters():
                parameter.requires_grad_(False)
        self.selector = StepSelector(config, schedule)
        self.register_buffer("spread", torch.zeros(()))
        self.register_buffer("spread_updates", torch.zeros((), dtype=torch.int64))

    @property
    def trains(self) -> bool:
        """Whether this arm has a network to train with `diffusion_loss`."""
        return self.config.source == "diffusion"

    def diffusion_loss(self, positive: Tensor, query: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """() eq. 8 for positives (M, D) under queries (M, D), both detached inside.

        Raises:
            UsageError: this arm trains nothing, or shapes do not fit.
        """
        if not self.trains:
            raise UsageError(f"adar: source {self.config.source!r} has no network to train; check `trains` first")
        return self.generator.diffusion_loss(positive, query, generator=generator)

    def augment(
        self,
        query: Tensor,
        positive: Tensor,
        *,
        positive_score: Tensor,
        negative_score: Tensor | None = None,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Generated:
        """Generated negatives for M rows, without gradient (the ridge arm: a penalty with gradient).

        Args:
            query: (M, D) query vectors e_u.
            positive: (M, D) vectors e_i of the positives.
            positive_score: (M,) scores s_i.
            negative_score: (M,) scores s_j of a sampled negative: needed by ridge, and by theorem without rho.
            context: (M, D) mean vector of each row's user's positives for the analytic arm; None takes the query, which
                in propagating backbones is such a mean.
            generator: source of randomness; None is torch's own. Draws the steps (random), then the noise.

        Raises:
            UsageError: shapes do not fit, or negative scores are missing.
        """
        weight, source = self.config.weight, self.config.source
        if source == "off":
            return Generated(vectors=None, t_star=None, weight=0.0)
        self._check(query, positive, positive_score)
        if self.training and not self.trains:
            self.generator.update_scale(positive.detach())
        if source == "ridge":
            return Generated(
                vectors=None,
                t_star=None,
                weight=weight,
                penalty=self._ridge(query, positive_score, negative_score),
            )
        with torch.no_grad():
            if source == "gaussian":
                steps = torch.full((len(query),), self.schedule.steps, device=query.device)
                vectors = self._normal(query, generator) * self.generator.rms()
            else:
                selection: Selection = self.selector(
                    query,
                    positive,
                    positive_score=positive_score,
                    negative_score=negative_score,
                    generator=generator,
                )
                steps = selection.step
                vectors = self._vectors(selection, query, positive, context, generator)
            self.selector.record(steps)
        return Generated(vectors=vectors.to(query.dtype), t_star=steps, weight=weight)

    def statistics(self, *, reset: bool = False) -> StepStatistics:
        """Histogram, mean and saturation of t* since the last reset; reads the counters once on the host."""
        histogram = tuple(int(count) for count in self.selector.histogram.tolist())
        if reset:
            self.selector.histogram.zero_()
        steps, rows = self.schedule.steps, sum(histogram)
        mean = sum(t * count for t, count in enumerate(histogram)) / (steps * rows) if rows else 0.0
        saturated = sum(histogram[max(0, steps - 1) :]) / rows if rows else 0.0
        return StepStatistics(histogram=histogram, rows=rows, mean=mean, saturated=saturated)

    def _vectors(
        self,
        selection: Selection,
        query: Tensor,
        positive: Tensor,
        context: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        mixed = self.config.selector == "mixed"
        if self.config.source == "diffusion":
            if mixed:
                levels = mixed_levels(self.schedule.steps)
                return _weighted(self.generator.generate_levels(query, levels, generator=generator))
            if selection.real is not None:
                return self.generator.generate_between(query, selection.real, generator=generator)
            return self.generator.generate(query, selection.step, generator=generator)
        noise = self._normal(query, generator)
        if not mixed:
            return self._marginal(selection.step, query, positive, context, noise)
        levels = mixed_levels(self.schedule.steps)
        fixed = [torch.full_like(selection.step, level) for level in levels]
        return _weighted([self._marginal(step, query, positive, context, noise) for step in fixed])

    def _marginal(self, step: Tensor, query: Tensor, positive: Tensor, context: Tensor | None, noise: Tensor) -> Tensor:
        """Forward marginal at `step`: of the positive itself, or of N(m(u), s^2) around the user's mean (analytic)."""
        rms = self.generator.rms()
        signal, sigma = self.generator.signal[step].unsqueeze(1), self.generator.sigma[step].unsqueeze(1)
        positive = positive.detach().float()
        if self.config.source == "forward":
            return signal * positive + sigma * rms * noise
        centre = (query if context is None else context).detach().float()
        self._update_spread(positive - centre)
        seen = (1 - self.config.scale_momentum ** self.spread_updates.float()).clamp(min=1e-12)
        variance = signal.square() * (self.spread / seen) + (sigma * rms).square()
        return signal * centre + variance.sqrt() * noise

    def _update_spread(self, deviation: Tensor) -> None:
        if self.training and deviation.numel() > 0:
            self.spread.lerp_(deviation.square().mean(), 1 - self.config.scale_momentum)
            self.spread_updates.add_(1)

    def _ridge(self, query: Tensor, positive_score: Tensor, negative_score: Tensor | None) -> Tensor:
        """0.5 (lambda s |e_u|)^2 sigma(m) sigma(-m): E softplus(-m + lambda e_u.e_d) for N(0, s^2 I), to second
        order."""
        if negative_score is None:
            raise UsageError("adar: source ridge needs negative scores; use a pairwise loss with sampled negatives")
        margin = positive_score - negative_score
        strength = 0.5 * (self.config.weight * self.generator.rms()) ** 2
        return strength * query.square().sum(1) * torch.sigmoid(margin) * torch.sigmoid(-margin)

    def _normal(self, query: Tensor, generator: torch.Generator | None) -> Tensor:
        source = query.device if generator is None else generator.device
        return torch.randn(query.shape, generator=generator, device=source).to(query.device)

    def _check(self, query: Tensor, positive: Tensor, positive_score: Tensor) -> None:
        rows = len(query)
        if query.shape != (rows, self.width) or positive.shape != query.shape or positive_score.shape != (rows,):
            raise UsageError(
                f"adar: query {tuple(query.shape)}, positive {tuple(positive.shape)} and positive_score "
                f"{tuple(positive_score.shape)}; expected (M, {self.width}), (M, {self.width}) and (M,)"
            )


def _weighted(states: list[Tensor]) -> Tensor:
    """Average of the mixed arm's states with DMNS's weights."""
    weights = [weight for _, weight in MIXED_LEVELS]
    total = torch.zeros_like(states[0])
    for state, weight in zip(states, weights, strict=True):
        total.add_(state, alpha=weight / sum(weights))
    return total
