"""Logs of interactions: reading, filtering, sequences by offsets, and the catalogue of known data sets."""

from __future__ import annotations

from augrec.data.catalog import available, fetch, load
from augrec.data.filters import drop_duplicates, k_core, min_rating
from augrec.data.interactions import Interactions, Vocabulary
from augrec.data.readers import read_interactions
from augrec.data.schema import Columns

__all__ = [
    "Columns", "Interactions", "Vocabulary", "available", "drop_duplicates", "fetch", "k_core", "load", "min_rating",
    "read_interactions",
]  # fmt: skip
