"""Bayesian personalised ranking (Rendle et al., UAI 2009) over a batch and its additions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field

from augrec.batches.negatives import NegativeSampler
from augrec.losses.bpr import bpr
from augrec.objectives.common import margin_shift, positive_scores, sources
from augrec.seams import Needs, Negatives, Seam
from augrec.typed import Config

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.batches.batch import Batch
    from augrec.data.interactions import Interactions
    from augrec.seams import Additions, Encoded


class BPRConfig(Config):
    """Settings of the BPR objective."""

    negatives: int = Field(default=1, ge=1)
    """Negatives K for each target, uniform over what the user has no train event with."""


class BPR:
    """mean over targets of w * log(1 + sum_k exp(s_k + shift - s_i)); several sources of negatives are averaged."""

    name = "bpr"
    Config = BPRConfig
    needs = Needs()
    refuses: frozenset[Seam] = frozenset()
    samples = True

    def __init__(self, config: BPRConfig, *, train: Interactions) -> None:
        self.config = config
        self.sampler = NegativeSampler(train, allow_full=True)

    def inputs(self, batch: Batch) -> Batch:
        return batch

    def draw(self, batch: Batch) -> Negatives:
        return Negatives(ids=self.sampler.sample(batch.target_user, self.config.negatives))

    def __call__(self, batch: Batch, encoded: Encoded, additions: Additions) -> Tensor:
        positive, shift = positive_scores(encoded), margin_shift(additions.offsets)
        terms = [
            bpr(positive, scores, offset=shift, weight=additions.weights) for scores in sources(encoded, additions)
        ]
        return terms[0] if len(terms) == 1 else torch.stack(terms).mean()
