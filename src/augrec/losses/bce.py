"""Binary cross-entropy of targets against sampled negatives, the original SASRec loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from augrec.errors import UsageError
from augrec.losses._shared import check_rows, full_precision, row_mean
from augrec.losses.bpr import check_negatives


def bce(
    positive: Tensor,
    negatives: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    negative_weight: Tensor | None = None,
    extra: Tensor | None = None,
    extra_weight: Tensor | float = 1.0,
) -> Tensor:
    """mean_m [ weight_m softplus(-s_m) + (1/K) sum_k a_mk softplus(s_mk) + sum_e b_e softplus(s_me) ].

    Rule for K negatives: their terms are divided by K, so that the negative side weighs as much as with one negative,
    and K = 1 is the loss of Kang & McAuley 2018 (SASRec). Extra negatives are summed: they come on top, each with its
    own coefficient (ADAR: extra = s_d, extra_weight = lambda).

    Args:
        positive: (M,) scores of the targets.
        negatives: (M, K) scores, or None for the positive term alone (PDRec's extra positives).
        weight: (M,) multiplier of the positive term only (PDRec's reweighting). The mean divides by M.
        negative_weight: (M, K) or (K,) multipliers a; the divisor stays K.
        extra: (M, E) or (M,) further negative scores.
        extra_weight: a number, or a tensor that broadcasts to (M, E).

    Returns:
        Scalar; finite for any finite scores, 0 with zero gradients when there are no rows.

    Raises:
        UsageError: shapes that do not match.
    """
    rows = positive.numel()
    check_rows("positive", positive, rows)
    check_rows("weight", weight, rows)
    loss = -F.logsigmoid(full_precision(positive))
    if weight is not None:
        loss = loss * weight
    if negatives is not None:
        check_negatives(negatives, rows, negative_weight)
        terms = -F.logsigmoid(-full_precision(negatives))
        if negative_weight is not None:
            terms = terms * negative_weight
        loss = loss + terms.sum(1) / max(terms.shape[1], 1)
    if extra is not None:
        if extra.dim() == 1:
            extra = extra[:, None]
        if extra.dim() != 2 or extra.shape[0] != rows:
            raise UsageError(f"extra has shape {tuple(extra.shape)}, expected ({rows}, E): E scores for each target.")
        loss = loss + (-F.logsigmoid(-full_precision(extra)) * extra_weight).sum(1)
    return row_mean(loss, None)
