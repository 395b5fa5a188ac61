"""Batches of users: a row is everything a user has done, as the generative models of whole histories train."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from augrec.batches.batch import Batch, shared_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from augrec.data.interactions import Interactions


class UserBatches:
    """Users with at least one train event; the targets of a row are all its events.

    An epoch visits every user once in a new order. With `replacement` it draws as many full batches uniformly with
    replacement, so that about 37 % of the users do not come up (the loop of the public TI-DiffRec).
    """

    def __init__(self, train: Interactions, *, batch_size: int, replacement: bool = False) -> None:
        self.batch_size, self.replacement = batch_size, replacement
        self.users = torch.from_numpy(np.flatnonzero(train.degrees()).astype(np.int64))
        self.items, self.offsets = shared_tensor(train.item), shared_tensor(train.offsets)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self.users.shape[0] // self.batch_size)

    def epoch(self, *, generator: torch.Generator | None = None, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from number `start` on; the same draws are made whatever `start` is."""
        count = self.users.shape[0]
        if self.replacement and count:
            order = torch.randint(count, (len(self) * self.batch_size,), generator=generator)
        else:
            order = torch.randperm(count, generator=generator)
        return (self._batch(self.users[part]) for part in order.split(self.batch_size)[start:] if len(part))

    def _batch(self, user: torch.Tensor) -> Batch:
        begin = self.offsets[user]
        length = self.offsets[user + 1] - begin
        row = torch.repeat_interleave(length)
        event = torch.arange(row.shape[0]) + (begin - (torch.cumsum(length, 0) - length))[row]
        return Batch(user=user, target=self.items[event].long(), event=event, target_row=row)
