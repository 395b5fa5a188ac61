"""Bayesian personalised ranking (Rendle et al., UAI 2009) over a batch and its additions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from augrec.losses.bpr import bpr
from augrec.objectives.common import average, margin_shift, scores
from augrec.objectives.sampled import Sampled

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.batches.batch import Batch
    from augrec.seams import Additions, Encoded


class BPR(Sampled):
    """mean over targets of w * log(1 + sum_k exp(s_k + shift - s_i)); several sources of negatives are averaged."""

    name = "bpr"

    def __call__(self, batch: Batch, encoded: Encoded, additions: Additions) -> Tensor:
        positive, sources = scores(batch, encoded, additions)
        shift = margin_shift(additions.offsets)
        terms = [bpr(positive, negatives, offset=shift, weight=additions.weights) for negatives in sources]
        return average(terms, additions)
