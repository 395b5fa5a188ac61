"""Adam that leaves rows without a gradient alone: for tables of which a batch touches few rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

TABLE = 1024
"""A parameter of two dimensions and more rows is a table."""


class SparseAdam(torch.optim.Adam):
    """`torch.optim.SparseAdam`'s rule (Adam's moments and weights change only where the gradient is; bias correction
    counts all steps) for dense gradients: a step reads a table's gradient once and then works on the rows it is in.
    Other parameters are moved by Adam.

    Adam itself also moves the rows that a batch does not touch, by their old momentum, so the two train differently.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step."""
        held: list[tuple[dict[str, Any], nn.Parameter, Tensor]] = []
        for group in self.param_groups:
            for one in group["params"]:
                if one.grad is not None and one.dim() == 2 and len(one) > TABLE:
                    held.append((group, one, one.grad))
                    one.grad = None  # Adam passes it by
        found = super().step(closure)
        for group, one, gradient in held:
            one.grad = gradient
            self._move(group, one, gradient)
        return found

    def _move(self, group: dict[str, Any], table: nn.Parameter, gradient: Tensor) -> None:
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        state["step"] += 1
        count, (first, second) = state["step"].item(), group["betas"]
        rows = torch.linalg.vector_norm(gradient, ord=math.inf, dim=1).nonzero().view(-1)
        new = gradient.index_select(0, rows)
        mean = state["exp_avg"].index_select(0, rows).lerp_(new, 1 - first)
        square = state["exp_avg_sq"].index_select(0, rows).mul_(second).addcmul_(new, new, value=1 - second)
        state["exp_avg"].index_copy_(0, rows, mean)
        state["exp_avg_sq"].index_copy_(0, rows, square)
        length = square.div_(1 - second**count).sqrt_().add_(group["eps"])
        table.index_add_(0, rows, mean.div_(length), alpha=-group["lr"] / (1 - first**count))
