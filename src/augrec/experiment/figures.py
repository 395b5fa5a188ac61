"""Figures of a diagnosis, as functions of tensors and id sets. Nothing here knows a run, a model or a method."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from augrec.data.interactions import Interactions

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_Z95 = 1.959964
_SCORES_AT_ONCE = 2**22
"""Scores of rows against the catalogue that are held at a time."""


class ItemSets:
    """The set of items each user has in a log, asked for many pairs at once."""

    def __init__(self, log: Interactions) -> None:
        self.n_users, self.n_items = log.n_users, log.n_items
        self.keys = np.unique(log.user.astype(np.int64) * log.n_items + log.item)
        self.sizes = np.bincount(self.keys // max(log.n_items, 1), minlength=log.n_users)
        """(U,) distinct items of each user."""

    def hold(self, user: Tensor, item: Tensor) -> Tensor:
        """Whether each item (M,) or (M, K) is in the set of its row's user (M,); bool, shaped as `item`."""
        wanted = (user.view(-1, *[1] * (item.dim() - 1)) * self.n_items + item).numpy()
        if not len(self.keys):
            return torch.zeros(item.shape, dtype=torch.bool)
        place = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        return torch.from_numpy(self.keys[place] == wanted)

    def sizes_without(self, other: ItemSets) -> NDArray[np.int64]:
        """(U,) distinct items of each user that are not in the user's set of `other`."""
        fresh = self.keys[np.isin(self.keys, other.keys, assume_unique=True, invert=True)]
        return np.bincount(fresh // max(self.n_items, 1), minlength=self.n_users)


def spread(drawn: NDArray[Any] | Tensor) -> dict[str, float | None]:
    """Mean, standard deviation (of the population) and quantiles q01 ... q99; None without values."""
    array = np.asarray(drawn, dtype=np.float64).reshape(-1)
    names = [f"q{round(100 * q):02d}" for q in QUANTILES]
    if not array.size:
        return dict.fromkeys(["mean", "std", *names])
    found = np.quantile(array, QUANTILES)
    values = [array.mean(), array.std(), *found]
    return {name: float(value) for name, value in zip(["mean", "std", *names], values, strict=True)}


def rate(found: int, of: int) -> dict[str, Any]:
    """Count, share and its 95 % interval (Wilson, 1927); None without draws."""
    if not of:
        return {"found": 0, "rate": None, "low": None, "high": None}
    share, square = found / of, _Z95**2 / of
    centre, half = share + square / 2, _Z95 * math.sqrt(share * (1 - share) / of + square / of / 4)
    low = max(0.0, (centre - half) / (1 + square)) if found else 0.0
    return {"found": found, "rate": share, "low": low, "high": min(1.0, (centre + half) / (1 + square))}


def expected_rate(user: Tensor, sought: ItemSets, train: ItemSets) -> float | None:
    """Share of `sought` items among negatives drawn uniformly outside each row's user's train items, mean over rows
    (M,); over the whole catalogue for users who have every item."""
    if not len(user):
        return None
    free = train.n_items - train.sizes
    wanted = np.where(free > 0, sought.sizes_without(train), sought.sizes)
    share = wanted / np.where(free > 0, free, max(train.n_items, 1))
    return float(share[user.numpy()].mean())


def offset_weights(margin: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """sigma(-m) and sigma(-(m - shift)): the weight of a pair's gradient without and with the offset (BPR, eq. 12).

    `margin` is (M, K) s_i - s_j, `shift` (M,) lambda s_d; both results are (M, K).
    """
    return torch.sigmoid(-margin), torch.sigmoid(shift[:, None] - margin)


def ridge(margin: Tensor, shift: Tensor, squared_norm: Tensor, strength: Tensor) -> dict[str, float]:
    """How much of the offset's effect on the loss is an adaptive ridge on the query.

    For e_d ~ N(0, s^2 I) independent of the query, E[softplus(-m + lambda s_d)] - softplus(-m) is to second order
    0.5 lambda^2 s^2 |e_u|^2 sigma(m) sigma(-m). Means over rows:

        measured      softplus(-m + shift) - softplus(-m)
        first_order   shift sigma(-m): a pull along e_d, zero for noise
        second_order  0.5 shift^2 sigma(m) sigma(-m), with the shifts as drawn
        predicted     0.5 strength |e_u|^2 sigma(m) sigma(-m)
        standard_error  of measured, over rows

    Args:
        margin: (M,) m; of several negatives, s_i - logsumexp_j s_j.
        shift: (M,) lambda s_d.
        squared_norm: (M,) |e_u|^2.
        strength: () lambda^2 s^2, where s^2 is the mean square of the coordinates of e_d.
    """
    margin, shift, squared_norm = margin.double(), shift.double(), squared_norm.double()
    curve = torch.sigmoid(margin) * torch.sigmoid(-margin)
    terms = {
        "measured": F.softplus(shift - margin) - F.softplus(-margin),
        "first_order": shift * torch.sigmoid(-margin),
        "second_order": 0.5 * shift.square() * curve,
        "predicted": 0.5 * strength.double() * squared_norm * curve,
    }
    error = float(terms["measured"].std(correction=0)) / math.sqrt(max(len(margin), 1))
    return {name: float(term.mean()) for name, term in terms.items()} | {"standard_error": error}


def generated_share(total: Tensor, parts: Tensor) -> Tensor:
    """(M,) |parts| / (|parts| + |total - parts|): the share of the gradient on a query (M, D) that comes from generated
    vectors, where `parts` (M, D) is what comes through them. In BPR with one negative the pair's weight cancels and
    lambda |e_d| / (lambda |e_d| + |e_j - e_i|) is left. NaN for rows without gradient."""
    own, rest = parts.norm(dim=1), (total - parts).norm(dim=1)
    share: Tensor = own / (own + rest)
    return share


def nearest_items(vectors: Tensor, item: Tensor, positive: Tensor, *, cosine: bool) -> tuple[Tensor, Tensor]:
    """For vectors (M, D) among items (I, D): the nearest item (M,), lowest id first, and the rank (M,) of item
    `positive` (M,), from 1; equal scores share the best rank. Near is the inner product, or the cosine."""
    if cosine:
        item = F.normalize(item, dim=1)
    first, rank = [], []
    rows = max(1, _SCORES_AT_ONCE // max(len(item), 1))
    for part, target in zip(vectors.split(rows), positive.split(rows), strict=True):
        score = part @ item.T
        first.append(score.argmax(1))
        rank.append((score > score.gather(1, target[:, None])).sum(1) + 1)
    if not first:
        return positive, positive
    return torch.cat(first), torch.cat(rank)


def neighbourhood(
    vectors: Tensor,
    item: Tensor,
    user: Tensor,
    positive: Tensor,
    sets: Mapping[str, ItemSets],
    *,
    noise: Tensor,
    cosine: bool,
) -> dict[str, Any]:
    """What lies nearest to generated vectors (M, D): shares of rows whose nearest item is in each of the user's
    `sets`, is the positive itself, how many different items are met at all, and where the positive ranks.

    `expected` is what an item drawn uniformly from the catalogue would give, `noise` what the random directions `noise`
    (M, D) give: large or central items are nearest to much.
    """
    first, rank = nearest_items(vectors, item, positive, cosine=cosine)
    other = nearest_items(noise, item, positive, cosine=cosine)[0]
    rows, n_items = len(first), len(item)
    found: dict[str, Any] = {}
    for name, one in sets.items():
        chance = float(one.sizes[user.numpy()].mean() / n_items) if rows else None
        blind = float(one.hold(user, other).float().mean()) if rows else None
        found[name] = {**rate(int(one.hold(user, first).sum()), rows), "expected": chance, "noise": blind}
    blind = float((other == positive).float().mean()) if rows else None
    found["positive"] = {**rate(int((first == positive).sum()), rows), "expected": 1 / n_items, "noise": blind}
    found["distinct_items"], found["distinct_items_noise"] = len(torch.unique(first)), len(torch.unique(other))
    found["positive_rank"] = spread(rank)
    return found


def uniformity(vectors: Tensor, *, t: float = 2.0) -> float | None:
    """log of the mean of exp(-t |x - y|^2) over all pairs of the normalised rows (M, D) (Wang and Isola, ICML 2020,
    eq. 8); lower is more uniform, 0 is a single point."""
    if len(vectors) < 2:
        return None
    distance = torch.pdist(F.normalize(vectors.double(), dim=1))
    return float(distance.square_().mul_(-t).exp_().mean().log())


def uniform_bound(dim: int, *, t: float = 2.0) -> float:
    """Uniformity of the uniform distribution on the unit sphere in R^dim: log E exp(-t (2 - 2 c)), with c the cosine of
    two random directions, of density proportional to (1 - c^2)^((dim - 3) / 2)."""
    if dim < 2:
        return math.log((1 + math.exp(-4 * t)) / 2)
    angle = (np.arange(20_000) + 0.5) * (math.pi / 20_000)
    weight = np.sin(angle) ** (dim - 2)
    return float(np.log((weight * np.exp(-t * (2 - 2 * np.cos(angle)))).sum() / weight.sum()))


def alignment(cosine: Tensor) -> float | None:
    """Mean |x - y|^2 = 2 - 2 cos of normalised positive pairs (Wang and Isola, eq. 7, alpha 2); lower is closer."""
    return float((2 - 2 * cosine.double()).mean()) if len(cosine) else None


def cohesion(item: Tensor, owner: Tensor, own: Tensor) -> float | None:
    """How alike the items of one sequence are: the mean cosine of its pairs, averaged over sequences of two items and
    more; None without any.

    Args:
        item: (I, D) vectors.
        owner: (E,) int64 sequence of each event.
        own: (E,) int64 item of each event.
    """
    if not len(owner):
        return None
    total = torch.zeros(int(owner.max()) + 1, item.shape[1], dtype=torch.float64)
    total.index_add_(0, owner, F.normalize(item.double(), dim=1)[own])
    count = torch.bincount(owner).double()
    # |sum of unit vectors|^2 counts every pair twice and each vector with itself.
    pairs = (total.square().sum(1) - count) / (count * (count - 1))
    pairs = pairs[count > 1]
    return float(pairs.mean()) if len(pairs) else None


def effective_rank(table: Tensor) -> float | None:
    """exp of the entropy of the normalised singular values of a table (I, D) (Roy and Vetterli, EUSIPCO 2007)."""
    gram = table.double().T @ table.double()
    value = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    total = float(value.sum())
    if not total:
        return None
    share = value / total
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))
