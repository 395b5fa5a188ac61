"""Matrix products and linear layers by the fastest float32 path torch has on the machine."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_COPIED = 1 << 19
"""Numbers of rows that `products_at` copies (2 MB), which then takes less than telling torch where the entries are."""


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """(m, k) @ (k, n) without autograd, through oneDNN for float32 on CPU, else torch's own.

    torch sends float32 products to MKL, which leaves AVX-512 unused on AMD processors; oneDNN does the same product in
    the same precision at 2.2 times the speed there. The rule depends on the build only, never on timing, so a resumed
    run takes the same path. `torch.backends.mkldnn.flags(enabled=False)` switches it off.
    """
    return affine(a, b.t())


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (m, k) @ weight (n, k)^T + bias (n,) without autograd, as `matmul` does its products."""
    if not _through_onednn(x, weight):
        return F.linear(x, weight, bias)
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def products_at(a: Tensor, b: Tensor, columns: Tensor) -> Tensor:
    """(m, n) the entries of a (m, k) @ b (p, k)^T at `columns` (m, n) of each row, without autograd.

    In float32 on CPU the rows of `b` are not copied where there are many, so that what is in the caches stays there.
    """
    few = columns.numel() * b.shape[1] <= _COPIED
    if few or a.dtype != torch.float32 or b.dtype != torch.float32 or a.device.type != "cpu":
        rows = b.index_select(0, columns.reshape(-1)).view(*columns.shape, b.shape[1])
        near: Tensor = torch.linalg.vecdot(rows, a[:, None])
        return near
    _hush_beta()
    ends = torch.arange(0, columns.numel() + 1, columns.shape[1])
    with torch.no_grad():
        values, size = a.new_zeros(columns.numel()), (len(a), len(b))
        places = torch.sparse_csr_tensor(ends, columns.reshape(-1), values, size, check_invariants=False)
        found: Tensor = torch.sparse.sampled_addmm(places, a, b.t(), beta=0.0).values().view(columns.shape)
    return found


@functools.cache
def _hush_beta() -> None:
    """torch says once a process that CSR is in beta; here it says so to nobody. A filter at every call would cost as
    much as the product."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        nothing = torch.zeros(0, dtype=torch.int64)
        torch.sparse_csr_tensor(torch.tensor([0, 0]), nothing, torch.zeros(0), (1, 1), check_invariants=False)


def few_sizes(rows: int) -> int:
    """`rows` rounded up to a multiple of 64 and of an eighth of its leading power of two, so at most an eighth more.

    oneDNN compiles a product for every shape and keeps the last 1,024 of them: batches whose number of tokens is never
    the same twice compile at every step, and all that compiled code stays in memory.
    """
    unit = max(64, 1 << max(rows.bit_length() - 4, 0))
    return -(-rows // unit) * unit


def pad_rows(x: Tensor) -> Tensor:
    """(m, ...) to (`few_sizes(m)`, ...), zeros below; `x` itself where it has such a size."""
    rows = x.shape[0]
    more = few_sizes(rows) - rows
    return x if not more else torch.cat([x, x.new_zeros(more, *x.shape[1:])])


def missing_rows(x: Tensor) -> int:
    """Rows that every `Linear` would add to `x` and take off again: a chain of them is faster with these added once."""
    return few_sizes(x.shape[0]) - x.shape[0] if own_product(x, x) else 0


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, ragged: bool = False) -> Tensor:
    """x (..., k) @ weight (n, k)^T + bias (n,), with gradient, as `matmul` does its products; `F.linear` elsewhere.

    Differentiable once. Under autocast `F.linear` decides the precision. `ragged`: the number of rows differs from
    call to call, and products are done at `few_sizes`.
    """
    if not own_product(x, weight):
        return F.linear(x, weight, bias)
    apply: Any = _Linear.apply
    out: Tensor = apply(x.reshape(-1, x.shape[-1]), weight, bias, ragged)
    return out.view(*x.shape[:-1], weight.shape[0])


class Linear(nn.Linear):
    """`torch.nn.Linear` through `linear`, for inputs whose number of rows differs from call to call: same parameters,
    same names, same initialisation."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return linear(input, self.weight, self.bias, ragged=True)


def _through_onednn(a: Tensor, b: Tensor) -> bool:
    return (
        a.dtype == torch.float32
        and b.dtype == torch.float32
        and a.device.type == "cpu"
        and a.numel() > 0
        and b.numel() > 0
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def own_product(x: Tensor, weight: Tensor) -> bool:
    """Whether `linear` does the product itself, through oneDNN."""
    return _through_onednn(x, weight) and not torch.is_autocast_enabled(x.device.type)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, ragged: bool) -> Tensor:
        # oneDNN's product with the transpose of rows that lie apart is a hundred times slower.
        rows, x = x.shape[0], x.contiguous()
        if ragged:
            x = pad_rows(x)
        ctx.save_for_backward(x, weight)
        out = affine(x, weight, bias)
        return out[:rows] if ragged else out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        rows = grad.shape[0]
        wide = pad_rows(grad) if rows != x.shape[0] else grad
        to_x, to_weight, to_bias = ctx.needs_input_grad[:3]
        return (
            matmul(wide, weight)[:rows] if to_x else None,
            weight_gradient(wide, x) if to_weight else None,
            grad.sum(0) if to_bias else None,
            None,
        )


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """(n, k) of the weight in x (m, k) @ weight^T, given `grad` (m, n) of the product: grad^T @ x, without autograd.

    oneDNN copies a first factor that is given transposed: the narrower one is.
    """
    return matmul(grad.t(), x) if grad.shape[1] <= x.shape[1] else matmul(x.t(), grad).t()
