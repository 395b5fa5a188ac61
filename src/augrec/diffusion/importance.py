"""Which diffusion steps are trained, and what their losses weigh (Nichol and Dhariwal 2021, section 3.3; DiffRec)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from augrec.errors import ConfigError

if TYPE_CHECKING:
    from augrec.diffusion.schedules import Schedule


def snr_difference(schedule: Schedule) -> Tensor:
    """(T+1,) float64 weights of an x_0-predicting loss: SNR(t-1) - SNR(t) for t >= 2, 1 at t = 1, 0 at t = 0.

    The weights of the variational bound without their factor 1/2; SNR(0) is infinite, so the first step, a plain
    reconstruction, weighs 1 (Wang et al., Diffusion Recommender Model, SIGIR 2023, equation 10).
    """
    weight = torch.zeros_like(schedule.alpha_bar)
    weight[1] = 1.0
    weight[2:] = schedule.snr[1:-1] - schedule.snr[2:]
    return weight


class StepSampler(nn.Module):
    """Draws steps 1..T in proportion to the root mean square of their last losses.

    Until every step has `memory` losses the draw is uniform. Then p_t is proportional to sqrt(mean(loss_t^2)), mixed
    with a share `uniform` of the uniform law; dividing a loss by p_t * T keeps its expectation that of a uniform draw.
    The kept losses are float64 buffers, so they are saved with the weights.
    """

    losses: Tensor
    count: Tensor

    def __init__(self, steps: int, *, memory: int = 10, uniform: float = 0.001) -> None:
        """
        Args:
            steps: T.
            memory: losses kept for each step.
            uniform: share of the uniform law in the draw.

        Raises:
            ConfigError: `steps` or `memory` below 1, `uniform` outside (0, 1].
        """
        super().__init__()
        if steps < 1 or memory < 1 or not 0 < uniform <= 1:
            raise ConfigError(
                f"step sampler: steps = {steps}, memory = {memory}, uniform = {uniform}; the first two must be at "
                f"least 1, the last above 0 and at most 1"
            )
        self.steps, self.memory, self.uniform = steps, memory, uniform
        self.register_buffer("losses", torch.zeros(steps, memory, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(steps, dtype=torch.int64))

    @property
    def probabilities(self) -> Tensor:
        """(T,) float64, of the steps 1..T; they sum to 1."""
        even = torch.full((self.steps,), 1.0 / self.steps, dtype=torch.float64, device=self.losses.device)
        if bool((self.count < self.memory).any()):
            return even
        size = self.losses.square().mean(1).sqrt()
        total = size.sum()
        if not bool(total > 0):
            return even
        return (1 - self.uniform) * size / total + self.uniform * even

    def draw(self, rows: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(B,) int64 steps 1..T, and (B,) float64 p_t * T that each row's loss is divided by."""
        chance = self.probabilities
        step = torch.multinomial(chance, rows, replacement=True, generator=generator)
        return step + 1, chance[step] * self.steps

    @torch.no_grad()
    def note(self, step: Tensor, loss: Tensor) -> None:
        """Keeps the losses (B,) of the steps (B,), as if one after the other in batch order."""
        order = torch.argsort(step, stable=True)
        sorted_step = step[order] - 1
        seen = torch.bincount(sorted_step, minlength=self.steps)
        nth = torch.arange(len(order), device=step.device) - (torch.cumsum(seen, 0) - seen)[sorted_step]
        # A ring: only the last `memory` of a step survive, so no place is written twice.
        last = nth >= seen[sorted_step] - self.memory
        where = sorted_step[last]
        place = (self.count[where] + nth[last]) % self.memory
        self.losses.view(-1)[where * self.memory + place] = loss.detach()[order][last].to(self.losses.dtype)
        # The count goes on as the ring's cursor; beyond 2 * memory only its rest matters.
        total = self.count + seen
        self.count.copy_(torch.where(total < self.memory, total, self.memory + total % self.memory))
