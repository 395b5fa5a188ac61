"""Which items a user's noise-free negatives come from, and uniform draws from them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from augrec.augment.pdrec.scan import Block, Reader, Scan
from augrec.batches.negatives import NegativeSampler

if TYPE_CHECKING:
    from augrec.augment.pdrec.preference import Preference
    from augrec.data.interactions import Interactions

Cut = Literal["unobserved", "all"]
_ROWS = 16
"""Rows sorted at once, so that they stay in the cache."""
_BITS = 1 << 28
"""Most bytes that pools are kept in, one bit an item; larger ones are known by two bounds a user."""
_ROUNDS = 40
_TRIES = 64


def _ordered(scores: Tensor) -> Tensor:
    """(B, I) every row in ascending order; numpy sorts them with vector instructions, in less time than torch takes to
    select one place."""
    found = np.empty(tuple(scores.shape), dtype=scores.numpy().dtype)
    for begin in range(0, len(found), _ROWS):
        found[begin : begin + _ROWS] = np.sort(scores[begin : begin + _ROWS].numpy(), axis=1)
    return torch.from_numpy(found)


def _around(ordered: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) and (B,): the values at descending places `place` - 1 and `place` (B,), from 0, of rows (B, I) in ascending
    order; +inf before the first and -inf after the last."""
    last = ordered.shape[1] - 1
    before = ordered.gather(1, (last + 1 - place).clamp(0, last)[:, None])[:, 0].masked_fill(place < 1, torch.inf)
    at = ordered.gather(1, (last - place).clamp(0, last)[:, None])[:, 0].masked_fill(place > last, -torch.inf)
    return before, at


class Pools(Reader):
    """Each user's pool as two bounds on the preference and, where they fit into memory, as one bit an item.

    With l unobserved items (train candidates the user has no train event with), sorted by falling preference, the pool
    is the ranks [floor(skip l), ceil((1 - drop_lowest) l)), at least one. Bounds lie midway between the last item
    inside and the next outside, so that rounding moves nobody across; tied items at a bound are all inside. `cut` =
    "all" takes both shares of all I candidates, the upper rank among all of them and the pool's size from there, as
    the public code does. A user without unobserved items has no bounds, and all candidates for a pool.
    """

    def __init__(self, *, skip: float, drop_lowest: float = 0.0, cut: Cut = "unobserved", bits: bool = True) -> None:
        self.skip, self.drop_lowest, self.cut, self._wanted = skip, drop_lowest, cut, bits
        self.lower, self.upper = torch.zeros(0), torch.zeros(0)
        self.bits: Tensor | None = None
        """(U, ceil(C / 8)) uint8 over the C candidates: bit c % 8 of byte c / 8 says whether candidate c is inside."""
        self.sizes = torch.zeros(0)
        """(U,) items in each pool, where there are bits."""
        self.candidates: Tensor | None = None
        """(C,) items the bits stand for; None where all of them do."""

    def start(self, train: Interactions) -> None:
        users = train.n_users
        self.candidates = None if train.candidates is None else torch.from_numpy(np.flatnonzero(train.candidates))
        self.total = train.n_items if self.candidates is None else len(self.candidates)
        self._free = NegativeSampler(train, allow_full=True).free.long()
        self._full = torch.from_numpy(np.bincount(_distinct(train), minlength=users) >= self.total)
        self._edge = torch.zeros(0)
        self.lower, self.upper = torch.full((users,), -torch.inf), torch.full((users,), torch.inf)
        width = -(-self.total // 8)
        if self._wanted and users * width <= _BITS:
            self.bits = torch.zeros(users, width, dtype=torch.uint8)
            self.sizes = torch.zeros(users, dtype=torch.int64)

    def every(self, block: Block) -> None:
        if self.cut == "all":
            place = torch.full((len(block.users),), int(self.total * self.skip))
            self._edge = _around(_ordered(block.scores), place)[1]
            items = block.scores.shape[1]
            cell = torch.unique(block.row * items + block.item)
            own = cell // items
            better = block.scores[own, cell % items] > self._edge[own]
            self._better = torch.bincount(own[better], minlength=len(block.users))

    def unobserved(self, block: Block) -> None:
        users, scores = block.users, block.scores
        left = self._free[users]
        first = (left.double() * self.skip).floor().long()
        last = (left.double() * (1 - self.drop_lowest)).ceil().long()
        if self.cut == "all":
            begin = int(self.total * self.skip)
            first = begin - self._better
            last = first + (math.ceil(self.total * (1 - self.drop_lowest)) - begin)
        first = torch.minimum(first, left - 1).clamp(min=0)
        last = torch.maximum(torch.minimum(last, left), first + 1)
        below = self.cut == "all" or self.drop_lowest > 0
        lower, upper = self.lower[users], self.upper[users]
        if self.skip > 0 or below:
            ordered = _ordered(scores)
            if self.skip > 0:
                outer, inner = _around(ordered, first)
                upper = (outer + inner) / 2
            if below:
                inner, outer = _around(ordered, last)
                lower = torch.where(last < left, (inner + outer) / 2, -torch.inf)
        full = self._full[users]
        self.lower[users] = lower = lower.masked_fill(full, -torch.inf)
        self.upper[users] = upper = upper.masked_fill(full, torch.inf)
        if self.bits is not None:
            # Observed items and others that cannot be drawn stand at -inf, below every finite bound.
            lower = lower.clamp(min=torch.finfo(scores.dtype).min)
            if self.candidates is not None:
                scores = scores.index_select(1, self.candidates)
            inside = (scores >= lower[:, None]) & (scores <= upper[:, None])
            inside |= full[:, None]
            self.bits[users] = torch.from_numpy(np.packbits(inside.numpy(), axis=1, bitorder="little"))
            self.sizes[users] = inside.sum(1)


def pool_bounds(
    preference: Preference, train: Interactions, *, skip: float, drop_lowest: float = 0.0, cut: Cut = "unobserved"
) -> tuple[Tensor, Tensor]:
    """(U,) lower and upper bound: user u's pool are its unobserved items i with lower <= xhat(u, i) <= upper, as
    `Pools` defines it."""
    scan = Scan(preference, train)
    pools = scan.ask(Pools(skip=skip, drop_lowest=drop_lowest, cut=cut, bits=False))
    scan.run()
    return pools.lower, pools.upper


def _distinct(train: Interactions) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The user of every distinct (user, candidate item) pair."""
    inside = train.in_candidates()
    keys = train.user[inside].astype(np.int64) * max(train.n_items, 1) + train.item[inside]
    return np.asarray(np.unique(keys) // max(train.n_items, 1))


class PoolSampler:
    """Uniform over each user's pool, exactly: uniform candidates are kept where the user's bit for them is set; the few
    places that stay open take one of the pool's set bits by its number.

    Memory: one bit for each user and candidate.
    """

    def __init__(self, pools: Pools) -> None:
        assert pools.bits is not None
        self.bits, self.sizes, self.items, self.width = pools.bits, pools.sizes, pools.candidates, pools.total
        self.n_items = pools.total
        share = float(self.sizes.double().mean()) / max(self.width, 1) if len(self.sizes) else 1.0
        # So many that a batch of 512 seldom needs a second round, as far as drawing more costs less than a round.
        self._tries = min(16, math.ceil(math.log(1e-3) / math.log1p(-min(max(share, 0.01), 0.99))))

    def sample(self, user: Tensor, k: int, *, generator: torch.Generator | None = None) -> Tensor:
        """(M,) int64 users to (M, k) int64 items, independent draws with replacement."""
        owner = user.repeat_interleave(k) if k != 1 else user
        out, open_ = self._round(owner, self._tries, generator)
        for _ in range(6):
            if len(open_) <= 8:
                break
            found, still = self._round(owner[open_], _TRIES, generator)
            out[open_], open_ = found, open_[still]
        if len(open_):
            out[open_] = self._numbered(owner[open_], generator)
        out = out if self.items is None else self.items[out]
        return out.view(user.shape[0], k)

    def _round(self, owner: Tensor, tries: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """(M,) for each owner the first of `tries` candidates that is inside its pool, and the rows without any."""
        drawn = torch.randint(self.width, (owner.shape[0], tries), generator=generator)
        byte = (drawn >> 3).add_((owner * self.bits.shape[1])[:, None])
        bits = self.bits.view(-1).index_select(0, byte.view(-1)).view_as(drawn)
        inside, first = torch.bitwise_right_shift(bits, (drawn & 7).to(torch.uint8)).bitwise_and_(1).max(1)
        return drawn.gather(1, first[:, None])[:, 0], (inside == 0).nonzero()[:, 0]

    def _numbered(self, owner: Tensor, generator: torch.Generator | None) -> Tensor:
        """(M,) a set bit of each owner's row by a number drawn among them."""
        number = torch.rand(owner.shape[0], dtype=torch.float64, generator=generator) * self.sizes[owner]
        rows = np.unpackbits(self.bits[owner].numpy(), axis=1, bitorder="little")
        total = torch.from_numpy(np.cumsum(rows, axis=1, dtype=np.int32))
        wanted = torch.minimum(number.long(), self.sizes[owner] - 1).int()[:, None] + 1
        return torch.searchsorted(total, wanted)[:, 0]


class BoundSampler:
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
            tries = min(2 * tries, _TRIES)
        return out.view(user.shape[0], k)
