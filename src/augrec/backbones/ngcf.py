"""NGCF (Wang et al., SIGIR 2019): propagation with a linear and an elementwise term, layers side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from augrec.backbones.base import PairBackbone
from augrec.backbones.dropout import Dropout
from augrec.backbones.graph import Normalisation, normalised_adjacency, product, random_walk_adjacency
from augrec.backbones.tables import Tables
from augrec.linear import matmul
from augrec.typed import Config

if TYPE_CHECKING:
    from augrec.data.interactions import Interactions

SLOPE = 0.2
"""Of LeakyReLU below zero."""
EPSILON = 1e-12
"""Least length a row is divided by, as in `F.normalize`."""

Graph = tuple[Tensor, Tensor, Tensor, Tensor]
"""Row starts, columns, values and values of the transpose, see `graph`."""


class NGCFConfig(Config):
    """Settings of NGCF."""

    dim: int = Field(default=64, ge=1)
    """Width D0 of each layer; the scoring vectors are dim * (layers + 1) wide."""
    layers: int = Field(default=3, ge=0)
    """Propagation layers L; 0 is matrix factorisation."""
    adjacency: Normalisation = "symmetric"
    """symmetric: D^-1/2 A D^-1/2 without self-loops, as in MixGCF's code; random_walk: D^-1 (A + I), as in
    NGCF-PyTorch's."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each layer's output that is dropped in training (message dropout); NGCF-PyTorch has 0.1."""
    l2: float = Field(default=1e-5, ge=0, allow_inf_nan=False)
    """Weight of the squared norm of the layer-0 rows in a batch; 1e-5 is MixGCF's value for NGCF."""


class Layer(nn.Module):
    """S W1 + b1 + (E * S) W2 + b2 through LeakyReLU, S = A E being a node's neighbourhood (eq. 7 of NGCF,
    whose self-connection is left to the choice of A)."""

    def __init__(self, dim: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        shapes = {
            "sum_weight": (dim, dim),
            "sum_bias": (1, dim),
            "product_weight": (dim, dim),
            "product_bias": (1, dim),
        }
        for name, shape in shapes.items():
            value = nn.init.xavier_uniform_(torch.empty(shape), generator=generator)
            self.register_parameter(name, nn.Parameter(value))

    sum_weight: Tensor
    sum_bias: Tensor
    product_weight: Tensor
    product_bias: Tensor

    def forward(self, nodes: Tensor, graph: Graph) -> Tensor:
        """(U + I, D0) from nodes E (U + I, D0); its neighbourhoods are S = A E."""
        apply: Any = _Propagate.apply
        bias = self.sum_bias + self.product_bias
        out: Tensor = apply(nodes, self.sum_weight, self.product_weight, bias, *graph)
        return out


class _Propagate(torch.autograd.Function):
    """A layer with its neighbourhood product in one piece: tables of U + I rows are what costs here, so that sums are
    made in place and E * S is made again in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        nodes: Tensor,
        sum_weight: Tensor,
        product_weight: Tensor,
        bias: Tensor,
        starts: Tensor,
        column: Tensor,
        value: Tensor,
        transposed: Tensor,
    ) -> Tensor:
        side = product(nodes.contiguous(), starts, column, value)
        out = matmul(side, sum_weight).add_(matmul(nodes * side, product_weight)).add_(bias)
        out = F.leaky_relu_(out, SLOPE)
        ctx.save_for_backward(nodes, side, sum_weight, product_weight, out)
        ctx.graph = (starts, column, transposed)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        nodes, side, sum_weight, product_weight, out = ctx.saved_tensors
        # The slope is positive, so that the sign of the result is that of what went in.
        grad = torch.ops.aten.leaky_relu_backward(grads[0], out, SLOPE, True)
        to_product = matmul(grad, product_weight.t())
        to_side = matmul(grad, sum_weight.t()).addcmul_(to_product, nodes)
        to_nodes = to_product.mul_(side).add_(product(to_side, *ctx.graph))
        to_sum_weight = matmul(side.t(), grad)
        to_product_weight = matmul(side.mul_(nodes).t(), grad)
        return to_nodes, to_sum_weight, to_product_weight, grad.sum(0, keepdim=True), None, None, None, None


class _SideBySide(torch.autograd.Function):
    """(U, D) and (I, D): hop 0, then every other hop with rows of length 1, side by side.

    A step looks few rows up; where their gradients come sparse (`F.embedding(..., sparse=True)`), backward touches
    these rows alone.
    """

    @staticmethod
    def forward(ctx: Any, n_users: int, *hops: Tensor) -> tuple[Tensor, Tensor]:
        width = hops[0].shape[1]
        lengths = [hop.norm(dim=1, keepdim=True).clamp_(min=EPSILON) for hop in hops[1:]]
        tables = []
        for part in (slice(None, n_users), slice(n_users, None)):
            table = hops[0].new_empty(len(hops[0][part]), width * len(hops))
            table[:, :width] = hops[0][part]
            for number, (hop, length) in enumerate(zip(hops[1:], lengths, strict=True), 1):
                torch.div(hop[part], length[part], out=table[:, number * width : (number + 1) * width])
            tables.append(table)
        ctx.save_for_backward(*tables, *lengths)
        ctx.set_materialize_grads(False)
        return tables[0], tables[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        user, item, *lengths = ctx.saved_tensors
        width = user.shape[1] // (len(lengths) + 1)
        out = [user.new_zeros(len(user) + len(item), width) for _ in range(len(lengths) + 1)]
        for grad, table, shift in ((grads[0], user, 0), (grads[1], item, len(user))):
            if grad is None:
                continue
            rows = grad._indices()[0] if grad.is_sparse else torch.arange(len(table), device=table.device)
            given = (grad._values() if grad.is_sparse else grad).split(width, 1)
            own = (table.index_select(0, rows) if grad.is_sparse else table).split(width, 1)
            rows = rows + shift
            out[0].index_add_(0, rows, given[0])
            for number, length in enumerate(lengths, 1):
                g, y = given[number], own[number]
                along = (g * y).sum(1, keepdim=True)
                out[number].index_add_(0, rows, torch.addcmul(g, y, along, value=-1) / length.index_select(0, rows))
        return None, *out


class NGCF(PairBackbone):
    """NGCF; the graph is built from `train` alone and is not saved with the weights.

    Hop 0 is the node table; hop l is layer l's output, every row at length 1 (the next layer reads the rows as they
    were). Scoring vectors are all hops side by side.
    """

    name: ClassVar[str] = "ngcf"
    Config = NGCFConfig
    starts: Tensor
    column: Tensor
    value: Tensor
    transposed: Tensor

    def __init__(
        self,
        config: NGCFConfig,
        *,
        n_users: int,
        n_items: int,
        train: Interactions,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            n_users=n_users,
            n_items=n_items,
            dim=config.dim,
            l2=config.l2,
            width=self.width(config),
            generator=generator,
        )
        self.layers = nn.ModuleList(Layer(config.dim, generator=generator) for _ in range(config.layers))
        self.dropout = Dropout(config.dropout)
        if config.adjacency == "symmetric":
            starts, column, value = normalised_adjacency(train)
            transposed = value
        else:
            starts, column, value, transposed = random_walk_adjacency(train)
        graph = {"starts": starts, "column": column, "value": value, "transposed": transposed}
        for name, tensor in graph.items():
            self.register_buffer(name, tensor, persistent=False)

    @classmethod
    def width(cls, config: Any) -> int:
        return int(config.dim) * (int(config.layers) + 1)

    def tables(self, *, hops: bool = False) -> Tables:
        graph = (self.starts, self.column, self.value, self.transposed)
        nodes: Tensor = self.nodes
        # Hop 0 as a view, so that its gradient, sparse or not, never reaches the parameter bare.
        every = [nodes.view_as(nodes)]
        for layer in self.layers:
            nodes = self.dropout(layer(nodes, graph))
            every.append(nodes)
        aside: Any = _SideBySide.apply
        user, item = aside(self.n_users, *every)
        user0, item0 = self.split(self.nodes)
        unit = (every[0], *(F.normalize(hop, dim=1, eps=EPSILON) for hop in every[1:])) if hops else None
        found = Tables(user=user, item=item, user0=user0, item0=item0, hops=unit, pool="concat", sparse=True)
        return self.with_lookups(found, None)
