"""Dropout whose random mask costs a fraction of torch's own on CPU."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from augrec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEVELS = 2**16
_BITS = (1 << torch.arange(8)).to(torch.uint8)[:, None]
_TWICE_OF_BITS = 2.0 / _BITS
"""(8, 1): what makes 2 of a bit that is set, the factor of what is kept at p = 1/2."""


class Dropout(nn.Module):
    """Inverted dropout with the law of `torch.nn.Dropout` (Srivastava et al. 2014), for tensors of any shape.

    torch draws one Bernoulli number for each element, about 10 ns each on CPU. Here one 64-bit word of torch's default
    generator serves 4 elements, 8 when p is a multiple of 1/256, and 64 when p is 1/2. The drop probability is p
    rounded to 1/65,536, and kept elements are multiplied by the inverse of the realised keep probability in x's
    precision. On other devices this is `F.dropout`. In evaluation and at p = 0 it is the identity and draws nothing.

    Args:
        p: probability that an element is dropped, 0 <= p <= 1.

    Raises:
        UsageError: p outside [0, 1].
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise UsageError(f"Dropout needs 0 <= p <= 1, got {p}.")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of x, any shape and floating dtype; same shape and dtype out."""
        return dropout(x, self.p, training=self.training)

    def factors(self, shape: Sequence[int]) -> Tensor | None:
        """`dropout_factors` of this layer, 0 <= p < 1; None in evaluation."""
        return dropout_factors(shape, self.p) if self.training else None

    def extra_repr(self) -> str:
        """Show p in the printed module."""
        return f"p={self.p}"


def dropout(x: Tensor, p: float, *, training: bool = True) -> Tensor:
    """Functional form of `Dropout`."""
    if not training or p == 0 or x.numel() == 0:
        return x
    if x.device.type != "cpu" or p == 1:
        return F.dropout(x, p, training=True)
    factors = dropout_factors(x.shape, p, dtype=x.dtype)
    return x if factors is None else x * factors


def dropout_factors(shape: Sequence[int], p: float, *, dtype: torch.dtype = torch.float32) -> Tensor | None:
    """What `dropout` multiplies a tensor of `shape` on CPU by, 0 <= p < 1, drawn as it draws; None where nothing is
    dropped."""
    dropped = min(round(p * _LEVELS), _LEVELS - 1)
    if dropped == 0:
        return None
    count = math.prod(shape)
    if dropped * 2 == _LEVELS:
        packed = _random_words(-(-count // 64)).view(torch.uint8)
        # One row for each bit: rows are long, so the operations run at full vector width.
        return torch.mul(packed & _BITS, _TWICE_OF_BITS).view(-1)[:count].view(shape).to(dtype)
    if dropped % 256 == 0:
        mask = _random_words(-(-count // 8)).view(torch.uint8).ge_(dropped // 256)
    else:
        # Compared in place, in its own type: four times faster than a comparison that makes a bool.
        signed = _random_words(-(-count // 4)).view(torch.int16).ge_(dropped - _LEVELS // 2)
        mask = signed.to(torch.uint8)
    return mask[:count].view(shape).to(dtype).mul_(_LEVELS / (_LEVELS - dropped))


def _random_words(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.int64).random_(-(2**63), None)
