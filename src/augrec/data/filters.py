"""Filters of a log: each gives a new log whose vocabulary holds only what is left, and says how much it removed."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from augrec.data.encoding import offsets_of
from augrec.data.interactions import Interactions, Vocabulary
from augrec.errors import DataError


def shrink(interactions: Interactions) -> Interactions:
    """Drop the users and items without rows from the vocabularies and renumber the rest in the same order."""
    users = np.flatnonzero(interactions.degrees())
    items = np.flatnonzero(interactions.item_counts())
    if len(users) == interactions.n_users and len(items) == interactions.n_items:
        return interactions
    user_map = np.full(interactions.n_users, -1, dtype=np.int32)
    user_map[users] = np.arange(len(users), dtype=np.int32)
    item_map = np.full(interactions.n_items, -1, dtype=np.int32)
    item_map[items] = np.arange(len(items), dtype=np.int32)
    user = user_map[interactions.user]
    return replace(
        interactions,
        users=Vocabulary(ids=interactions.users.take(users)),
        items=Vocabulary(ids=interactions.items.take(items)),
        user=user,
        item=item_map[interactions.item],
        offsets=offsets_of(user, len(users)),
        sha256=hashlib.sha256(f"{interactions.sha256}shrink".encode()).hexdigest(),
    )


def drop_duplicates(interactions: Interactions, *, shrink: bool = True) -> Interactions:
    """Keep the first row of every (user, item) pair. `shrink=False` keeps vocabularies as declared."""
    keys = interactions.user.astype(np.int64) * max(interactions.n_items, 1) + interactions.item
    first = np.zeros(len(keys), dtype=np.bool_)
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    first[order[np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]][: len(keys)])]] = True
    return _kept(interactions, first, "drop_duplicates: later rows of a repeated pair", shrink)


def min_rating(interactions: Interactions, minimum: float) -> Interactions:
    """Keep rows rated `minimum` or more. Raises DataError when the log has no ratings or none is left."""
    if interactions.rating is None:
        raise DataError(
            f"{interactions.name}: min_rating needs a rating column; name it with Columns(rating=...) or leave the "
            "filter out"
        )
    return _kept(interactions, interactions.rating >= minimum, f"min_rating {minimum:g}: rows rated lower", True)


def k_core(interactions: Interactions, *, user_k: int = 5, item_k: int = 5) -> Interactions:
    """The largest part in which every user has `user_k` rows or more and every item `item_k` or more.

    Rows are removed round by round until both hold, so the result does not depend on which side goes first. Raises
    DataError when nothing is left.
    """
    keep = np.ones(len(interactions), dtype=np.bool_)
    user, item = interactions.user, interactions.item
    while True:
        users = np.bincount(user[keep], minlength=interactions.n_users)
        items = np.bincount(item[keep], minlength=interactions.n_items)
        wanted = keep & (users[user] >= user_k) & (items[item] >= item_k)
        if wanted.sum() == keep.sum():
            break
        keep = wanted
    return _kept(interactions, keep, f"k_core user_k={user_k}, item_k={item_k}: rows of users or items below", True)


def _kept(interactions: Interactions, keep: npt.NDArray[np.bool_], what: str, shrunk: bool) -> Interactions:
    removed = len(keep) - int(keep.sum())
    if len(keep) and removed == len(keep):
        raise DataError(f"{interactions.name}: {what} removed all {removed:,} rows; use a weaker filter")
    left = interactions.part(keep)
    if shrunk:
        left = shrink(left)
    note = (
        f"{what}: {removed:,} of {len(keep):,} removed ({interactions.n_users - left.n_users:,} users and "
        f"{interactions.n_items - left.n_items:,} items with them)"
    )
    return replace(left, notes=(*interactions.notes, note))
