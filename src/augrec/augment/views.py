"""What view augmentations share: the anchor of each row, its prefix and its state.

An anchor is the place of a row that is contrasted: its state stands for the history up to there. A training row may
hold several (every token predicts the event after it); a view method takes one a row, so that a long row is not
contrasted with itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from augrec.batches.batch import Tokens
from augrec.seams import View

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.batches.batch import Batch
    from augrec.seams import Encoded

AnchorPlace = Literal["last", "random"]
"""`last`: the whole row, as one sequence a user has it. `random`: a uniform place of the row, as one row a prefix has
it over many epochs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchors:
    """One place in each row of a batch, in next-item form, that predicts a target."""

    token: Tensor
    """(B,) index into `batch.plain.tokens`."""
    target: Tensor
    """(B,) the item that follows."""
    event: Tensor
    """(B,) its row of the train log."""
    prefix: Tokens
    """The rows up to and including their anchors."""


def pick_anchors(batch: Batch, place: AnchorPlace, *, generator: torch.Generator | None = None) -> Anchors:
    """One anchor for each row of `batch.plain`, among the places with a target: the last, or a `random` one, for which
    one number a row is drawn."""
    plain = batch.plain
    assert plain.tokens is not None and plain.target_token is not None
    tokens = plain.tokens
    count = torch.bincount(plain.target_row, minlength=tokens.offsets.shape[0] - 1)
    # Targets come in the order of their rows.
    chosen = torch.cumsum(count, 0) - 1
    if place == "random":
        drawn = torch.rand(count.shape[0], generator=generator, dtype=torch.float64)
        chosen = chosen + 1 - count + (drawn.to(count.device) * count).long()
    token = plain.target_token[chosen]
    ends = place == "last" and plain.target.shape == tokens.ids.shape
    prefix = tokens if ends else prefixes(tokens, token)
    return Anchors(token=token, target=plain.target[chosen], event=plain.event[chosen], prefix=prefix)


def prefixes(tokens: Tokens, end: Tensor) -> Tokens:
    """Each row up to and including its token `end` (B,), an index into the packed tokens."""
    return subrows(tokens, tokens.offsets[:-1], end + 1 - tokens.offsets[:-1])


def subrows(tokens: Tokens, start: Tensor, length: Tensor) -> Tokens:
    """`length` (B,) tokens of each row from packed index `start` (B,) on; vectors, where given, come along."""
    offsets = torch.zeros_like(tokens.offsets)
    torch.cumsum(length, 0, out=offsets[1:])
    total, longest = (int(offsets[-1]), int(length.max())) if length.numel() else (0, 0)
    place = torch.repeat_interleave(start - offsets[:-1], length, output_size=total)
    place = place + torch.arange(total, device=place.device)
    return Tokens(
        ids=tokens.ids[place],
        offsets=offsets,
        max_length=longest,
        vectors=None if tokens.vectors is None else tokens.vectors.index_select(0, place),
        detach_items=tokens.detach_items,
        masked=tokens.masked,
    )


def anchor_views(batch: Batch, anchors: Anchors, name: str) -> tuple[View, ...]:
    """What must be encoded so that `anchor_states` finds the anchors' states.

    Nothing where the batch's own pass holds them (a state of a causal encoder is that of its prefix); the prefixes
    themselves where items of the batch were hidden.
    """
    return () if batch.unmasked is None else (View(name=name, tokens=anchors.prefix),)


def anchor_states(encoded: Encoded, anchors: Anchors, name: str) -> Tensor:
    """(B, D) the state of each row at its anchor; `name` as given to `anchor_views`."""
    if name in encoded.views:
        return encoded.views[name].last
    assert encoded.anchor is not None
    return encoded.anchor.states.index_select(0, anchors.token)


def row_ranks(tokens: Tokens, *, generator: torch.Generator | None = None) -> Tensor:
    """(N,) a uniform random order of each row's tokens: rank 0 to length - 1, one number drawn a token."""
    rows = tokens.rows
    # 24 random bits: row + key is exact in float64, so rows never mix.
    keys = torch.rand(rows.shape[0], generator=generator).to(rows.device).double()
    order = torch.argsort(rows + keys, stable=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(rows.shape[0], device=rows.device) - tokens.offsets[rows]
    return ranks
