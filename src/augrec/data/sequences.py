"""Histories and windows as pairs of offsets into the rows of a log: no prefix is ever copied."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from augrec.data.interactions import Interactions
from augrec.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """W windows over the rows of one log; window w is the rows start[w]:end[w], all of user user[w]."""

    user: npt.NDArray[np.int32]
    """Internal user of each window (W,)."""
    start: npt.NDArray[np.int64]
    """First row of each window (W,)."""
    end: npt.NDArray[np.int64]
    """One past the last row of each window (W,)."""

    def __len__(self) -> int:
        return len(self.user)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Rows of each window (W,)."""
        return self.end - self.start


def history(interactions: Interactions, user: int) -> slice:
    """Rows of one internal user, in order. Raises DataError outside 0..U-1."""
    if not 0 <= user < interactions.n_users:
        raise DataError(f"{interactions.name}: internal user {user} lies outside 0..{interactions.n_users - 1}")
    return slice(int(interactions.offsets[user]), int(interactions.offsets[user + 1]))


def last_windows(interactions: Interactions, max_length: int) -> Windows:
    """One window per user with rows: its last `max_length` rows (what a model sees when it recommends)."""
    _positive(interactions, max_length)
    users = np.flatnonzero(interactions.degrees()).astype(np.int32)
    end = interactions.offsets[users + 1]
    return Windows(user=users, start=np.maximum(interactions.offsets[users], end - max_length), end=end)


def windows(interactions: Interactions, max_length: int) -> Windows:
    """Windows of at most `max_length` rows that tile every user's history from its end backwards.

    Each row lies in exactly one window; a user's last window is full whenever the user has that many rows, and windows
    of a user come oldest first.
    """
    _positive(interactions, max_length)
    degrees = interactions.degrees()
    per_user = -(-degrees // max_length)
    user = np.repeat(np.arange(interactions.n_users, dtype=np.int32), per_user)
    first = np.cumsum(per_user) - per_user
    from_end = per_user[user] - 1 - (np.arange(len(user)) - first[user])
    end = interactions.offsets[1:][user] - from_end * max_length
    return Windows(user=user, start=np.maximum(end - max_length, interactions.offsets[:-1][user]), end=end)


def _positive(interactions: Interactions, max_length: int) -> None:
    if max_length < 1:
        raise DataError(f"{interactions.name}: a window needs max_length of 1 or more, got {max_length}")
