"""Preparing PDRec's preferences as its public code does: one user at a time, the reverse chain over all items, whole
sorts of a user's preferences, items the user has had taken out one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.backbones.diffrec import DiffRec
    from augrec.data.interactions import Interactions


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


def _weights(observed: Tensor, rank_share: float, clip: float, rescale: float) -> Tensor:
    """HBR's equation 2 for one user's targets (k,)."""
    count, value = observed.shape[0], observed.double()
    if not count:
        return value
    span = value.max() - value.min()
    scaled = (value - value.min()) / span if span > 0 else torch.ones_like(value)
    place = torch.argsort(value, stable=True)
    rank = torch.empty_like(value).index_copy(0, place, torch.arange(1, count + 1, dtype=torch.float64))
    weight = (1 - rank_share) * scaled * count / scaled.sum() + rank_share * rank / count
    return F.hardtanh(weight, 0.0, clip) * rescale
