"""DINS (Wu et al., 2023): the hardest candidate of each hop, brought towards the positive dimension by dimension."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from augrec.augment.candidates import CandidateConfig, CandidatePlugin, Hops
from augrec.seams import Additions, Needs, Negatives

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from augrec.backbones.base import Kind
    from augrec.batches.batch import Batch
    from augrec.seams import Encoded


class DINSConfig(CandidateConfig):
    """Settings of DINS."""

    alpha: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """Weight of the positive in every dimension's mixture; 0.3 to 2.3 published on LightGCN, 2.5 to 7 on NGCF."""


def dins(
    hops: Hops, query: Tensor, target: Tensor, winners: Sequence[Tensor], *, alpha: float
) -> tuple[Tensor, Tensor]:
    """Pooled vectors (M, K, D) and hop-0 rows (M, K, D0) of w * h + (1 - w) * p in every hop.

    w = exp(q h) / (exp(q h) + alpha exp(q p)) = sigmoid(q h - q p - ln alpha), products dimension by dimension; the
    gradient flows through w too.

    Args:
        hops: item tables of hops 0..L.
        query: (M, D).
        target: (M,) positive items.
        winners: for each hop the (M, K) items chosen in it (`Hops.hardest`).
        alpha: > 0.
    """
    mixed = []
    for number, (own, chosen) in enumerate(zip(hops.queries(query), winners, strict=True)):
        positive, hardest = hops.rows(number, target, chosen)
        weight = torch.sigmoid(own[:, None] * (hardest - positive) - math.log(alpha))
        mixed.append(torch.lerp(positive.expand_as(hardest), hardest, weight))
    return hops.pooled(mixed), mixed[0]


class DINS(CandidatePlugin):
    """Dimension-independent mixup. The L2 term is taken on the mixed hop-0 rows, as in MixGCF."""

    name: ClassVar[str] = "dins"
    Config = DINSConfig
    needs = Needs(negatives=True, hops=True)

    def __init__(self, config: DINSConfig, *, kind: Kind, dim: int, n_items: int) -> None:
        super().__init__(config, kind=kind, dim=dim, n_items=n_items)
        self.alpha = config.alpha

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        hops = Hops.of(encoded.tables)
        winners = hops.hardest(encoded.query, self.draw(batch, encoded))
        vectors, layer0 = dins(hops, encoded.query, batch.target, winners, alpha=self.alpha)
        return Additions(replaced=Negatives(vectors=vectors, layer0=layer0))
