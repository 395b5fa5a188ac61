"""What the objectives with sampled negatives share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from augrec.batches.negatives import NegativeSampler
from augrec.seams import Needs, Negatives, Seam
from augrec.typed import Config

if TYPE_CHECKING:
    from augrec.batches.batch import Batch
    from augrec.data.interactions import Interactions


class SampledConfig(Config):
    """Settings of an objective that draws negatives for each target."""

    negatives: int = Field(default=1, ge=1)
    """Negatives K for each target, uniform over what the user has no train event with."""


class Sampled:
    """Draws K negatives for each target; a user who has every item draws from the whole catalogue."""

    Config = SampledConfig
    needs = Needs()
    refuses: frozenset[Seam] = frozenset()
    samples = True

    def __init__(self, config: SampledConfig, *, train: Interactions) -> None:
        self.config = config
        self.sampler = NegativeSampler(train, allow_full=True)

    def inputs(self, batch: Batch) -> Batch:
        return batch

    def draw(self, batch: Batch) -> Negatives:
        return Negatives(ids=self.sampler.sample(batch.target_user, self.config.negatives))
