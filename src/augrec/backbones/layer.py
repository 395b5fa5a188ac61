"""A layer of a transformer over packed tokens: with autograd, and with its gradient written out.

Autograd keeps some forty nodes of a layer, and where a batch has few tokens their bookkeeping is felt beside the
products. In float32 on a CPU each half of a layer is one node instead; everywhere else autograd does the same
mathematics.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from augrec.backbones.dropout import Dropout
from augrec.backbones.padding import Blocks, Grid
from augrec.linear import Linear, affine, matmul, own_product, weight_gradient

_EPSILON = 1e-12
_layer_norm, _layer_norm_backward = torch.ops.aten.native_layer_norm, torch.ops.aten.native_layer_norm_backward


class Layer(nn.Module):
    """Self-attention and feed-forward, each followed by dropout, residual and LayerNorm (post-norm)."""

    def __init__(self, *, dim: int, heads: int, inner: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)
        self.wide = Linear(dim, inner)
        self.narrow = Linear(inner, dim)
        self.norm1 = nn.LayerNorm(dim, eps=_EPSILON)
        self.norm2 = nn.LayerNorm(dim, eps=_EPSILON)
        self.dropout = Dropout(dropout)
        self.attention_dropout = Dropout(attention_dropout)

    def forward(self, x: Tensor, blocks: Blocks) -> Tensor:
        """(N, D) to (N, D)."""
        if blocks.order is None and own_product(x, self.qkv.weight):
            return self._by_hand(x, *blocks.parts[0][1:])
        x = self.norm1(x + self.dropout(self.out(blocks.each(self.qkv(x), self.mixed))))
        out: Tensor = self.norm2(x + self.dropout(self.narrow(F.gelu(self.wide(x)))))
        return out

    def mixed(self, qkv: Tensor, grid: Grid, blocked: Tensor) -> Tensor:
        """(n, D) from (n, 3 D): every token looks at those of its row that `blocked` leaves open."""
        q, k, v = _heads(grid.pad(qkv), self.heads, 3)
        score = torch.baddbmm(blocked, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
        weight = self.attention_dropout(score.softmax(-1))
        return grid.unpad(_together(torch.bmm(weight, v)[None], self.heads))

    def _by_hand(self, x: Tensor, grid: Grid, blocked: Tensor) -> Tensor:
        square = (grid.rows * self.heads, grid.length, grid.length)
        first: Any = _Attention.apply
        x = first(
            x, grid, blocked, self.heads, self.attention_dropout.factors(square), self.dropout.factors(x.shape),
            self.qkv.weight, self.qkv.bias, self.out.weight, self.out.bias, self.norm1.weight, self.norm1.bias,
        )  # fmt: skip
        second: Any = _FeedForward.apply
        out: Tensor = second(
            x, self.dropout.factors(x.shape), self.wide.weight, self.wide.bias, self.narrow.weight, self.narrow.bias,
            self.norm2.weight, self.norm2.bias,
        )  # fmt: skip
        return out


def _heads(block: Tensor, heads: int, parts: int) -> Tensor:
    """(B, L, parts * D) to (parts, B * heads, L, D / heads)."""
    rows, length, wide = block.shape
    width = wide // (parts * heads)
    apart = block.view(rows, length, parts, heads, width).permute(2, 0, 3, 1, 4)
    return apart.reshape(parts, rows * heads, length, width)


def _together(found: Tensor, heads: int) -> Tensor:
    """(parts, B * heads, L, D / heads) back to (B, L, parts * D)."""
    parts, many, length, width = found.shape
    apart = found.view(parts, many // heads, heads, length, width).permute(1, 3, 0, 2, 4)
    return apart.reshape(many // heads, length, parts * heads * width)


def _dropped(x: Tensor, factors: Tensor | None) -> Tensor:
    return x if factors is None else x * factors


def _residual(x: Tensor, y: Tensor, factors: Tensor | None) -> Tensor:
    return x + y if factors is None else torch.addcmul(x, y, factors)


class _Attention(torch.autograd.Function):
    """LayerNorm(x + dropout(out(attention(qkv(x)))))."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, grid: Grid, blocked: Tensor, heads: int, kept: Tensor | None, passed: Tensor | None,
        qkv_weight: Tensor, qkv_bias: Tensor, out_weight: Tensor, out_bias: Tensor, scale: Tensor, shift: Tensor,
    ) -> Tensor:  # fmt: skip
        x = x.contiguous()
        qkv = _heads(grid.pad(affine(x, qkv_weight, qkv_bias)), heads, 3)
        q, k, v = qkv
        share = torch.baddbmm(blocked, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5).softmax(-1)
        mixed = grid.unpad(_together(torch.bmm(_dropped(share, kept), v)[None], heads))
        total = _residual(x, affine(mixed, out_weight, out_bias), passed)
        found, mean, inverse = _layer_norm(total, scale.shape, scale, shift, _EPSILON)
        weights = qkv_weight, out_weight, scale, shift
        ctx.save_for_backward(x, qkv, share, kept, mixed, passed, total, mean, inverse, *weights)
        ctx.grid, ctx.heads = grid, heads
        return found  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, qkv, share, kept, mixed, passed, total, mean, inverse, *weights = ctx.saved_tensors
        qkv_weight, out_weight, scale, shift = weights
        grid, heads = ctx.grid, ctx.heads
        to_x, to_scale, to_shift = _layer_norm_backward(
            grads[0], total, scale.shape, mean, inverse, scale, shift, [True, True, True]
        )
        to_out = _dropped(to_x, passed)
        (to_mixed,) = _heads(grid.pad(matmul(to_out, out_weight)), heads, 1)
        q, k, v = qkv
        to_share = _dropped(torch.bmm(to_mixed, v.transpose(1, 2)), kept)
        to_score = torch.ops.aten._softmax_backward_data(to_share, share, -1, share.dtype).mul_(q.shape[-1] ** -0.5)
        apart = torch.empty_like(qkv)
        torch.bmm(to_score, k, out=apart[0])
        torch.bmm(to_score.transpose(1, 2), q, out=apart[1])
        torch.bmm(_dropped(share, kept).transpose(1, 2), to_mixed, out=apart[2])
        to_qkv = grid.unpad(_together(apart, heads))
        return (
            matmul(to_qkv, qkv_weight).add_(to_x), None, None, None, None, None, weight_gradient(to_qkv, x),
            to_qkv.sum(0), weight_gradient(to_out, mixed), to_out.sum(0), to_scale, to_shift,
        )  # fmt: skip


class _FeedForward(torch.autograd.Function):
    """LayerNorm(x + dropout(narrow(GELU(wide(x)))))."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, passed: Tensor | None, wide_weight: Tensor, wide_bias: Tensor, narrow_weight: Tensor,
        narrow_bias: Tensor, scale: Tensor, shift: Tensor,
    ) -> Tensor:  # fmt: skip
        wide = affine(x, wide_weight, wide_bias)
        active = F.gelu(wide)
        total = _residual(x, affine(active, narrow_weight, narrow_bias), passed)
        found, mean, inverse = _layer_norm(total, scale.shape, scale, shift, _EPSILON)
        ctx.save_for_backward(x, wide, active, passed, total, mean, inverse, wide_weight, narrow_weight, scale, shift)
        return found  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, wide, active, passed, total, mean, inverse, wide_weight, narrow_weight, scale, shift = ctx.saved_tensors
        to_x, to_scale, to_shift = _layer_norm_backward(
            grads[0], total, scale.shape, mean, inverse, scale, shift, [True, True, True]
        )
        to_narrow = _dropped(to_x, passed)
        to_wide = torch.ops.aten.gelu_backward(matmul(to_narrow, narrow_weight), wide)
        return (
            matmul(to_wide, wide_weight).add_(to_x), None, weight_gradient(to_wide, x), to_wide.sum(0),
            weight_gradient(to_narrow, active), to_narrow.sum(0), to_scale, to_shift,
        )  # fmt: skip
