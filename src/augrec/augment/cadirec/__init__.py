"""CaDiRec (Cui et al., CIKM 2024, arXiv 2405.09369): items generated for some places from the context around them."""

from __future__ import annotations

from augrec.augment.cadirec.config import CaDiRecConfig, preset
from augrec.augment.cadirec.denoiser import ContextDenoiser, RelativeStack
from augrec.augment.cadirec.plugin import CaDiRec

__all__ = ["CaDiRec", "CaDiRecConfig", "ContextDenoiser", "RelativeStack", "preset"]
