"""What view augmentations ask the catalogue: nearest items, likeliest items and how sure a restoration is.

Everything is streamed over chunks of rows or of items; no (tokens, items) and no (items, items) tensor is made. All of
it is a choice of ids, so nothing here carries a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

from augrec.linear import matmul, pad_rows

if TYPE_CHECKING:
    from torch import Tensor

Metric = Literal["dot", "cosine"]

_CHUNK_BYTES = 2 * 2**20


def _chunk(width: int) -> int:
    """Rows of `width` float32 scores that fit a cache-sized chunk."""
    return max(1, _CHUNK_BYTES // (4 * max(width, 1)))


@torch.no_grad()
def nearest_items(
    items: Tensor,
    k: int,
    *,
    metric: Metric = "dot",
    of: Tensor | None = None,
    among: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """The k items most similar to each of some items, itself left out.

    Args:
        items: (I, D) item vectors.
        k: neighbours of each; fewer where the catalogue holds fewer. An item alone is its own neighbour.
        metric: inner product of the vectors, or of the normalised ones.
        of: (R,) ids whose neighbours are wanted; all items by default.
        among: (S,) ids that may be neighbours; all items by default.
        chunk: rows of scores held at once; by default about 2 MiB of them.

    Returns:
        (R, min(k, S - 1)) int64 ids, most similar first.
    """
    vectors = F.normalize(items, dim=1) if metric == "cosine" else items
    wanted = torch.arange(items.shape[0], device=items.device) if of is None else of
    pool = vectors if among is None else vectors.index_select(0, among)
    k = max(1, min(k, pool.shape[0] - 1))
    found = torch.empty(wanted.shape[0], k, dtype=torch.int64, device=items.device)
    step = chunk or _chunk(pool.shape[0])
    for start in range(0, wanted.shape[0], step):
        ids = wanted[start : start + step]
        rows = vectors[start : start + step] if of is None else vectors.index_select(0, ids)
        scores = matmul(rows, pool.t())
        if among is None:
            scores.scatter_(1, ids[:, None], -torch.inf)
        else:
            scores.masked_fill_(ids[:, None] == among, -torch.inf)
        found[start : start + step] = scores.topk(k).indices
    return found if among is None else among[found]


@dataclass(frozen=True, kw_only=True, slots=True)
class Likeliest:
    """What a restoration says of each of N places."""

    confidence: Tensor
    """(N,) probability of the likeliest item under the softmax over the catalogue."""
    ids: Tensor
    """(N, k) int64, likeliest first."""


@torch.no_grad()
def likeliest(
    query: Tensor, items: Tensor, k: int, *, exclude: Tensor | None = None, chunk: int | None = None
) -> Likeliest:
    """Confidence and the top k of softmax(query @ items.T), streamed over chunks of items with a running maximum, a
    running sum of exponentials and a running top k.

    Args:
        query: (N, D).
        items: (I, D).
        k: ids wanted for each place, 0 for none; fewer where the catalogue holds fewer.
        exclude: (N,) an id that each place must not be given; it still counts in the confidence.
        chunk: items scored at once; by default about 2 MiB of scores.
    """
    wanted, total = query.shape[0], items.shape[0]
    query, exclude = pad_rows(query), None if exclude is None else pad_rows(exclude)
    n = query.shape[0]
    k = min(k, max(total - (exclude is not None), 1)) if k else 0
    step = chunk or max(256, _chunk(n))
    peak = query.new_full((n,), -torch.inf)
    mass = query.new_zeros(n)
    values, ids = query.new_empty(n, 0), torch.empty(n, 0, dtype=torch.int64, device=query.device)
    for start in range(0, total, step):
        scores = matmul(query, items[start : start + step].t())
        higher = torch.maximum(peak, scores.amax(1))
        if k:
            open_ = scores
            if exclude is not None:
                columns = torch.arange(start, start + scores.shape[1], device=scores.device)
                open_ = scores.masked_fill(exclude[:, None] == columns, -torch.inf)
            best = open_.topk(min(k, scores.shape[1]))
            values, ids = torch.cat([values, best.values], 1), torch.cat([ids, best.indices + start], 1)
            kept = values.topk(min(k, values.shape[1]))
            values, ids = kept.values, ids.gather(1, kept.indices)
        mass = mass * (peak - higher).exp() + scores.sub_(higher[:, None]).exp_().sum(1)
        peak = higher
    return Likeliest(confidence=mass.reciprocal()[:wanted], ids=ids[:wanted])


@torch.no_grad()
def likeliest_among(
    query: Tensor, items: Tensor, own: Tensor, among: Tensor, k: int, *, exclude_own: bool = False
) -> Likeliest:
    """`likeliest` estimated from a uniform sample of the catalogue, for catalogues too large to score.

    The sum of exponentials over the items outside the sample is taken from those inside; a place's own item always
    counts.

    Args:
        query: (N, D).
        items: (I, D); only the rows asked for are read.
        own: (N,) the id that stands at each place.
        among: (S,) distinct sampled ids.
        k: ids wanted for each place.
        exclude_own: never give a place its own id.
    """
    scores = matmul(query, items.index_select(0, among).t())
    scores.masked_fill_(own[:, None] == among, -torch.inf)
    own_score = (query * F.embedding(own, items)).sum(1, keepdim=True)
    peak = torch.maximum(scores.amax(1, keepdim=True), own_score)
    share = (items.shape[0] - 1) / max(among.shape[0], 1)
    mass = (scores - peak).exp().sum(1) * share + (own_score - peak).exp().squeeze(1)
    every = scores if exclude_own else torch.cat([scores, own_score], 1)
    best = every.topk(min(k, every.shape[1])).indices
    known = among.expand(len(own), -1) if exclude_own else torch.cat([among.expand(len(own), -1), own[:, None]], 1)
    return Likeliest(confidence=mass.reciprocal(), ids=known.gather(1, best))


def sample_items(n_items: int, size: int, *, device: torch.device | None = None) -> Tensor:
    """(S,) distinct ids, S <= size, each item equally likely; drawn from torch's default generator in O(size)."""
    drawn: Tensor = torch.unique(torch.randint(n_items, (size,), device=device))
    return drawn
