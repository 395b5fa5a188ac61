"""Packed sequence batches: windows by offsets, rows of like length together, an equal number of *targets* in every
batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from augrec.batches.batch import Batch, Tokens, shared_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from augrec.data.interactions import Interactions


Rows = Literal["whole", "prefix", "prefix-dense"]
"""Rows of a train log: whole histories, or one for every event with a past, of which the last or every token predicts
what follows."""


def pack(items: Tensor, start: Tensor, length: Tensor, max_length: int) -> tuple[Tokens, Tensor]:
    """Tokens of the windows `items[start : start + length]`, laid end to end, and the (N,) places they were read from.

    `start` and `length` are (B,) int64; no window is copied before this gather.
    """
    offsets = torch.zeros(length.shape[0] + 1, dtype=torch.int64)
    torch.cumsum(length, 0, out=offsets[1:])
    total = int(offsets[-1])
    place = torch.repeat_interleave(start - offsets[:-1], length, output_size=total) + torch.arange(total)
    return Tokens(ids=items[place].long(), offsets=offsets, max_length=max_length), place


def last_windows(history: Interactions, user: Tensor, items: Tensor, *, max_length: int) -> Tokens:
    """The last `max_length` events of each user in `user` (B,), packed. Users without events get an empty row."""
    offsets = shared_tensor(history.offsets)
    end = offsets[user + 1]
    length = (end - offsets[user]).clamp(max=max_length)
    longest = int(length.max()) if length.numel() else 0
    return pack(items, end - length, length, longest)[0]


class SequenceBatches:
    """Windows over a train log, by default such that every transition is a target exactly once an epoch.

    A user's events are cut from the newest backwards into windows of at most `max_length` targets, so the newest
    window is a full
    one. An epoch shuffles the windows, sorts them by length (stable, so equal lengths stay shuffled), cuts batches of
    about
    `batch_size` targets and shuffles those. Batches of equal *users* would weigh a long user's transitions less.

    With `rows` other than "whole" there is a window for every event that has a past, of the `max_length` events before
    it. "prefix": it is the window's only target, so transitions are targets once here too, with the loss on last
    places alone. "prefix-dense": every token of the window predicts what follows, so that an early transition is a
    target again in every longer window.

    Where the log names candidates (a mixed log with a target domain), only transitions to these are targets: windows
    hold the events of every domain, and a token whose successor is of another domain predicts nothing.
    """

    def __init__(self, train: Interactions, *, batch_size: int, max_length: int, rows: Rows = "whole") -> None:
        self.batch_size, self.max_length, self.last_only = batch_size, max_length, rows == "prefix"
        self.items = shared_tensor(train.item)
        targets = np.maximum(np.diff(train.offsets) - 1, 0)
        if rows == "whole":
            windows = -(-targets // max_length)
            user = np.repeat(np.arange(targets.shape[0]), windows)
            nth = np.arange(user.shape[0]) - np.repeat(np.cumsum(windows) - windows, windows)
            end = train.offsets[user + 1] - 1 - nth * max_length
        else:
            user = np.repeat(np.arange(targets.shape[0]), targets)
            end = np.flatnonzero(np.arange(len(train)) > train.offsets[train.user])
        start = np.maximum(end - max_length, train.offsets[user])
        self.chosen: Tensor | None = None
        count = np.ones_like(end) if self.last_only else end - start
        if train.candidates is not None:
            inside = train.in_candidates()
            total = np.concatenate([[0], np.cumsum(inside)])
            count = inside[end].astype(np.int64) if self.last_only else total[end + 1] - total[start + 1]
            user, start, end, count = (x[count > 0] for x in (user, start, end, count))
            self.chosen = torch.from_numpy(inside)
        self.user, self.start, self.length, self.count = (
            torch.from_numpy(x.astype(np.int64)) for x in (user, start, end - start, count)
        )
        self._size = len(self._cuts(self.count[torch.sort(self._key).indices]))

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._size

    @property
    def targets(self) -> int:
        """Targets of an epoch."""
        return int(self.count.sum())

    @property
    def _key(self) -> Tensor:
        """(W,) what windows are sorted by: length, then number of targets, so that the cuts never depend on chance."""
        return self.length * (self.length.max() + 1) + self.count if len(self.length) else self.length

    def _cuts(self, ordered: Tensor) -> list[tuple[int, int]]:
        """Row ranges with at most `batch_size` targets each (a longer row stands alone); `ordered` (W,) are the targets
        of the sorted windows."""
        total = torch.cumsum(ordered, 0).numpy()
        cuts, first, done = [], 0, 0
        while first < len(total):
            last = max(first + 1, int(np.searchsorted(total, done + self.batch_size, side="right")))
            cuts.append((first, last))
            first, done = last, int(total[last - 1])
        return cuts

    def epoch(self, *, generator: torch.Generator | None = None, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from number `start` on; the same draws are made whatever `start` is."""
        order = torch.randperm(self.user.shape[0], generator=generator)
        order = order[torch.sort(self._key[order], stable=True).indices]
        cuts = self._cuts(self.count[order])
        turn = torch.randperm(len(cuts), generator=generator).tolist()
        return (self._batch(order[slice(*cuts[i])]) for i in turn[start:])

    def _batch(self, row: Tensor) -> Batch:
        length = self.length[row]
        tokens, place = pack(self.items, self.start[row], length, int(length[-1]))
        token, rows = torch.arange(place.shape[0]), tokens.rows
        if self.last_only or self.chosen is not None:
            token = tokens.last if self.chosen is None or self.last_only else self.chosen[place + 1].nonzero()[:, 0]
            place, rows = place[token], rows[token]
        return Batch(
            user=self.user[row],
            target=self.items[place + 1].long(),
            event=place + 1,
            target_row=rows,
            tokens=tokens,
            target_token=token,
            max_length=self.max_length,
        )
