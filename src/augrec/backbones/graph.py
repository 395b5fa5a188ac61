"""The user-item graph as one CSR matrix, and products with it that know their own backward.

Nodes are users first, then items: U + I of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from augrec.data.interactions import Interactions

Normalisation = Literal["symmetric", "random_walk"]
_BLOCK = 1 << 22
"""Numbers of a table that stay in the cache while rows of it are read in any order (16 MB)."""
_WORTH = 4
"""Entries for each row of a block, on average, from which the time saved in reading exceeds that of one more sum."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A matrix cut by columns, its parts end to end: the first has every row, the others rows `first` and on."""

    first: int
    entries: tuple[int, ...]
    """Of each part."""


def normalised_adjacency(train: Interactions) -> tuple[Tensor, Tensor, Tensor]:
    """D^-1/2 A D^-1/2 of the bipartite train graph as CSR: row starts (U + I + 1,), columns (nnz,), values (nnz,)
    float32.

    Repeated pairs count once; a node without edges has an empty row; there are no self-loops. Symmetric: A = A^T.
    """
    starts, row, column, degree = _edges(train, self_loops=False)
    value = 1.0 / np.sqrt(degree[row].astype(np.float64) * degree[column])
    return _index(starts, starts), _index(column, starts), torch.from_numpy(value.astype(np.float32))


def random_walk_adjacency(train: Interactions) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """D^-1 (A + I) of the bipartite train graph, D the row sums of A + I, as CSR: row starts, columns, values float32,
    and the values of the transpose.

    Every row sums to 1. The matrix is not symmetric but its pattern is, so the transpose has the same starts and
    columns.
    """
    starts, row, column, degree = _edges(train, self_loops=True)
    values = [torch.from_numpy((1.0 / degree[end]).astype(np.float32)) for end in (row, column)]
    return _index(starts, starts), _index(column, starts), values[0], values[1]


def _edges(train: Interactions, *, self_loops: bool) -> tuple[Any, Any, Any, Any]:
    """Row starts, row and column of each entry by row then column, and entries a row."""
    n_users, nodes = train.n_users, train.n_users + train.n_items
    pair = np.unique(train.user.astype(np.int64) * train.n_items + train.item)
    user, item = pair // train.n_items, pair % train.n_items + n_users
    loops = np.arange(nodes if self_loops else 0)
    row, column = np.concatenate([user, item, loops]), np.concatenate([item, user, loops])
    degree = np.bincount(row, minlength=nodes)
    order = np.lexsort((column, row))
    return np.concatenate([[0], np.cumsum(degree)]), row[order], column[order], degree


def _index(values: Any, starts: Any) -> Tensor:
    """32-bit where all entries can be counted so."""
    return torch.from_numpy(values.astype(np.int32 if starts[-1] < 2**31 else np.int64))


def cut_items(
    starts: Tensor, column: Tensor, value: Tensor, *, n_users: int, dim: int
) -> tuple[Tensor, Tensor, Tensor, Cut | None]:
    """The same matrix for `product` with tables (U + I, dim), the items' rows cut into blocks of users that stay in the
    cache; as it was, and no cut, where the users' table is small or blocks would be too empty."""
    width = max(_BLOCK // dim, 1)
    blocks = -(-n_users // width)
    items = len(starts) - 1 - n_users
    if blocks <= 2 or len(column) - int(starts[n_users]) < _WORTH * items * blocks:
        return starts, column, value, None
    row = torch.arange(len(starts) - 1, dtype=column.dtype).repeat_interleave(starts.diff())
    part = torch.where(row < n_users, 0, column // width)
    order = torch.sort(part, stable=True).indices
    entries = torch.bincount(part, minlength=blocks).tolist()
    ends = []
    for block, rows in enumerate(row[order].split(entries)):
        first = n_users if block else 0
        counts = torch.bincount(rows - first, minlength=len(starts) - 1 - first)
        ends += [starts.new_zeros(1), counts.cumsum(0).to(starts.dtype)]
    return torch.cat(ends), column[order], value[order], Cut(first=n_users, entries=tuple(entries))


def product(nodes: Tensor, starts: Tensor, column: Tensor, value: Tensor, cut: Cut | None = None) -> Tensor:
    """A @ nodes, without gradient. `embedding_bag` is the fastest sparse product torch has on a CPU."""
    if cut is not None:
        rows = [len(nodes) + 1] + [len(nodes) - cut.first + 1] * (len(cut.entries) - 1)
        parts = zip(starts.split(rows), column.split(cut.entries), value.split(cut.entries), strict=True)
        out = product(nodes, *next(parts))
        for part in parts:
            out[cut.first :].add_(product(nodes, *part))
        return out
    if nodes.is_cuda:
        size = (len(starts) - 1, nodes.shape[0])
        return torch.sparse_csr_tensor(starts, column, value, size=size) @ nodes
    return F.embedding_bag(column, nodes, starts, mode="sum", per_sample_weights=value, include_last_offset=True)


class MeanOfHops(torch.autograd.Function):
    """Mean of hops 0..L of a symmetric A in Horner form; its backward is itself and nothing is stored."""

    @staticmethod
    def forward(
        ctx: Any, nodes: Tensor, starts: Tensor, column: Tensor, value: Tensor, cut: Cut | None, layers: int
    ) -> Tensor:
        ctx.graph, ctx.layers = (starts, column, value, cut), layers
        return _horner(nodes, ctx.graph, layers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _horner(grads[0], ctx.graph, ctx.layers), None, None, None, None, None


def _horner(nodes: Tensor, graph: tuple[Tensor, Tensor, Tensor, Cut | None], layers: int) -> Tensor:
    nodes = nodes.contiguous()
    out = nodes
    for _ in range(layers):
        out = product(out, *graph).add_(nodes)
    # `out` is fresh memory here; a second table of it would cost more than the division.
    return out.div_(layers + 1) if layers else out


class EveryHop(torch.autograd.Function):
    """The mean of hops 0..L of a symmetric A, then hops 0..L themselves. Backward takes L products too: hop l's
    gradient joins the sum on its way to hop 0.

    Gradients of hops may be sparse (`F.embedding(..., sparse=True)`); then only the rows looked up are touched. What
    costs here is fresh memory of the size of a table, so sums are made in place.
    """

    @staticmethod
    def forward(
        ctx: Any, nodes: Tensor, starts: Tensor, column: Tensor, value: Tensor, cut: Cut | None, layers: int
    ) -> tuple[Tensor, ...]:
        ctx.graph, ctx.layers = (starts, column, value, cut), layers
        ctx.set_materialize_grads(False)
        hops = [nodes.contiguous()]
        for _ in range(layers):
            hops.append(product(hops[-1], *ctx.graph))
        mean = nodes + hops[1] if layers else nodes.clone()
        for hop in hops[2:]:
            mean.add_(hop)
        # Hop 0 as a view, so that its gradient, sparse or not, comes by here and never reaches the parameter bare.
        return (mean.div_(layers + 1), nodes.view_as(nodes), *hops[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        pooled, *own = grads
        total: Tensor | None = None
        for one in reversed(own):
            if total is not None:
                total = product(total, *ctx.graph)
            if pooled is not None:
                share = 1 / (ctx.layers + 1)
                total = pooled * share if total is None else total.add_(pooled, alpha=share)
            if one is not None:
                total = _joined(total, one)
        return total, None, None, None, None, None


def _joined(total: Tensor | None, more: Tensor) -> Tensor:
    """`total`, which is changed, with a gradient added that may be sparse."""
    if not more.is_sparse:
        return more.clone() if total is None else total.add_(more)
    if total is None:
        total = more.new_zeros(more.shape, layout=torch.strided)
    return total.index_add_(0, more._indices()[0], more._values())
