"""ADAR: generated negatives from a conditional diffusion over item vectors (Li et al., arXiv 2601.01448)."""

from __future__ import annotations

from augrec.augment.adar.arms import Adar, Generated, StepStatistics
from augrec.augment.adar.config import ARMS, AdarConfig, preset, with_arm
from augrec.augment.adar.generator import DiffusionGenerator
from augrec.augment.adar.selectors import Selection, StepSelector, eq11_fraction, theorem_steps

__all__ = [
    "ARMS",
    "Adar",
    "AdarConfig",
    "DiffusionGenerator",
    "Generated",
    "Selection",
    "StepSelector",
    "StepStatistics",
    "eq11_fraction",
    "preset",
    "theorem_steps",
    "with_arm",
]
