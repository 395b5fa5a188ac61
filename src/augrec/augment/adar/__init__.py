"""ADAR: generated negatives from a conditional diffusion over item vectors (Li et al., arXiv 2601.01448)."""

from __future__ import annotations
