"""PDRec as its public code does it: one user at a time, the reverse chain over all items, whole sorts of a user's
preferences, items the user has had taken out one by one; in training such sorts for every user of every batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from augrec.augment.pdrec import DPA, HBR, NNS
from augrec.augment.pdrec.plugin import PreferencePlugin
from augrec.seams import Additions, Negatives

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.augment.pdrec import Scan
    from augrec.backbones.diffrec import DiffRec
    from augrec.batches.batch import Batch
    from augrec.data.interactions import Interactions
    from augrec.seams import Encoded


@dataclass(frozen=True, kw_only=True, eq=False)
class UserPreferences:
    """What the three parts read of one user."""

    preference: Tensor
    """(I,) for every item."""
    weights: Tensor
    """(n - 1,) HBR's, of the user's targets."""
    coarse: list[int]
    """DPA's candidates, best first."""
    pool: list[int]
    """NNS's items, best first."""


def dense_chain(model: DiffRec, history: Tensor) -> Tensor:
    """(I,) what the deterministic reverse chain makes of a weighted history (I,), every step over all items."""
    item_weights, item_bias = model.outward[:, :-1], model.outward[:, -1]
    time, (of_x0, of_xt) = model.time_part(), model.reverse
    x = history
    for step in range(model.config.steps, 0, -1):
        x0 = item_weights @ torch.tanh(x @ model.inward + time[step]) + item_bias
        x = float(of_x0[step]) * x0 + float(of_xt[step]) * x if step > 1 else x0
    return x


@torch.no_grad()
def prepare_user(
    model: DiffRec, train: Interactions, user: int, *, coarse: int = 50, skip: float = 0.5, rank_share: float = 0.1,
    clip: float = 3.0, rescale: float = 2.0,
) -> UserPreferences:  # fmt: skip
    """One user's preferences, HBR weights, DPA list and NNS pool."""
    items = [int(one) for one in train.item[train.offsets[user] : train.offsets[user + 1]]]
    rows = model._weighted(train, torch.tensor([user]))
    history = model.inward.new_zeros(train.n_items)
    history[rows.item] = rows.weight.to(history.dtype)
    preference = dense_chain(model, history)
    order = torch.argsort(preference, descending=True).tolist()
    for item in dict.fromkeys(items):
        order.remove(item)
    first = min(int(skip * len(order)), max(len(order) - 1, 0))
    return UserPreferences(
        preference=preference, weights=_weights(preference[items[1:]], rank_share, clip, rescale),
        coarse=order[:coarse], pool=order[first:],
    )  # fmt: skip


def _weights(observed: Tensor, rank_share: float, clip: float, rescale: float, *, low: Tensor | None = None) -> Tensor:
    """HBR's equation 2 for one user's targets (k,), scaled from `low`, by default the smallest."""
    count, value = observed.shape[0], observed.double()
    if not count:
        return value
    low = value.min() if low is None else low
    span = value.max() - low
    scaled = (value - low) / span if span > 0 else torch.ones_like(value)
    place = torch.argsort(value, stable=True)
    rank = torch.empty_like(value).index_copy(0, place, torch.arange(1, count + 1, dtype=torch.float64))
    weight = (1 - rank_share) * scaled * count / scaled.sum() + rank_share * rank / count
    return F.hardtanh(weight, 0.0, clip) * rescale


class _Rows:
    """The dense preferences (I,) of a user and what the user has had."""

    def __init__(self, scan: Scan) -> None:
        self.preference, self.train = scan.preference, scan.train

    def of(self, user: int) -> tuple[Tensor, Tensor]:
        """(I,) preferences and (n,) items of the user's events, oldest first."""
        first, last = self.train.offsets[user : user + 2]
        items = torch.from_numpy(self.train.item[first:last].copy()).long()
        return self.preference.item @ self.preference.user[user], items

    def unobserved(self, user: int) -> Tensor:
        """(l,) items the user has not had, best first."""
        preference, items = self.of(user)
        order = torch.argsort(preference, descending=True)
        had = torch.zeros(len(preference), dtype=torch.bool).index_fill_(0, items, True)
        return order[~had[order]]


class _Dense(PreferencePlugin):
    """Keeps the preferences, for a part that reads a user's whole row at every step."""

    def take(self, scan: Scan, found: Any) -> None:
        super().take(scan, found)
        self.rows = _Rows(scan)


class NaiveHBR(_Dense, HBR):
    """The weights of the batch's users, at every step; of the default's settings."""

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        self.settle()
        settings, weights = self.settings, torch.ones(batch.event.shape[0])
        for user in batch.user.unique().tolist():
            preference, items = self.rows.of(user)
            own = preference[items[1:]]
            low = 1.5 * own.double().min().clamp(max=0.0) if len(own) < settings.padded_length else None
            made = _weights(own, settings.rank_share, settings.clip, settings.rescale, low=low)
            place = batch.target_user == user
            event = batch.event[place] - int(self.rows.train.offsets[user]) - 1
            weights[place] = (1 - settings.weight + settings.weight * made[event]).float()
        return Additions(weights=weights)


class NaiveNNS(_Dense, NNS):
    """The pools of the batch's users, sorted at every step, and draws from them."""

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        self.settle()
        count, skip = self.settings.negatives, self.settings.skip
        self.ids = torch.empty(batch.event.shape[0], count, dtype=torch.int64)
        for user in batch.user.unique().tolist():
            order = self.rows.unobserved(user)
            pool = order[min(int(skip * len(order)), len(order) - 1) :]
            place = (batch.target_user == user).nonzero()[:, 0]
            self.ids[place] = pool[torch.randint(len(pool), (len(place), count))]
        return Additions(appended=(Negatives(ids=self.ids, mode="append", share=self.settings.weight),))


class NaiveDPA(_Dense, DPA):
    """The lists of the batch's users, sorted at every step, and the encoder's scores of all items, sorted too."""

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        self.settle()
        for user in batch.user.unique().tolist():
            best = self.rows.unobserved(user)[: self.lists.shape[1]]
            self.lists[user] = -1
            self.lists[user, : len(best)] = best.int()
        return super().targets(batch, encoded)

    def _choose(self, query: Tensor, lists: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        score = (query @ item.T).gather(1, lists.clamp(min=0)).masked_fill(lists < 0, -torch.inf)
        best = score.argsort(dim=1, descending=True)[:, : self.settings.fine]
        return lists.gather(1, best), score.gather(1, best)
