"""What every split is: three parts of one log, the options that made them, and a provenance hash over both."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from augrec.data.interactions import Interactions, hash_ids
from augrec.errors import DataError

Option = str | int | float | bool
TRAIN, VALID, TEST = 0, 1, 2
"""Codes of the parts in the order of time, so that a split by time is non-decreasing along a user's rows."""


class SplitOptions(BaseModel):
    """Base of the split configurations."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Train, validation and test part of one log. All three share the log's vocabularies (the frozen catalogue)."""

    name: str
    """Kind of the split: ratio, leave-one-out, temporal or given."""
    train: Interactions
    """Rows to learn from."""
    valid: Interactions
    """Rows to select on; never part of train."""
    test: Interactions
    """Rows for the final figures only."""
    between: Interactions | None = None
    """Rows of other domains between a user's valid and test row: known before the test, targets of nobody."""
    options: dict[str, Option] = field(default_factory=dict)
    """What made the split, JSON-able."""
    sha256: str = ""
    """Provenance: hash over name, options, vocabularies and the rows of the three parts; independent of file format."""

    def __post_init__(self) -> None:
        self.check()
        if not self.sha256:
            object.__setattr__(self, "sha256", self._hash())

    def __repr__(self) -> str:
        parts = ", ".join(f"{part} {len(getattr(self, part)):,}" for part in ("train", "valid", "test"))
        return f"Split({self.name} of {self.train.name}: {parts}; {self.sha256[:12]})"

    def history(self, part: Literal["valid", "test"]) -> Interactions:
        """What is known before `part`: train for "valid", train and valid (and what lies between) for "test"."""
        if part == "valid":
            return self.train
        if part == "test":
            known = self.train.merge(self.valid)
            return known if self.between is None else known.merge(self.between)
        raise DataError(f'history is defined before "valid" and "test", not {part!r}')

    def check(self) -> None:
        """Raise DataError when the parts leak: another vocabulary, a shared pair (ratio), or a train row after a cut.

        For leave-one-out and temporal splits a user's train rows may not be later than its valid rows, nor those
        later than its test rows (equal times are ordered by row and checked by `from_codes`).
        """
        for part in (self.valid, self.test, *([] if self.between is None else [self.between])):
            if part.users is not self.train.users or part.items is not self.train.items:
                raise DataError(f"{self.name} split: every part must share the vocabularies of the whole log")
        if self.name == "ratio":
            _check_pairs(self)
        if self.name in ("leave-one-out", "temporal") and self.train.timestamp is not None:
            for early, late in ((self.train, self.valid), (self.train, self.test), (self.valid, self.test)):
                _check_order(self.name, early, late)

    def _hash(self) -> str:
        digest = hashlib.sha256(json.dumps([self.name, self.options], sort_keys=True).encode())
        hash_ids(digest, self.train.users.ids)
        hash_ids(digest, self.train.items.ids)
        for part in (self.train, self.valid, self.test, *([] if self.between is None else [self.between])):
            part.hash_rows(digest)
        return digest.hexdigest()


def from_codes(
    interactions: Interactions, codes: npt.NDArray[np.int8], *, name: str, options: dict[str, Option], ordered: bool
) -> Split:
    """Split by one code per row (n,): 0 train, 1 valid, 2 test, which makes the parts disjoint and complete.

    `ordered` asserts that along each user's rows the code never falls: nothing is trained on at or after the cut.
    """
    if codes.shape != (len(interactions),) or (len(codes) and not set(np.unique(codes).tolist()) <= {0, 1, 2}):
        raise DataError(f"{name} split of {interactions.name}: every row needs one of the codes 0, 1, 2")
    if ordered:
        user = interactions.user
        fallen = (codes[1:] < codes[:-1]) & (user[1:] == user[:-1])
        if fallen.any():
            who = interactions.users.take(user[1:][fallen][:1])[0]
            raise DataError(f"{name} split of {interactions.name}: user {who!r} has a train row after its cut")
    parts = [interactions.part(codes == code) for code in (TRAIN, VALID, TEST)]
    if sum(len(part) for part in parts) != len(interactions):
        raise DataError(f"{name} split of {interactions.name}: the parts do not add up to the log")
    return Split(name=name, train=parts[TRAIN], valid=parts[VALID], test=parts[TEST], options=options)


def hold_out(
    user: npt.NDArray[np.int32], degrees: npt.NDArray[np.int64], share: float, minimum: int, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Mask (n,) of rows held out at random per user: share * n rounded (halves up), at least `minimum`, at most n - 1.

    `user` (n,) is sorted; `degrees` (U,) are its counts. One random number per row, no loop over users.
    """
    take = np.floor(share * degrees + 0.5).astype(np.int64)
    take = np.minimum(np.maximum(take, minimum), np.maximum(degrees - 1, 0))
    keys = user.astype(np.int64) << 31
    keys |= rng.integers(0, 1 << 31, size=len(user), dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    starts = np.cumsum(degrees) - degrees
    held = np.empty(len(user), dtype=np.bool_)
    held[order] = np.arange(len(user)) - starts[user] < take[user]
    return held


def pair_keys(part: Interactions) -> npt.NDArray[np.int64]:
    """One number per (user, item) pair of each row (n,)."""
    return part.user.astype(np.int64) * max(part.n_items, 1) + part.item


def _check_pairs(split: Split) -> None:
    everything = np.concatenate([pair_keys(part) for part in (split.train, split.valid, split.test)])
    everything.sort()
    twice = everything[1:][everything[1:] == everything[:-1]]
    if len(twice):
        user, item = divmod(int(twice[0]), max(split.train.n_items, 1))
        who, what = split.train.users.take([user])[0], split.train.items.take([item])[0]
        raise DataError(
            f"ratio split: user {who!r} meets item {what!r} in two places; remove repeated pairs before splitting"
        )


def _check_order(name: str, early: Interactions, late: Interactions) -> None:
    """Last time of each user in `early` is not after its first time in `late` (rows are sorted by time)."""
    assert early.timestamp is not None and late.timestamp is not None
    both = np.flatnonzero((early.degrees() > 0) & (late.degrees() > 0))
    leaked = both[early.timestamp[early.offsets[both + 1] - 1] > late.timestamp[late.offsets[both]]]
    if len(leaked):
        who = early.users.take(leaked[:1])[0]
        raise DataError(f"{name} split: user {who!r} has a row before the cut that is later than one after it")
