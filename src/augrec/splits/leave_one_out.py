"""Leave-one-out: the last row of each user is the test, the one before it the validation target."""

from __future__ import annotations

from typing import Literal

import numpy as np

from augrec.data.interactions import Interactions
from augrec.splits.base import TEST, TRAIN, VALID, Split, SplitOptions, from_codes


class LeaveOneOutConfig(SplitOptions):
    """The protocol of sequential recommendation (SASRec, BERT4Rec, S3-Rec)."""

    kind: Literal["leave-one-out"] = "leave-one-out"
    """Name of the split."""
    minimum: int = 3
    """Users with fewer rows than this (at least 3) stay in train as a whole: no target of theirs is measured."""


def leave_one_out(interactions: Interactions, config: LeaveOneOutConfig) -> Split:
    """Last row to test, second last to valid, for users with at least `config.minimum` rows (3 or more)."""
    codes = np.full(len(interactions), TRAIN, dtype=np.int8)
    minimum = max(config.minimum, 3)
    chosen = interactions.degrees() >= minimum
    last = interactions.offsets[1:][chosen] - 1
    codes[last] = TEST
    codes[last - 1] = VALID
    users_left = int(np.count_nonzero(~chosen & (interactions.degrees() > 0)))
    options: dict[str, str | int | float | bool] = {"minimum": minimum, "users_train_only": users_left}
    return from_codes(interactions, codes, name=config.kind, options=options, ordered=True)
