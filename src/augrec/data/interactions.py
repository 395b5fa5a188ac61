"""The two types every later layer reads: `Vocabulary` (external ids) and `Interactions` (a log as frozen arrays).

Shapes: n rows, U users, I items. Rows are sorted by user, then time, then original row, so that the rows of user `u`
are the slice `offsets[u]:offsets[u + 1]` (compressed sparse rows) and a history is a pair of numbers, never a copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from augrec.data.encoding import encode_ids, find_ids, offsets_of, sort_order
from augrec.errors import DataError

Array = npt.NDArray[Any]
COLUMNS = ("user", "item", "timestamp", "rating", "domain", "split")
_DTYPES: dict[str, type[np.generic]] = {
    "user": np.int32, "item": np.int32, "offsets": np.int64, "timestamp": np.int64,
    "rating": np.float32, "domain": np.int8, "split": np.int8,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """External ids of one kind (users or items); the position of an id is its internal index.

    Integer ids sort by value and text ids by their UTF-8 bytes, so the internal index does not depend on the order of
    the rows they came from.
    """

    ids: pl.Series
    """Unique ids, Int64 or String, sorted ascending; its length is the size of the vocabulary."""

    def __post_init__(self) -> None:
        if self.ids.dtype not in (pl.Int64, pl.String):
            raise DataError(f"a vocabulary holds Int64 or String ids, not {self.ids.dtype}; cast the ids first")

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, ids: Sequence[int] | Sequence[str] | pl.Series | npt.NDArray[Any]) -> Vocabulary:
        """The vocabulary of the distinct values of `ids` (any order, repeats allowed)."""
        series = ids if isinstance(ids, pl.Series) else pl.Series("id", ids)
        if series.dtype.is_integer():
            series = series.cast(pl.Int64)
        if series.null_count():
            raise DataError("a vocabulary cannot hold a missing id; drop the missing values first")
        return cls(ids=series.unique().sort())

    def index_of(self, external: Sequence[Any] | pl.Series | npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Internal indices (n,) of external ids; -1 where an id is unknown or missing.

        Text is looked up in an integer vocabulary when it is the plain form of an integer ("7", never "007"), and
        integers in a text vocabulary by their plain form.
        """
        return find_ids(self.ids, external)

    def take(self, index: Sequence[int] | npt.NDArray[Any]) -> pl.Series:
        """External ids (n,) of internal indices. Raises DataError for an index outside 0..len-1."""
        wanted = np.asarray(index, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise DataError(f"internal index {wanted.min()}..{wanted.max()} lies outside 0..{len(self) - 1}")
        return self.ids.gather(pl.Series(wanted))


@dataclass(frozen=True, kw_only=True, eq=False)
class Interactions:
    """An interaction log: who met what, when. All arrays are read-only; n rows, U users, I items."""

    users: Vocabulary
    """External user ids; may be larger than the users that occur."""
    items: Vocabulary
    """External item ids: the declared catalogue; may be larger than the items that occur."""
    user: npt.NDArray[np.int32]
    """Internal user of each row (n,), non-decreasing."""
    item: npt.NDArray[np.int32]
    """Internal item of each row (n,)."""
    offsets: npt.NDArray[np.int64]
    """Row range of each user (U + 1,): rows offsets[u]:offsets[u + 1] belong to user u."""
    timestamp: npt.NDArray[np.int64] | None = None
    """Unix seconds (n,), or None."""
    rating: npt.NDArray[np.float32] | None = None
    """Explicit rating (n,), or None."""
    domain: npt.NDArray[np.int8] | None = None
    """Domain of the row (n,) in a mixed log, or None."""
    split: npt.NDArray[np.int8] | None = None
    """Part given by the source (n,): 0 train, 1 test, 2 valid, or None."""
    candidates: npt.NDArray[np.bool_] | None = None
    """Items that may be recommended (I,), the target domain of a mixed log; None is the whole catalogue. Events of
    other items are history only: never a target, never a negative, never ranked."""
    name: str
    """Short name for messages and reports."""
    sha256: str
    """Identity of the content: the file's hash, a frame's content hash, or derived for a part."""
    notes: tuple[str, ...] = ()
    """What reading or filtering changed, one sentence each."""

    def __post_init__(self) -> None:
        for name, dtype in _DTYPES.items():
            value = getattr(self, name)
            if value is None:
                continue
            length = len(self.users) + 1 if name == "offsets" else len(self.user)
            if value.dtype != dtype or value.shape != (length,):
                raise DataError(
                    f"{self.name}: Interactions.{name} must be {np.dtype(dtype)} of shape ({length},), got "
                    f"{value.dtype} {value.shape}; build it with Interactions.from_columns"
                )
            frozen = value.view()
            frozen.setflags(write=False)
            object.__setattr__(self, name, frozen)
        if self.candidates is not None:
            if self.candidates.dtype != np.bool_ or self.candidates.shape != (len(self.items),):
                raise DataError(
                    f"{self.name}: Interactions.candidates must be bool of shape ({len(self.items)},), got "
                    f"{self.candidates.dtype} {self.candidates.shape}"
                )
            own = self.candidates.view()
            own.setflags(write=False)
            object.__setattr__(self, "candidates", own)
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.user):
            raise DataError(f"{self.name}: offsets must run from 0 to the number of rows, {len(self.user)}")

    def __len__(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        return f"Interactions({self.name}: {self.n_users:,} users, {self.n_items:,} items, {len(self):,} rows)"

    @property
    def n_users(self) -> int:
        """Declared users U, with or without rows."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Declared items I (the catalogue), with or without rows."""
        return len(self.items)

    @classmethod
    def from_columns(
        cls,
        *,
        user: Sequence[Any] | pl.Series | npt.NDArray[Any],
        item: Sequence[Any] | pl.Series | npt.NDArray[Any],
        timestamp: Sequence[int] | npt.NDArray[Any] | None = None,
        position: Sequence[int] | npt.NDArray[Any] | None = None,
        rating: Sequence[float] | npt.NDArray[Any] | None = None,
        domain: Sequence[int] | npt.NDArray[Any] | None = None,
        split: Sequence[int] | npt.NDArray[Any] | None = None,
        users: Vocabulary | None = None,
        items: Vocabulary | None = None,
        name: str = "log",
        sha256: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> Interactions:
        """Encode and sort clean columns of n rows (external ids, seconds) into Interactions.

        `users` and `items` declare vocabularies that may be larger than what occurs. Rows sort by user, then
        `timestamp`, then `position`, then their given order. `sha256` defaults to the content hash. Raises DataError
        for unequal lengths and for ids outside a declared vocabulary. For files use `read_interactions`.
        """
        users, user_index = encode_ids(user, None if users is None else users.ids, "user", name, Vocabulary.of)
        items, item_index = encode_ids(item, None if items is None else items.ids, "item", name, Vocabulary.of)
        extra: dict[str, Array] = {}
        given = {"timestamp": timestamp, "position": position, "rating": rating, "domain": domain, "split": split}
        for key, values in given.items():
            if values is not None:
                extra[key] = np.ascontiguousarray(values, dtype=_DTYPES.get(key, np.int64))
        for key, values in {"item": item_index, **extra}.items():
            if len(values) != len(user_index):
                raise DataError(f"{name}: column {key} has {len(values)} rows, column user has {len(user_index)}")
        order = sort_order(user_index, *(extra[key] for key in ("timestamp", "position") if key in extra))
        extra.pop("position", None)
        if order is not None:
            user_index, item_index = user_index[order], item_index[order]
            extra = {key: values[order] for key, values in extra.items()}
        made = cls(
            users=users, items=items, user=user_index, item=item_index, offsets=offsets_of(user_index, len(users)),
            name=name, sha256=sha256 or "", notes=notes, **extra,
        )  # fmt: skip
        return made if sha256 else replace(made, sha256=made.content_hash())

    def part(self, mask: npt.NDArray[np.bool_]) -> Interactions:
        """The rows where `mask` (n,) is true, with the same vocabularies."""
        keep = np.asarray(mask)
        if keep.dtype != np.bool_ or keep.shape != (len(self),):
            raise DataError(f"{self.name}: a part needs a bool mask of shape ({len(self)},), got {keep.shape}")
        if keep.all():
            return self
        rows = {key: getattr(self, key)[keep] for key in COLUMNS if getattr(self, key) is not None}
        digest = hashlib.sha256(self.sha256.encode() + b"part" + np.packbits(keep).tobytes()).hexdigest()
        return replace(self, **rows, offsets=offsets_of(rows["user"], self.n_users), sha256=digest)

    def merge(self, other: Interactions) -> Interactions:
        """Rows of two parts of one log, sorted again by user and time.

        Within a user equal times (or rows without time) keep this part's rows before the other's. Columns that only
        one side has are dropped. Raises DataError when the vocabularies differ.
        """
        for mine, theirs in ((self.users, other.users), (self.items, other.items)):
            if mine is not theirs and not mine.ids.equals(theirs.ids):
                raise DataError(f"cannot merge {self.name} with {other.name}: they do not share one vocabulary")
        rows: dict[str, Array | None] = {}
        for key in COLUMNS:
            mine_rows, their_rows = getattr(self, key), getattr(other, key)
            both = mine_rows is not None and their_rows is not None
            rows[key] = np.concatenate([mine_rows, their_rows]) if both else None
        user, time = rows["user"], rows["timestamp"]
        assert user is not None
        order = sort_order(user, *(() if time is None else (time,)))
        if order is not None:
            rows = {key: None if values is None else values[order] for key, values in rows.items()}
        digest = hashlib.sha256(f"{self.sha256}merge{other.sha256}".encode()).hexdigest()
        offsets = self.offsets + other.offsets
        return replace(self, **rows, offsets=offsets, sha256=digest)  # type: ignore[arg-type]

    def in_candidates(self) -> npt.NDArray[np.bool_]:
        """Rows (n,) whose item may be recommended: those that can be targets."""
        return np.ones(len(self), dtype=np.bool_) if self.candidates is None else self.candidates[self.item]

    def degrees(self) -> npt.NDArray[np.int64]:
        """Rows of each user (U,)."""
        return np.diff(self.offsets)

    def item_counts(self) -> npt.NDArray[np.int64]:
        """Rows of each item (I,)."""
        return np.bincount(self.item, minlength=self.n_items).astype(np.int64, copy=False)

    def content_hash(self) -> str:
        """SHA-256 over vocabularies and rows; equal for equal content whatever file it was read from."""
        digest = hashlib.sha256()
        for vocabulary in (self.users, self.items):
            hash_ids(digest, vocabulary.ids)
        self.hash_rows(digest)
        return digest.hexdigest()

    def hash_rows(self, digest: hashlib._Hash) -> None:
        """Feed the rows (little-endian bytes, every present column) to `digest`."""
        for key in COLUMNS:
            values = getattr(self, key)
            if values is not None:
                digest.update(f"{key}:{len(values)};".encode())
                digest.update(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False)).data)
        if self.candidates is not None:
            digest.update(b"candidates;" + np.packbits(self.candidates).tobytes())


def hash_ids(digest: hashlib._Hash, ids: pl.Series) -> None:
    """Feed a vocabulary to `digest`: type, count, lengths and bytes, so that no two differ unseen."""
    digest.update(f"{ids.dtype}:{len(ids)};".encode())
    if ids.dtype == pl.String:
        digest.update(ids.str.len_bytes().cast(pl.UInt32).to_numpy().astype("<u4").tobytes())
        digest.update("".join(ids.to_list()).encode())
    else:
        digest.update(ids.to_numpy().astype("<i8").tobytes())
