"""Softmax cross-entropy over the whole catalogue, and over a shared sample with the logQ correction."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from augrec.errors import UsageError
from augrec.linear import matmul, pad_rows
from augrec.losses._shared import check_ids, check_rows, full_precision, pick_loss, row_mean

# A chunk of logits of this many bytes stays in the last-level cache between its six passes; in smaller ones the
# accumulation of the item gradient (one read and write of I x D for each chunk) outweighs what the cache saves.
_CHUNK_BYTES = 12 * 2**20
_CHUNK_ROWS = (64, 1024)


def full_softmax(
    query: Tensor,
    items: Tensor,
    target: Tensor,
    *,
    offset: Tensor | None = None,
    weight: Tensor | None = None,
    chunk: int | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Cross-entropy of the target among all items, never holding more than one chunk of logits.

    loss_m = log(exp(s_m,t - offset_m) + sum_{i != t} exp(s_m,i)) - (s_m,t - offset_m), with s = query @ items.T. The
    gradient is made in the forward pass, while a chunk of logits is still in cache, so the backward pass is one
    scaling; there is no second derivative.

    Args:
        query: (M, D) query vectors, real positions only.
        items: (I, D) item vectors. float16 and bfloat16 inputs are computed and accumulated in float32.
        target: (M,) int64 item ids.
        offset: (M,) subtracted from the target's logit, in the normaliser too (ADAR: lambda * s_d).
        weight: (M,) multiplier of each row's loss. The mean divides by M, not by sum(weight).
        chunk: rows of logits held at once; by default about 12 MiB of logits, a multiple of 64 from 64 to 1,024 rows.
        reduction: "mean" over the M rows, or "sum". With no rows both give 0 and zero gradients.

    Returns:
        Scalar in float32, or float64 when an input is float64.

    Raises:
        UsageError: shapes that do not match, an id outside 0..I-1, an unknown reduction, chunk < 1, or a backward pass
            with create_graph=True.
    """
    return full_softmax_and_confidence(
        query, items, target, offset=offset, weight=weight, chunk=chunk, reduction=reduction
    )[0]


def full_softmax_and_confidence(
    query: Tensor,
    items: Tensor,
    target: Tensor,
    *,
    offset: Tensor | None = None,
    weight: Tensor | None = None,
    chunk: int | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> tuple[Tensor, Tensor]:
    """`full_softmax`, and (M,) the probability of each row's likeliest item, which the same pass knows; no gradient
    flows through the latter."""
    _check_table(query, items, target, "target")
    rows = query.shape[0]
    check_rows("target", target, rows)
    check_rows("offset", offset, rows)
    check_rows("weight", weight, rows)
    if reduction not in ("mean", "sum"):
        raise UsageError(f"full_softmax knows reduction 'mean' and 'sum', not {reduction!r}.")
    if chunk is None:
        low, high = _CHUNK_ROWS
        chunk = min(high, max(low, _CHUNK_BYTES // (4 * max(items.shape[0], 1)) // low * low))
    elif chunk < 1:
        raise UsageError(f"full_softmax needs chunk >= 1 rows, got {chunk}.")
    scale = 1.0 / max(rows, 1) if reduction == "mean" else 1.0
    tracked = torch.is_grad_enabled()
    run: Any = _FullSoftmax.apply
    loss, confidence = run(query, items, target, offset, weight, chunk, scale, tracked)
    return loss, confidence


class _FullSoftmax(torch.autograd.Function):
    """Logits are kept in units of log2, so that the exponential is exp2: four times faster than exp on CPU."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        items: Tensor,
        target: Tensor,
        offset: Tensor | None,
        weight: Tensor | None,
        chunk: int,
        scale: float,
        tracked: bool,
    ) -> tuple[Tensor, Tensor]:
        need = [bool(n) and tracked for n in ctx.needs_input_grad]
        need_query, need_items, need_offset, need_weight = need[0], need[1], need[3], need[4]
        dtype = torch.float64 if torch.float64 in (query.dtype, items.dtype) else torch.float32
        with torch.autocast(query.device.type, enabled=False):
            # Rows of zeros and of weight 0 below make the number of rows one of a few.
            rows = len(query)
            q, table = pad_rows(query.to(dtype).contiguous()), items.to(dtype).contiguous()
            wanted = pad_rows(target)
            shift = None if offset is None else pad_rows(offset.to(dtype)) / math.log(2)
            factor = query.new_full((rows,), scale, dtype=dtype) if weight is None else weight.to(dtype) * scale
            row_scale = pad_rows(factor)
            q_log2 = q / math.log(2)
            losses = q.new_zeros(len(q))
            confidence = q.new_zeros(len(q))
            grad_query = torch.zeros_like(q) if need_query else None
            grad_items_t = q.new_zeros(table.shape[1], table.shape[0]) if need_items else None
            grad_offset = q.new_zeros(len(q)) if need_offset else None
            for start in range(0, len(q), chunk):
                part = slice(start, start + chunk)
                chosen = wanted[part, None]
                logits = matmul(q_log2[part], table.t())
                if shift is not None:
                    logits.scatter_add_(1, chosen, -shift[part, None])
                logits.sub_(logits.amax(1, keepdim=True))
                target_logit = logits.gather(1, chosen)
                mass = logits.exp2_()
                total = mass.sum(1, keepdim=True)
                losses[part] = (total.log() - target_logit * math.log(2)).squeeze(1)
                # The largest logit is 0 here, so the likeliest item has probability 1 / total.
                confidence[part] = total.squeeze(1).reciprocal()
                # Rows are normalised on the D-wide side (queries, gradients), never on the I-wide one.
                share = row_scale[part, None] / total
                if grad_query is not None:
                    grad_query[part] = matmul(mass, table).mul_(share)
                if grad_items_t is not None:
                    grad_items_t.add_(matmul((q[part] * share).t(), mass))
                if grad_offset is not None:
                    grad_offset[part] = row_scale[part] - (mass.gather(1, chosen) * share).squeeze(1)
            grad_items = None
            if grad_query is not None:
                grad_query.sub_(table.index_select(0, wanted).mul_(row_scale[:, None]))
            if grad_items_t is not None:
                grad_items = grad_items_t.t().contiguous()
                grad_items.index_add_(0, wanted, q * -row_scale[:, None])
            loss = (losses * row_scale).sum()
        ctx.save_for_backward(
            None if grad_query is None else grad_query[:rows].to(query.dtype),
            None if grad_items is None else grad_items.to(items.dtype),
            None if grad_offset is None or offset is None else grad_offset[:rows].to(offset.dtype),
            (losses[:rows] * scale).to(weight.dtype) if weight is not None and need_weight else None,
        )
        sure = confidence[:rows].clone()
        ctx.mark_non_differentiable(sure)
        return loss, sure

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise UsageError(
                "full_softmax has no second derivative: its gradient is made in the forward pass. Call backward "
                "without create_graph=True, or use torch.nn.functional.cross_entropy(query @ items.T, target) here."
            )
        grad = grad_outputs[0]
        query, items, offset, weight = (None if g is None else g * grad.to(g.dtype) for g in ctx.saved_tensors)
        return query, items, None, offset, weight, None, None, None


def sampled_softmax(
    query: Tensor,
    items: Tensor,
    target: Tensor,
    sampled_ids: Tensor,
    *,
    log_q_target: Tensor | None = None,
    log_q_sampled: Tensor | None = None,
    remove_accidental_hits: bool = True,
    offset: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Softmax over the target and S sampled items shared by all rows, corrected for how they were sampled.

    Every logit has the log-probability of its item under the sampler taken off (Bengio & Senecal 2008, "Adaptive
    importance sampling"; Yi et al. 2019, "Sampling-bias-corrected neural modeling", equation 3), so popular items are
    not punished for being drawn often. A constant in log q cancels: expected counts and probabilities agree.

    Args:
        query: (M, D).
        items: (I, D) item vectors; only the rows asked for are read.
        target: (M,) int64 item ids.
        sampled_ids: (S,) int64 item ids, repeats allowed.
        log_q_target: (M,) and
        log_q_sampled: (S,) log-probabilities under the sampler; both None for a uniform one.
        remove_accidental_hits: leave out a sampled item in the rows where it is the target.
        offset: (M,) subtracted from the target's logit.
        weight: (M,) row multipliers; the mean divides by M.

    Returns:
        Scalar; 0 with zero gradients when there are no rows.

    Raises:
        UsageError: shapes that do not match, ids outside 0..I-1, or only one of the two log q.
    """
    _check_table(query, items, target, "target")
    check_rows("target", target, query.shape[0])
    check_rows("sampled_ids", sampled_ids, sampled_ids.numel())
    check_ids("sampled_ids", sampled_ids, items.shape[0])
    positive = (full_precision(query) * full_precision(F.embedding(target, items))).sum(1)
    negatives = full_precision(query) @ full_precision(F.embedding(sampled_ids, items)).t()
    excluded = target[:, None] == sampled_ids if remove_accidental_hits else None
    return sampled_softmax_from_scores(
        positive,
        negatives,
        log_q_target=log_q_target,
        log_q_sampled=log_q_sampled,
        excluded=excluded,
        offset=offset,
        weight=weight,
    )


def sampled_softmax_from_scores(
    positive: Tensor,
    negatives: Tensor,
    *,
    log_q_target: Tensor | None = None,
    log_q_sampled: Tensor | None = None,
    excluded: Tensor | None = None,
    offset: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """`sampled_softmax` for scores already computed: positive (M,), negatives (M, S), excluded (M, S) bool or None.

    log_q_sampled is (S,), or (M, S) when each row has its own sample.

    Raises:
        UsageError: shapes that do not match, or only one of the two log q.
    """
    rows = positive.numel()
    check_rows("positive", positive, rows)
    check_rows("log_q_target", log_q_target, rows)
    check_rows("offset", offset, rows)
    check_rows("weight", weight, rows)
    if negatives.dim() != 2 or negatives.shape[0] != rows:
        raise UsageError(f"negatives has shape {tuple(negatives.shape)}, expected ({rows}, S).")
    if (log_q_target is None) != (log_q_sampled is None):
        raise UsageError("sampled_softmax needs log_q_target and log_q_sampled together, or neither (uniform sampler).")
    positive, negatives = full_precision(positive), full_precision(negatives)
    if offset is not None:
        positive = positive - full_precision(offset)
    if log_q_target is not None and log_q_sampled is not None:
        if tuple(log_q_sampled.shape) not in (tuple(negatives.shape), tuple(negatives.shape[1:])):
            raise UsageError(
                f"log_q_sampled has shape {tuple(log_q_sampled.shape)}, expected {tuple(negatives.shape[1:])}: "
                "one value for each sampled item."
            )
        positive = positive - log_q_target
        negatives = negatives - log_q_sampled
    if excluded is not None:
        negatives = negatives.masked_fill(excluded, -math.inf)
    return row_mean(pick_loss(torch.cat([positive[:, None], negatives], dim=1), 0), weight)


def _check_table(query: Tensor, items: Tensor, ids: Tensor, name: str) -> None:
    if query.dim() != 2 or items.dim() != 2 or query.shape[1] != items.shape[1]:
        raise UsageError(
            f"query {tuple(query.shape)} and items {tuple(items.shape)} do not match, expected (M, D) and (I, D)."
        )
    check_ids(name, ids, items.shape[0])
