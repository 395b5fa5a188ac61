"""Global cuts in time: nobody is trained on anything later than the first validation event of anybody."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from augrec.data.interactions import Interactions
from augrec.errors import DataError
from augrec.splits.base import TEST, TRAIN, VALID, Split, SplitOptions, from_codes


class TemporalConfig(SplitOptions):
    """One cut in time for validation, one for test, at quantiles of the rows."""

    kind: Literal["temporal"] = "temporal"
    """Name of the split."""
    test: float = Field(default=0.1, gt=0, lt=1)
    """Share of the rows, latest first, that goes to test."""
    valid: float = Field(default=0.1, ge=0, lt=1)
    """Share of the rows just before the test cut that goes to valid."""


def temporal(interactions: Interactions, config: TemporalConfig) -> Split:
    """Train: before the first cut; valid: from it to the second; test: from the second on.

    A cut is the time of a row, and all rows of that time fall behind it, so the shares are upper marks met from above
    where times tie. Users and items met only after a cut stay in the vocabulary. Raises DataError without timestamps
    and when ties leave a part empty.
    """
    time = interactions.timestamp
    if time is None:
        raise DataError(
            f"{interactions.name}: a temporal split needs a timestamp column; name it with Columns(timestamp=...) or "
            "use the split leave-one-out or ratio"
        )
    if config.test + config.valid >= 1:
        raise DataError(f"temporal split: test {config.test} + valid {config.valid} leave no rows to train on")
    n = len(time)
    ranked = np.sort(time)
    places = [min(int(np.ceil((1 - share) * n)), n - 1) for share in (config.test + config.valid, config.test)]
    cuts = [int(ranked[place]) for place in places]
    codes = np.full(n, TRAIN, dtype=np.int8)
    if config.valid:
        codes[time >= cuts[0]] = VALID
    codes[time >= cuts[1]] = TEST
    for code, part in ((TRAIN, "train"), (VALID, "valid"), (TEST, "test")):
        if not (codes == code).any() and (code != VALID or config.valid):
            raise DataError(
                f"{interactions.name}: the temporal split leaves {part} empty, because too many rows share one time "
                f"(cuts at {cuts[0]} and {cuts[1]}); use finer timestamps or other shares"
            )
    options: dict[str, str | int | float | bool] = {
        "test": config.test, "valid": config.valid, "valid_from": cuts[0], "test_from": cuts[1],
    }  # fmt: skip
    return from_codes(interactions, codes, name=config.kind, options=options, ordered=True)
