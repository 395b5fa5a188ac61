"""What every objective shares: scores, margins and the term of extra positives."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.backbones.tables import Tables
    from augrec.batches.batch import Batch
    from augrec.seams import Additions, Encoded, Negatives, Offset, SoftPositives


def dot(query: Tensor, vectors: Tensor) -> Tensor:
    """(M,) inner products of rows (M, D), or (M, K) of a query with its K vectors (M, K, D)."""
    # A sum of products: small matrix products in a batch are slower, forward and back.
    found: Tensor = torch.linalg.vecdot(query if vectors.dim() == query.dim() else query[:, None], vectors)
    return found


def positive_scores(encoded: Encoded) -> Tensor:
    """(M,) scores of the targets."""
    assert encoded.positive is not None
    return dot(encoded.query, encoded.positive)


def sources(encoded: Encoded, additions: Additions) -> list[Tensor]:
    """(M, K_s) scores of each source of negatives: the base (as replaced) first, then what was appended."""
    found: list[Tensor] = []
    for source in (additions.replaced or encoded.negatives, *additions.appended):
        if source is None:
            continue
        if source.vectors is not None:
            found.append(dot(encoded.query, source.vectors))
        else:
            assert source.ids is not None
            found.append(encoded.tables.products(encoded.query, source.ids))
    return found


def joined_sources(encoded: Encoded, additions: Additions) -> tuple[Tensor, Tensor | None]:
    """(M, K) scores of all sources side by side and what each column counts, (K,), None where all count
    alike: a mean over columns is then the sources' own means, averaged by their shares."""
    every = sources(encoded, additions)
    if len(every) == 1:
        return every[0], None
    shares = [1.0, *(source.share for source in additions.appended)]
    columns = sum(scores.shape[1] for scores in every)
    counts: list[float] = []
    for share, scores in zip(shares, every, strict=True):
        counts += [share / sum(shares) * columns / scores.shape[1]] * scores.shape[1]
    joined = torch.cat(every, 1)
    return joined, None if all(count == 1.0 for count in counts) else joined.new_tensor(counts)


def with_bias(batch: Batch, encoded: Encoded, additions: Additions) -> tuple[Encoded, Additions]:
    """Encoding and additions with the item bias as a last coordinate: queries (M, D + 1) end in 1 and items in their
    bias; unchanged where the backbone has none. Vectors that stand for no item have bias 0."""
    bias = encoded.tables.bias
    if bias is None:
        return encoded, additions
    query, column = encoded.query, bias[:, None]

    def wide(negatives: Negatives | None) -> Negatives | None:
        if negatives is None or negatives.vectors is None:
            return negatives
        vectors, ids = negatives.vectors, negatives.ids
        last = vectors.new_zeros(*vectors.shape[:-1], 1) if ids is None else F.embedding(ids, column)
        return replace(negatives, vectors=torch.cat([vectors, last], -1))

    positive = encoded.positive
    if positive is not None:
        positive = torch.cat([positive, F.embedding(batch.target, column)], 1)
    encoded = replace(
        encoded,
        positive=positive,
        tables=replace(encoded.tables, item=torch.cat([encoded.tables.item, column], 1)),
        query=torch.cat([query, query.new_ones(query.shape[0], 1)], 1),
        negatives=wide(encoded.negatives),
    )
    appended = tuple(one for one in map(wide, additions.appended) if one is not None)
    return encoded, replace(additions, replaced=wide(additions.replaced), appended=appended)


def average(terms: list[Tensor], additions: Additions) -> Tensor:
    """The losses of the base source and of what was appended, averaged by their shares."""
    if len(terms) == 1:
        return terms[0]
    shares = [1.0, *(source.share for source in additions.appended)]
    total = torch.stack([term * share for term, share in zip(terms, shares, strict=True)]).sum()
    return total / sum(shares)


def vectors_of(negatives: Negatives, tables: Tables) -> Tensor:
    """(M, K, D) vectors, looked up where only ids are given."""
    if negatives.vectors is not None:
        return negatives.vectors
    assert negatives.ids is not None
    return tables.items(negatives.ids)


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
