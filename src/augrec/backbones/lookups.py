"""Rows of one table looked up in several places, whose gradients are summed together: dense, or touched rows alone."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

_FEW = 1 << 15
"""From so many rows on, torch sorts by radix on all threads, and sums of sorted rows are faster than `index_add_`."""
_UNROLLED = 8
"""Up to so many items a query, adding their terms one by one is faster than a sum, for batches of 512 and more."""


class Lookups:
    """Lookups in one dense table that share a single gradient.

    Every `F.embedding` on a table makes a gradient of the table's size, and autograd adds them up: for a few hundred
    rows of a large catalogue that costs more than the rows. Here each lookup only notes its rows' gradients, and all
    are summed into one table by row number when the last of them is there. Same values up to the order of the sums;
    reproducible on several threads, as `F.embedding` is. Differentiable once.
    """

    def __init__(self, table: Tensor, *, sparse: bool = False, before: Callable[[Tensor], None] | None = None) -> None:
        """`table` (I, D) requires gradient; further lookups hold for this very tensor and the graph made now. `sparse`:
        the gradient holds the touched rows alone, each once (as with `torch.nn.Embedding(sparse=True)`); for a table
        that is a parameter. `before` is told the row numbers of each lookup, and may bring these rows up to date."""
        self.table, self._first, self._rows, self._before = table, 0, table.detach(), before
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._join: Tensor = _apply(_Join, table, self._waiting, sparse)
        self._made: dict[tuple[int, int, bool], tuple[Tensor, Tensor]] = {}

    def part(self, view: Tensor, first: int) -> Self:
        """The same lookups by row numbers of `view`, which is the table from row `first` on."""
        found = copy(self)
        found.table, found._first = view, self._first + first
        return found

    def __call__(self, ids: Tensor) -> Tensor:
        """(..., D) rows of `ids`, any shape. The same tensor of ids, unchanged since, is looked up once."""
        key = (id(ids), self._first, torch.is_grad_enabled())
        if key not in self._made:
            numbers = self._read(ids)
            # `ids` is kept too: while it lives, no other tensor has its id.
            self._made[key] = (ids, _apply(_Rows, self._join, numbers, self._rows, self._waiting))
        return self._made[key][1]

    def products(self, query: Tensor, ids: Tensor, known: Tensor | None = None) -> Tensor:
        """(M, K) inner products of query (M, D) with the rows of `ids` (M, K), one node of the graph; `known` are their
        values where the caller has them already."""
        return _apply(_Products, self._join, query, self._read(ids), self._rows, self._waiting, known)

    def _read(self, ids: Tensor) -> Tensor:
        """The row numbers, when their rows are up to date."""
        numbers = ids + self._first if self._first else ids
        if self._before is not None:
            self._before(numbers)
        return numbers


def sum_rows(rows: Tensor, ids: Tensor, count: int) -> Tensor:
    """(count, D): at each row number the sum of those `rows` (n, D) whose `ids` (n,) name it.

    On a CPU a row's terms are added in their order, whatever the number of threads.
    """
    if rows.device.type != "cpu":
        found: Tensor = torch.ops.aten.embedding_dense_backward(rows, ids, count, -1, False)
        return found
    if ids.shape[0] < _FEW:
        return rows.new_zeros(count, rows.shape[1]).index_add_(0, ids, rows)
    number = torch.bincount(ids, minlength=count)
    return F.embedding_bag(torch.sort(ids, stable=True).indices, rows, number.cumsum(0).sub_(number), mode="sum")


def sum_touched_rows(rows: Tensor, ids: Tensor, count: int) -> Tensor:
    """`sum_rows` as a sparse tensor of the rows that are named, each once, in ascending order."""
    by_row, order = torch.sort(ids, stable=True)
    touched, number = torch.unique_consecutive(by_row, return_counts=True)
    sums = F.embedding_bag(order, rows, number.cumsum(0).sub_(number), mode="sum")
    size = (count, rows.shape[1])
    return torch.sparse_coo_tensor(touched[None], sums, size, is_coalesced=True, check_invariants=False)


def _apply(function: Any, *arguments: Any) -> Tensor:
    found: Tensor = function.apply(*arguments)
    return found


class _Join(torch.autograd.Function):
    """A number that all lookups hang on, so that autograd comes here after every one of them."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, waiting: list[tuple[Tensor, Tensor]], sparse: bool) -> Tensor:
        ctx.rows, ctx.waiting, ctx.sparse = table.shape[0], waiting, sparse
        return table.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        noted = list(ctx.waiting)
        ctx.waiting.clear()
        if not noted:
            return None, None, None
        ids = torch.cat([ids.reshape(-1) for ids, _ in noted])
        rows = torch.cat([grad.reshape(-1, grad.shape[-1]) for _, grad in noted])
        return (sum_touched_rows if ctx.sparse else sum_rows)(rows, ids, ctx.rows), None, None


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


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, join: Tensor, query: Tensor, ids: Tensor, table: Tensor, waiting: list[tuple[Tensor, Tensor]],
        known: Tensor | None,
    ) -> Tensor:  # fmt: skip
        rows = None
        if known is None or not known.numel():  # `embedding_bag`, below, refuses bags of nothing
            # (K, M, D): a query meets one item after the other, and every operation runs over whole (M, D) blocks.
            rows = table.index_select(0, ids.t().reshape(-1)).view(*ids.t().shape, table.shape[1])
            known = torch.linalg.vecdot(rows, query).t()
        ctx.save_for_backward(query, ids, rows)
        ctx.table, ctx.waiting = table, waiting
        return known

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, ids, rows = ctx.saved_tensors
        by_item = grads[0].t().contiguous().unsqueeze(2)  # (K, M, 1)
        ctx.waiting.append((ids.t(), by_item * query))
        if rows is None:
            to_query = F.embedding_bag(ids, ctx.table, mode="sum", per_sample_weights=grads[0].to(ctx.table.dtype))
        elif len(rows) > _UNROLLED or not len(rows):
            to_query = (rows * by_item).sum(0)
        else:
            to_query = rows[0] * by_item[0]
            for of_items, by in zip(rows[1:], by_item[1:], strict=True):
                to_query.addcmul_(of_items, by)
        return grads[0].new_zeros(()), to_query, None, None, None, None
