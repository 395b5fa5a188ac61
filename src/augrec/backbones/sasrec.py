"""SASRec (Kang and McAuley, ICDM 2018): a causal transformer over the history, in the post-norm form most libraries
train."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from augrec.backbones.base import SequenceBackbone, Tables
from augrec.backbones.dropout import Dropout
from augrec.errors import ConfigError
from augrec.typed import Config

if TYPE_CHECKING:
    from augrec.batches.batch import Tokens
    from augrec.data.interactions import Interactions


class SASRecConfig(Config):
    """Settings of SASRec."""

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
    temperature: float | None = Field(default=None, gt=0)
    """Tau of the score tau * cosine(query, item), PDRec's (5 on Amazon, 10 on Douban); None is the inner product."""
    positions: Literal["start", "end"] = "start"
    """Whether positions are counted from the oldest event read or from the newest."""
    initializer_range: float = Field(default=0.02, gt=0, allow_inf_nan=False)
    """Standard deviation of the normal initialisation."""


class Grid:
    """How packed rows (N, D) become a padded block (B, L, D) and come back; a plain reshape where all rows are equally
    long."""

    def __init__(self, tokens: Tokens) -> None:
        self.rows, self.length = tokens.offsets.shape[0] - 1, tokens.max_length
        total = tokens.ids.shape[0]
        self.place = None if total == self.rows * self.length else tokens.rows * self.length + tokens.positions

    def pad(self, packed: Tensor) -> Tensor:
        """(N, D) to (B, L, D), zeros at the end of short rows."""
        if self.place is None:
            return packed.view(self.rows, self.length, packed.shape[1])
        block = packed.new_zeros(self.rows * self.length, packed.shape[1])
        return block.index_copy(0, self.place, packed).view(self.rows, self.length, packed.shape[1])

    def unpad(self, block: Tensor) -> Tensor:
        """(B, L, D) back to (N, D)."""
        flat = block.reshape(self.rows * self.length, block.shape[-1])
        return flat if self.place is None else flat.index_select(0, self.place)


class Layer(nn.Module):
    """Causal self-attention and feed-forward, each followed by dropout, residual and LayerNorm."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.wide = nn.Linear(config.dim, config.inner)
        self.narrow = nn.Linear(config.inner, config.dim)
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-12)
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-12)
        self.dropout = Dropout(config.dropout)
        self.attention_dropout = Dropout(config.attention_dropout)

    def attend(self, x: Tensor, grid: Grid, blocked: Tensor) -> Tensor:
        """(N, D): every token looks at itself and at what came before it in its row."""
        b, length, width = grid.rows, grid.length, x.shape[1] // self.heads
        block = grid.pad(self.qkv(x)).view(b, length, 3, self.heads, width).permute(2, 0, 3, 1, 4)
        q, k, v = block.reshape(3, b * self.heads, length, width).unbind(0)
        score = torch.baddbmm(blocked, q, k.transpose(1, 2), alpha=width**-0.5)
        weight = self.attention_dropout(score.softmax(-1))
        mixed = torch.bmm(weight, v).view(b, self.heads, length, width).transpose(1, 2)
        out: Tensor = self.out(grid.unpad(mixed.reshape(b, length, x.shape[1])))
        return out

    def forward(self, x: Tensor, grid: Grid, blocked: Tensor) -> Tensor:
        """(N, D) to (N, D)."""
        x = self.norm1(x + self.dropout(self.attend(x, grid, blocked)))
        out: Tensor = self.norm2(x + self.dropout(self.narrow(F.gelu(self.wide(x)))))
        return out


class SASRec(SequenceBackbone):
    """SASRec over packed tokens: padding is made for the attention product alone, and only where row lengths differ."""

    name: ClassVar[str] = "sasrec"
    Config = SASRecConfig

    def __init__(
        self,
        config: SASRecConfig,
        *,
        n_users: int,
        n_items: int,
        train: Interactions | None = None,
        mask_token: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        if config.dim % config.heads:
            raise ConfigError(
                f"sasrec.dim = {config.dim} is not a multiple of sasrec.heads = {config.heads}; change one"
            )
        super().__init__(
            n_users=n_users, n_items=n_items, dim=config.dim, max_length=config.max_length, mask_token=mask_token
        )
        self.temperature = config.temperature
        self.from_end = config.positions == "end"
        self.position = nn.Parameter(torch.empty(config.max_length, config.dim))
        self.norm = nn.LayerNorm(config.dim, eps=1e-12)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        for name, parameter in self.named_parameters():
            if "norm" in name:
                continue
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, 0.0, config.initializer_range, generator=generator)

    def encode(self, tokens: Tokens, tables: Tables) -> Tensor:
        slot = tokens.lengths[tokens.rows] - 1 - tokens.positions if self.from_end else tokens.positions
        x: Tensor = self.dropout(self.norm(self.embed(tokens, tables) + F.embedding(slot, self.position)))
        grid = Grid(tokens)
        blocked = x.new_full((grid.length, grid.length), float("-inf")).triu(1)
        for layer in self.layers:
            x = layer(x, grid, blocked)
        return x
