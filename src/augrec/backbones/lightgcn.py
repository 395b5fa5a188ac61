"""LightGCN (He et al., SIGIR 2020): linear propagation over the user-item graph, hops averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from augrec.backbones.base import PairBackbone, Tables
from augrec.typed import Config

if TYPE_CHECKING:
    from augrec.data.interactions import Interactions


class LightGCNConfig(Config):
    """Settings of LightGCN."""

    dim: int = Field(default=64, ge=1)
    """Width of the vectors."""
    layers: int = Field(default=3, ge=0)
    """Propagation hops L; 0 is matrix factorisation."""
    l2: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    """Weight of the squared norm of the layer-0 rows in a batch."""


def normalised_adjacency(train: Interactions) -> tuple[Tensor, Tensor, Tensor]:
    """D^-1/2 A D^-1/2 of the bipartite train graph as CSR: row starts (U + I + 1,), columns (nnz,), values (nnz,)
    float32.

    Repeated pairs count once; a node without edges has an empty row; there are no self-loops. Symmetric: A = A^T.
    """
    n_users, n_items = train.n_users, train.n_items
    pair = np.unique(train.user.astype(np.int64) * n_items + train.item)
    user, item = pair // n_items, pair % n_items + n_users
    row, column = np.concatenate([user, item]), np.concatenate([item, user])
    degree = np.bincount(row, minlength=n_users + n_items)
    order = np.lexsort((column, row))
    row, column = row[order], column[order]
    value = 1.0 / np.sqrt(degree[row].astype(np.float64) * degree[column])
    starts = np.concatenate([[0], np.cumsum(degree)])
    index = np.int32 if starts[-1] < 2**31 else np.int64
    return (
        torch.from_numpy(starts.astype(index)),
        torch.from_numpy(column.astype(index)),
        torch.from_numpy(value.astype(np.float32)),
    )


class _Propagate(torch.autograd.Function):
    """Mean of hops 0..L in Horner form; the operator is symmetric, so its backward is itself and nothing is stored."""

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, starts: Tensor, column: Tensor, value: Tensor, layers: int) -> Tensor:
        ctx.graph, ctx.layers = (starts, column, value), layers
        return _horner(nodes, starts, column, value, layers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        starts, column, value = ctx.graph
        return _horner(grads[0], starts, column, value, ctx.layers), None, None, None, None


def _hop(nodes: Tensor, starts: Tensor, column: Tensor, value: Tensor) -> Tensor:
    """A @ nodes. `embedding_bag` is the fastest sparse product torch has on a CPU."""
    if nodes.is_cuda:
        size = (nodes.shape[0], nodes.shape[0])
        return torch.sparse_csr_tensor(starts, column, value, size=size) @ nodes
    return F.embedding_bag(column, nodes, starts, mode="sum", per_sample_weights=value, include_last_offset=True)


def _horner(nodes: Tensor, starts: Tensor, column: Tensor, value: Tensor, layers: int) -> Tensor:
    nodes = nodes.contiguous()
    out = nodes
    for _ in range(layers):
        out = _hop(out, starts, column, value).add_(nodes)
    return out / (layers + 1) if layers else out


class _Hop(torch.autograd.Function):
    """One hop A @ E, for those who need every hop by itself."""

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, starts: Tensor, column: Tensor, value: Tensor) -> Tensor:
        ctx.graph = (starts, column, value)
        return _hop(nodes.contiguous(), starts, column, value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _hop(grads[0].contiguous(), *ctx.graph), None, None, None


class LightGCN(PairBackbone):
    """LightGCN; the graph is built from `train` alone and is not saved with the weights."""

    name: ClassVar[str] = "lightgcn"
    Config = LightGCNConfig
    starts: Tensor
    column: Tensor
    value: Tensor

    def __init__(
        self,
        config: LightGCNConfig,
        *,
        n_users: int,
        n_items: int,
        train: Interactions,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_users=n_users, n_items=n_items, dim=config.dim, l2=config.l2, generator=generator)
        self.layers = config.layers
        for name, tensor in zip(("starts", "column", "value"), normalised_adjacency(train), strict=True):
            self.register_buffer(name, tensor, persistent=False)

    def tables(self, *, hops: bool = False) -> Tables:
        user0, item0 = self.split(self.nodes)
        every: tuple[Tensor, ...] | None = None
        if hops:
            hop: Any = _Hop.apply
            each: list[Tensor] = [self.nodes]
            for _ in range(self.layers):
                each.append(hop(each[-1], self.starts, self.column, self.value))
            every, out = tuple(each), torch.stack(each).mean(0)
        else:
            propagate: Any = _Propagate.apply
            out = propagate(self.nodes, self.starts, self.column, self.value, self.layers)
        user, item = self.split(out)
        return Tables(user=user, item=item, user0=user0, item0=item0, hops=every)
