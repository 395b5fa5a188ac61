"""What accuracy does not show: how much of the catalogue is recommended, how novel, and how much it follows popularity.

Every figure is of the first K places of all lists; empty places (item -1) are left out. c_i is the number of training
interactions of item i, C their sum, I the number of items.

    coverage@K              share of the catalogue that occurs in at least one list
    novelty@K               mean of -log2 p_i in bits, p_i = (c_i + 1) / (C + I), smoothed to be finite for unseen items
                            (mean self-information; Zhou et al., PNAS 2010, with the share of interactions as p_i)
    arp@K                   average recommendation popularity: mean of c_i (Yin et al., VLDB 2012)
    popularity_percentile@K mean of the item's place in the order of training popularity, from 0 (least) to 1 (most);
                            tied items share the middle of their places, so random lists give 0.5 on average
    gini@K                  Gini coefficient of how often each item is recommended: 0 all alike, towards 1 a few items
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from augrec.errors import UsageError
from augrec.evaluate.metrics import check_ks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from augrec.evaluate.ranking import TopK


def beyond_accuracy(top: TopK, item_counts: NDArray[np.int64], ks: Sequence[int]) -> dict[str, float]:
    """Diagnostics of the lists `top` at each K, given the training interactions per item `item_counts` (I,).

    Means are NaN when nothing is recommended. Raises UsageError for a K below 1 or beyond the lists.
    """
    ks = check_ks(ks)
    if ks[-1] > top.k:
        raise UsageError(f"Lists of {top.k} items cannot be judged at K = {ks[-1]}: rank with k >= {ks[-1]}.")
    n_items = len(item_counts)
    counts = item_counts.astype(np.float64)
    information = -np.log2((counts + 1.0) / (counts.sum() + n_items))
    percentile = (rankdata(counts, method="average") - 0.5) / n_items
    out: dict[str, float] = {}
    for k in ks:
        shown = top.items[:, :k]
        times = np.bincount(shown[shown >= 0], minlength=n_items)
        total = int(times.sum())
        share = times / total if total else np.full(n_items, np.nan)
        out[f"coverage@{k}"] = float(np.count_nonzero(times) / n_items)
        out[f"novelty@{k}"] = float(share @ information)
        out[f"arp@{k}"] = float(share @ counts)
        out[f"popularity_percentile@{k}"] = float(share @ percentile)
        out[f"gini@{k}"] = gini(times)
    return out


def gini(amounts: NDArray[np.int64]) -> float:
    """Gini coefficient of `amounts` (I,) >= 0: mean absolute difference over twice the mean; NaN when all are zero."""
    rising = np.sort(amounts).astype(np.float64)
    n, total = len(rising), float(rising.sum())
    if not total:
        return float("nan")
    return float((2.0 * np.arange(1, n + 1) - n - 1.0) @ rising / (n * total))
