"""Curriculum negatives, a baseline in AHNS's repository (`cns`): DNS over fewer and fewer candidates, hard to easy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from augrec.augment.candidates import CandidateConfig, CandidatePlugin
from augrec.augment.dns import dns_select
from augrec.seams import Additions, Negatives

if TYPE_CHECKING:
    from collections.abc import Mapping

    from augrec.backbones.base import Kind
    from augrec.batches.batch import Batch
    from augrec.seams import Encoded


class CurriculumConfig(CandidateConfig):
    """Settings of curriculum negatives."""

    epochs: int = Field(default=100, ge=1)
    """Epochs until a single candidate is left, which is uniform sampling; 100 is what AHNS trains for. Independent of
    `train.epochs`, so that early stopping and a longer run keep the same curriculum."""


def curriculum_size(epoch: int, epochs: int, candidates: int) -> int:
    """Candidates in use in epoch `epoch`, counted from 1: max(1, int((1 - (epoch - 1) / epochs) * candidates))."""
    # In integers, where the formula's product would round down below a whole number.
    return max(1, candidates * (epochs - epoch + 1) // epochs)


class Curriculum(CandidatePlugin):
    """Curriculum negatives."""

    name: ClassVar[str] = "cns"
    Config = CurriculumConfig

    def __init__(self, config: CurriculumConfig, *, kind: Kind, dim: int, n_items: int) -> None:
        super().__init__(config, kind=kind, dim=dim, n_items=n_items)
        self.epochs = config.epochs
        self._epoch = 1

    @property
    def size(self) -> int:
        """Candidates in use in this epoch."""
        return curriculum_size(self._epoch, self.epochs, self.candidates)

    def start_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        # Draws are independent, so the first few of C are drawn as C = a few.
        candidates = self.draw(batch, encoded, candidates=self.size)
        return Additions(replaced=Negatives(ids=dns_select(encoded.query, encoded.tables.item, candidates)))

    def epoch_log(self) -> Mapping[str, Any]:
        return {"candidates": self.size}
