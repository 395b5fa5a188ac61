"""Noise-free Negative Sampling: negatives among the unobserved items of low preference (PDRec, equation 3)."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from augrec.augment.pdrec.preference import Preference, PreferencePlugin, observed_cells
from augrec.batches.negatives import NegativeSampler
from augrec.seams import Additions, Negatives, Seam
from augrec.typed import Config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from augrec.batches.batch import Batch
    from augrec.data.interactions import Interactions
    from augrec.seams import Encoded

_ROUNDS, _ROWS = 40, 16


class NNSConfig(Config):
    """Settings of NNS; published values by data set in docs/pdrec.md."""

    weight: float = Field(default=1.0, ge=0)
    """What this source of negatives weighs beside the objective's own, whose weight is 1; 0 switches it off."""
    source: Literal["preference", "random"] = "preference"
    """Where preferences come from; random is the control arm."""
    skip: float = Field(default=0.5, ge=0, lt=1)
    """omega_m: share of a user's unobserved items, best first, that are never drawn."""
    negatives: int = Field(default=1, ge=1)
    """Negatives for each target."""
    drop_lowest: float = Field(default=0.0, ge=0, lt=1)
    """Share of the items at the bottom that are never drawn either; 0.01 in the public code."""
    cut: Literal["unobserved", "all"] = "unobserved"
    """What the shares are of: a user's unobserved items, as equation 3 says, or all items (public code)."""


def _around(scores: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) and (B,): the values at descending places `place` - 1 and `place` (B,), from 0, of each row of `scores`
    (B, I); +inf before the first and -inf after the last.

    numpy sorts whole rows with vector instructions, which takes less time than torch's selection of one place.
    """
    ordered = torch.from_numpy(np.sort(scores.numpy(), axis=1))
    last = ordered.shape[1] - 1
    before = ordered.gather(1, (last + 1 - place).clamp(0, last)[:, None])[:, 0].masked_fill(place < 1, torch.inf)
    at = ordered.gather(1, (last - place).clamp(0, last)[:, None])[:, 0].masked_fill(place > last, -torch.inf)
    return before, at


def pool_bounds(
    preference: Preference,
    train: Interactions,
    *,
    skip: float,
    drop_lowest: float = 0.0,
    cut: Literal["unobserved", "all"] = "unobserved",
) -> tuple[Tensor, Tensor]:
    """(U,) lower and upper bound: user u's pool are its unobserved items i with lower <= xhat(u, i) <= upper.

    With l unobserved items (train candidates the user has no train event with), sorted by falling preference, the pool
    is the ranks [floor(skip l), ceil((1 - drop_lowest) l)), at least one. Bounds lie midway between the last item
    inside and the next outside, so that rounding moves nobody across; tied items at a bound are all inside. `cut` =
    "all" takes both shares of all I candidates, the upper rank among all of them and the pool's size from there, as
    the public code does. A user without unobserved items has no bounds.
    """
    lower, upper = torch.full((train.n_users,), -torch.inf), torch.full((train.n_users,), torch.inf)
    outside = None if train.candidates is None else torch.from_numpy(~train.candidates)
    total = train.n_items if train.candidates is None else int(train.candidates.sum())
    free = NegativeSampler(train, allow_full=True).free.long()
    # Nobody is left out of the ranking below because of a full history: such a user has no bounds.
    full = torch.from_numpy(np.bincount(_distinct(train), minlength=train.n_users) >= total)
    for block, block_scores in preference.blocks(torch.arange(train.n_users)):
        # Several passes over each row: few rows at a time, so that they stay in the cache.
        for users, scores in zip(block.split(_ROWS), block_scores.split(_ROWS), strict=True):
            row, item = observed_cells(train, users)
            if outside is not None:
                scores[:, outside] = -torch.inf
            left = free[users]
            first = (left.double() * skip).floor().long()
            last = (left.double() * (1 - drop_lowest)).ceil().long()
            if cut == "all":
                begin = int(total * skip)
                edge = _around(scores, torch.full_like(left, begin))[1]
                cell = torch.unique(row * train.n_items + item)
                own = cell // train.n_items
                better = scores[own, cell % train.n_items] > edge[own]
                first = begin - torch.bincount(own[better], minlength=len(users))
                last = first + (math.ceil(total * (1 - drop_lowest)) - begin)
            scores[row, item] = -torch.inf
            first = torch.minimum(first, left - 1).clamp(min=0)
            last = torch.maximum(torch.minimum(last, left), first + 1)
            if skip > 0:
                outer, inner = _around(scores, first)
                upper[users] = (outer + inner) / 2
            if cut == "all" or drop_lowest > 0:
                inner, outer = _around(scores, last)
                lower[users] = torch.where(last < left, (inner + outer) / 2, -torch.inf)
    return lower.masked_fill(full, -torch.inf), upper.masked_fill(full, torch.inf)


def _distinct(train: Interactions) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The user of every distinct (user, candidate item) pair."""
    inside = train.in_candidates()
    keys = train.user[inside].astype(np.int64) * max(train.n_items, 1) + train.item[inside]
    return np.asarray(np.unique(keys) // max(train.n_items, 1))


class NoiseFreeSampler:
    """Uniform over each user's pool, exactly: unobserved items are drawn uniformly and kept where their preference lies
    within the bounds.

    A user who has every item draws from the whole catalogue. Memory: the preference's two tables, two numbers a user
    and the train pairs.
    """

    def __init__(self, preference: Preference, train: Interactions, *, bounds: tuple[Tensor, Tensor]) -> None:
        self.preference, (self.lower, self.upper) = preference, bounds
        self.proposals = NegativeSampler(train, allow_full=True)
        self.n_items = train.n_items

    def sample(self, user: Tensor, k: int, *, generator: torch.Generator | None = None) -> Tensor:
        """(M,) int64 users to (M, k) int64 items, independent draws with replacement."""
        owner = user.repeat_interleave(k)
        out = torch.empty_like(owner)
        open_, tries = torch.arange(owner.shape[0]), 2
        for round_ in range(_ROUNDS):
            who = owner[open_]
            drawn = self.proposals.sample(who, tries, generator=generator)
            score = self.preference.scores(who.repeat_interleave(tries), drawn.view(-1)).view_as(drawn)
            fits = (score >= self.lower[who][:, None]) & (score <= self.upper[who][:, None])
            found, first = fits.max(1)
            if round_ == _ROUNDS - 1:
                # Only where rounding has emptied a pool of one or two items: the least preferred of the draws.
                first = torch.where(found, first, score.argmin(1))
                found = torch.ones_like(found)
            out[open_[found]] = drawn.gather(1, first[:, None])[:, 0][found]
            open_ = open_[~found]
            if not len(open_):
                break
            tries = min(2 * tries, 64)
        return out.view(user.shape[0], k)


class NNS(PreferencePlugin):
    """One more source of negatives beside the objective's own; bpr and bce average the sources by their weights."""

    name: ClassVar[str] = "nns"
    Config = NNSConfig
    acts: ClassVar[frozenset[Seam]] = frozenset({"append"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"published-code": {"skip": 0.9, "drop_lowest": 0.01, "cut": "all"}}
    )

    def __init__(self, config: NNSConfig, **sizes: Any) -> None:
        super().__init__(config, **sizes)
        self.settings = config
        self.sampler: NoiseFreeSampler | None = None

    @classmethod
    def deviations(cls, config: Any) -> tuple[str, ...]:
        found = {"nns.drop_lowest": config.drop_lowest > 0, "nns.cut=all": config.cut == "all"}
        return tuple(name for name, is_so in found.items() if is_so)

    def use(self, preference: Preference, train: Interactions) -> None:
        settings = self.settings
        bounds = pool_bounds(preference, train, skip=settings.skip, drop_lowest=settings.drop_lowest, cut=settings.cut)
        self.sampler = NoiseFreeSampler(preference, train, bounds=bounds)

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        assert self.sampler is not None, "prepare before training"
        ids = self.sampler.sample(batch.target_user, self.settings.negatives)
        return Additions(appended=(Negatives(ids=ids, mode="append", share=self.settings.weight),))
