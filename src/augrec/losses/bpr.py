"""Bayesian personalised ranking with any number of negatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from augrec.errors import UsageError
from augrec.losses._shared import check_rows, full_precision, pick_loss, row_mean


def bpr(
    positive: Tensor,
    negatives: Tensor,
    *,
    offset: Tensor | None = None,
    weight: Tensor | None = None,
    negative_weight: Tensor | None = None,
) -> Tensor:
    """mean_m weight_m * log(1 + sum_k a_mk exp(s_mk + offset_m - s_m)).

    With one negative this is softplus(s_neg - s_pos), the loss of Rendle et al. 2009 (BPR-Opt); the sum over K inside
    the logarithm is the form of MixGCF (Huang et al. 2021). ADAR's equation 12 is offset = lambda * s_d.

    Args:
        positive: (M,) scores s_m of the targets.
        negatives: (M, K) scores s_mk; K may be 0 (loss 0). float16 and bfloat16 are raised to float32.
        offset: (M,) added to every negative of the row: a shift of the margin.
        weight: (M,) multiplier of each row. The mean divides by M, not by sum(weight).
        negative_weight: (M, K) or (K,) multipliers a >= 0; 0 leaves the negative out. Constants: no gradient.

    Returns:
        Scalar; finite for any finite scores, 0 with zero gradients when there are no rows.

    Raises:
        UsageError: shapes that do not match.
    """
    rows = positive.numel()
    check_rows("positive", positive, rows)
    check_rows("offset", offset, rows)
    check_rows("weight", weight, rows)
    check_negatives(negatives, rows, negative_weight)
    base = -full_precision(positive)
    if offset is not None:
        base = base + full_precision(offset)
    margin = full_precision(negatives) + base[:, None]
    if negative_weight is not None:
        margin = margin + full_precision(negative_weight.detach()).log()
    elif margin.shape[1] == 1:
        return row_mean(-F.logsigmoid(-margin[:, 0]), weight)
    # The leading zero is the 1 of log(1 + ...); it also keeps a row whose negatives all weigh 0 away from log(0).
    zero = margin.new_zeros(rows, 1)
    return row_mean(pick_loss(torch.cat([zero, margin], dim=1), 0), weight)


def check_negatives(negatives: Tensor, rows: int, negative_weight: Tensor | None) -> None:
    """Refuse negatives that are not (rows, K), or weights that are neither (rows, K) nor (K,)."""
    if negatives.dim() != 2 or negatives.shape[0] != rows:
        raise UsageError(
            f"negatives has shape {tuple(negatives.shape)}, expected ({rows}, K): K scores for each target."
        )
    if negative_weight is None:
        return
    if tuple(negative_weight.shape) not in (tuple(negatives.shape), tuple(negatives.shape[1:])):
        raise UsageError(
            f"negative_weight has shape {tuple(negative_weight.shape)}, expected {tuple(negatives.shape)} "
            f"or {tuple(negatives.shape[1:])}."
        )
