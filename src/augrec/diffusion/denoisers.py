"""Noise-predicting networks that are affine in the state: eps_theta(x_t) = scale(t, c) * x_t + shift(t, c).

The state enters only through this feature-wise modulation (FiLM, Perez et al. 2018; ADAR eq. 7), so a whole reverse
chain is a scan over scales and shifts. The first layer reads [e_t; c] and therefore splits into a part of the step, a
table of T+1 rows, and a part of the condition, computed once per batch: `hidden_time` and `hidden_condition` here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from augrec.errors import ConfigError
from augrec.linear import affine, few_sizes, linear, matmul, own_product, weight_gradient


def sinusoid_table(steps: int, width: int) -> Tensor:
    """(T+1, D) float32 sine and cosine codes of the steps 0..T, base 10000, sine on even and cosine on odd columns."""
    pairs = (width + 1) // 2
    frequency = torch.exp(torch.arange(pairs, dtype=torch.float64) * (-math.log(10000.0) * 2 / width))
    angle = torch.arange(steps + 1, dtype=torch.float64).unsqueeze(1) * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width].float()


class Denoiser(nn.Module, ABC):
    """Base of noise predictors eps_theta = scale * x_t + shift, elementwise; x and condition are both D wide."""

    width: int
    steps: int

    @abstractmethod
    def hidden_condition(self, condition: Tensor) -> Tensor:
        """(B, H): the first layer's share of the condition (B, D)."""

    @abstractmethod
    def hidden_time(self) -> Tensor:
        """(T+1, H): the first layer's share of every step 0..T."""

    @abstractmethod
    def film(self, hidden: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """Scale and shift, each (..., D), from the summed first layer (..., H) at step t (broadcast over ...)."""

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predicted noise (B, D) for states x (B, D) at steps t (B,) under condition (B, D)."""
        # F.embedding, not indexing: the backward of indexing adds rows in an order that varies with threads.
        hidden = self.hidden_condition(condition) + F.embedding(t, self.hidden_time())
        scale, shift = self.film(hidden, t)
        return torch.addcmul(shift, scale, x)

    def film_steps(
        self, hidden: Tensor, time: Tensor, steps: Sequence[int], counts: Sequence[int]
    ) -> tuple[Tensor, Tensor, list[float]]:
        """Scales and shifts of several steps in one call, each (sum(counts), D), one step after the other: of steps[k]
        for the first counts[k] rows of hidden (B, H); time (T+1, H). And a number for each step by which its scales
        are still to be multiplied. Without gradient."""
        layer = torch.cat([hidden[:rows] + time[t] for t, rows in zip(steps, counts, strict=True)])
        t = torch.tensor(steps, device=layer.device)
        return *self.film(layer, t.repeat_interleave(torch.tensor(counts, device=layer.device))), [1.0] * len(steps)


class FiLMDenoiser(Denoiser):
    """gamma and eta as two MLPs with parameters of their own: [e_t; c] -> Linear(2D, h) -> SiLU -> Linear(h, D).

    Both run in one first layer of width 2h. The last layer starts at zero and the scale is read as
    (1 + gamma) * base_scale[t]; with base_scale = 1 / sqrt(1 - alpha_bar_t) the network starts as the exact answer for
    x_0 = 0 (eps = x_t / sqrt(1 - alpha_bar_t)) instead of a wrong one.
    """

    base_scale: Tensor
    time_code: Tensor

    def __init__(
        self,
        width: int,
        base_scale: Tensor,
        *,
        hidden: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """
        Args:
            width: D of states and conditions.
            base_scale: (T+1,) starting scale of every step; entry 0 is unused.
            hidden: h of each of the two MLPs; None is 2 D.
            generator: source of the Xavier-uniform start of the first layer; None is torch's own.

        Raises:
            ConfigError: a width or hidden width below 1.
        """
        super().__init__()
        hidden = 2 * width if hidden is None else hidden
        if width < 1 or hidden < 1:
            raise ConfigError(f"denoiser: width = {width}, hidden = {hidden}; both must be at least 1")
        self.width, self.hidden, self.steps = width, hidden, len(base_scale) - 1
        first = torch.empty(2, hidden, 2 * width)
        for head in first:
            nn.init.xavier_uniform_(head, generator=generator)
        first = first.view(2 * hidden, 2 * width)
        self.time_weight = nn.Parameter(first[:, :width].clone())
        self.condition_weight = nn.Parameter(first[:, width:].clone())
        self.first_bias = nn.Parameter(torch.zeros(2 * hidden))
        self.gamma_weight = nn.Parameter(torch.zeros(hidden, width))
        self.gamma_bias = nn.Parameter(torch.zeros(width))
        self.eta_weight = nn.Parameter(torch.zeros(hidden, width))
        self.eta_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("base_scale", base_scale.detach().float(), persistent=False)
        self.register_buffer("time_code", sinusoid_table(self.steps, width), persistent=False)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """The base class's; on a CPU as one node of autograd, differentiable once."""
        if not own_product(condition, self.condition_weight):
            return super().forward(x, t, condition)
        apply: Any = _PredictNoise.apply
        found: Tensor = apply(
            x, condition, self.hidden_time(), t, self.base_scale, self.condition_weight,
            self.gamma_weight, self.gamma_bias, self.eta_weight, self.eta_bias,
        )  # fmt: skip
        return found

    def hidden_condition(self, condition: Tensor) -> Tensor:
        """(B, 2h)."""
        return linear(condition, self.condition_weight)

    def hidden_time(self) -> Tensor:
        """(T+1, 2h), the bias included."""
        return F.linear(self.time_code, self.time_weight, self.first_bias)

    def film(self, hidden: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """Scale (1 + gamma) * base_scale[t] and shift eta."""
        of_gamma, of_eta = (F.silu(half) for half in hidden.chunk(2, dim=-1))
        base = self.base_scale[t].unsqueeze(-1)
        scale = linear(of_gamma, self.gamma_weight.t(), 1 + self.gamma_bias) * base
        return scale, linear(of_eta, self.eta_weight.t(), self.eta_bias)

    def film_steps(
        self, hidden: Tensor, time: Tensor, steps: Sequence[int], counts: Sequence[int]
    ) -> tuple[Tensor, Tensor, list[float]]:
        """The base class's, with the hidden layers of the two MLPs each in one piece; scales are 1 + gamma."""
        total = sum(counts)
        layer = hidden.new_empty(2, few_sizes(total), self.hidden)
        layer[:, total:].zero_()
        halves, times = hidden.unflatten(1, (2, -1)).transpose(0, 1), time.view(-1, 2, 1, self.hidden)
        for part, t, rows in zip(layer[:, :total].split(list(counts), dim=1), steps, counts, strict=True):
            torch.add(halves[:, :rows], times[t], out=part)
        of_gamma, of_eta = F.silu(layer, inplace=True)
        scale = linear(of_gamma, self.gamma_weight.t(), 1 + self.gamma_bias)[:total]
        shift = linear(of_eta, self.eta_weight.t(), self.eta_bias)[:total]
        return scale, shift, self.base_scale[list(steps)].tolist()


class _PredictNoise(torch.autograd.Function):
    """`FiLMDenoiser.forward`, its gradient written out; the hidden layers of the two MLPs are each in one piece."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, condition: Tensor, time: Tensor, t: Tensor, base_scale: Tensor, first: Tensor,
        gamma_weight: Tensor, gamma_bias: Tensor, eta_weight: Tensor, eta_bias: Tensor,
    ) -> Tensor:  # fmt: skip
        before, after = [], []
        for weight, of_step in zip(first.chunk(2), time.chunk(2, dim=1), strict=True):
            before.append(affine(condition, weight).add_(of_step.index_select(0, t)))
            after.append(F.silu(before[-1]))
        base = base_scale[t].unsqueeze(1)
        scale = affine(after[0], gamma_weight.t(), 1 + gamma_bias).mul_(base)
        ctx.save_for_backward(x, condition, t, base, scale, first, gamma_weight, eta_weight, *before, *after)
        ctx.steps = len(time)
        return torch.addcmul(affine(after[1], eta_weight.t(), eta_bias), scale, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, condition, t, base, scale, first, gamma_weight, eta_weight, *layers = ctx.saved_tensors
        to_x, to_condition = ctx.needs_input_grad[:2]
        to_eta = grads[0]
        to_gamma = (to_eta * x).mul_(base)
        found, to_first, to_time, to_input = [], [], [], []
        ends = ((to_gamma, gamma_weight), (to_eta, eta_weight))
        for (grad, last), weight, before, after in zip(ends, first.chunk(2), layers[:2], layers[2:], strict=True):
            found += [weight_gradient(after, grad), grad.sum(0)]
            hidden = torch.ops.aten.silu_backward(affine(grad, last), before)
            to_first.append(weight_gradient(hidden, condition))
            # On a CPU rows are added in their order, whatever the number of threads.
            to_time.append(hidden.new_zeros(ctx.steps, hidden.shape[1]).index_add_(0, t, hidden))
            if to_condition:
                to_input.append(matmul(hidden, weight))
        return (
            to_eta * scale if to_x else None, sum(to_input) if to_condition else None, torch.cat(to_time, dim=1),
            None, None, torch.cat(to_first), *found,
        )  # fmt: skip


class DMNSDenoiser(Denoiser):
    """The network of DMNS (Nguyen and Fang 2024): time MLP + condition, then two FiLM blocks of one Linear each."""

    time_code: Tensor

    def __init__(self, width: int, steps: int, *, generator: torch.Generator | None = None) -> None:
        """
        Args:
            width: D of states and conditions.
            steps: T.
            generator: source of the Xavier-uniform start; None is torch's own.
        """
        super().__init__()
        if width < 1:
            raise ConfigError(f"denoiser: width = {width}; it must be at least 1")
        self.width, self.steps = width, steps
        self.time_mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList([nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)])
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
        self.register_buffer("time_code", sinusoid_table(steps, width), persistent=False)

    def hidden_condition(self, condition: Tensor) -> Tensor:
        """(B, D): the condition itself; DMNS adds it without a projection."""
        return condition

    def hidden_time(self) -> Tensor:
        """(T+1, D)."""
        table: Tensor = self.time_mlp(self.time_code)
        return table

    def film(self, hidden: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """The two blocks h <- (1 + scale) h + shift composed into one scale and one shift."""
        activated = F.silu(hidden)
        first_scale, first_shift = self.blocks[0](activated).chunk(2, dim=-1)
        second_scale, second_shift = self.blocks[1](activated).chunk(2, dim=-1)
        return (1 + first_scale) * (1 + second_scale), torch.addcmul(second_shift, 1 + second_scale, first_shift)
