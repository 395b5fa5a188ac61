"""SimDiffRec (Choi, Noh and Park 2025, arXiv 2507.11866): similar items as noise, a denoiser's picks as views."""

from __future__ import annotations

from augrec.augment.simdiffrec.config import SimDiffRecConfig, preset
from augrec.augment.simdiffrec.denoiser import SequenceDenoiser, restore
from augrec.augment.simdiffrec.picks import choose_ranks, highest_places, random_items, replaced_counts
from augrec.augment.simdiffrec.plugin import SimDiffRec

__all__ = [
    "SequenceDenoiser",
    "SimDiffRec",
    "SimDiffRecConfig",
    "choose_ranks",
    "highest_places",
    "preset",
    "random_items",
    "replaced_counts",
    "restore",
]
