"""Noise-free Negative Sampling: negatives among the unobserved items of low preference (PDRec, equation 3)."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field

from augrec.augment.pdrec.plugin import PreferencePlugin
from augrec.augment.pdrec.pools import BoundSampler, Pools, PoolSampler
from augrec.batches.batch import shared_tensor
from augrec.seams import Additions, Negatives, Seam
from augrec.typed import Config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from augrec.augment.pdrec.scan import Scan
    from augrec.batches.batch import Batch
    from augrec.seams import Encoded

_EVENTS = 1 << 15
"""Events that negatives are drawn for at once."""


class NNSConfig(Config):
    """Settings of NNS; published values by data set in docs/pdrec.md."""

    weight: float = Field(default=1.0, ge=0)
    """What this source of negatives weighs beside the objective's own, whose weight is 1; 0 switches it off."""
    source: Literal["preference", "random"] = "preference"
    """Where preferences come from; random is the control arm."""
    skip: float = Field(default=0.9, ge=0, lt=1)
    """omega_m: share of a user's unobserved items, best first, that are never drawn. Published: .5 on Amazon, .8 on
    Douban."""
    negatives: int = Field(default=1, ge=1)
    """Negatives for each target."""
    drop_lowest: float = Field(default=0.0, ge=0, lt=1)
    """Share of the items at the bottom that are never drawn either; 0.01 in the public code."""
    cut: Literal["unobserved", "all"] = "unobserved"
    """What the shares are of: a user's unobserved items, as equation 3 says, or all items (public code)."""


class NNS(PreferencePlugin):
    """One more source of negatives beside the objective's own; bpr and bce average the sources by their weights."""

    name: ClassVar[str] = "nns"
    Config = NNSConfig
    acts: ClassVar[frozenset[Seam]] = frozenset({"append"})
    drawn: Tensor
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"paper": {"skip": 0.5}, "published-code": {"skip": 0.9, "drop_lowest": 0.01, "cut": "all"}}
    )

    def __init__(self, config: NNSConfig, **sizes: Any) -> None:
        super().__init__(config, **sizes)
        self.settings = config
        self.sampler: PoolSampler | BoundSampler | None = None
        # Which epoch the draws are for and the word they come from, so that a resumed epoch has the same ones.
        self.register_buffer("drawn", torch.tensor([-1, 0]))
        self.epoch = -1
        self.user = self.by_event = torch.zeros(0)

    @classmethod
    def deviations(cls, config: Any) -> tuple[str, ...]:
        found = {"nns.drop_lowest": config.drop_lowest > 0, "nns.cut=all": config.cut == "all"}
        return tuple(name for name, is_so in found.items() if is_so)

    def ask(self, scan: Scan) -> Pools:
        settings = self.settings
        return scan.ask(Pools(skip=settings.skip, drop_lowest=settings.drop_lowest, cut=settings.cut))

    def take(self, scan: Scan, found: Pools) -> None:
        if found.bits is not None:
            self.sampler = PoolSampler(found)
        else:
            self.sampler = BoundSampler(scan.preference, scan.train, bounds=(found.lower, found.upper))
        self.user = shared_tensor(scan.train.user)

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.epoch, self.by_event = epoch, torch.zeros(0)

    def _draw(self) -> Tensor:
        """(n, K) a draw for every train event at once: users lie together in the log, so their pools stay in the
        cache, and a step has only to look up its own."""
        assert self.sampler is not None
        if int(self.drawn[0]) != self.epoch:
            self.drawn = torch.stack([torch.tensor(self.epoch), torch.randint(2**62, ())])
        generator = torch.Generator().manual_seed(int(self.drawn[1]))
        parts = [
            self.sampler.sample(part.long(), self.settings.negatives, generator=generator).int()
            for part in self.user.split(_EVENTS)
        ]
        return torch.cat(parts)

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        self.settle()
        assert self.sampler is not None, "prepare before training"
        if self.epoch < 0:
            # A loop that tells of no epochs.
            ids = self.sampler.sample(batch.target_user, self.settings.negatives)
        else:
            if not len(self.by_event):
                self.by_event = self._draw()
            ids = self.by_event.index_select(0, batch.event).long()
        return Additions(appended=(Negatives(ids=ids, mode="append", share=self.settings.weight),))
