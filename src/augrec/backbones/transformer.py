"""A transformer over packed tokens, causal or seeing both ways, and the backbones built around one.

Padding is made for the attention product alone, and only where row lengths differ.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from augrec.backbones.base import SequenceBackbone
from augrec.backbones.dropout import Dropout
from augrec.backbones.layer import Layer
from augrec.backbones.padding import Blocks
from augrec.backbones.tables import Tables
from augrec.errors import ConfigError
from augrec.linear import missing_rows, pad_rows
from augrec.typed import Config

if TYPE_CHECKING:
    from augrec.batches.batch import Tokens
    from augrec.data.interactions import Interactions


class TransformerConfig(Config):
    """Settings that backbones with a transformer share."""

    dim: int = Field(default=64, ge=1)
    """Width of the vectors."""
    layers: int = Field(default=2, ge=1)
    """Transformer layers."""
    heads: int = Field(default=2, ge=1)
    """Attention heads; they share the width."""
    inner: int = Field(default=256, ge=1)
    """Width of the feed-forward layer."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Dropout on the inputs and after each block."""
    attention_dropout: float = Field(default=0.5, ge=0, lt=1)
    """Dropout on attention weights."""
    max_length: int = Field(default=50, ge=1)
    """Events of a history that are read."""
    positions: Literal["start", "end"] = "start"
    """Whether positions are counted from the oldest event read or from the newest."""
    initializer_range: float = Field(default=0.02, gt=0, allow_inf_nan=False)
    """Standard deviation of the normal initialisation."""


def check_heads(field: str, heads: int, dim: int) -> None:
    """Raises `ConfigError`, naming the field, where `heads` cannot share a width of `dim`."""
    if dim % heads:
        raise ConfigError(f"the backbone's width {dim} is not a multiple of {field} = {heads}; change one")


class TransformerStack(nn.ModuleList):
    """Post-norm transformer layers over packed tokens (Vaswani et al. 2017), with GELU."""

    def __init__(
        self, *, dim: int, layers: int, heads: int, inner: int, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__(
            Layer(dim=dim, heads=heads, inner=inner, dropout=dropout, attention_dropout=attention_dropout)
            for _ in range(layers)
        )
        self.heads = heads

    def forward(self, x: Tensor, tokens: Tokens, *, causal: bool) -> Tensor:
        """(N, D) to (N, D). `causal`: a token looks at itself and at what came before it in its row, else at the whole
        row. Of `tokens`, only the shape of the rows is read."""
        count, more = x.shape[0], missing_rows(x)
        if more:
            x, tokens = pad_rows(x), _with_more(tokens, more)
        blocks = Blocks(tokens, x, self.heads, causal=causal)
        for layer in self:
            x = layer(x, blocks)
        return x[:count] if more else x


def _with_more(tokens: Tokens, more: int) -> Tokens:
    """`tokens` and rows of `more` further ones, none longer than the longest there is."""
    count, longest = tokens.ids.shape[0], max(tokens.max_length, 1)
    ends = torch.arange(count, count + more, longest, device=tokens.offsets.device)[1:]
    offsets = torch.cat([tokens.offsets, ends, ends.new_tensor([count + more])])
    ids = torch.cat([tokens.ids, tokens.ids.new_zeros(more)])
    return replace(tokens, ids=ids, offsets=offsets, max_length=longest, vectors=None)


def normal_weights(module: nn.Module, std: float, *, generator: torch.Generator | None = None) -> None:
    """Every parameter of `module` drawn from N(0, std^2), in the order of their names; biases 0, norms left at 1 and
    0."""
    for name, parameter in module.named_parameters():
        if "norm" in name:
            continue
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, 0.0, std, generator=generator)


class TransformerBackbone(SequenceBackbone):
    """Item vectors plus learned positions, LayerNorm, dropout, then a transformer; subclasses say which way it looks.

    Raises:
        ConfigError: a width that the heads cannot share.
    """

    causal: ClassVar[bool]
    mixes: ClassVar[bool] = True

    def __init__(
        self,
        config: TransformerConfig,
        *,
        n_users: int,
        n_items: int,
        train: Interactions | None = None,
        mask_token: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        check_heads(f"{self.name}.heads", config.heads, config.dim)
        super().__init__(
            n_users=n_users, n_items=n_items, dim=config.dim, max_length=config.max_length, mask_token=mask_token
        )
        self.from_end = config.positions == "end"
        self.position = nn.Parameter(torch.empty(config.max_length, config.dim))
        self.norm = nn.LayerNorm(config.dim, eps=1e-12)
        self.dropout = Dropout(config.dropout)
        self.layers = TransformerStack(
            dim=config.dim,
            layers=config.layers,
            heads=config.heads,
            inner=config.inner,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
        )
        self.build_head(config)
        normal_weights(self, config.initializer_range, generator=generator)

    def build_head(self, config: TransformerConfig) -> None:
        """Further modules of a subclass, made before the parameters are drawn."""

    def tables(self, *, hops: bool = False) -> Tables:
        return replace(super().tables(hops=hops), mix=self.mix)

    def mix(self, x: Tensor, tokens: Tokens) -> Tensor:
        """(N, D) to (N, D) through the same layers, every token seeing its whole row."""
        out: Tensor = self.layers(x, tokens, causal=False)
        return out

    def encode(self, tokens: Tokens, tables: Tables) -> Tensor:
        slot = tokens.lengths[tokens.rows] - 1 - tokens.positions if self.from_end else tokens.positions
        x: Tensor = self.dropout(self.norm(self.embed(tokens, tables) + F.embedding(slot, self.position)))
        out: Tensor = self.layers(x, tokens, causal=self.causal)
        return out
