"""The own loss of a generative backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from augrec.seams import Needs, Negatives, Seam
from augrec.typed import Config

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.batches.batch import Batch
    from augrec.data.interactions import Interactions
    from augrec.seams import Additions, Encoded


class DenoisingConfig(Config):
    """No settings: the backbone holds them."""


class Denoising:
    """`Backbone.own_loss`: how well a noised history is restored. Nothing is ranked, so nothing can be added."""

    name = "denoising"
    Config = DenoisingConfig
    needs = Needs(kinds=frozenset({"users"}))
    refuses: frozenset[Seam] = frozenset(get_args(Seam))
    samples = False
    splits = False

    def __init__(self, config: DenoisingConfig, *, train: Interactions) -> None:
        self.config = config

    def inputs(self, batch: Batch) -> Batch:
        return batch

    def draw(self, batch: Batch) -> Negatives:
        return Negatives()

    def __call__(self, batch: Batch, encoded: Encoded, additions: Additions) -> Tensor:
        assert encoded.own is not None
        return encoded.own
