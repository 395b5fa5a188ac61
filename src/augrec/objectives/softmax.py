"""Softmax over the catalogue, whole or sampled with the logQ correction."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional as F

from augrec.batches.negatives import PopularitySampler, SharedSampler, UniformSampler
from augrec.linear import linear
from augrec.losses.softmax import full_softmax, sampled_softmax_from_scores
from augrec.objectives.common import margin_shift, scores, with_bias
from augrec.seams import Needs, Negatives, Seam
from augrec.typed import Config

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.batches.batch import Batch
    from augrec.data.interactions import Interactions
    from augrec.seams import Additions, Encoded


class SoftmaxConfig(Config):
    """Settings of the full softmax."""

    chunk: int | None = Field(default=None, ge=1)
    """Rows of logits in memory at a time; None picks by the catalogue."""


class Softmax:
    """Cross-entropy over all items, the target's logit lowered by the offset: -log softmax(s - shift at the target).

    Where the train log names candidates, over these only.
    """

    name = "softmax"
    Config = SoftmaxConfig
    needs = Needs(every_item=True)
    refuses: frozenset[Seam] = frozenset({"replace", "append"})
    samples = False
    splits = True

    def __init__(self, config: SoftmaxConfig, *, train: Interactions) -> None:
        self.config = config
        self.candidates, self.place = None, None
        if train.candidates is not None:
            inside = torch.from_numpy(train.candidates.copy())
            self.candidates, self.place = inside.nonzero()[:, 0], inside.cumsum(0) - 1

    def inputs(self, batch: Batch) -> Batch:
        return batch

    def draw(self, batch: Batch) -> Negatives:
        return Negatives()

    def __call__(self, batch: Batch, encoded: Encoded, additions: Additions) -> Tensor:
        (query, items), target = with_bias(encoded), batch.target
        if self.candidates is not None and self.place is not None:
            items, target = items.index_select(0, self.candidates), self.place[target]
        return full_softmax(
            query,
            items,
            target,
            offset=margin_shift(additions.offsets),
            weight=additions.weights,
            chunk=self.config.chunk,
        )


class SampledSoftmaxConfig(Config):
    """Settings of the sampled softmax."""

    negatives: int = Field(default=256, ge=1)
    """Negatives S shared by the whole batch."""
    sampler: Literal["uniform", "popularity"] = "uniform"
    """Proposal the negatives are drawn from; the logits are corrected for it."""
    alpha: float = Field(default=1.0, ge=0)
    """Exponent of the train counts in the popularity proposal."""


class SampledSoftmax:
    """Softmax over the target and S shared negatives, each logit less its log expected count (Bengio and Senecal,
    2008)."""

    name = "sampled-softmax"
    Config = SampledSoftmaxConfig
    needs = Needs()
    refuses: frozenset[Seam] = frozenset({"replace", "append"})
    samples = False
    splits = True

    def __init__(self, config: SampledSoftmaxConfig, *, train: Interactions) -> None:
        self.config = config
        popular = config.sampler == "popularity"
        counts = train.item_counts()
        self.sampler: SharedSampler
        if train.candidates is not None:
            kept = train.candidates
            weight = np.where(kept, counts.astype(float) ** config.alpha, 0.0) if popular else kept.astype(float)
            self.sampler = PopularitySampler(weight, 1.0)
        else:
            self.sampler = PopularitySampler(counts, config.alpha) if popular else UniformSampler(len(counts))

    def inputs(self, batch: Batch) -> Batch:
        return batch

    def draw(self, batch: Batch) -> Negatives:
        return Negatives(ids=self.sampler.shared(self.config.negatives))

    def __call__(self, batch: Batch, encoded: Encoded, additions: Additions) -> Tensor:
        assert encoded.negatives is not None and encoded.negatives.ids is not None
        shared, tables = encoded.negatives.ids, encoded.tables
        bias = None if tables.bias is None else F.embedding(shared, tables.bias[:, None]).squeeze(1)
        return sampled_softmax_from_scores(
            scores(batch, replace(encoded, negatives=None), additions)[0],
            linear(encoded.query, tables.items(shared), bias, ragged=True),
            log_q_target=self.sampler.log_q(batch.target),
            log_q_sampled=self.sampler.log_q(shared),
            excluded=batch.target[:, None] == shared,
            offset=margin_shift(additions.offsets),
            weight=additions.weights,
        )
