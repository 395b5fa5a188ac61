"""Adam on tables of which a step looks few rows up: a row is moved when it is next looked up, to where Adam had it.

Adam moves every row at every step: without a gradient a row's first moment m decays by beta1, its second v by beta2,
and its weights go on by what is left of m. From the last step s that a row holds, k such steps move it by

    lr (m / sqrt(v)) sum_{j=1..k} c(s + j) r^j,  r = beta1 / sqrt(beta2),  c(t) = sqrt(1 - beta2^t) / (1 - beta1^t),

where epsilon is taken as of step s. With F(s), the sum over all j, the sum to k is F(s) - r^k F(s + k), so that k steps
cost what one does. Reading a row moves its weights alone; its moments decay when it has a gradient again. Weights of
step t whose moments are of step s still have r^(t - s) F(t) to go, in place of F(s).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from torch.optim.adam import adam

from augrec.train.fused_adam import FusedAdam

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_AT_ONCE = 1 << 17
"""Numbers of a table that are moved together: with gradient and moments they stay in the cache (2 MB), which took the
step on 180,000 of 6 million rows of 64 from 44 ms to 24."""
_TERMS = 400
"""Of the sum: r^400 is 6e-19 at Adam's own betas."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Powers:
    """By number of steps, float64: looked up a row at a time, where powers would have to be taken."""

    tails: Tensor
    """F of steps 0, 1, ..."""
    ratio: Tensor
    """r^k."""
    mean: Tensor
    """beta1^k."""
    square: Tensor
    """beta2^k."""

    @staticmethod
    def until(steps: int, betas: tuple[float, float], device: torch.device) -> _Powers:
        beta1, beta2 = betas
        t = torch.arange(1, steps + _TERMS, dtype=torch.float64)
        c = (1 - beta2**t).sqrt() / (1 - beta1**t)
        k = torch.arange(steps, dtype=torch.float64)
        ratio = beta1 / beta2**0.5
        tails = F.conv1d(c[None, None], (ratio ** torch.arange(1, _TERMS + 1, dtype=torch.float64))[None, None])[0, 0]
        tables = (one.to(device) for one in (tails, ratio**k, beta1**k, beta2**k))
        return _Powers(**dict(zip(("tails", "ratio", "mean", "square"), tables, strict=True)))


class LazyAdam(FusedAdam):
    """Adam whose sparse gradients move their own rows, and which brings others up to date when it is told to.

    A caller says `catch_up` before rows are read and before the learning rate changes; then weights are those of Adam
    up to rounding and epsilon. Dense gradients are Adam's as ever. It takes no weight decay.
    """

    _powers: _Powers | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update. Sparse gradients are coalesced (`coalesced`)."""
        sparse = []
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is not None and gradient.is_sparse:
                    self._move_rows(parameter, gradient, group)
                    sparse.append((parameter, gradient))
                    parameter.grad = None
                elif gradient is not None and "last" in self.state[parameter]:
                    self.catch_up(parameter)
                    for mark in _marks(self.state[parameter]):
                        mark.add_(1)
        found = super().step(closure)
        for parameter, gradient in sparse:
            parameter.grad = gradient
        return found

    @torch.no_grad()
    def catch_up(self, parameter: Tensor, rows: Tensor | None = None) -> None:
        """Moves rows (any shape, repeats allowed; all by default) by the steps that they have missed."""
        state = self.state.get(parameter, {})
        if "last" not in state:
            return
        group = next(one for one in self.param_groups if any(p is parameter for p in one["params"]))
        done, last, marked = int(state["step"]), *_marks(state)
        if rows is None:
            late = (last < done).nonzero()[:, 0]
        else:
            # In ascending order, each once: so they are written in half the time.
            rows = rows.reshape(-1)
            late = torch.unique(rows[last.index_select(0, rows) < done])
            if not len(late):
                return
        powers = self._until(done, group["betas"], parameter.device)
        since, of = last.index_select(0, late), marked.index_select(0, late)
        rest = powers.ratio.take(done - of) * powers.tails[done]
        way = powers.ratio.take(since - of) * powers.tails.take(since) - rest
        scale = (-group["lr"] * way).to(parameter.dtype)[:, None]
        epsilon = (group["eps"] * (1 - powers.square.take(of)).sqrt_()).to(parameter.dtype)[:, None]
        for part, by, small in _split(parameter, late, scale, epsilon):
            own, mean, square = (t.index_select(0, part) for t in (parameter, state["exp_avg"], state["exp_avg_sq"]))
            # A row that had no gradient yet has no moments: 0 over something.
            moved = mean.div_(square.sqrt_().add_(small).clamp_(min=1e-30))
            # Not an operation of the graph: what was saved of rows that were read before stays valid.
            parameter.data.index_copy_(0, part, own.addcmul_(moved, by))
        last.index_fill_(0, late, done)
        if rows is None:
            for name, factor in (("exp_avg", powers.mean), ("exp_avg_sq", powers.square)):
                state[name].mul_(factor.take(done - marked).to(parameter.dtype)[:, None])
            marked.fill_(done)

    def _until(self, step: int, betas: tuple[float, float], device: torch.device) -> _Powers:
        """Sums and powers for steps up to `step`."""
        if self._powers is None or len(self._powers.tails) <= step:
            self._powers = _Powers.until(2 * step + 1024, betas, device)
        return self._powers

    def _move_rows(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        done = int(state["step"])
        if "last" not in state:
            state["last"] = torch.full((len(parameter),), done, device=parameter.device)
        self.catch_up(parameter, gradient.indices()[0])
        last, marked = _marks(state)
        tables = (parameter, state["exp_avg"], state["exp_avg_sq"])
        beta1, beta2 = group["betas"]
        powers = self._until(done, group["betas"], parameter.device)
        missed = done - marked.index_select(0, gradient.indices()[0])
        decays = [power.take(missed).to(parameter.dtype)[:, None] for power in (powers.mean, powers.square)]
        for rows, values, *decay in _split(parameter, gradient.indices()[0], gradient.values(), *decays):
            own = [table.index_select(0, rows) for table in tables]
            for moment, factor in zip(own[1:], decay, strict=True):
                moment.mul_(factor)
            adam(
                own[:1], [values], own[1:2], own[2:], [], [state["step"].clone()],
                fused=True, amsgrad=False, beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=0.0,
                eps=group["eps"], maximize=False,
            )  # fmt: skip
            for table, moved in zip(tables, own, strict=True):
                table.index_copy_(0, rows, moved)
        state["step"] += 1
        for mark in (last, marked):
            mark.index_fill_(0, gradient.indices()[0], done + 1)


def _marks(state: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(rows,) int64 each: the step that a row's weights are of, and the step that its moments are of."""
    for name in ("last", "moments"):
        # torch loads a state in the parameter's own type; steps are whole numbers there too. Moments without a mark of
        # their own are as old as the weights.
        state[name] = state[name].long() if name in state else state["last"].clone()
    return state["last"], state["moments"]


def coalesced(gradient: Tensor) -> Tensor:
    """A sparse gradient that names each row once, its rows in ascending order; itself where it does already."""
    rows = gradient._indices()[0]
    if bool((rows[1:] > rows[:-1]).all()):
        return gradient._coalesced_(True)  # autograd forgets that it is; asking costs less than sorting
    return gradient.coalesce()


def parts(gradient: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Row numbers (n,) and rows (n, D) of a coalesced gradient, as many at a time as stay in the cache with what
    belongs to them."""
    return _split(gradient, gradient.indices()[0], gradient.values())


def _split(table: Tensor, *rowwise: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of tensors with as many rows each, by what stays in the cache of rows of the table."""
    at_once = max(_AT_ONCE * len(table) // max(table.numel(), 1), 1)
    return zip(*(one.split(at_once) for one in rowwise), strict=True)
