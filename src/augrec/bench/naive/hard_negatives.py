"""Hard negatives as published code takes them: the vectors of all candidates are gathered, with gradient, and only then
is one of them chosen (or all of them are mixed and then one is)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from augrec.augment.ahns import AHNS
from augrec.augment.candidates import Hops
from augrec.augment.curriculum import Curriculum
from augrec.augment.dins import DINS
from augrec.augment.dns import DNS
from augrec.augment.mixgcf import MixGCF
from augrec.seams import Additions, Negatives

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.batches.batch import Batch
    from augrec.seams import Encoded


def _taken(candidates: Tensor, vectors: Tensor, place: Tensor) -> Additions:
    """The candidate at `place` (M, K) of each set, its vector out of those of all (M, K, C, D)."""
    at = place[:, :, None, None].expand(-1, -1, 1, vectors.shape[3])
    ids = candidates.gather(2, place[:, :, None]).squeeze(2)
    return Additions(replaced=Negatives(ids=ids, vectors=vectors.gather(2, at).squeeze(2)))


def _scored(encoded: Encoded, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """(M, K, C, D) vectors of all candidates and their (M, K, C) scores."""
    vectors = F.embedding(candidates, encoded.tables.item)
    return vectors, (encoded.query[:, None, None] * vectors).sum(-1)


class NaiveDNS(DNS):
    """Every candidate's vector, the highest-scored kept."""

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        candidates = self.draw(batch, encoded)
        vectors, scores = _scored(encoded, candidates)
        if self.top == 1:
            return _taken(candidates, vectors, scores.argmax(2))
        drawn = torch.randint(self.top, (*candidates.shape[:2], 1))
        return _taken(candidates, vectors, scores.topk(self.top, dim=2).indices.gather(2, drawn).squeeze(2))


class NaiveCurriculum(Curriculum):
    """The same on as many candidates as the epoch has."""

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        candidates = self.draw(batch, encoded, candidates=self.size)
        vectors, scores = _scored(encoded, candidates)
        return _taken(candidates, vectors, scores.argmax(2))


class NaiveAHNS(AHNS):
    """Every candidate's vector, the one nearest to the wanted hardness kept."""

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        given = self.settings
        candidates = self.draw(batch, encoded)
        vectors, scores = _scored(encoded, candidates)
        base = (encoded.query * encoded.positive).sum(1).detach().double() + given.alpha
        base = base if given.guard is None else base.clamp(min=given.guard)
        wanted = given.beta * base.pow(given.p + 1)
        return _taken(candidates, vectors, (scores.detach().double() - wanted[:, None, None]).abs().argmin(2))


class NaiveMixGCF(MixGCF):
    """Every candidate mixed in every hop, the hardest mixture of each hop kept."""

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        hops, candidates = Hops.of(encoded.tables), self.draw(batch, encoded)
        # One number a set and hop, in the order in which the plug-in draws them.
        share = torch.rand(*candidates.shape[:2], len(hops.tables), dtype=encoded.query.dtype)
        chosen = []
        for number, (table, own) in enumerate(zip(hops.tables, hops.queries(encoded.query), strict=True)):
            rows = F.embedding(candidates + hops.shift, table)
            positive = F.embedding(batch.target + hops.shift, table)[:, None, None]
            weight = share[:, :, number, None, None]
            mixed = weight * positive + (1 - weight) * rows
            place = (own[:, None, None] * mixed).sum(-1).argmax(2)
            at = place[:, :, None, None].expand(-1, -1, 1, mixed.shape[3])
            chosen.append(mixed.gather(2, at).squeeze(2))
        return Additions(replaced=Negatives(vectors=hops.pooled(chosen), layer0=chosen[0]))


class NaiveDINS(DINS):
    """Every candidate brought towards the positive in every hop, that of the hardest candidate kept."""

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        hops, candidates = Hops.of(encoded.tables), self.draw(batch, encoded)
        chosen = []
        for table, own in zip(hops.tables, hops.queries(encoded.query), strict=True):
            rows = F.embedding(candidates + hops.shift, table)
            positive = F.embedding(batch.target + hops.shift, table)[:, None, None]
            weight = torch.sigmoid(own[:, None, None] * (rows - positive) - math.log(self.alpha))
            mixed = weight * rows + (1 - weight) * positive
            place = (own[:, None, None] * rows).sum(-1).argmax(2)
            at = place[:, :, None, None].expand(-1, -1, 1, mixed.shape[3])
            chosen.append(mixed.gather(2, at).squeeze(2))
        return Additions(replaced=Negatives(vectors=hops.pooled(chosen), layer0=chosen[0]))
