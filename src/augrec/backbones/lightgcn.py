"""LightGCN (He et al., SIGIR 2020): linear propagation over the user-item graph, hops averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from augrec.backbones.base import PairBackbone
from augrec.backbones.graph import EveryHop, MeanOfHops, cut_items, normalised_adjacency
from augrec.backbones.tables import Tables
from augrec.typed import Config

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from augrec.data.interactions import Interactions


class LightGCNConfig(Config):
    """Settings of LightGCN."""

    dim: int = Field(default=64, ge=1)
    """Width of the vectors."""
    layers: int = Field(default=3, ge=0)
    """Propagation hops L; 0 is matrix factorisation."""
    l2: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    """Weight of the squared norm of the layer-0 rows in a batch."""


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
        *graph, self.cut = cut_items(*normalised_adjacency(train), n_users=n_users, dim=config.dim)
        for name, tensor in zip(("starts", "column", "value"), graph, strict=True):
            self.register_buffer(name, tensor, persistent=False)

    def tables(self, *, hops: bool = False) -> Tables:
        user0, item0 = self.split(self.nodes)
        propagate: Any = EveryHop.apply if hops else MeanOfHops.apply
        found = propagate(self.nodes, self.starts, self.column, self.value, self.cut, self.layers)
        out, every = (found[0], found[1:]) if hops else (found, None)
        user, item = self.split(out)
        tables = Tables(user=user, item=item, user0=user0, item0=item0, hops=every, sparse_hops=hops)
        return self.with_lookups(tables, out)
