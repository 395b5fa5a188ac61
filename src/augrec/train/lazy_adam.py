"""Adam on tables of which a step looks few rows up: a row is moved when it is next looked up, to where Adam had it.

Adam moves every row at every step: without a gradient a row's first moment m decays by beta1, its second v by beta2,
and its weights go on by what is left of m. From the last step s that a row holds, k such steps move it by

    lr (m / sqrt(v)) sum_{j=1..k} c(s + j) r^j,  r = beta1 / sqrt(beta2),  c(t) = sqrt(1 - beta2^t) / (1 - beta1^t),

where epsilon is taken as of step s. With F(s), the sum over all j, the sum to k is F(s) - r^k F(s + k), so that k steps
cost what one does.
"""

from __future__ import annotations

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


class LazyAdam(FusedAdam):
    """Adam whose sparse gradients move their own rows, and which brings others up to date when it is told to.

    A caller says `catch_up` before rows are read and before the learning rate changes; then weights are those of Adam
    up to rounding and epsilon. Dense gradients are Adam's as ever. It takes no weight decay.
    """

    _tails = torch.zeros(0, dtype=torch.float64)
    """F of steps 0, 1, ..."""

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
                    self.state[parameter]["last"] += 1
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
        # torch loads a state in the parameter's own type; steps are whole numbers there too.
        last = state["last"] = state["last"].long()
        done = int(state["step"])
        every = torch.arange(len(parameter), device=parameter.device) if rows is None else rows.reshape(-1)
        late = every[last.index_select(0, every) < done]
        if not len(late):
            return
        (beta1, beta2), rate = group["betas"], group["lr"]
        tails = self._until(done, beta1, beta2).to(parameter.device)
        for part in late.split(max(_AT_ONCE // max(parameter[0].numel(), 1), 1)):
            since = last.index_select(0, part)
            missed = (done - since).double()
            ratio = beta1 / beta2**0.5
            way = tails[since] - ratio**missed * tails[done]
            own, mean, square = (t.index_select(0, part) for t in (parameter, state["exp_avg"], state["exp_avg_sq"]))
            epsilon = (group["eps"] * (1 - beta2 ** since.double()).sqrt()).to(own.dtype)[:, None]
            # A row that had no gradient yet has no moments: 0 over something.
            moved = mean / (square.sqrt() + epsilon).clamp_(min=1e-30)
            # Not an operation of the graph: what was saved of rows that were read before stays valid.
            parameter.data.index_copy_(0, part, own.addcmul_(moved, (-rate * way).to(own.dtype)[:, None]))
            state["exp_avg"].index_copy_(0, part, mean.mul_((beta1**missed).to(own.dtype)[:, None]))
            state["exp_avg_sq"].index_copy_(0, part, square.mul_((beta2**missed).to(own.dtype)[:, None]))
            last.index_fill_(0, part, done)

    def _until(self, step: int, beta1: float, beta2: float) -> Tensor:
        """(at least `step` + 1,) float64: F of the steps."""
        if len(self._tails) <= step:
            t = torch.arange(1, 2 * step + 1024 + _TERMS, dtype=torch.float64)
            c = (1 - beta2**t).sqrt() / (1 - beta1**t)
            powers = (beta1 / beta2**0.5) ** torch.arange(1, _TERMS + 1, dtype=torch.float64)
            self._tails = F.conv1d(c[None, None], powers[None, None])[0, 0]
        return self._tails

    def _move_rows(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        if "last" not in state:
            state["last"] = torch.full((len(parameter),), int(state["step"]), device=parameter.device)
        self.catch_up(parameter, gradient.indices()[0])
        tables = (parameter, state["exp_avg"], state["exp_avg_sq"])
        beta1, beta2 = group["betas"]
        for rows, values in parts(gradient):
            own = [table.index_select(0, rows) for table in tables]
            weights, mean, square = ([one] for one in own)
            adam(
                weights, [values], mean, square, [], [state["step"].clone()],
                fused=True, amsgrad=False, beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=0.0,
                eps=group["eps"], maximize=False,
            )  # fmt: skip
            for table, moved in zip(tables, own, strict=True):
                table.index_copy_(0, rows, moved)
        state["step"] += 1
        state["last"].index_fill_(0, gradient.indices()[0], int(state["step"]))


def coalesced(gradient: Tensor) -> Tensor:
    """A sparse gradient that names each row once, its rows in ascending order; itself where it does already."""
    rows = gradient._indices()[0]
    if bool((rows[1:] > rows[:-1]).all()):
        return gradient._coalesced_(True)  # autograd forgets that it is; asking costs less than sorting
    return gradient.coalesce()


def parts(gradient: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Row numbers (n,) and rows (n, D) of a coalesced gradient, as many at a time as stay in the cache with what
    belongs to them."""
    at_once = max(_AT_ONCE // max(gradient.shape[1], 1), 1)
    yield from zip(gradient.indices()[0].split(at_once), gradient.values().split(at_once), strict=True)
