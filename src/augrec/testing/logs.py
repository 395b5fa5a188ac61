"""Tiny seeded logs for conformance checks: dense enough to learn from, odd enough to hurt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from augrec.data.interactions import Interactions, Vocabulary
from augrec.splits.base import Split

if TYPE_CHECKING:
    from collections.abc import Sequence


def log_of(histories: Sequence[Sequence[int]], *, n_items: int, name: str = "tiny") -> Interactions:
    """A log of internal ids: user u met `histories[u]` in this order, one second apart; users may be without events."""
    user = np.array([u for u, items in enumerate(histories) for _ in items], dtype=np.int64)
    item = np.array([i for items in histories for i in items], dtype=np.int64)
    return Interactions.from_columns(
        user=user,
        item=item,
        timestamp=np.arange(len(user), dtype=np.int64),
        users=Vocabulary.of(np.arange(max(len(histories), 1), dtype=np.int64)),
        items=Vocabulary.of(np.arange(n_items, dtype=np.int64)),
        name=name,
    )


def tiny_log(
    *, seed: int = 0, n_users: int = 24, n_items: int = 18, shortest: int = 3, longest: int = 9
) -> Interactions:
    """Users walk around a ring of items from a random start, with some jumps; no pair occurs twice.

    The last user has no event and the last item was never met, as happens in every real catalogue.
    """
    rng = np.random.default_rng(seed)
    ring = n_items - 1
    histories: list[list[int]] = []
    for _ in range(n_users - 1):
        steps = 1 + (rng.random(int(rng.integers(shortest, longest + 1))) < 0.2)
        walk = (int(rng.integers(ring)) + np.cumsum(steps)) % ring
        histories.append(list(dict.fromkeys(walk.tolist())))
    return log_of([*histories, []], n_items=n_items)


def hold_out_last(log: Interactions) -> Split:
    """The last event of each user with three or more to test, the one before it to validation."""
    position = np.arange(len(log)) - log.offsets[log.user]
    left = log.degrees()[log.user] - 1 - position
    enough = log.degrees()[log.user] >= 3
    test, valid = enough & (left == 0), enough & (left == 1)
    return Split(name="held-out", train=log.part(~test & ~valid), valid=log.part(valid), test=log.part(test))


def poisoned(split: Split, *, valid: bool, seed: int = 1) -> Split:
    """The same train part with every test item (and, if asked, every validation item) replaced by another."""

    def other(part: Interactions) -> Interactions:
        shift = np.random.default_rng(seed).integers(1, part.n_items, len(part))
        return Interactions.from_columns(
            user=part.users.take(part.user),
            item=part.items.take((part.item + shift) % part.n_items),
            timestamp=part.timestamp,
            users=part.users,
            items=part.items,
            name=part.name,
        )

    def shared(part: Interactions) -> Interactions:
        # A split's parts share their vocabularies by identity.
        return Interactions(**{**part.__dict__, "users": split.train.users, "items": split.train.items})

    return Split(
        name=split.name,
        train=split.train,
        valid=shared(other(split.valid)) if valid else split.valid,
        test=shared(other(split.test)),
    )


def all_users(log: Interactions) -> torch.Tensor:
    """(U,) int64."""
    return torch.arange(log.n_users)
