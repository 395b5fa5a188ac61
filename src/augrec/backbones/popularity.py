"""Popularity: the sober baseline every recommender has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from augrec.typed import Config

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.data.interactions import Interactions


class PopularityConfig(Config):
    """Settings of Popularity."""

    count: Literal["events", "users"] = "events"
    """What makes an item popular: its interactions, or its distinct users (differs only where users repeat items)."""


class Popularity:
    """Scores every item by its count in train, the same for all users; the ranking orders equal counts by id."""

    Config = PopularityConfig

    def __init__(self, counts: Tensor, *, config: PopularityConfig | None = None) -> None:
        """Take `counts` (I,)."""
        self.config = config or PopularityConfig()
        self.counts = counts.to(torch.float32)
        self.n_items = int(counts.shape[0])

    @classmethod
    def fit(cls, train: Interactions, *, config: PopularityConfig | None = None) -> Popularity:
        """Count the items of `train`."""
        config = config or PopularityConfig()
        item = torch.from_numpy(train.item.astype("int64"))
        if config.count == "users":
            key = torch.from_numpy(train.user.astype("int64")) * train.n_items + item
            item = torch.unique(key) % max(train.n_items, 1)
        return cls(torch.bincount(item, minlength=train.n_items), config=config)

    def score(self, user: Tensor, history: Interactions) -> Tensor:
        """Counts (B, I) float32, one row for all users (a read-only view)."""
        return self.counts.to(user.device).expand(len(user), -1)
