"""Contrastive losses between views: InfoNCE and the symmetric NT-Xent."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from augrec.errors import UsageError
from augrec.losses._shared import check_rows, full_precision, pick_loss, row_mean

Similarity = Literal["cosine", "dot"]


def info_nce(
    anchor: Tensor,
    positive: Tensor,
    negatives: Tensor | None = None,
    *,
    similarity: Similarity = "cosine",
    temperature: float = 1.0,
    in_batch: bool = True,
    group: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Pick each anchor's positive among the other rows' positives and the given negatives (van den Oord et al. 2018).

    loss_b = log sum_{c in {b} + candidates} exp(sim(a_b, c) / temperature) - sim(a_b, p_b) / temperature.

    Args:
        anchor: (B, D).
        positive: (B, D), row b belongs to anchor b.
        negatives: (N, D) shared by all rows, or None.
        similarity: "cosine" or "dot".
        temperature: > 0, divides every similarity.
        in_batch: take the other rows' positives as negatives.
        group: (B,) ids; rows of the same group (the same target item, say) are not each other's negatives.
        weight: (B,) row multipliers; the mean divides by B.

    Returns:
        Scalar; 0 with zero gradients when B = 0.

    Raises:
        UsageError: shapes that do not match, temperature <= 0, an unknown similarity, or no source of negatives.
    """
    _check_views(anchor, positive, temperature)
    rows = anchor.shape[0]
    check_rows("group", group, rows)
    check_rows("weight", weight, rows)
    if negatives is None and not in_batch:
        raise UsageError("info_nce has nothing to contrast with: pass negatives, or leave in_batch=True.")
    if negatives is not None and (negatives.dim() != 2 or negatives.shape[1] != anchor.shape[1]):
        raise UsageError(f"negatives has shape {tuple(negatives.shape)}, expected (N, {anchor.shape[1]}).")
    anchor, positive = _prepare(anchor, similarity), _prepare(positive, similarity)
    if in_batch:
        logits = anchor @ positive.t()
        chosen = torch.arange(rows, device=logits.device)
        if group is not None:
            same = group[:, None] == group
            logits = logits.masked_fill(same.fill_diagonal_(False), -math.inf)
    else:
        chosen = torch.zeros(rows, dtype=torch.int64, device=anchor.device)
        logits = (anchor * positive).sum(1, keepdim=True)
    if negatives is not None:
        logits = torch.cat([logits, anchor @ _prepare(negatives, similarity).t()], dim=1)
    return row_mean(pick_loss(logits / temperature, chosen), weight)


def nt_xent(
    first: Tensor,
    second: Tensor,
    *,
    similarity: Similarity = "cosine",
    temperature: float = 1.0,
    group: Tensor | None = None,
) -> Tensor:
    """Symmetric contrast of two views: each of the 2B vectors finds its partner among the other 2B - 1.

    The NT-Xent loss of SimCLR (Chen et al. 2020, equation 1), as CL4SRec and DuoRec use it.

    Args:
        first: (B, D) one view of each row.
        second: (B, D) the other view.
        similarity: "cosine" or "dot".
        temperature: > 0, divides every similarity.
        group: (B,) ids; views of rows of the same group are not each other's negatives.

    Returns:
        Scalar, the mean over 2B; 0 with zero gradients when B = 0.

    Raises:
        UsageError: shapes that do not match, temperature <= 0, or an unknown similarity.
    """
    _check_views(first, second, temperature)
    rows = first.shape[0]
    check_rows("group", group, rows)
    views = _prepare(torch.cat([first, second]), similarity)
    logits = views @ views.t() / temperature
    partner = torch.arange(2 * rows, device=views.device).roll(rows)
    if group is None:
        hidden = torch.eye(2 * rows, dtype=torch.bool, device=views.device)
    else:
        doubled = torch.cat([group, group])
        hidden = (doubled[:, None] == doubled).scatter_(1, partner[:, None], False)
    return row_mean(pick_loss(logits.masked_fill(hidden, -math.inf), partner), None)


def _check_views(first: Tensor, second: Tensor, temperature: float) -> None:
    if first.dim() != 2 or first.shape != second.shape:
        raise UsageError(
            f"The two views have shapes {tuple(first.shape)} and {tuple(second.shape)}, expected (B, D) for both."
        )
    if not temperature > 0:
        raise UsageError(f"temperature must be > 0, got {temperature}.")


def _prepare(vectors: Tensor, similarity: Similarity) -> Tensor:
    vectors = full_precision(vectors)
    if similarity == "cosine":
        return F.normalize(vectors, dim=1)
    if similarity == "dot":
        return vectors
    raise UsageError(f"similarity is 'cosine' or 'dot', not {similarity!r}.")
