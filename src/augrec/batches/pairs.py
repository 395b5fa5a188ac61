"""Batches of (user, item) pairs: every train pair once an epoch, the last short batch kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from augrec.batches.batch import Batch, shared_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from augrec.data.interactions import Interactions


class PairBatches:
    """Shuffled pairs of a train log.

    Pair-based sampling weighs every interaction equally (MixGCF, AHNS); user-uniform sampling (LightGCN-PyTorch) would
    weigh light
    users more.
    """

    def __init__(self, train: Interactions, *, batch_size: int) -> None:
        self.user = shared_tensor(train.user)
        self.item = shared_tensor(train.item)
        self.batch_size = batch_size
        self.events = torch.from_numpy(train.in_candidates()).nonzero()[:, 0] if train.candidates is not None else None
        self.count = self.user.shape[0] if self.events is None else self.events.shape[0]

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self.count // self.batch_size)

    def epoch(self, *, generator: torch.Generator | None = None, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from number `start` on; one permutation is drawn, whatever `start` is."""
        order = torch.randperm(self.count, generator=generator)
        return self._batches(order if self.events is None else self.events[order], start)

    def _batches(self, order: torch.Tensor, start: int) -> Iterator[Batch]:
        for first in range(start * self.batch_size, order.shape[0], self.batch_size):
            event = order[first : first + self.batch_size]
            yield Batch(
                user=self.user[event].long(),
                target=self.item[event].long(),
                event=event,
                target_row=torch.arange(event.shape[0]),
            )
