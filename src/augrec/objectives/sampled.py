"""What the objectives with sampled negatives share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from augrec.batches.negatives import NegativeSampler, PopularitySampler, Sampler
from augrec.seams import Needs, Negatives, Seam
from augrec.typed import Config

if TYPE_CHECKING:
    from augrec.batches.batch import Batch
    from augrec.data.interactions import Interactions


class SampledConfig(Config):
    """Settings of an objective that draws negatives for each target."""

    negatives: int = Field(default=1, ge=1)
    """Negatives K for each target."""
    sampler: Literal["uniform", "popularity"] = "uniform"
    """uniform: over what the user has no train event with; popularity: over the whole catalogue with probability
    proportional to (train count)^alpha, so that a user's own items may come up, as in word2vec."""
    alpha: float = Field(default=0.75, ge=0, allow_inf_nan=False)
    """Exponent of the train counts of the popularity sampler; 0 is uniform."""


class Sampled:
    """Draws K negatives for each target; with the uniform sampler a user who has every item draws from the whole
    catalogue."""

    Config = SampledConfig
    needs = Needs()
    refuses: frozenset[Seam] = frozenset()
    samples = True
    splits = True

    def __init__(self, config: SampledConfig, *, train: Interactions) -> None:
        self.config = config
        popular = config.sampler == "popularity"
        self.sampler: Sampler = (
            PopularitySampler(train.item_counts(), config.alpha) if popular else NegativeSampler(train, allow_full=True)
        )

    def inputs(self, batch: Batch) -> Batch:
        return batch

    def draw(self, batch: Batch) -> Negatives:
        return Negatives(ids=self.sampler.sample(batch.target_user, self.config.negatives))
