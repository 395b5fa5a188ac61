"""The split the source fixed, in a column of the log (0 train, 1 test, 2 valid)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from augrec.data.interactions import Interactions
from augrec.errors import DataError
from augrec.splits.base import TEST, TRAIN, VALID, Split, SplitOptions, from_codes, hold_out


class GivenConfig(SplitOptions):
    """The source's own parts; a share of train is held out where the source has no validation part."""

    kind: Literal["given"] = "given"
    """Name of the split."""
    valid: float = Field(default=0.1, ge=0, lt=1)
    """Share of each user's train rows held out when the column holds no 2."""
    seed: int = Field(default=0, ge=0)
    """Seed of numpy's PCG64 for that hold-out."""


def given(interactions: Interactions, config: GivenConfig) -> Split:
    """Parts by the split column. Raises DataError without one, for other values, and without train or test rows."""
    column = interactions.split
    if column is None:
        raise DataError(
            f"{interactions.name}: the split 'given' needs a split column (0 train, 1 test, 2 valid); add one, name it "
            "with Columns(split=...), or use ratio, leave-one-out or temporal"
        )
    codes = np.full(len(column), -1, dtype=np.int8)
    for value, code in ((0, TRAIN), (1, TEST), (2, VALID)):
        codes[column == value] = code
    if (codes < 0).any():
        raise DataError(f"{interactions.name}: split value {column[codes < 0][0]} is none of 0 train, 1 test, 2 valid")
    for code, part in ((TRAIN, "train (0)"), (TEST, "test (1)")):
        if not (codes == code).any():
            raise DataError(f"{interactions.name}: the split column has no {part} rows; use another split")
    options: dict[str, str | int | float | bool] = {"valid_given": bool((codes == VALID).any())}
    if not options["valid_given"]:
        train = np.flatnonzero(codes == TRAIN)
        user = interactions.user[train]
        degrees = np.bincount(user, minlength=interactions.n_users).astype(np.int64, copy=False)
        rng = np.random.Generator(np.random.PCG64(config.seed))
        codes[train[hold_out(user, degrees, config.valid, 0, rng)]] = VALID
        options |= {"valid": config.valid, "seed": config.seed}
    return from_codes(interactions, codes, name=config.kind, options=options, ordered=False)
