"""Histories as weighted sparse rows: the later an event, the heavier (PDRec, AAAI 2024; T-DiffRec, SIGIR 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from augrec.batches.batch import shared_tensor

if TYPE_CHECKING:
    from augrec.data.interactions import Interactions

Ties = Literal["AllOne", "AllLinear", "MinMax"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedRows:
    """B sparse rows laid end to end; no item stands twice in a row."""

    item: Tensor
    """(N,) int64."""
    weight: Tensor
    """(N,) float64."""
    offsets: Tensor
    """(B + 1,) int64."""

    @property
    def row(self) -> Tensor:
        """(N,) row of each entry."""
        return torch.repeat_interleave(self.offsets.diff(), output_size=self.item.shape[0])

    def take(self, row: Tensor) -> WeightedRows:
        """The rows `row` (B',), in that order; a row may be taken twice."""
        place, offsets = _places(self.offsets, row)
        return WeightedRows(item=self.item[place], weight=self.weight[place], offsets=offsets)


def _places(offsets: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """Entries (N,) of the rows `row` (B,) of a CSR, one row after the other, and the (B + 1,) offsets of the result."""
    begin = offsets[row]
    length = offsets[row + 1] - begin
    made = torch.zeros(row.shape[0] + 1, dtype=torch.int64)
    torch.cumsum(length, 0, out=made[1:])
    place = torch.repeat_interleave(begin - made[:-1], length) + torch.arange(int(made[-1]))
    return place, made


def order_weights(position: Tensor, length: Tensor, *, low: float, high: float) -> Tensor:
    """(N,) float64: evenly spaced from `low` to `high` by place in the history (T-DiffRec); a single event weighs
    `low`."""
    share = position.double() / (length - 1).clamp(min=1)
    return low + share * (high - low)


def interval_weights(
    time: Tensor, first: Tensor, last: Tensor, position: Tensor, length: Tensor, *, low: float, high: float, ties: Ties
) -> Tensor:
    """(N,) float64: low + (t_j - min t) / (max t - min t) * (high - low) (PDRec, "Time Interval Reweighting").

    Differences of Unix seconds are taken in int64: float32 keeps them to two minutes only. Where all times of a history
    are equal the formula is 0 / 0: `AllOne` gives `high` to all, `AllLinear` the weights by order, `MinMax` `low` (the
    public code's names; it adds 1,000 s to the latest time there).

    Args:
        time, first, last: (N,) int64 time of the event, and the earliest and latest of its history.
        position, length: (N,) int64 place of the event in its history from 0, and the history's events.
    """
    span = last - first
    weight = low + (time - first).double() / span.clamp(min=1) * (high - low)
    equal = span == 0
    if ties == "AllLinear":
        return torch.where(equal, order_weights(position, length, low=low, high=high), weight)
    return weight.masked_fill(equal, high if ties == "AllOne" else low)


def weighted_rows(
    history: Interactions, user: Tensor, *, low: float, high: float, by_time: bool, ties: Ties, foreign: float = 1.0
) -> WeightedRows:
    """The histories of `user` (B,) int64 as weighted rows; of a repeated item the last event counts.

    Args:
        by_time: by time interval; False, or a log without times, weighs by order.
        foreign: factor on events of items outside `history.candidates` (the source domain of a mixed log).
    """
    place, offsets = _places(shared_tensor(history.offsets), user)
    length = offsets.diff()
    row = torch.repeat_interleave(length, output_size=place.shape[0])
    position = torch.arange(place.shape[0]) - offsets[row]
    item = shared_tensor(history.item)[place].long()
    if by_time and history.timestamp is not None:
        time = shared_tensor(history.timestamp)[place]
        # Rows are sorted by time, so the ends are the extremes; of an empty history nothing is read.
        first, last = time[offsets[row]], time[offsets[row + 1] - 1]
        weight = interval_weights(time, first, last, position, length[row], low=low, high=high, ties=ties)
    else:
        weight = order_weights(position, length[row], low=low, high=high)
    if foreign != 1.0 and history.candidates is not None:
        inside = shared_tensor(history.candidates)[item]
        weight = torch.where(inside, weight, weight * foreign)
    key = row * max(history.n_items, 1) + item
    order = torch.argsort(key, stable=True)
    ranked = key[order]
    newest = torch.ones_like(ranked, dtype=torch.bool)
    newest[:-1] = ranked[1:] != ranked[:-1]
    kept = order[newest].sort().values
    made = torch.zeros_like(offsets)
    torch.cumsum(torch.bincount(row[kept], minlength=user.shape[0]), 0, out=made[1:])
    return WeightedRows(item=item[kept], weight=weight[kept], offsets=made)
