"""Binary cross-entropy with sampled negatives, SASRec's own objective (Kang and McAuley, ICDM 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

from augrec.losses.bce import bce
from augrec.objectives.common import joined, scores
from augrec.objectives.sampled import Sampled

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.batches.batch import Batch
    from augrec.seams import Additions, Encoded


class BCE(Sampled):
    """mean of w * softplus(-s_i), plus the mean of softplus(s_j) averaged over sources, plus weight * softplus(s_d) an
    offset."""

    name = "bce"

    def __call__(self, batch: Batch, encoded: Encoded, additions: Additions) -> Tensor:
        positive, sources = scores(batch, encoded, additions)
        negatives, shares = joined(sources, additions)
        loss = bce(positive, negatives, weight=additions.weights, negative_weight=shares)
        for offset in additions.offsets:
            loss = loss + offset.weight * F.softplus(offset.score).mean()
        return loss
