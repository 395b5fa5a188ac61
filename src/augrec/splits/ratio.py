"""Random shares of each user's rows: the protocol of collaborative filtering."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from augrec.data.filters import drop_duplicates
from augrec.data.interactions import Interactions
from augrec.splits.base import TEST, TRAIN, VALID, Split, SplitOptions, from_codes, hold_out


class RatioConfig(SplitOptions):
    """80 % train, 20 % test, and a tenth of train to select on."""

    kind: Literal["ratio"] = "ratio"
    """Name of the split."""
    mode: Literal["per-user", "bernoulli"] = "per-user"
    """per-user: a rounded share of every user; bernoulli: every row on its own, as released code does."""
    test: float = Field(default=0.2, gt=0, lt=1)
    """Share of the rows that goes to test."""
    valid: float = Field(default=0.1, ge=0, lt=1)
    """Share of the remaining train rows held out for selection."""
    seed: int = Field(default=0, ge=0)
    """Seed of numpy's PCG64."""


def ratio(interactions: Interactions, config: RatioConfig) -> Split:
    """Seeded random split by rows; repeated (user, item) pairs are removed first (the first row stays).

    per-user: round(test * n) rows of each user to test, at least 1 and at most n - 1 where n >= 2 (users with one row
    stay in train); then round(valid * n_train) of its train rows to valid, possibly none, at most n_train - 1, so that
    the whole hold-out stays near its share. bernoulli: each row independently; a user may lose all its train rows.
    """
    unique = drop_duplicates(interactions, shrink=False)
    rng = np.random.Generator(np.random.PCG64(config.seed))
    degrees = unique.degrees()
    codes = np.full(len(unique), TRAIN, dtype=np.int8)
    if config.mode == "per-user":
        codes[hold_out(unique.user, degrees, config.test, 1, rng)] = TEST
        train = np.flatnonzero(codes == TRAIN)
        user = unique.user[train]
        rest = np.bincount(user, minlength=unique.n_users).astype(np.int64, copy=False)
        codes[train[hold_out(user, rest, config.valid, 0, rng)]] = VALID
    else:
        codes[rng.random(len(unique)) < config.test] = TEST
        codes[(codes == TRAIN) & (rng.random(len(unique)) < config.valid)] = VALID
    options: dict[str, str | int | float | bool] = {
        "mode": config.mode, "test": config.test, "valid": config.valid, "seed": config.seed,
        "repeated_pairs_removed": len(interactions) - len(unique),
    }  # fmt: skip
    return from_codes(unique, codes, name=config.kind, options=options, ordered=False)
