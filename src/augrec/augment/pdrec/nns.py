"""Noise-free Negative Sampling: negatives among the unobserved items of low preference (PDRec, equation 3)."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

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

_ROUNDS = 40


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


def _kth_largest(scores: Tensor, place: Tensor, *, sample: int = 1024) -> Tensor:
    """(B,) the value at descending place `place` (B,), from 0, of each row of `scores` (B, I); exact.

    A strided sample brackets the value, one pass counts what lies above, and only the bracket is sorted: several times
    faster than a selection over the row. Rows that the bracket misses are sorted whole.
    """
    rows, width = scores.shape
    if width <= 4 * sample:
        return scores.sort(dim=1, descending=True).values.gather(1, place[:, None])[:, 0]
    drawn = scores[:, :: width // sample].sort(dim=1, descending=True).values
    count = drawn.shape[1]
    guess, slack = place.double() * count / width, 3 * count**0.5 / 2 + 2
    top = drawn.gather(1, (guess - slack).long().clamp(0, count - 1)[:, None])
    bottom = drawn.gather(1, (guess + slack).long().clamp(0, count - 1)[:, None])
    top = torch.where((guess < slack)[:, None], torch.inf, top)
    bottom = torch.where((guess + slack >= count - 1)[:, None], -torch.inf, bottom)
    inside = (scores <= top) & (scores >= bottom)
    above, held = (scores > top).sum(1), inside.sum(1)
    row, column = inside.nonzero(as_tuple=True)
    nth = torch.arange(len(row)) - (torch.cumsum(held, 0) - held)[row]
    packed = scores.new_full((rows, int(held.max())), -torch.inf)
    packed[row, nth] = scores[row, column]
    wanted = place - above
    found = packed.sort(dim=1, descending=True).values.gather(1, wanted.clamp(0, packed.shape[1] - 1)[:, None])[:, 0]
    missed = ((wanted < 0) | (wanted >= held)).nonzero()[:, 0]
    if len(missed):
        whole = scores[missed].sort(dim=1, descending=True).values
        found[missed] = whole.gather(1, place[missed, None])[:, 0]
    return found


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
    for users, scores in preference.blocks(torch.arange(train.n_users)):
        row, item = observed_cells(train, users)
        if outside is not None:
            scores[:, outside] = -torch.inf
        seen = scores[row, item]
        whole = scores.clone() if cut == "all" else scores
        scores[row, item] = -torch.inf
        free = (~torch.isneginf(scores)).sum(1)
        first = (free.double() * skip).floor().long()
        last = (free.double() * (1 - drop_lowest)).ceil().long()
        if cut == "all":
            begin = torch.full_like(free, int(total * skip))
            edge = _kth_largest(whole, begin)
            pairs = torch.unique(row * scores.shape[1] + item, return_inverse=True)
            better = scores.new_zeros(len(pairs[0])).scatter_(0, pairs[1], (seen > edge[row]).float())
            above = torch.zeros_like(free).index_add_(0, pairs[0] // scores.shape[1], better.long())
            first = begin - above
            last = first + (-int(-total * (1 - drop_lowest) // 1) - begin)
        some = free > 0
        first = torch.minimum(first, free - 1).clamp(min=0)
        last = torch.maximum(torch.minimum(last, free), first + 1)
        inner = _kth_largest(scores, first)
        higher = scores.masked_fill(scores <= inner[:, None], torch.inf).amin(1)
        upper[users] = torch.where(some & ((scores > inner[:, None]).sum(1) == first), (inner + higher) / 2, inner)
        final = _kth_largest(scores, last - 1)
        fewer = scores.masked_fill(scores >= final[:, None], -torch.inf).amax(1)
        lower[users] = torch.where(some & ((scores >= final[:, None]).sum(1) == last), (final + fewer) / 2, final)
        upper[users] = torch.where(some, upper[users], torch.inf)
        lower[users] = torch.where(some, lower[users], -torch.inf)
    return lower, upper


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
