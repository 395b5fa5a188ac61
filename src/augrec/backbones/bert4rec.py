"""BERT4Rec (Sun et al., CIKM 2019): a bidirectional transformer that is asked for hidden items of the history."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from augrec.backbones.transformer import TransformerBackbone, TransformerConfig
from augrec.batches.masking import Masking
from augrec.linear import Linear

if TYPE_CHECKING:
    from augrec.backbones.tables import Tables
    from augrec.batches.batch import Tokens
    from augrec.data.interactions import Interactions


class BERT4RecConfig(TransformerConfig):
    """Settings of BERT4Rec."""

    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout on the inputs and after each block."""
    attention_dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout on attention weights."""
    max_length: int = Field(default=50, ge=2)
    """Events of a history that are read, the mask at its end included."""
    mask_ratio: float = Field(default=0.2, gt=0, lt=1)
    """Share of a row's items that are hidden in training (rho), rounded, at least one."""
    last_share: float = Field(default=0.5, ge=0, le=1)
    """Probability that a batch hides only the last item of each row, as ranking does; 0 in the paper's text."""
    item_bias: bool = True
    """A bias for each item in its score; hidden from plug-ins."""


class BERT4Rec(TransformerBackbone):
    """Sees a row both ways; a state predicts the item at its own place, which must be hidden.

    Head: Linear, GELU, LayerNorm, then the tied item table and a bias for each item. To rank what comes next, the mask
    token is put after the history.
    """

    name: ClassVar[str] = "bert4rec"
    causal: ClassVar[bool] = False
    Config = BERT4RecConfig

    def __init__(
        self,
        config: BERT4RecConfig,
        *,
        n_users: int,
        n_items: int,
        train: Interactions | None = None,
        mask_token: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        """`mask_token` is taken as True whatever is given: the model cannot do without."""
        super().__init__(config, n_users=n_users, n_items=n_items, train=train, mask_token=True, generator=generator)
        self.masking = Masking(ratio=config.mask_ratio, last_share=config.last_share)

    def build_head(self, config: TransformerConfig) -> None:
        assert isinstance(config, BERT4RecConfig)
        self.head = Linear(config.dim, config.dim)
        self.head_norm = nn.LayerNorm(config.dim, eps=1e-12)
        self.item_bias = nn.Parameter(torch.zeros(self.n_items)) if config.item_bias else None

    def tables(self, *, hops: bool = False) -> Tables:
        return replace(super().tables(hops=hops), bias=self.item_bias)

    def encode(self, tokens: Tokens, tables: Tables) -> Tensor:
        out: Tensor = self.head_norm(F.gelu(self.head(super().encode(tokens, tables))))
        return out
