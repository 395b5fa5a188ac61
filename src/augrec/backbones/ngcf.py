"""NGCF (Wang et al., SIGIR 2019): propagation with a linear and an elementwise term, layers side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from augrec.backbones.base import PairBackbone, Tables
from augrec.backbones.dropout import Dropout
from augrec.backbones.graph import Hop, Normalisation, normalised_adjacency, random_walk_adjacency
from augrec.typed import Config

if TYPE_CHECKING:
    from augrec.data.interactions import Interactions

SLOPE = 0.2
"""Of LeakyReLU below zero."""


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

    def forward(self, nodes: Tensor, side: Tensor) -> Tensor:
        """(U + I, D0) from nodes E and their neighbourhoods `side`, both (U + I, D0)."""
        out = torch.addmm(self.sum_bias + self.product_bias, side, self.sum_weight)
        return F.leaky_relu(torch.addmm(out, nodes * side, self.product_weight), SLOPE)


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
        spread: Any = Hop.apply
        nodes: Tensor = self.nodes
        every = [nodes]
        for layer in self.layers:
            side = spread(nodes, self.starts, self.column, self.value, self.transposed)
            nodes = self.dropout(layer(nodes, side))
            every.append(F.normalize(nodes, dim=1))
        user, item = self.split(torch.cat(every, 1))
        user0, item0 = self.split(self.nodes)
        return Tables(
            user=user, item=item, user0=user0, item0=item0, hops=tuple(every) if hops else None, pool="concat"
        )
