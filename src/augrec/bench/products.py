"""Operations of the dense products that a piece of work makes, by torch's own counter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def products(work: Callable[[], Any]) -> float:
    """Floating-point operations of every product of dense matrices in `work`, forward and backward, 2 for each pair of
    numbers; those of elementwise operations, lookups and sparse products are left out."""
    ours = {torch.ops.mkldnn._linear_pointwise: _linear} if hasattr(torch.ops.mkldnn, "_linear_pointwise") else {}
    with FlopCounterMode(display=False, custom_mapping=ours) as counter:
        work()
    return float(counter.get_total_flops())


def _linear(x: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    """x (m, k) with weight (n, k), given as their shapes: torch's counter does not know oneDNN's product."""
    (rows, wide), (out, _) = tuple(x), tuple(weight)
    return int(2 * rows * wide * out)
