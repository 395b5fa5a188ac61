"""The vectors that a training step scores with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from augrec.backbones.lookups import Lookups
    from augrec.batches.batch import Tokens

Pool = Literal["mean", "concat"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """The vectors a step scores with; made once a step and shared by the ranking loss and every plug-in."""

    item: Tensor
    """(I, D) vectors that scores are taken with."""
    item0: Tensor
    """(I, D0) layer-0 rows, the parameters themselves."""
    user: Tensor | None = None
    """(U, D), in collaborative filtering."""
    user0: Tensor | None = None
    hops: tuple[Tensor, ...] | None = None
    """One (U + I, D0) table a hop, hop 0 first; only when somebody needs them."""
    sparse_hops: bool = False
    """Whether `hops` take sparse gradients; looking up few rows then costs those rows alone."""
    sparse: bool = False
    """Whether `user` and `item` take sparse gradients; looking up few rows then costs those rows alone."""
    pool: Pool = "mean"
    """How hops become the scoring vectors: their mean, or one beside the other (D = D0 * hops)."""
    special: Tensor | None = None
    """(1, D) vector of the mask token; only when somebody masks."""
    mix: Callable[[Tensor, Tokens], Tensor] | None = None
    """The encoder's own layers run with every token seeing its whole row, (N, D) to (N, D); None where it has none."""

    bias: Tensor | None = None
    """(I,) what each item's score has beside the inner product: one more coordinate (1 in the query), hidden from
    plug-ins and added by objectives and scorers."""
    chain: tuple[Tensor, Tensor] | None = None
    """What a generative backbone's queries share, made once for scoring: matrix and constant of its reverse step."""
    temperature: float | None = None
    """Tau where scores are tau * cosine; `item` is then normalised."""
    shared_rows: bool = False
    """Whether an L2 term reads the very rows that scores are taken with, so that each is best looked up once."""
    lookups: tuple[Lookups, ...] = ()
    """Lookups in some of these tables, whose gradients are laid down together; others are looked up on their own."""

    def items(self, ids: Tensor) -> Tensor:
        """(..., D) scoring vectors of items, `ids` of any shape; the gradient is reproducible on several threads."""
        return self._rows(ids, self.item, sparse=self.sparse)

    def users(self, ids: Tensor) -> Tensor:
        """(..., D) scoring vectors of users, likewise."""
        assert self.user is not None
        return self._rows(ids, self.user, sparse=self.sparse)

    def items0(self, ids: Tensor) -> Tensor:
        """(..., D0) layer-0 rows of items, likewise."""
        return self._rows(ids, self.item0)

    def users0(self, ids: Tensor) -> Tensor:
        """(..., D0) layer-0 rows of users, likewise."""
        assert self.user0 is not None
        return self._rows(ids, self.user0)

    def products(self, query: Tensor, ids: Tensor, known: Tensor | None = None) -> Tensor:
        """(M, K) inner products of query (M, D) with the scoring vectors of items `ids` (M, K), likewise; `known` are
        their values where the caller has them already."""
        for one in self.lookups:
            if one.table is self.item:
                return one.products(query, ids, known)
        found: Tensor = torch.linalg.vecdot(self.items(ids), query[:, None])
        return found

    def _rows(self, ids: Tensor, table: Tensor, *, sparse: bool = False) -> Tensor:
        for one in self.lookups:
            if one.table is table:
                return one(ids)
        return F.embedding(ids, table, sparse=sparse)

    def query(self, states: Tensor) -> Tensor:
        """(M, D) an encoder's states as the vectors that scores are taken with: themselves, or of length tau."""
        return states if self.temperature is None else F.normalize(states, dim=1) * self.temperature
