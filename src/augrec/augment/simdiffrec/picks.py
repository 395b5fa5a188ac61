"""Which places of a sequence are replaced, and by what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.batches.batch import Tokens


def replaced_counts(lengths: Tensor, *, ratio: float | None, places: int = 0) -> Tensor:
    """(B,) places to replace in rows of `lengths` (B,): max(1, floor(ratio * length)), or `places` at most."""
    if ratio is None:
        return lengths.clamp(max=places)
    # The share is exact where the product is whole in decimals (0.2 * 15 is 3, not 2.9999...).
    return (lengths.double() * ratio + 1e-9).floor().long().clamp(min=1)


def highest_places(score: Tensor, tokens: Tokens, counts: Tensor) -> Tensor:
    """(N,) True at the `counts` (B,) places of each row with the highest `score` (N,); ties go to the older event."""
    rows = tokens.rows
    order = torch.argsort(score, descending=True, stable=True)
    order = order[torch.argsort(rows[order], stable=True)]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.shape[0], device=order.device) - tokens.offsets[rows]
    return rank < counts[rows]


def choose_ranks(
    ids: Tensor, *, sample: int | None, negative_rank: int | None, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor | None]:
    """(m,) item of the positive view and (m,) of the negative view, out of `ids` (m, k), likeliest first.

    Args:
        sample: draw the positive among so many ranks, that of the negative left out; None takes the first.
        negative_rank: rank of the negative from 1, the last there is where the catalogue ends before; None for no
            negative.
    """
    width = ids.shape[1]
    last = None if negative_rank is None else min(negative_rank, width) - 1
    negative = None if last is None else ids[:, last]
    if sample is None:
        return ids[:, 0], negative
    among = min(sample, width)
    size = (ids.shape[0], 1)
    if last is not None and last < among and among > 1:
        drawn = torch.randint(among - 1, size, generator=generator).to(ids.device)
        drawn = drawn + (drawn >= last)
    else:
        drawn = torch.randint(among, size, generator=generator).to(ids.device)
    return ids.gather(1, drawn).squeeze(1), negative


def random_items(
    own: Tensor, n_items: int, *, exclude_own: bool, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """(m,) two different uniform items for each place with item `own` (m,), if asked neither of them its own.

    Ranking uniform random scores gives the same; where the catalogue is too small, items repeat.
    """
    open_ = max(n_items - exclude_own, 1)
    first = torch.randint(open_, own.shape, generator=generator).to(own.device)
    second = torch.randint(max(open_ - 1, 1), own.shape, generator=generator).to(own.device)
    if open_ > 1:
        second = second + (second >= first)
    if exclude_own and n_items > 1:
        first, second = first + (first >= own), second + (second >= own)
    return first, second
