"""Binary cross-entropy with sampled negatives, SASRec's own objective (Kang and McAuley, ICDM 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch.nn import functional as F

from augrec.batches.negatives import NegativeSampler
from augrec.objectives.common import positive_scores, sources
from augrec.seams import Needs, Negatives, Seam
from augrec.typed import Config

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.batches.batch import Batch
    from augrec.data.interactions import Interactions
    from augrec.seams import Additions, Encoded


class BCEConfig(Config):
    """Settings of the BCE objective."""

    negatives: int = Field(default=1, ge=1)
    """Negatives K for each target, uniform over what the user has no train event with."""


class BCE:
    """mean of w * softplus(-s_i), plus the mean of softplus(s_j) averaged over sources, plus weight * softplus(s_d) an
    offset."""

    name = "bce"
    Config = BCEConfig
    needs = Needs()
    refuses: frozenset[Seam] = frozenset()
    samples = True

    def __init__(self, config: BCEConfig, *, train: Interactions) -> None:
        self.config = config
        self.sampler = NegativeSampler(train, allow_full=True)

    def inputs(self, batch: Batch) -> Batch:
        return batch

    def draw(self, batch: Batch) -> Negatives:
        return Negatives(ids=self.sampler.sample(batch.target_user, self.config.negatives))

    def __call__(self, batch: Batch, encoded: Encoded, additions: Additions) -> Tensor:
        liked = F.softplus(-positive_scores(encoded))
        if additions.weights is not None:
            liked = liked * additions.weights
        disliked = [F.softplus(scores).mean() for scores in sources(encoded, additions)]
        loss = liked.mean() + (disliked[0] if len(disliked) == 1 else torch.stack(disliked).mean())
        for offset in additions.offsets:
            loss = loss + offset.weight * F.softplus(offset.score).mean()
        return loss
