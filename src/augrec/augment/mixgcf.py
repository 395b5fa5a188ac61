"""MixGCF (Huang et al., KDD 2021): a negative put together from the hardest candidate of each hop, mixed with the
positive."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from augrec.augment.candidates import CandidateConfig, CandidatePlugin, Hops
from augrec.seams import Additions, Needs, Negatives

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from augrec.batches.batch import Batch
    from augrec.seams import Encoded


class MixGCFConfig(CandidateConfig):
    """Settings of MixGCF."""


def mixgcf(hops: Hops, target: Tensor, winners: Sequence[Tensor], share: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled vectors (M, K, D) and hop-0 rows (M, K, D0) of a_l p_l + (1 - a_l) n_l, with gradient to both.

    As published, every candidate of a hop is mixed first and the hardest mixture is kept. a_l is the same for all
    candidates of a set, so the order of q . (a p + (1 - a) n) is that of q . n for any a < 1: choosing first and mixing
    the winners alone gives the same vectors, up to ties.

    Args:
        hops: item tables of hops 0..L.
        target: (M,) positive items.
        winners: for each hop the (M, K) items chosen in it (`Hops.hardest`).
        share: (M, K, L + 1) mixing coefficients a in [0, 1).
    """
    mixed = []
    for number, chosen in enumerate(winners):
        positive, negative = hops.rows(number, target, chosen)
        mixed.append(torch.lerp(negative, positive.expand_as(negative), share[:, :, number, None]))
    return hops.pooled(mixed), mixed[0]


class MixGCF(CandidatePlugin):
    """MixGCF: positive mixing and hop mixing. The L2 term is taken on the mixed hop-0 rows, as published."""

    name: ClassVar[str] = "mixgcf"
    Config = MixGCFConfig
    needs = Needs(negatives=True, hops=True)

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        hops = Hops.of(encoded.tables)
        winners = hops.hardest(encoded.query, self.draw(batch, encoded))
        share = torch.rand(*winners[0].shape, len(winners), dtype=encoded.query.dtype).to(encoded.query.device)
        vectors, layer0 = mixgcf(hops, batch.target, winners, share)
        return Additions(replaced=Negatives(vectors=vectors, layer0=layer0))
