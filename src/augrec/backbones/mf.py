"""Matrix factorisation (Rendle et al., UAI 2009): one vector a user, one an item."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from augrec.backbones.base import PairBackbone
from augrec.backbones.tables import Tables
from augrec.typed import Config

if TYPE_CHECKING:
    import torch
    from torch import nn

    from augrec.data.interactions import Interactions


class MFConfig(Config):
    """Settings of matrix factorisation."""

    dim: int = Field(default=64, ge=1)
    """Width of the vectors."""
    l2: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    """Weight of the squared norm of the rows in a batch."""


class MF(PairBackbone):
    """Matrix factorisation; `score(u, i) = p_u . q_i`."""

    name: ClassVar[str] = "mf"
    Config = MFConfig

    def __init__(
        self,
        config: MFConfig,
        *,
        n_users: int,
        n_items: int,
        train: Interactions | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_users=n_users, n_items=n_items, dim=config.dim, l2=config.l2, generator=generator)

    def looked_up(self) -> nn.Parameter:
        return self.nodes

    def tables(self, *, hops: bool = False) -> Tables:
        user, item = self.split(self.nodes)
        found = Tables(
            user=user, item=item, user0=user, item0=item, hops=(self.nodes,) if hops else None, shared_rows=self.l2 > 0
        )
        return self.with_lookups(found, self.nodes)
