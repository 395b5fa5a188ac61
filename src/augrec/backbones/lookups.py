"""Rows of one table looked up in several places, whose gradients are laid down together."""

from __future__ import annotations

from copy import copy
from typing import Any, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Lookups:
    """Lookups in one dense table that share a single gradient as large as the table.

    Every `F.embedding` on a table makes a gradient of the table's size, and autograd adds them up: for a few hundred
    rows of a large catalogue that costs more than the rows. Here each lookup only notes its rows' gradients, and all
    are summed into one table by row number when the last of them is there. Same values up to the order of the sums;
    reproducible on several threads, as `F.embedding` is. Differentiable once.
    """

    def __init__(self, table: Tensor) -> None:
        """`table` (I, D) requires gradient; further lookups hold for this very tensor and the graph made now."""
        self.table, self._first, self._rows = table, 0, table.detach()
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._join: Tensor = _apply(_Join, table, self._waiting)

    def part(self, view: Tensor, first: int) -> Self:
        """The same lookups by row numbers of `view`, which is the table from row `first` on."""
        found = copy(self)
        found.table, found._first = view, self._first + first
        return found

    def __call__(self, ids: Tensor) -> Tensor:
        """(..., D) rows of `ids`, any shape."""
        return _apply(_Rows, self._join, ids + self._first if self._first else ids, self._rows, self._waiting)


def _apply(function: Any, *arguments: Any) -> Tensor:
    found: Tensor = function.apply(*arguments)
    return found


class _Join(torch.autograd.Function):
    """A number that all lookups hang on, so that autograd comes here after every one of them."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, waiting: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.rows, ctx.waiting = table.shape[0], waiting
        return table.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        noted = list(ctx.waiting)
        ctx.waiting.clear()
        if not noted:
            return None, None
        ids = torch.cat([ids.reshape(-1) for ids, _ in noted])
        rows = torch.cat([grad.reshape(-1, grad.shape[-1]) for _, grad in noted])
        return torch.ops.aten.embedding_dense_backward(rows, ids, ctx.rows, -1, False), None


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, join: Tensor, ids: Tensor, table: Tensor, waiting: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.waiting = waiting
        return table.index_select(0, ids.reshape(-1)).view(*ids.shape, table.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (ids,) = ctx.saved_tensors
        ctx.waiting.append((ids, grads[0]))
        return grads[0].new_zeros(()), None, None, None
