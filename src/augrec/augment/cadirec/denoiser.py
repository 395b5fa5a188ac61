"""A denoiser that knows events by their distance: disentangled attention over packed rows, no absolute positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from augrec.backbones.dropout import Dropout
from augrec.backbones.padding import Grid
from augrec.backbones.transformer import normal_weights
from augrec.diffusion.denoisers import sinusoid_table
from augrec.linear import Linear

if TYPE_CHECKING:
    from augrec.batches.batch import Tokens


class RelativeLayer(nn.Module):
    """Attention by content and distance, then feed-forward, each with dropout, residual and LayerNorm.

    The score of query i and key j is (q_i . k_j + q_i . r_{i-j} + k_j . s_{j-i}) / sqrt(3 w): content to content,
    content to position and position to content (DeBERTa, He et al. 2021, equation 4); r and s are maps of one table of
    distances, w the width of a head.
    """

    def __init__(self, *, dim: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.position_key = Linear(dim, dim, bias=False)
        self.position_query = Linear(dim, dim)
        self.out = Linear(dim, dim)
        self.wide = Linear(dim, inner)
        self.narrow = Linear(inner, dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-12)
        self.norm2 = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = Dropout(dropout)

    def attend(self, x: Tensor, grid: Grid, blocked: Tensor, distances: Tensor, index: Tensor) -> Tensor:
        """(N, D). `distances` (R, D) and `index` (L, L): the row of `distances` that stands for i - j."""
        b, length, dim = grid.rows, grid.length, x.shape[1]
        width = dim // self.heads
        block = grid.pad(self.qkv(x)).view(b, length, 3, self.heads, width).permute(2, 0, 3, 1, 4)
        q, k, v = block.unbind(0)
        far_key = self.position_key(distances).view(-1, self.heads, width).permute(1, 2, 0)
        far_query = self.position_query(distances).view(-1, self.heads, width).permute(1, 2, 0)
        every = index.expand(b, self.heads, length, length)
        score = (
            q @ k.transpose(2, 3) + (q @ far_key).gather(3, every) + (k @ far_query).gather(3, every).transpose(2, 3)
        )
        score = (score * (3 * width) ** -0.5).view(b * self.heads, length, length) + blocked
        weight = self.dropout(score.softmax(-1))
        mixed = torch.bmm(weight, v.reshape(b * self.heads, length, width))
        mixed = mixed.view(b, self.heads, length, width).transpose(1, 2)
        out: Tensor = self.out(grid.unpad(mixed.reshape(b, length, dim)))
        return out

    def forward(self, x: Tensor, grid: Grid, blocked: Tensor, distances: Tensor, index: Tensor) -> Tensor:
        """(N, D) to (N, D)."""
        x = self.norm1(x + self.dropout(self.attend(x, grid, blocked, distances, index)))
        out: Tensor = self.norm2(x + self.dropout(self.narrow(F.gelu(self.wide(x)))))
        return out


class RelativeStack(nn.Module):
    """`RelativeLayer`s over one table of distances -k..k; every token sees its whole row."""

    def __init__(self, *, dim: int, layers: int, heads: int, inner: int, dropout: float, max_distance: int) -> None:
        super().__init__()
        self.heads, self.max_distance = heads, max_distance
        self.distance = nn.Parameter(torch.empty(2 * max_distance + 1, dim))
        self.layers = nn.ModuleList(
            RelativeLayer(dim=dim, heads=heads, inner=inner, dropout=dropout) for _ in range(layers)
        )
        normal_weights(self, 0.02)

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        """(N, D) to (N, D); of `tokens`, only the shape of the rows is read."""
        grid = Grid(tokens)
        blocked = grid.blocked(x, self.heads, causal=False)
        span = min(self.max_distance, max(grid.length - 1, 0))
        near = self.distance[self.max_distance - span : self.max_distance + span + 1]
        place = torch.arange(grid.length, device=x.device)
        index = (place[:, None] - place).clamp(-span, span) + span
        for layer in self.layers:
            x = layer(x, grid, blocked, near, index)
        return x


class ContextDenoiser(nn.Module):
    """f(x_t, t): vectors plus an embedded time, LayerNorm, dropout, then layers that see the whole row.

    Args:
        dim: width of the vectors.
        steps: T; steps are 0..T.
        input_dropout: dropout on the input.
        stack: the layers.
    """

    code: Tensor

    def __init__(self, *, dim: int, steps: int, input_dropout: float, stack: RelativeStack) -> None:
        super().__init__()
        self.time = nn.Sequential(Linear(dim, 4 * dim), nn.SiLU(), Linear(4 * dim, dim))
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(input_dropout)
        normal_weights(self, 0.02)
        self.stack = stack
        self.register_buffer("code", sinusoid_table(steps, dim), persistent=False)

    def forward(self, x: Tensor, t: Tensor, tokens: Tokens) -> Tensor:
        """(N, D) the clean vectors as predicted from `x` (N, D) at step `t` (B,) of each row."""
        time: Tensor = self.time(self.code[t])
        out: Tensor = self.stack(self.dropout(self.norm(x + time.index_select(0, tokens.rows))), tokens)
        return out
