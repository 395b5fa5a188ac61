"""Checks, weighted means and the matrix product that the losses share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from augrec.errors import UsageError


def check_rows(name: str, value: Tensor | None, rows: int) -> None:
    """Refuse a per-row vector whose shape is not (rows,): broadcasting a (M, 1) column would silently give (M, M)."""
    if value is not None and tuple(value.shape) != (rows,):
        raise UsageError(f"{name} has shape {tuple(value.shape)}, expected ({rows},): one value for each target row.")


def check_ids(name: str, ids: Tensor, limit: int) -> None:
    """Refuse ids outside 0..limit-1. Only on CPU, where reading two numbers back does not stall a device queue."""
    if ids.device.type != "cpu" or ids.numel() == 0:
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= limit:
        wrong = low if low < 0 else high
        raise UsageError(f"{name} contains id {wrong}, but only 0..{limit - 1} exist: pass internal item ids.")


def full_precision(value: Tensor) -> Tensor:
    """float16 and bfloat16 raised to float32, so that sums and exponentials keep their digits; others unchanged."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def row_mean(loss: Tensor, weight: Tensor | None) -> Tensor:
    """mean_m weight_m * loss_m over the (M,) rows; divided by M, not by sum(weight). No rows: 0, zero gradient."""
    if weight is not None:
        loss = loss * weight
    return loss.sum() / max(loss.numel(), 1)


def pick_loss(logits: Tensor, chosen: Tensor | int) -> Tensor:
    """(R,) -log softmax(logits (R, C))[chosen]. Unlike logsumexp, its gradient stays exact at logits of +-1e4."""
    if isinstance(chosen, int):
        chosen = torch.full((logits.shape[0],), chosen, dtype=torch.int64, device=logits.device)
    return F.cross_entropy(logits, chosen, reduction="none")
