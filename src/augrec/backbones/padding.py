"""Packed rows as padded blocks and back, for what needs rows of one length: attention and recurrence."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from augrec.batches.batch import Tokens


class Grid:
    """How packed rows (N, D) become a padded block (B, L, D) and come back; a plain reshape where all rows are equally
    long."""

    def __init__(self, tokens: Tokens) -> None:
        self.rows, self.length = tokens.offsets.shape[0] - 1, tokens.max_length
        total = tokens.ids.shape[0]
        self.lengths = tokens.lengths
        self.place = None if total == self.rows * self.length else tokens.rows * self.length + tokens.positions

    def pad(self, packed: Tensor) -> Tensor:
        """(N, D) to (B, L, D), zeros at the end of short rows."""
        if self.place is None:
            return packed.view(self.rows, self.length, packed.shape[1])
        block = packed.new_zeros(self.rows * self.length, packed.shape[1])
        return block.index_copy(0, self.place, packed).view(self.rows, self.length, packed.shape[1])

    def unpad(self, block: Tensor) -> Tensor:
        """(B, L, D) back to (N, D)."""
        flat = block.reshape(self.rows * self.length, block.shape[-1])
        return flat if self.place is None else flat.index_select(0, self.place)

    def blocked(self, like: Tensor, heads: int, *, causal: bool) -> Tensor:
        """What is added to the scores (B * heads, L, L), broadcast: 0 where a query may look, minus infinity elsewhere.

        Causal: (L, L); padding stands at the end of a row, so that no real query sees it. Both ways: (B * heads, 1, L),
        padding blocked; a row without tokens sees its padding, as a softmax over nothing is undefined.
        """
        if causal:
            return like.new_full((self.length, self.length), float("-inf")).triu(1)
        if self.place is None:
            return like.new_zeros(1, 1, 1)
        beyond = torch.arange(self.length, device=like.device) >= self.lengths.clamp(min=1)[:, None]
        mask = like.new_zeros(self.rows, self.length).masked_fill_(beyond, float("-inf"))
        return mask.repeat_interleave(heads, 0)[:, None]


class Blocks:
    """Packed rows as padded blocks of rows of like length, with what attention may not look at in each.

    Attention costs the square of the padded length. One block where rows are about equally long, as in batches of
    training; else one for each power of two of lengths, so that a few long rows do not pad all others.
    """

    def __init__(self, tokens: Tokens, like: Tensor, heads: int, *, causal: bool) -> None:
        self.parts: list[tuple[Tensor, Grid, Tensor]] = []
        self.order: Tensor | None = None
        row = tokens.rows
        for chosen in _like_lengths(tokens) or (None,):
            if chosen is None:
                index, part = row, tokens
            else:
                index, lengths = chosen[row].nonzero()[:, 0], tokens.lengths[chosen]
                offsets = torch.cat([lengths.new_zeros(1), torch.cumsum(lengths, 0)])
                part = replace(
                    tokens, ids=tokens.ids[index], offsets=offsets, max_length=int(lengths.max()), vectors=None
                )
            grid = Grid(part)
            self.parts.append((index, grid, grid.blocked(like, heads, causal=causal)))
        if len(self.parts) > 1:
            self.order = torch.argsort(torch.cat([index for index, _, _ in self.parts]))

    def each(self, values: Tensor, work: Callable[[Tensor, Grid, Tensor], Tensor]) -> Tensor:
        """(N, D') what `work` makes of the rows of each block, given their `values` (N, D), back in their places."""
        if self.order is None:
            return work(values, *self.parts[0][1:])
        made = [work(values.index_select(0, index), grid, blocked) for index, grid, blocked in self.parts]
        return torch.cat(made).index_select(0, self.order)


def _like_lengths(tokens: Tokens) -> list[Tensor]:
    """(B,) masks of rows by the power of two of their length, from 8 on; none where that would not halve the padded
    area, and on accelerators, where counting would wait for the device."""
    lengths, longest = tokens.lengths, tokens.max_length
    if longest <= 8 or lengths.device.type != "cpu":
        return []
    power = torch.log2(lengths.clamp(min=8).double()).ceil().long()
    area = int((2**power).clamp(max=longest).square().sum())
    if 2 * area > lengths.shape[0] * longest**2:
        return []
    return [power == one for one in torch.unique(power)]
