"""ADAR's conditional diffusion over item vectors: its loss (eq. 8) and its reverse chain (eq. 9 and 10).

Functions of (M, D) tensors: rows may be the pairs of a batch or the valid positions of packed sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from augrec.augment.adar.chain import ChainNoise, Plan, draw_noise, plan_chain, run_masked, run_naive, run_prefix
from augrec.diffusion.denoisers import Denoiser
from augrec.diffusion.process import Sampler, reverse_coefficients
from augrec.diffusion.schedules import Schedule
from augrec.errors import ConfigError, UsageError

Recon = Literal["one_step", "chain", "none"]
Scale = Literal["none", "rms"]
Method = Literal["auto", "prefix", "masked", "naive"]
COEFFICIENTS = ("keep", "push", "fresh")


class DiffusionGenerator(nn.Module):
    """A schedule, a denoiser and a sampler, with the running scale of the vectors they work on."""

    signal: Tensor
    sigma: Tensor
    loss_weight: Tensor
    mean_square: Tensor
    scale_updates: Tensor

    def __init__(
        self,
        schedule: Schedule,
        denoiser: Denoiser,
        *,
        sampler: Sampler = "mean",
        recon: Recon = "one_step",
        recon_clip: float | None = 5.0,
        scale: Scale = "none",
        scale_momentum: float = 0.99,
    ) -> None:
        """
        Args:
            schedule: noise schedule with the denoiser's number of steps.
            denoiser: affine noise predictor.
            sampler: reverse step.
            recon: second term of eq. 8. one_step: the x_0 implied by the predicted noise, so that the sum is the first
                term times 1 + 1/SNR; chain: x_0 from a full reverse chain with gradient; none: left out.
            recon_clip: upper bound of 1/SNR in one_step, which reaches 1e5 and more on schedules that end in noise.
            scale: rms divides all vectors by the running root mean square of item coordinates, so that N(0, I) has the
                items' own norm, and multiplies what it generates by it.
            scale_momentum: momentum of that running mean square.

        Raises:
            ConfigError: schedule and denoiser disagree on T, or the schedule cannot be reversed.
        """
        super().__init__()
        if schedule.steps != denoiser.steps:
            raise ConfigError(f"schedule has {schedule.steps} steps, the denoiser {denoiser.steps}; give both the same")
        self.denoiser = denoiser
        self.steps, self.width = schedule.steps, denoiser.width
        self.sampler: Sampler = sampler
        self.recon, self.scale, self.scale_momentum = recon, scale, scale_momentum
        self.coefficients = reverse_coefficients(schedule, sampler)
        inverse_snr = (1 - schedule.alpha_bar) / schedule.alpha_bar
        weight = torch.ones_like(inverse_snr)
        if recon == "one_step":
            weight = 1 + (inverse_snr if recon_clip is None else inverse_snr.clamp(max=recon_clip))
        self.register_buffer("signal", schedule.alpha_bar.sqrt().float(), persistent=False)
        self.register_buffer("sigma", (1 - schedule.alpha_bar).sqrt().float(), persistent=False)
        self.register_buffer("loss_weight", weight.float(), persistent=False)
        self.register_buffer("mean_square", torch.zeros(()))
        self.register_buffer("scale_updates", torch.zeros((), dtype=torch.int64))

    def rms(self) -> Tensor:
        """() running root mean square of item coordinates, bias-corrected; 1 for scale none or before any update."""
        if self.scale == "none":
            return torch.ones_like(self.mean_square)
        seen = 1 - self.scale_momentum ** self.scale_updates.to(self.mean_square)
        value = (self.mean_square / seen).sqrt().clamp(min=1e-12)
        return torch.where(self.scale_updates > 0, value, torch.ones_like(value))

    @torch.no_grad()
    def update_scale(self, x0: Tensor) -> None:
        """Take item vectors x0 (M, D) into the running mean square; without effect for scale none and for no rows."""
        if self.scale == "rms" and x0.numel() > 0:
            self.mean_square.lerp_(x0.to(self.mean_square).square().mean(), 1 - self.scale_momentum)
            self.scale_updates.add_(1)

    def diffusion_loss(self, x0: Tensor, condition: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """() eq. 8 averaged over rows and coordinates, with one uniform step in 1..T per row.

        Both inputs are detached: the gradient reaches the denoiser only. Draws the steps, then the noise.

        Args:
            x0: (M, D) vectors of the positives.
            condition: (M, D) query vectors.
            generator: source of randomness; None is torch's own.

        Raises:
            UsageError: shapes differ from (M, D) with the denoiser's D.
        """
        self._check(x0, condition)
        x0, condition = self._inputs(x0), self._inputs(condition)
        if self.training:
            self.update_scale(x0)
        if len(x0) == 0:
            return sum((p.sum() * 0 for p in self.denoiser.parameters()), x0.new_zeros(()))
        source = x0.device if generator is None else generator.device
        t = torch.randint(1, self.steps + 1, (len(x0),), generator=generator, device=source).to(x0.device)
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=source).to(x0.device)
        with torch.autocast(x0.device.type, enabled=False):
            if self.scale == "rms":
                x0, condition = x0 / self.rms(), condition / self.rms()
            x_t = torch.addcmul(self.signal[t].unsqueeze(1) * x0, self.sigma[t].unsqueeze(1), noise)
            predicted: Tensor = self.denoiser(x_t, t, condition)
            error = (predicted - noise).square().mean(dim=1)
            loss = torch.dot(error, self.loss_weight[t]) / len(error)
            if self.recon == "chain":
                plan = plan_chain(torch.zeros_like(t), self.steps)
                draws = self._draw(plan, condition, generator)
                rebuilt = run_naive(self.denoiser, condition, torch.zeros_like(t), draws, self.coefficients, plan)
                loss = loss + F.mse_loss(rebuilt, x0)
        return loss

    def generate_naive(
        self,
        condition: Tensor,
        t_star: Tensor,
        *,
        generator: torch.Generator | None = None,
        noise: ChainNoise | None = None,
    ) -> Tensor:
        """`generate` by the full T-step chain of eq. 10: the reference for the fast one."""
        return self.generate(condition, t_star, generator=generator, noise=noise, method="naive")

    @torch.no_grad()
    def generate(
        self,
        condition: Tensor,
        t_star: Tensor,
        *,
        generator: torch.Generator | None = None,
        noise: ChainNoise | None = None,
        method: Method = "auto",
    ) -> Tensor:
        """(M, D) states x_{d,t*} of a chain that starts at N(0, I) and runs T - t* steps, without gradient.

        Args:
            condition: (M, D) query vectors.
            t_star: (M,) int64 target steps in 0..T; T returns the start itself.
            generator: source of randomness; None is torch's own. `chain.ChainNoise` fixes the order of draws.
            noise: values to use instead of drawing.
            method: prefix (CPU), masked (accelerators), naive, or auto.

        Raises:
            UsageError: shapes do not fit.
        """
        self._check(condition, condition)
        if t_star.shape != (len(condition),):
            raise UsageError(f"t_star has shape {tuple(t_star.shape)}; expected ({len(condition)},), one step per row")
        with torch.autocast(condition.device.type, enabled=False):
            scaled = self._inputs(condition) / self.rms()
            plan = plan_chain(t_star, self.steps)
            draws = self._draw(plan, scaled, generator) if noise is None else noise
            x = self._run(scaled, t_star, draws, plan, method)
            return (x * self.rms()).to(condition.dtype)

    @torch.no_grad()
    def generate_levels(
        self, condition: Tensor, levels: Sequence[int], *, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """States (M, D) of one chain per row, read at each of the falling steps `levels`."""
        self._check(condition, condition)
        if any(not 0 <= low <= high <= self.steps for high, low in zip([self.steps, *levels], levels, strict=False)):
            raise UsageError(f"levels {list(levels)} must fall within {self.steps}..0")
        states: list[Tensor] = []
        with torch.autocast(condition.device.type, enabled=False):
            scaled, top, start = self._inputs(condition) / self.rms(), self.steps, None
            for level in levels:
                t_star = torch.full((len(condition),), level, dtype=torch.int64, device=condition.device)
                plan = plan_chain(t_star, top)
                draws = self._draw(plan, scaled, generator, start=start)
                start, top = self._run(scaled, t_star, draws, plan, "auto"), level
                states.append((start * self.rms()).to(condition.dtype))
        return states

    @torch.no_grad()
    def generate_between(
        self, condition: Tensor, t_real: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """(M, D) states at real-valued steps t_real (M,) in [0, T]: linear between the two neighbouring steps."""
        upper = t_real.ceil().to(torch.int64)
        above = self.generate(condition, upper, generator=generator)
        with torch.autocast(condition.device.type, enabled=False):
            x, scaled = self._inputs(above) / self.rms(), self._inputs(condition) / self.rms()
            keep, push, fresh = (getattr(self.coefficients, name).to(x)[upper].unsqueeze(1) for name in COEFFICIENTS)
            below = keep * x + push * self.denoiser(x, upper, scaled)
            if self.sampler == "ddpm":
                source = x.device if generator is None else generator.device
                below = below + fresh * torch.randn(x.shape, generator=generator, dtype=x.dtype, device=source).to(x)
            mixed = torch.lerp(x, below, (upper - t_real).to(x).unsqueeze(1))
            return (mixed * self.rms()).to(condition.dtype)

    def _run(self, condition: Tensor, t_star: Tensor, draws: ChainNoise, plan: Plan, method: Method) -> Tensor:
        if method == "naive":
            return run_naive(self.denoiser, condition, t_star, draws, self.coefficients, plan)
        if method == "prefix" or (method == "auto" and condition.device.type == "cpu"):
            return run_prefix(self.denoiser, condition, draws, self.coefficients, plan)
        return run_masked(self.denoiser, condition, t_star, draws, self.coefficients, plan)

    def _draw(
        self, plan: Plan, like: Tensor, generator: torch.Generator | None, *, start: Tensor | None = None
    ) -> ChainNoise:
        return draw_noise(plan, like, fresh=self.sampler == "ddpm", generator=generator, start=start)

    def _inputs(self, vectors: Tensor) -> Tensor:
        """Detached, in the precision of the denoiser."""
        return vectors.detach().to(self.signal.dtype)

    def _check(self, x0: Tensor, condition: Tensor) -> None:
        for name, value in (("x0", x0), ("condition", condition)):
            if value.ndim != 2 or value.shape[1] != self.width or len(value) != len(x0):
                raise UsageError(
                    f"{name} has shape {tuple(value.shape)}; expected ({len(x0)}, {self.width}): "
                    "one row per pair, as wide as the denoiser was built for"
                )
