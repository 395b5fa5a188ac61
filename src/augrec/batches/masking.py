"""Hidden items: what a bidirectional encoder is asked for (the cloze task of BERT4Rec, Sun et al., CIKM 2019)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from augrec.batches.batch import Tokens

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.batches.batch import Batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Masking:
    """How many items are hidden."""

    ratio: float
    """Share of each row's items, rounded, at least one."""
    last_share: float = 0.0
    """Probability that a batch hides only the last item of each row, which is what ranking asks for."""


def hide_items(batch: Batch, masking: Masking, *, mask_token: int, generator: torch.Generator | None = None) -> Batch:
    """The batch as a bidirectional encoder trains on it: its targets are items of the row that it cannot see.

    A row of n tokens and n targets becomes the n + 1 events they span (the oldest is dropped where that is more than
    `batch.max_length`); the hidden ones are the new targets. Weights, negatives and metrics by event or user go on
    working, as `event` and `target_row` move along.

    Args:
        batch: in next-item form, target m after token m; left as it is.
        masking: how many items are hidden.
        mask_token: the id that hides, `n_items`.
        generator: None draws from torch's own; one number a batch, then one a token unless only last items are hidden.

    Returns:
        A new batch with `unmasked` set to `batch`.
    """
    assert batch.tokens is not None
    old = batch.tokens
    lengths = old.lengths
    full = (lengths + 1).clamp(max=batch.max_length) if batch.max_length else lengths + 1
    whole = _packed(full, min(old.max_length + 1, batch.max_length or old.max_length + 1), old.ids.device)
    rows = whole.rows
    # Place among the n + 1 events of the row; place 0 is the first token, the others are targets.
    place = whole.positions + (lengths + 1 - full)[rows]
    first = place == 0
    target = old.offsets[rows] + (place - 1).clamp(min=0)
    item = torch.where(first, old.ids[target], batch.target[target])
    event = batch.event[target] - first.long()
    if torch.rand((), generator=generator).item() < masking.last_share:
        hidden = whole.last
    else:
        count = (full.double() * masking.ratio).round().long().clamp(min=1)
        keys = torch.rand(rows.shape[0], generator=generator).to(rows.device).double()
        order = torch.argsort(rows + keys, stable=True)
        # Sorted by row, then at random: the first `count` of each row.
        hidden = order[whole.positions < count[rows]].sort().values
    ids = item.index_fill(0, hidden, mask_token)
    return replace(
        batch,
        target=item[hidden],
        event=event[hidden],
        target_row=rows[hidden],
        tokens=replace(whole, ids=ids, masked=True),
        target_token=hidden,
        unmasked=batch,
    )


def append_mask(tokens: Tokens, *, mask_token: int, max_length: int, vector: Tensor | None = None) -> Tokens:
    """The rows with the mask token after their last, the oldest dropped so that none exceeds `max_length`: the question
    what comes next, put to a bidirectional encoder.

    `vector` (1, D) is the mask's input; it is wanted where the tokens are given as vectors.
    """
    kept = tokens.lengths.clamp(max=max_length - 1)
    made = _packed(kept + 1, min(tokens.max_length + 1, max_length), tokens.ids.device)
    rows, total = made.rows, tokens.ids.shape[0]
    place = (tokens.offsets[1:] - kept)[rows] + made.positions
    place = torch.where(made.positions == kept[rows], total, place)
    vectors = None
    if tokens.vectors is not None:
        assert vector is not None
        vectors = torch.cat([tokens.vectors, vector]).index_select(0, place)
    ids = torch.cat([tokens.ids, tokens.ids.new_tensor([mask_token])])[place]
    return replace(made, ids=ids, vectors=vectors, detach_items=tokens.detach_items, masked=True)


def _packed(lengths: Tensor, longest: int, device: torch.device) -> Tokens:
    """Rows of these lengths (B,), ids not filled in."""
    offsets = torch.zeros(lengths.shape[0] + 1, dtype=torch.int64, device=device)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return Tokens(ids=offsets.new_zeros(int(offsets[-1])), offsets=offsets, max_length=longest)
