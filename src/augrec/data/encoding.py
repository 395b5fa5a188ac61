"""External ids to dense indices, and the order of rows: the two costly steps of reading a log, without a loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from augrec.errors import DataError

if TYPE_CHECKING:
    from augrec.data.interactions import Vocabulary

PLAIN_INTEGER = r"^(0|-?[1-9][0-9]{0,18})$"
"""The plain form of an integer: no sign but minus, no leading zero, no blanks ("7", never "007" or "+7")."""


def as_ids(external: Sequence[Any] | pl.Series | npt.NDArray[Any]) -> pl.Series:
    """External ids as an Int64 or String series. Raises DataError for any other type."""
    try:
        series = external if isinstance(external, pl.Series) else pl.Series("id", external, strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        raise DataError("ids must be all integers (64 bits) or all text; convert them to one of the two") from None
    if series.dtype == pl.Null:
        series = series.cast(pl.Int64)
    if series.dtype.is_integer():
        return series.cast(pl.Int64, strict=False)
    if isinstance(series.dtype, pl.Categorical | pl.Enum):
        return series.cast(pl.String)
    if series.dtype != pl.String:
        raise DataError(f"ids must be integers or text, not {series.dtype}; convert them to one of the two")
    return series


def find_ids(ids: pl.Series, external: Sequence[Any] | pl.Series | npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Positions (n,) of `external` in the sorted unique series `ids`; -1 where absent or missing."""
    wanted = as_ids(external)
    if wanted.dtype != ids.dtype:
        if ids.dtype == pl.String:
            wanted = wanted.cast(pl.String)
        else:
            plain = wanted.str.contains(PLAIN_INTEGER)
            wanted = pl.select(pl.when(plain).then(wanted)).to_series().cast(pl.Int64, strict=False)
    if not len(ids) or not len(wanted):
        return np.full(len(wanted), -1, dtype=np.int64)
    if ids.dtype == pl.String:
        codes = wanted.cast(pl.Enum(ids), strict=False).to_physical()
        found: npt.NDArray[np.int64] = codes.cast(pl.Int64).fill_null(-1).to_numpy()
        return found
    missing = wanted.is_null().to_numpy() if wanted.null_count() else None
    values, table = wanted.fill_null(0).to_numpy(), ids.to_numpy()
    low, high = int(table[0]), int(table[-1])
    if high - low < 4 * len(table) + 1_000_000:
        # Ids that are nearly dense: one table look-up per row instead of a binary search.
        lookup = np.full(high - low + 1, -1, dtype=np.int64 if len(table) > 2**31 - 2 else np.int32)
        lookup[table - low] = np.arange(len(table), dtype=lookup.dtype)
        inside = (values >= low) & (values <= high)
        if inside.all():
            found = lookup[values - low].astype(np.int64)
        else:
            found = np.full(len(values), -1, dtype=np.int64)
            found[inside] = lookup[values[inside] - low]
    else:
        found = np.searchsorted(table, values).astype(np.int64)
        found[found == len(table)] = 0
        found[table[found] != values] = -1
    if missing is not None:
        found[missing] = -1
    return found


def encode_ids(
    external: Sequence[Any] | pl.Series | npt.NDArray[Any],
    declared: pl.Series | None,
    kind: str,
    name: str,
    vocabulary_of: Callable[[pl.Series], Vocabulary],
) -> tuple[Vocabulary, npt.NDArray[np.int32]]:
    """Vocabulary and int32 index (n,) of `external`. Raises DataError for an id outside `declared`."""
    series = as_ids(external)
    if series.null_count():
        row = int(series.is_null().arg_max() or 0)
        raise DataError(f"{name}: the {kind} id of row {row + 1} is missing; drop the row or fill the id")
    vocabulary = vocabulary_of(series if declared is None else declared)
    if len(vocabulary) > np.iinfo(np.int32).max:
        raise DataError(f"{name}: {len(vocabulary):,} distinct {kind} ids; at most 2,147,483,647 are supported")
    index = vocabulary.index_of(series)
    if declared is not None and len(index) and index.min() < 0:
        row = int(np.argmin(index))
        raise DataError(
            f"{name}: the {kind} id {series[row]!r} of row {row + 1} is not among the {len(vocabulary):,} declared "
            f"{kind} ids; add it to the declared ids or drop its rows"
        )
    return vocabulary, index.astype(np.int32)


def sort_order(user: npt.NDArray[Any], *keys: npt.NDArray[Any]) -> npt.NDArray[np.int64] | None:
    """Stable order (n,) by user, then each key in turn, then row; None when the rows already are in that order."""
    if len(user) < 2:
        return None
    if _is_sorted(user, keys):
        return None
    packed = user.astype(np.int64)
    span = int(packed.max()) + 1
    for key in keys:
        low, high = int(key.min()), int(key.max())
        width = high - low + 1
        if span * width >= 2**62:
            return np.lexsort((*reversed(keys), user)).astype(np.int64, copy=False)
        packed *= width
        packed += key
        packed -= low
        span *= width
    return np.argsort(packed, kind="stable").astype(np.int64, copy=False)


def _is_sorted(user: npt.NDArray[Any], keys: tuple[npt.NDArray[Any], ...]) -> bool:
    tied = user[1:] == user[:-1]
    if not (tied | (user[1:] > user[:-1])).all():
        return False
    for key in keys:
        if (tied & (key[1:] < key[:-1])).any():
            return False
        tied &= key[1:] == key[:-1]
    return True


def offsets_of(user: npt.NDArray[Any], n_users: int) -> npt.NDArray[np.int64]:
    """Row offsets (U + 1,) of rows sorted by user."""
    offsets = np.zeros(n_users + 1, dtype=np.int64)
    np.cumsum(np.bincount(user, minlength=n_users), out=offsets[1:])
    return offsets
