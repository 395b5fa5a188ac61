"""PDRec (Ma et al., Plug-In Diffusion Model for Sequential Recommendation, AAAI 2024) in three detachable parts.

`HBR` weighs what a user did, `DPA` adds positives and `NNS` adds negatives, each by the preferences of one model that
is trained once before and shared: TI-DiffRec, or any other scorer.
"""

from __future__ import annotations

from augrec.augment.pdrec.dpa import DPA, CoarseLists, DPAConfig, coarse_lists
from augrec.augment.pdrec.hbr import HBR, HBRConfig, history_weights
from augrec.augment.pdrec.nns import NNS, NNSConfig
from augrec.augment.pdrec.pools import BoundSampler, Pools, PoolSampler, pool_bounds
from augrec.augment.pdrec.preference import Preference, PreferenceConfig, fit_preference, random_preference
from augrec.augment.pdrec.scan import Scan

__all__ = [
    "DPA", "HBR", "NNS", "BoundSampler", "CoarseLists", "DPAConfig", "HBRConfig", "NNSConfig", "PoolSampler", "Pools",
    "Preference", "PreferenceConfig", "Scan", "coarse_lists", "fit_preference", "history_weights", "pool_bounds",
    "random_preference",
]  # fmt: skip
