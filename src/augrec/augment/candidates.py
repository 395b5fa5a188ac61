"""What the methods that pick among sampled candidates share: drawing them, scoring them, reading hops.

C candidates for each of K negatives of M targets are (M, K, C) item ids.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from augrec.batches.negatives import NegativeSampler
from augrec.errors import UsageError
from augrec.seams import Needs, Plugin, Seam
from augrec.typed import Config

if TYPE_CHECKING:
    from augrec.backbones.base import Kind
    from augrec.backbones.tables import Pool, Tables
    from augrec.batches.batch import Batch
    from augrec.data.interactions import Interactions
    from augrec.seams import Encoded, Prepared

BLOCK = 2**24
"""Floats gathered at a time where no fused product serves."""


class CandidateConfig(Config):
    """Settings of a method that picks among sampled candidates."""

    candidates: int = Field(default=32, ge=0)
    """Items C drawn for each negative, uniform over what the user has no train event with; 0 switches the method
    off."""


class CandidatePlugin(Plugin):
    """Replaces the objective's K negatives of each target by K picked or made from C candidates each, the K sets
    independent."""

    acts: ClassVar[frozenset[Seam]] = frozenset({"replace"})
    needs = Needs(negatives=True)
    off: ClassVar[Mapping[str, Any]] = MappingProxyType({"candidates": 0})

    def __init__(self, config: CandidateConfig, *, kind: Kind, dim: int, n_items: int) -> None:
        super().__init__(config, kind=kind, dim=dim, n_items=n_items)
        self.candidates = config.candidates
        self._sampler: NegativeSampler | None = None

    @property
    def active(self) -> bool:
        return self.candidates > 0

    def load_prepared(self, prepared: Prepared, train: Interactions) -> None:
        self._sampler = NegativeSampler(train, allow_full=True)

    def draw(self, batch: Batch, encoded: Encoded, *, candidates: int | None = None) -> Tensor:
        """(M, K, C) item ids, K as many as the objective draws; a user who has every item draws from the whole
        catalogue.

        Raises:
            UsageError: `load_prepared` was not called, or the objective gives no negatives for each target.
        """
        if self._sampler is None:
            raise UsageError(
                f"{self.name} draws outside each user's train items; call load_prepared(Prepared(), train) first"
            )
        given = encoded.negatives
        shape = None if given is None else (given.ids if given.ids is not None else given.vectors)
        if shape is None or shape.dim() < 2:
            raise UsageError(f"{self.name} replaces sampled negatives (M, K), and there are none; use bpr or bce")
        sets, each = shape.shape[1], self.candidates if candidates is None else candidates
        return self._sampler.sample(batch.target_user, sets * each).view(-1, sets, each)


def score_candidates(query: Tensor, table: Tensor, ids: Tensor) -> Tensor:
    """(M, ...) inner products of queries (M, D) with the rows `ids` (M, ...) of `table` (I, D), without gradient.

    On a CPU the products are those of a sparse pattern (M, I) with M x C entries: no (M, C, D) buffer is made.
    """
    rows, per_row = ids.shape[0], ids.shape[1:].numel()
    flat = ids.reshape(rows, per_row)
    with torch.no_grad():
        fused = query.device.type == "cpu" and query.dtype in (torch.float32, torch.float64)
        # torch refuses patterns with more entries than the matrix has places.
        if fused and 0 < per_row <= table.shape[0] and rows:
            return _pattern_scores(query.detach(), table.detach(), flat).view(ids.shape)
        step = max(1, BLOCK // max(per_row * query.shape[1], 1))
        blocks = [
            torch.einsum("md,mcd->mc", query[a : a + step], F.embedding(flat[a : a + step], table))
            for a in range(0, rows, step)
        ]
        return torch.cat(blocks).view(ids.shape) if blocks else query.new_zeros(ids.shape)


def _pattern_scores(query: Tensor, table: Tensor, flat: Tensor) -> Tensor:
    """(M, C) scores; the entries of a row are computed one by one, so that they need be neither sorted nor distinct."""
    rows, per_row = flat.shape
    starts = torch.arange(0, rows * per_row + 1, per_row)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        pattern = torch.sparse_csr_tensor(
            starts, flat.reshape(-1), query.new_zeros(rows * per_row), (rows, table.shape[0]), check_invariants=False
        )
        scores: Tensor = torch.sparse.sampled_addmm(pattern, query, table.t(), beta=0.0).values()
    return scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Hops:
    """The item side of a backbone's hops; a backbone that serves none counts as its scoring vectors alone."""

    tables: tuple[Tensor, ...]
    """L + 1 tables; item i is row `shift + i`."""
    shift: int
    pool: Pool
    sparse: bool = False
    """Whether the tables take sparse gradients."""

    @classmethod
    def of(cls, tables: Tables) -> Hops:
        """Of a step's tables."""
        if tables.hops is None:
            return cls(tables=(tables.item,), shift=0, pool="mean")
        shift = tables.hops[0].shape[0] - tables.item.shape[0]
        return cls(tables=tables.hops, shift=shift, pool=tables.pool, sparse=tables.sparse_hops)

    def queries(self, query: Tensor) -> tuple[Tensor, ...]:
        """What each hop is scored with: the pooled query (mean), or the query's own part of that hop (concat)."""
        if self.pool == "mean":
            return (query,) * len(self.tables)
        return query.chunk(len(self.tables), dim=1)

    def hardest(self, query: Tensor, candidates: Tensor) -> tuple[Tensor, ...]:
        """For each hop the (M, K) candidates of (M, K, C) that score highest in it; of equals any one."""
        found = []
        for own, table in zip(self.queries(query), self.tables, strict=True):
            best = score_candidates(own, table[self.shift :], candidates).argmax(2, keepdim=True)
            found.append(candidates.gather(2, best).squeeze(2))
        return tuple(found)

    def rows(self, hop: int, target: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """(M, 1, D0) of the targets (M,) and (M, K, D0) of `chosen` (M, K) in one hop, with gradient."""
        ids = torch.cat([target[:, None], chosen], 1) + self.shift
        both = F.embedding(ids, self.tables[hop], sparse=self.sparse)
        return both[:, :1], both[:, 1:]

    def pooled(self, vectors: list[Tensor]) -> Tensor:
        """(M, K, D) of one (M, K, D0) a hop, pooled as the backbone pools its items."""
        if self.pool == "concat":
            return torch.cat(vectors, -1)
        return vectors[0] if len(vectors) == 1 else torch.stack(vectors).mean(0)
