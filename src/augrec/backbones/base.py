"""What a recommender's encoder and a scorer are, for everybody else in the house.

Shape letters used everywhere: B rows of a batch, N packed tokens, M targets, K negatives per target, D width, I items, U users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.data.interactions import Interactions


@runtime_checkable
class Scorer(Protocol):
    """Anything that can score every item for some users. Higher is better; scores are finite."""

    n_items: int

    def score(self, user: Tensor, history: Interactions) -> Tensor:
        """Scores of all items, (B, I) float32, for the users `user` (B,) int64.

        `history` holds the events known at this point (train, or train + validation); a sequence model reads the user's last
        events from it, a neighbourhood model the user's row, a factorisation model nothing. Seen items are *not* masked here.
        """
        ...
