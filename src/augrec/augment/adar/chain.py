"""The reverse chain x_T -> x_{t*} with one target step per row: the naive loop, and two scans that skip unneeded steps.

All three read the same noise (`ChainNoise`), so they agree to rounding. Row r needs only its T - t*_r first steps.

- `run_naive`: T full steps of every row, ADAR's Algorithm 1 as written; the reference.
- `run_prefix`: rows sorted by t*, so that the rows still running at step t are a prefix; work = sum(T - t*). For CPUs.
- `run_masked`: scales and shifts of many steps in one network call, then an elementwise scan in which finished rows
  stand still; a fixed number of kernels. For accelerators.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from augrec.diffusion.denoisers import Denoiser
from augrec.diffusion.process import Coefficients
from augrec.linear import pad_rows

PREFIX_ROWS = 2048
"""Rows a CPU works through at once, so that their state stays in the cache; smaller chunks measured slower."""
BLOCK_ROWS = 4096
"""Rows of several steps whose scales and shifts are made by one network call; bounds the hidden layer."""
MASKED_ELEMENTS = 1 << 24
"""Hidden values (steps x rows x width) made by one network call of the masked scan: 64 MB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ChainNoise:
    """All random values of one call."""

    start: Tensor
    """(M, D): x_T, rows in the caller's order."""
    steps: Tensor | None
    """(sum(T - t*), D): for t = T..1 a block of the rows with t* < t, in stable ascending order of t*; or None."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Which rows run at which step."""

    order: Tensor
    """(M,) row numbers in stable ascending order of t*."""
    running: list[int]
    """T+1 counts: `running[t]` rows have t* < t, the first of `order`."""
    offsets: list[int]
    """T+1 starts: step t's block begins at row `offsets[t]` of `ChainNoise.steps`."""

    @property
    def steps(self) -> int:
        """The step T the chain starts at."""
        return len(self.running) - 1


def plan_chain(t_star: Tensor, steps: int) -> Plan:
    """Plan for target steps t_star (M,) int64 in 0..T; reads t_star once on the host."""
    counts = torch.bincount(t_star, minlength=steps + 1).tolist()
    running = [0] * (steps + 1)
    for t in range(1, steps + 1):
        running[t] = running[t - 1] + int(counts[t - 1])
    offsets = [0] * (steps + 1)
    position = 0
    for t in range(steps, 0, -1):
        offsets[t] = position
        position += running[t]
    return Plan(order=torch.argsort(t_star, stable=True), running=running, offsets=offsets)


def draw_noise(
    plan: Plan, like: Tensor, *, fresh: bool, generator: torch.Generator | None, start: Tensor | None = None
) -> ChainNoise:
    """Draw the start (unless given), then, if `fresh`, all step noise at once, on the generator's device.

    Values take the width, type and device of `like` (M, D).
    """
    source = like.device if generator is None else generator.device

    def normal(rows: int) -> Tensor:
        values = torch.randn(rows, like.shape[1], generator=generator, dtype=like.dtype, device=source)
        return values.to(like.device)

    start = normal(len(like)) if start is None else start
    return ChainNoise(start=start, steps=normal(sum(plan.running)) if fresh else None)


def run_naive(
    denoiser: Denoiser, condition: Tensor, t_star: Tensor, noise: ChainNoise, coefficients: Coefficients, plan: Plan
) -> Tensor:
    """(M, D) states x_{t*}: T full network calls; carries gradient if gradients are enabled.

    A row past its t* keeps running without added noise, since nothing reads it any more.
    """
    keep, push, fresh = coefficients.keep.tolist(), coefficients.push.tolist(), coefficients.fresh.tolist()
    steps = plan.steps
    x = noise.start
    found = torch.where((t_star == steps).unsqueeze(1), x, torch.zeros_like(x))
    for t in range(steps, 0, -1):
        step = torch.full_like(t_star, t)
        x = keep[t] * x + push[t] * denoiser(x, step, condition)
        if noise.steps is not None:
            x = x + fresh[t] * _scattered(noise.steps, plan, t, x)
        found = torch.where((t_star == t - 1).unsqueeze(1), x, found)
    return found


def _scattered(packed: Tensor, plan: Plan, t: int, like: Tensor) -> Tensor:
    """Step t's noise as (M, D) with zeros where the chain has ended."""
    rows = plan.running[t]
    block = packed[plan.offsets[t] : plan.offsets[t] + rows]
    return torch.zeros_like(like).index_copy(0, plan.order[:rows], block)


@torch.no_grad()
def run_prefix(
    denoiser: Denoiser,
    condition: Tensor,
    noise: ChainNoise,
    coefficients: Coefficients,
    plan: Plan,
    *,
    chunk_rows: int = PREFIX_ROWS,
    block_rows: int = BLOCK_ROWS,
) -> Tensor:
    """(M, D) states x_{t*} by sorted prefixes, in chunks of rows small enough for the cache."""
    keep, push, fresh = coefficients.keep.tolist(), coefficients.push.tolist(), coefficients.fresh.tolist()
    moving = plan.running[plan.steps]
    if moving == 0:
        return noise.start.clone()
    order = plan.order[:moving]
    # x_t = grown[t] y_t, so that a step only adds to y: grown_{t-1} y_{t-1} = keep grown_t y_t + push prediction.
    grown = [1.0] * (plan.steps + 1)
    for t in range(plan.steps, 0, -1):
        grown[t - 1] = keep[t] * grown[t]
    x = noise.start.index_select(0, order)
    sorted_condition = condition.index_select(0, order)
    time = denoiser.hidden_time()
    for low in range(0, moving, chunk_rows):
        high = min(low + chunk_rows, moving)
        # How many rows still run is another number in every step of every batch; products are done at few sizes.
        hidden = denoiser.hidden_condition(pad_rows(sorted_condition[low:high]))
        for steps, counts in _blocks([min(rows, high) - low for rows in plan.running], block_rows):
            scales, shifts, factors = denoiser.film_steps(hidden, time, steps, counts)
            for t, scale, shift, factor in zip(steps, scales.split(counts), shifts.split(counts), factors, strict=True):
                state = x[low : low + len(scale)]
                state.addcmul_(scale, state, value=factor * push[t] / keep[t]).add_(shift, alpha=push[t] / grown[t - 1])
                if noise.steps is not None:
                    first = plan.offsets[t] + low
                    state.add_(noise.steps[first : first + len(scale)], alpha=fresh[t] / grown[t - 1])
    ends = torch.tensor(plan.running).diff()  # rows that end at steps 0..T-1
    x.mul_(x.new_tensor(grown[:-1]).repeat_interleave(ends.to(x.device)).unsqueeze(1))
    return noise.start.index_copy(0, order, x)


def _blocks(running: list[int], most: int) -> Iterator[tuple[list[int], list[int]]]:
    """The steps T..1 that have rows to run, and how many, in blocks of at most `most` rows or of one step."""
    steps: list[int] = []
    counts: list[int] = []
    for t in range(len(running) - 1, 0, -1):
        rows = running[t]
        if steps and (rows <= 0 or sum(counts) + rows > most):
            yield steps, counts
            steps, counts = [], []
        if rows <= 0:
            return
        steps.append(t)
        counts.append(rows)
    if steps:
        yield steps, counts


@torch.no_grad()
def run_masked(
    denoiser: Denoiser,
    condition: Tensor,
    t_star: Tensor,
    noise: ChainNoise,
    coefficients: Coefficients,
    plan: Plan,
    *,
    elements: int = MASKED_ELEMENTS,
) -> Tensor:
    """(M, D) states x_{t*}: batched network calls over steps, then a scan with where-masks down to the lowest t*."""
    keep, push, fresh = coefficients.keep.tolist(), coefficients.push.tolist(), coefficients.fresh.tolist()
    x = noise.start
    lowest = next((t for t in range(1, plan.steps + 1) if plan.running[t]), plan.steps + 1)
    if lowest > plan.steps:
        return x.clone()
    hidden = denoiser.hidden_condition(condition)
    time = denoiser.hidden_time()
    block = max(1, elements // max(1, hidden.numel()))
    for high in range(plan.steps, lowest - 1, -block):
        low = max(lowest, high - block + 1)
        steps = torch.arange(low, high + 1, device=x.device).unsqueeze(1)
        scale, shift = denoiser.film(hidden + time[low : high + 1].unsqueeze(1), steps)
        for t in range(high, low - 1, -1):
            predicted = torch.addcmul(shift[t - low], scale[t - low], x)
            moved = keep[t] * x + push[t] * predicted
            if noise.steps is not None:
                moved = moved + fresh[t] * _scattered(noise.steps, plan, t, x)
            x = torch.where((t_star < t).unsqueeze(1), moved, x)
    return x
