"""Losses as pure functions of tensors, usable in any training loop."""

from __future__ import annotations

from augrec.losses.bce import bce
from augrec.losses.bpr import bpr
from augrec.losses.infonce import info_nce, nt_xent
from augrec.losses.softmax import full_softmax, sampled_softmax, sampled_softmax_from_scores

__all__ = ["bce", "bpr", "full_softmax", "info_nce", "nt_xent", "sampled_softmax", "sampled_softmax_from_scores"]
