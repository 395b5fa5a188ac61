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
from augrec.backbones.tables import Tables
from augrec.errors import ConfigError
from augrec.linear import Linear, missing_rows, pad_rows
from augrec.typed import Config

if TYPE_CHECKING:
    from collections.abc import Callable

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


class Grid:
    """How packed rows (N, D) become a padded block (B, L, D) and come back; a plain reshape where all rows are equally
    long."""

    def __init__(self, tokens: Tokens) -> None:
        self.rows, self.length = tokens.offsets.shape[0] - 1, tokens.max_length
        total = tokens.ids.shape[0]
        self.lengths = tokens.lengths
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

    def blocked(self, like: Tensor, heads: int, *, causal: bool) -> Tensor:
        """What is added to the scores (B * heads, L, L), broadcast: 0 where a query may look, minus infinity elsewhere.

        Causal: (L, L); padding stands at the end of a row, so that no real query sees it. Both ways: (B * heads, 1, L),
        padding blocked; a row without tokens sees its padding, as a softmax over nothing is undefined.
        """
        if causal:
            return like.new_full((self.length, self.length), float("-inf")).triu(1)
        if self.place is None:
            return like.new_zeros(1, 1, 1)
        beyond = torch.arange(self.length, device=like.device) >= self.lengths.clamp(min=1)[:, None]
        mask = like.new_zeros(self.rows, self.length).masked_fill_(beyond, float("-inf"))
        return mask.repeat_interleave(heads, 0)[:, None]


class Blocks:
    """Packed rows as padded blocks of rows of like length, with what attention may not look at in each.

    Attention costs the square of the padded length. One block where rows are about equally long, as in batches of
    training; else one for each power of two of lengths, so that a few long rows do not pad all others.
    """

    def __init__(self, tokens: Tokens, like: Tensor, heads: int, *, causal: bool) -> None:
        self.parts: list[tuple[Tensor, Grid, Tensor]] = []
        self.order: Tensor | None = None
        row = tokens.rows
        for chosen in _like_lengths(tokens) or (None,):
            if chosen is None:
                index, part = row, tokens
            else:
                index, lengths = chosen[row].nonzero()[:, 0], tokens.lengths[chosen]
                offsets = torch.cat([lengths.new_zeros(1), torch.cumsum(lengths, 0)])
                part = replace(
                    tokens, ids=tokens.ids[index], offsets=offsets, max_length=int(lengths.max()), vectors=None
                )
            grid = Grid(part)
            self.parts.append((index, grid, grid.blocked(like, heads, causal=causal)))
        if len(self.parts) > 1:
            self.order = torch.argsort(torch.cat([index for index, _, _ in self.parts]))

    def each(self, values: Tensor, work: Callable[[Tensor, Grid, Tensor], Tensor]) -> Tensor:
        """(N, D') what `work` makes of the rows of each block, given their `values` (N, D), back in their places."""
        if self.order is None:
            return work(values, *self.parts[0][1:])
        made = [work(values.index_select(0, index), grid, blocked) for index, grid, blocked in self.parts]
        return torch.cat(made).index_select(0, self.order)


def _like_lengths(tokens: Tokens) -> list[Tensor]:
    """(B,) masks of rows by the power of two of their length, from 8 on; none where that would not halve the padded
    area, and on accelerators, where counting would wait for the device."""
    lengths, longest = tokens.lengths, tokens.max_length
    if longest <= 8 or lengths.device.type != "cpu":
        return []
    power = torch.log2(lengths.clamp(min=8).double()).ceil().long()
    area = int((2**power).clamp(max=longest).square().sum())
    if 2 * area > lengths.shape[0] * longest**2:
        return []
    return [power == one for one in torch.unique(power)]


class Layer(nn.Module):
    """Self-attention and feed-forward, each followed by dropout, residual and LayerNorm (post-norm)."""

    def __init__(self, *, dim: int, heads: int, inner: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)
        self.wide = Linear(dim, inner)
        self.narrow = Linear(inner, dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-12)
        self.norm2 = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = Dropout(dropout)
        self.attention_dropout = Dropout(attention_dropout)

    def mixed(self, qkv: Tensor, grid: Grid, blocked: Tensor) -> Tensor:
        """(n, D) from (n, 3 D): every token looks at those of its row that `blocked` leaves open."""
        b, length, width = grid.rows, grid.length, qkv.shape[1] // (3 * self.heads)
        block = grid.pad(qkv).view(b, length, 3, self.heads, width).permute(2, 0, 3, 1, 4)
        q, k, v = block.reshape(3, b * self.heads, length, width).unbind(0)
        score = torch.baddbmm(blocked, q, k.transpose(1, 2), alpha=width**-0.5)
        weight = self.attention_dropout(score.softmax(-1))
        found = torch.bmm(weight, v).view(b, self.heads, length, width).transpose(1, 2)
        return grid.unpad(found.reshape(b, length, self.heads * width))

    def forward(self, x: Tensor, blocks: Blocks) -> Tensor:
        """(N, D) to (N, D)."""
        x = self.norm1(x + self.dropout(self.out(blocks.each(self.qkv(x), self.mixed))))
        out: Tensor = self.norm2(x + self.dropout(self.narrow(F.gelu(self.wide(x)))))
        return out


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
