"""Leave-one-out: the last row of each user is the test, the one before it the validation target."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from augrec.data.interactions import Interactions
from augrec.errors import DataError
from augrec.splits.base import TEST, TRAIN, VALID, Split, SplitOptions, from_codes


class LeaveOneOutConfig(SplitOptions):
    """The protocol of sequential recommendation (SASRec, BERT4Rec, S3-Rec)."""

    kind: Literal["leave-one-out"] = "leave-one-out"
    """Name of the split."""
    minimum: int = 3
    """Users with fewer rows than this (at least 3) stay in train as a whole: no target of theirs is measured."""
    target_domain: int | None = None
    """In a log with a `domain` column: only items of this domain are targets, negatives and candidates of the ranking;
    the other domains stay in the histories. `minimum` then counts rows of this domain."""


def leave_one_out(interactions: Interactions, config: LeaveOneOutConfig) -> Split:
    """Last row to test, second last to valid, for users with at least `config.minimum` rows (3 or more).

    Raises DataError where `target_domain` is asked of a log without domains, or none of its rows has it.
    """
    if config.target_domain is not None:
        return _of_domain(interactions, config, config.target_domain)
    codes = np.full(len(interactions), TRAIN, dtype=np.int8)
    minimum = max(config.minimum, 3)
    chosen = interactions.degrees() >= minimum
    last = interactions.offsets[1:][chosen] - 1
    codes[last] = TEST
    codes[last - 1] = VALID
    users_left = int(np.count_nonzero(~chosen & (interactions.degrees() > 0)))
    options: dict[str, str | int | float | bool] = {"minimum": minimum, "users_train_only": users_left}
    return from_codes(interactions, codes, name=config.kind, options=options, ordered=True)


def _of_domain(log: Interactions, config: LeaveOneOutConfig, domain: int) -> Split:
    """The last row of the domain to test, its second last to valid; what comes before valid, of any domain, to train;
    other rows between the two are known before the test; rows after the test are left out."""
    if log.domain is None:
        raise DataError(
            f"{log.name}: split.target_domain = {domain}, but the log has no domain column; leave the option out, or "
            f"use a mixed log such as pdrec_toygame_mix"
        )
    own = np.flatnonzero(log.domain == domain)
    if not len(own):
        known = ", ".join(str(int(one)) for one in np.unique(log.domain))
        raise DataError(f"{log.name}: no row has domain {domain}; split.target_domain can be {known}")
    inside = np.zeros(log.n_items, dtype=np.bool_)
    inside[log.item[own]] = True
    log = replace(log, candidates=inside)
    minimum = max(config.minimum, 3)
    degrees = np.bincount(log.user[own], minlength=log.n_users)
    chosen = degrees >= minimum
    ends = np.cumsum(degrees)[chosen]
    # Cuts as row numbers of the log; users that are not chosen are cut after their last row.
    valid, test = log.offsets[1:].copy(), log.offsets[1:].copy()
    valid[chosen], test[chosen] = own[ends - 2], own[ends - 1]
    row = np.arange(len(log))
    of_valid, of_test = valid[log.user], test[log.user]
    return Split(
        name=config.kind,
        train=log.part(row < of_valid),
        valid=log.part(row == of_valid),
        test=log.part(row == of_test),
        between=log.part((row > of_valid) & (row < of_test)),
        options={
            "minimum": minimum,
            "users_train_only": int(np.count_nonzero(~chosen & (degrees > 0))),
            "target_domain": domain,
            "candidates": int(inside.sum()),
            "rows_after_test": int(np.count_nonzero(row > of_test)),
        },
    )
