"""The batch every encoder, plug-in and objective reads: packed tokens, never padding."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
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

    def part(self, first: int, last: int) -> Tokens:
        """Rows `first` to `last` (exclusive) as a set of their own; nothing is copied but the offsets."""
        offsets = self.offsets[first : last + 1]
        start, stop = int(offsets[0]), int(offsets[-1])
        return replace(
            self,
            ids=self.ids[start:stop],
            offsets=offsets - start,
            max_length=int(offsets.diff().max()),
            vectors=None if self.vectors is None else self.vectors[start:stop],
        )


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

    def targets_of(self, first: int, last: int) -> slice:
        """Where the targets of rows `first` to `last` (exclusive) stand; targets come in the order of their rows."""
        ends = torch.searchsorted(self.target_row, torch.tensor([first, last], device=self.target_row.device)).tolist()
        return slice(ends[0], ends[1])

    def part(self, first: int, last: int) -> Batch:
        """Rows `first` to `last` (exclusive), at least one, and their targets as a batch of their own."""
        targets, tokens, token = self.targets_of(first, last), None, None
        if self.tokens is not None:
            tokens = self.tokens.part(first, last)
        if self.tokens is not None and self.target_token is not None:
            token = self.target_token[targets] - self.tokens.offsets[first]
        return replace(
            self,
            user=self.user[first:last],
            target=self.target[targets],
            event=self.event[targets],
            target_row=self.target_row[targets] - first,
            tokens=tokens,
            target_token=token,
            unmasked=None if self.unmasked is None else self.unmasked.part(first, last),
        )
