"""The batch every encoder, plug-in and objective reads: packed tokens, never padding."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def shared_tensor(array: NDArray[Any]) -> Tensor:
    """A tensor over the memory of a read-only array, to be read only; nothing is copied."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """Some sequences laid end to end: row b owns `ids[offsets[b]:offsets[b + 1]]`, oldest first.

    `ids` may hold `n_items` as the mask token. `vectors` (N, D), when given, stand in for the looked-up ids (a noised
    or mixed
    sequence); `detach_items` looks the ids up in a table that takes no gradient.
    """

    ids: Tensor
    """(N,) int64 item ids."""
    offsets: Tensor
    """(B + 1,) int64."""
    max_length: int
    """Longest row; known on the host so that nothing waits for the device."""
    vectors: Tensor | None = None
    detach_items: bool = False
    masked: bool = False
    """True where `ids` may hold the mask token `n_items`."""

    @property
    def lengths(self) -> Tensor:
        """(B,) tokens of each row."""
        return self.offsets.diff()

    @property
    def rows(self) -> Tensor:
        """(N,) the row of each token."""
        return torch.repeat_interleave(self.lengths, output_size=self.ids.shape[0])

    @property
    def positions(self) -> Tensor:
        """(N,) place of each token in its row, from 0."""
        return torch.arange(self.ids.shape[0], device=self.ids.device) - self.offsets[self.rows]

    @property
    def last(self) -> Tensor:
        """(B,) index of each row's last token. Rows must not be empty."""
        return self.offsets[1:] - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Some training events and what is known when they happen.

    In collaborative filtering a row is one pair (M = B, no tokens). In sequences a row is one window of a user's
    history and every
    token predicts the event after it (M = N), unless an objective chose other places (masked items). In batches of
    users a row is a whole history and its targets are all its events (no tokens).
    """

    user: Tensor
    """(B,) int64 user of each row."""
    target: Tensor
    """(M,) int64 item to predict."""
    event: Tensor
    """(M,) int64 row of the target in the train log: the key of per-event weights."""
    target_row: Tensor
    """(M,) int64 row of the batch the target belongs to."""
    tokens: Tokens | None = None
    target_token: Tensor | None = None
    """(M,) int64 token whose state predicts the target."""
    max_length: int = 0
    """Events of a history that the backbone reads; 0 in collaborative filtering."""
    unmasked: Batch | None = None
    """The batch before items were hidden in it for a bidirectional backbone; None where nothing is hidden."""

    @property
    def plain(self) -> Batch:
        """The batch in next-item form: every token visible, token m predicts target m."""
        return self if self.unmasked is None else self.unmasked

    @property
    def target_user(self) -> Tensor:
        """(M,) user of each target."""
        pairs = self.tokens is None and self.target.shape[0] == self.user.shape[0]
        return self.user if pairs else self.user[self.target_row]
