"""What every objective shares: scores, margins and the term of extra positives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from augrec.backbones.tables import Tables
    from augrec.batches.batch import Batch
    from augrec.seams import Additions, Encoded, Offset, SoftPositives


def dot(query: Tensor, vectors: Tensor) -> Tensor:
    """(M,) inner products of rows (M, D), or (M, K) of a query with its K vectors (M, K, D)."""
    # A sum of products: small matrix products in a batch are slower, forward and back.
    found: Tensor = torch.linalg.vecdot(query if vectors.dim() == query.dim() else query[:, None], vectors)
    return found


def scores(batch: Batch, encoded: Encoded, additions: Additions) -> tuple[Tensor, list[Tensor]]:
    """(M,) scores of the targets, and (M, K_s) of each source of negatives: the base (as replaced) first, then what was
    appended.

    Items known by their ids alone are scored by one node of the graph. Vectors that stand for no item have no bias.
    """
    tables, query = encoded.tables, encoded.query
    sources = [one for one in (additions.replaced or encoded.negatives, *additions.appended) if one is not None]
    given = [None, *(source.vectors for source in sources)]
    ids = [batch.target[:, None], *(source.ids for source in sources)]
    if tables.shared_rows:
        given = [encoded.positive[:, None], *(source.rows(tables) for source in sources)]
    named = [own for own, vectors in zip(ids, given, strict=True) if vectors is None and own is not None]
    by_id: Iterator[Tensor] = iter(())
    if named:
        by_id = iter(tables.products(query, torch.cat(named, 1)).split([own.shape[1] for own in named], 1))
    found = [next(by_id) if vectors is None else dot(query, vectors) for vectors in given]
    if tables.bias is not None:
        column = tables.bias[:, None]
        biases = [0.0 if own is None else F.embedding(own, column).squeeze(-1) for own in ids]
        found = [score + bias for score, bias in zip(found, biases, strict=True)]
    return found[0].squeeze(1), found[1:]


def joined(sources: list[Tensor], additions: Additions) -> tuple[Tensor, Tensor | None]:
    """(M, K) scores of all sources side by side and what each column counts, (K,), None where all count
    alike: a mean over columns is then the sources' own means, averaged by their shares."""
    if len(sources) == 1:
        return sources[0], None
    shares = [1.0, *(source.share for source in additions.appended)]
    columns = sum(one.shape[1] for one in sources)
    counts: list[float] = []
    for share, one in zip(shares, sources, strict=True):
        counts += [share / sum(shares) * columns / one.shape[1]] * one.shape[1]
    every = torch.cat(sources, 1)
    return every, None if all(count == 1.0 for count in counts) else every.new_tensor(counts)


def with_bias(encoded: Encoded) -> tuple[Tensor, Tensor]:
    """(M, D) queries and (I, D) scoring vectors of all items; one wider where the backbone has an item bias: queries
    end in 1 and items in their bias."""
    query, tables = encoded.query, encoded.tables
    if tables.bias is None:
        return query, tables.item
    return torch.cat([query, query.new_ones(len(query), 1)], 1), torch.cat([tables.item, tables.bias[:, None]], 1)


def average(terms: list[Tensor], additions: Additions) -> Tensor:
    """The losses of the base source and of what was appended, averaged by their shares."""
    if len(terms) == 1:
        return terms[0]
    shares = [1.0, *(source.share for source in additions.appended)]
    total = torch.stack([term * share for term, share in zip(terms, shares, strict=True)]).sum()
    return total / sum(shares)


def margin_shift(offsets: tuple[Offset, ...]) -> Tensor | None:
    """(M,) sum of weight * score, or None."""
    total: Tensor | None = None
    for offset in offsets:
        shift = offset.weight * offset.score
        total = shift if total is None else total + shift
    return total


def soft_positive_loss(positives: SoftPositives, tables: Tables) -> Tensor:
    """PDRec's extra positives (AAAI 2024, eq. 5): weight * mean over (Q, n) of BCE with label 1. Zero queries give
    zero."""
    if positives.query.shape[0] == 0:
        return positives.query.sum() * 0.0
    query, vectors = positives.query, positives.vectors
    if positives.cosine:
        vectors = tables.items(positives.ids) if vectors is None else vectors
        query, vectors = F.normalize(query, dim=-1), F.normalize(vectors, dim=-1)
    score = tables.products(query, positives.ids, positives.products) if vectors is None else dot(query, vectors)
    if positives.scale != 1.0:
        score = positives.scale * score
    return -positives.weight * F.logsigmoid(score).mean()
