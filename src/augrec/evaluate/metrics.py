"""Accuracy of ranked lists: Recall, NDCG, HR, MRR and Precision at K, per user and averaged, and what holds among them.

With T_u the distinct held-out items of user u and hit(r) = 1 when the item at rank r is one of them,

    Recall@K    = sum_{r<=K} hit(r) / |T_u|                                     (not min(K, |T_u|))
    NDCG@K      = sum_{r<=K} hit(r) / log2(r+1)  /  sum_{r<=min(K, |T_u|)} 1 / log2(r+1)
    HR@K        = 1 when any of the first K is a hit
    MRR@K       = 1 / rank of the first hit among the first K, 0 without one
    Precision@K = sum_{r<=K} hit(r) / K

averaged over the users with at least one held-out item (macro average). A held-out item that was masked as seen
counts in |T_u| and can never be hit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from augrec.errors import NumericalError, UsageError
from augrec.evaluate.ranking import csr_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from augrec.data.interactions import Interactions
    from augrec.evaluate.ranking import TopK

NAMES = ("recall", "ndcg", "hr", "mrr", "precision")


@dataclass(frozen=True, kw_only=True, eq=False)
class Metrics:
    """Means and per-user values by name (`recall@10`, ...). `users` int64 (n,) are the users with a held-out item."""

    mean: dict[str, float]
    per_user: dict[str, NDArray[np.float64]]
    users: NDArray[np.int64]


def accuracy(top: TopK, truth: Interactions, ks: Sequence[int]) -> Metrics:
    """Metrics of the lists `top` against the held-out part `truth`, at each K of `ks`.

    Users of `top` without a row in `truth` are left out; without any user left the means are NaN. Raises UsageError
    when a K is below 1 or longer than the lists.
    """
    ks = check_ks(ks)
    if ks[-1] > top.k:
        raise UsageError(f"Lists of {top.k} items cannot be judged at K = {ks[-1]}: rank with k >= {ks[-1]}.")
    hit, size, kept = hits(top, truth)
    return from_hits(hit, size, top.users[kept], ks)


def hits(top: TopK, truth: Interactions) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """hit(r) bool (n, k), |T_u| (n,) and the rows of `top` they belong to (n,): the users that have a held-out item."""
    n_items = truth.n_items
    entry, row = csr_rows(truth.offsets, top.users)
    # Keyed by row, not by user, so that a user asked for twice is judged twice.
    key = np.unique(row * n_items + truth.item[entry])
    size = np.bincount(key // n_items, minlength=len(top.users)).astype(np.int64)
    kept = np.flatnonzero(size)
    items = top.items[kept]
    query = kept[:, None] * n_items + items
    if not len(key):
        return np.zeros(items.shape, dtype=np.bool_), size[kept], kept
    found = key[np.minimum(np.searchsorted(key, query), len(key) - 1)] == query
    return found & (items >= 0), size[kept], kept


def from_hits(hit: NDArray[np.bool_], size: NDArray[np.int64], users: NDArray[np.int64], ks: Sequence[int]) -> Metrics:
    """Metrics from hit(r) (n, k) and |T_u| (n,) of `users` (n,)."""
    width = hit.shape[1]
    discount = 1.0 / np.log2(np.arange(2, width + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])
    gain = np.cumsum(hit * discount, axis=1)
    count = np.cumsum(hit, axis=1)
    first = np.where(hit.any(axis=1), hit.argmax(axis=1), width)
    per_user: dict[str, NDArray[np.float64]] = {}
    for k in ks:
        per_user[f"recall@{k}"] = count[:, k - 1] / size
        per_user[f"ndcg@{k}"] = gain[:, k - 1] / ideal[np.minimum(k, size)]
        per_user[f"hr@{k}"] = (count[:, k - 1] > 0).astype(np.float64)
        per_user[f"mrr@{k}"] = np.where(first < k, 1.0 / (first + 1.0), 0.0)
        per_user[f"precision@{k}"] = count[:, k - 1] / k
    return Metrics(mean=means(per_user), per_user=per_user, users=users)


def means(per_user: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Mean over users of each metric; NaN when there is no user."""
    return {name: float(value.mean()) if len(value) else float("nan") for name, value in per_user.items()}


def check_ks(ks: Sequence[int]) -> list[int]:
    """The Ks, each once and rising; UsageError when there is none or one is below 1."""
    if not ks or min(ks) < 1:
        raise UsageError(f"ks must name at least one list length of 1 or more, but is {tuple(ks)}.")
    return sorted(set(ks))


def check_identities(mean: Mapping[str, float], *, single_target: bool) -> None:
    """Raise NumericalError when metrics of our own making break an identity (`violations`), which only a bug can do."""
    reasons = violations(mean, single_target=single_target, slack=1e-9)
    if reasons:
        raise NumericalError(
            f"The metrics contradict each other, so none of them can be trusted: {'; '.join(reasons)}. This is a "
            "defect of the evaluation (or of values changed after it), not of the model: report it with these numbers."
        )


def flag_published(
    row: Mapping[str, float], *, decimals: int = 4, percent: bool = False, single_target: bool = True
) -> list[str]:
    """Reasons why a published row of metrics (`hr@5`, `ndcg@10`, ...) cannot be right; empty when none is found.

    Printed values are rounded: each stands for an interval of half a unit of its last place (`decimals` of the
    printed number, after `percent` is taken off) on either side, and a row is flagged only if no values in those
    intervals agree.
    """
    scale = 0.01 if percent else 1.0
    slack = 0.5 * 10.0**-decimals * scale
    return violations({name: value * scale for name, value in row.items()}, single_target=single_target, slack=slack)


def violations(mean: Mapping[str, float], *, single_target: bool, slack: float) -> list[str]:
    """Identities that `mean` breaks although every value may be off by up to `slack`; missing metrics are passed over.

    For any truth: values lie in [0, 1]; Recall, NDCG, MRR and Precision never exceed HR at the same K; HR, Recall and
    MRR do not fall with K. With a single target at rank r, NDCG = 1/log2(r+1): so Recall = HR, NDCG@K >= HR@K /
    log2(K+1), and for K < K' the ratio (NDCG@K' - NDCG@K) / (HR@K' - HR@K) is a mean of 1/log2(r+1) over K < r <= K',
    hence in [1/log2(K'+1), 1/log2(K+2)] ([.2891, .3562] for 5 and 10). A linear form sum c_i m_i >= 0 holds within
    rounding when it is at least -slack * sum |c_i|, which is how the slack enters every line.
    """
    reasons: list[str] = []

    def nonnegative(text: str, *terms: tuple[float, str]) -> None:
        if all(name in mean for _, name in terms):
            values = [(factor, mean[name]) for factor, name in terms]
            if sum(c * m for c, m in values) < -slack * sum(abs(c) for c, _ in values) - 1e-12:
                shown = ", ".join(f"{name} = {mean[name]:.6g}" for name in dict.fromkeys(name for _, name in terms))
                reasons.append(f"{text} fails ({shown})")

    for name, value in mean.items():
        if name.partition("@")[0] in NAMES and not -slack <= value <= 1.0 + slack + 1e-12:
            reasons.append(f"{name} = {value:.6g} is not in [0, 1]")
    ks = sorted({int(name.partition("@")[2]) for name in mean if name.partition("@")[2].isdigit()})
    for k in ks:
        for other in ("ndcg", "recall", "mrr", "precision"):
            nonnegative(f"{other}@{k} <= hr@{k}", (1.0, f"hr@{k}"), (-1.0, f"{other}@{k}"))
        if single_target:
            nonnegative(f"recall@{k} = hr@{k}", (1.0, f"recall@{k}"), (-1.0, f"hr@{k}"))
            floor = 1.0 / np.log2(k + 1)
            nonnegative(f"ndcg@{k} >= {floor:.4f} hr@{k}", (1.0, f"ndcg@{k}"), (-floor, f"hr@{k}"))
    for a, low in enumerate(ks):
        for high in ks[a + 1 :]:
            for name in ("hr", "recall", "mrr"):
                nonnegative(f"{name}@{low} <= {name}@{high}", (1.0, f"{name}@{high}"), (-1.0, f"{name}@{low}"))
            if not single_target:
                continue
            gain = [(1.0, f"ndcg@{high}"), (-1.0, f"ndcg@{low}")]
            ratio = f"(ndcg@{high} - ndcg@{low}) / (hr@{high} - hr@{low})"
            least, most = 1.0 / np.log2(high + 1), 1.0 / np.log2(low + 2)
            nonnegative(f"{ratio} >= {least:.4f}", *gain, (-least, f"hr@{high}"), (least, f"hr@{low}"))
            negated = [(-c, name) for c, name in gain]
            nonnegative(f"{ratio} <= {most:.4f}", *negated, (most, f"hr@{high}"), (-most, f"hr@{low}"))
    return reasons
