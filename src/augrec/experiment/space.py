"""Geometry of the vectors a finished run ranks with: users, items, and the items of one sequence among each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from augrec.backbones.base import InnerProductScorer
from augrec.experiment.figures import (
    ItemSets,
    alignment,
    cohesion,
    effective_rank,
    spread,
    uniform_bound,
    uniformity,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from augrec.backbones.base import Backbone
    from augrec.data.interactions import Interactions
    from augrec.splits import Split

USERS = 2000
"""Users, and items, sampled for what compares all pairs (uniformity, t-SNE)."""
SHOWN = 12
"""Sequences coloured on the map of items."""
EVENTS = (8, 30)
"""Distinct items of a sequence that is coloured, at least and at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """What a run's vectors look like, without dropout."""

    figures: dict[str, Any]
    users: NDArray[np.float32]
    """(n, D) queries of the sampled users."""
    items: NDArray[np.float32]
    """(m, D) vectors of the sampled items, then those of the shown sequences."""
    sequence: NDArray[np.int64]
    """(m,) number of the shown sequence an item of `items` stands for, -1 for the sampled ones."""


@torch.no_grad()
def look(
    backbone: Backbone, split: Split, train: Interactions, *, alignment_train: float | None, generator: torch.Generator
) -> Space:
    """User vectors are the queries that rank the test items; users and items are sampled among those with events.

    The items of a user's train history count as its sequence, each once.
    """
    history = split.history("test")

    def sample(known: NDArray[np.int64], most: int) -> Tensor:
        found = torch.from_numpy(known)
        return found[torch.randperm(len(found), generator=generator)[:most]]

    users = sample(np.flatnonzero(history.degrees()), USERS)
    seen = np.flatnonzero(train.item_counts())
    items = sample(seen, USERS)
    tables = InnerProductScorer(backbone).tables
    item = tables.item.detach()
    query = backbone.query_users(users, history, tables).detach()
    place = torch.full((split.test.n_users,), -1)
    place[users] = torch.arange(len(users))
    row = place[torch.from_numpy(split.test.user.astype(np.int64))]
    target = torch.from_numpy(split.test.item.astype(np.int64))[row >= 0]
    held = F.cosine_similarity(query[row[row >= 0]], item[target], dim=1)

    owner, own = np.divmod(ItemSets(train).keys, max(train.n_items, 1))
    counts = np.bincount(owner, minlength=train.n_users)
    shown = sample(np.flatnonzero((counts >= EVENTS[0]) & (counts <= EVENTS[1])), SHOWN).numpy()
    number = np.full(train.n_users, -1, dtype=np.int64)
    number[shown] = np.arange(len(shown))
    coloured = number[owner] >= 0
    dealt = own[torch.randperm(len(own), generator=generator).numpy()]
    figures = {
        "dim": backbone.dim,
        "users": len(users),
        "items": len(items),
        "user_norm": spread(query.norm(dim=1)),
        "item_norm": spread(item[torch.from_numpy(seen)].norm(dim=1)),
        "alignment_train": alignment_train,
        "alignment_test": alignment(held),
        "uniformity_users": uniformity(query),
        "uniformity_items": uniformity(item[items]),
        "uniformity_bound": uniform_bound(query.shape[1]),
        "effective_rank_items": effective_rank(item[torch.from_numpy(seen)]),
        "effective_rank_users": effective_rank(query),
        "cohesion_sequences": cohesion(item, torch.from_numpy(owner), torch.from_numpy(own)),
        "cohesion_chance": cohesion(item, torch.from_numpy(owner), torch.from_numpy(dealt)),
    }
    return Space(
        figures=figures,
        users=query.numpy(),
        items=torch.cat([item[items], item[torch.from_numpy(own[coloured])]]).numpy(),
        sequence=np.concatenate([np.full(len(items), -1, dtype=np.int64), number[owner[coloured]]]),
    )
