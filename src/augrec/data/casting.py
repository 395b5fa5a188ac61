"""Columns of unknown types to clean ids, times and numbers; a value that does not fit is named with its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import polars as pl

from augrec.data.encoding import PLAIN_INTEGER
from augrec.errors import DataError

LONGEST_ID = 4096
"""Longest id in bytes; longer ones are a sign of a wrong separator or an open quote."""
MISSING = ("nan", "NaN", "NAN", "null", "NULL", "None", "<NA>", "\\N")
"""Spellings of a missing value that programs write into text files; never ids unless ids are declared as text."""
SPLIT_NAMES = {"train": 0, "test": 1, "valid": 2, "validation": 2, "val": 2}
_UNITS = (
    ("seconds", 1, 1e11),
    ("milliseconds", 10**3, 1e14),
    ("microseconds", 10**6, 1e17),
    ("nanoseconds", 10**9, 1e20),
)
"""Unit, its parts in a second, and the bound below which a time is read in it (10**11 s is the year 5138)."""


@dataclass(kw_only=True)
class Table:
    """Columns as read, under field names, with the means to say where a row stands in its source."""

    source: str
    """What messages call the source: the file as the caller named it, or "data frame"."""
    data: dict[str, pl.Series]
    """Column of each field (n,)."""
    labels: dict[str, str]
    """The source's own name of each field's column."""
    locate: Callable[[int], str]
    """Words for the place of a 0-based row, such as "line 7"."""
    text: bool
    """Whether the source is text, whose ids carry no type of their own."""

    def fail(self, field: str, row: int, problem: str, fix: str) -> NoReturn:
        """Raise DataError for one value: source, place, column, problem, value and fix."""
        value = self.data[field][row]
        shown = repr(value if not isinstance(value, str) or len(value) <= 60 else value[:60] + "...")
        label = self.labels[field]
        raise DataError(f"{self.source}, {self.locate(row)}, column {label!r}: {problem} (value {shown}); {fix}")


def ids(table: Table, field: str, as_text: bool, notes: list[str]) -> pl.Series:
    """Clean ids (n,), Int64 or String. Raises DataError for missing, non-integral, over-long or odd-typed ids."""
    series, drop = table.data[field], f"drop the row or fill in the {field} id"
    if isinstance(series.dtype, pl.Categorical | pl.Enum):
        series = series.cast(pl.String)
    if series.null_count():
        table.fail(field, _first(series.is_null()), f"the {field} id is missing", drop)
    if series.dtype.is_float():
        if (bad := ~series.is_finite()).any():
            table.fail(field, _first(bad), f"the {field} id is not a number", drop)
        if (bad := (series != series.floor()) | (series.abs() > 2.0**53)).any():
            table.fail(field, _first(bad), f"the {field} id is no whole number", "give ids as integers or as text")
        series = series.cast(pl.Int64)
    elif series.dtype.is_integer():
        whole = series.cast(pl.Int64, strict=False)
        if whole.null_count():
            table.fail(field, _first(whole.is_null()), "the id does not fit 64 bits", "give the ids as text")
        series = whole
    if series.dtype == pl.Int64:
        return series.cast(pl.String) if as_text else series
    if series.dtype != pl.String:
        raise DataError(
            f"{table.source}, column {table.labels[field]!r}: {field} ids must be integers or text, not "
            f"{series.dtype}; cast the column first"
        )
    return _text_ids(table, field, series, as_text, notes)


def _text_ids(table: Table, field: str, series: pl.Series, as_text: bool, notes: list[str]) -> pl.Series:
    drop = f"drop the row or fill in the {field} id"
    long = series.str.len_bytes() > LONGEST_ID
    if long.any():
        table.fail(
            field, _first(long), f"the {field} id is longer than {LONGEST_ID} bytes",
            "check the separator and for a quote that is never closed",
        )  # fmt: skip
    if table.text:
        padded = series.str.contains(r"^\s|\s$")
        if padded.any():
            series = series.str.strip_chars()
            notes.append(f"blanks around {int(padded.sum()):,} {field} ids were removed")
    elif (bad := series.str.contains("\x00", literal=True)).any():
        table.fail(field, _first(bad), f"the {field} id contains a NUL character", "write the ids without it")
    if (bad := series == "").any():
        table.fail(field, _first(bad), f"the {field} id is missing", drop)
    if as_text:
        return series
    if (bad := series.is_in(MISSING)).any():
        fix = f"{drop}, or read it as a real id with Columns(ids='text')"
        table.fail(field, _first(bad), f"the {field} id is missing", fix)
    if table.text and series.str.contains(PLAIN_INTEGER).all():
        whole = series.cast(pl.Int64, strict=False)
        if not whole.null_count():
            return whole
    return series


def times(table: Table, notes: list[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
    """Unix seconds (n,), and the finer times to sort by (n,) where the source is finer than seconds, else None."""
    series = table.data["timestamp"]
    if series.null_count():
        fix = "fill in the time, drop the row, or leave the column out with Columns(ignore=...)"
        table.fail("timestamp", _first(series.is_null()), "the time is missing", fix)
    if series.dtype == pl.Date or isinstance(series.dtype, pl.Datetime):
        return _split_unit(table, series.cast(pl.Datetime("us")).to_physical().to_numpy(), ("", 10**6), notes)
    if series.dtype == pl.String:
        parsed = _text_times(series)
        if parsed.null_count():
            fix = "write Unix seconds or ISO dates (2024-01-31 12:00:00)"
            table.fail("timestamp", _first(parsed.is_null()), "the time is neither a number nor a date", fix)
        if isinstance(parsed.dtype, pl.Datetime):
            return _split_unit(table, parsed.to_physical().to_numpy(), ("", 10**6), notes)
        series = parsed
    if not series.dtype.is_integer() and not series.dtype.is_float():
        raise DataError(
            f"{table.source}, column {table.labels['timestamp']!r}: times must be numbers or dates, not "
            f"{series.dtype}; cast the column first"
        )
    values = series.to_numpy()
    if (bad := ~np.isfinite(values) | (values >= _UNITS[-1][2])).any():
        fix = "write Unix seconds, drop the row, or leave the column out with Columns(ignore=...)"
        table.fail("timestamp", int(bad.argmax()), "the time is not a finite number of a known unit", fix)
    if (values < 0).any():
        fix = "write Unix seconds of 0 or later, or leave the column out with Columns(ignore=...)"
        table.fail("timestamp", int((values < 0).argmax()), "the time is negative", fix)
    return _split_unit(table, values, _unit(table, values), notes)


def _unit(table: Table, values: npt.NDArray[Any]) -> tuple[str, int]:
    if not len(values):
        return "seconds", 1
    name, scale, bound = next(unit for unit in _UNITS if values.max() < unit[2])
    low = 0.0 if scale == 1 else bound / 1000
    if (odd := values < low).any():
        fix = f"bring all times to one unit ({name} elsewhere in the column)"
        table.fail("timestamp", int(odd.argmax()), f"the time is in another unit than {name}", fix)
    return name, scale


def _split_unit(
    table: Table, values: npt.NDArray[Any], unit: tuple[str, int], notes: list[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
    name, scale = unit
    if name and scale > 1:
        notes.append(f"times in {name} were converted to whole seconds after sorting by them")
    if values.dtype.kind == "f":
        if scale == 1 and (values != np.floor(values)).any():
            notes.append("fractions of seconds were dropped after sorting by them")
            fine = (values * 1e6).astype(np.int64)
            return np.floor(values).astype(np.int64), fine
        values = values.astype(np.int64)
    values = values.astype(np.int64, copy=False)
    seconds = values if scale == 1 else values // scale
    if not name and len(seconds) and seconds.min() < 0:
        fix = "use dates of 1970 or later, or leave the column out with Columns(ignore=...)"
        table.fail("timestamp", int((seconds < 0).argmax()), "the date lies before 1970", fix)
    return seconds, None if scale == 1 else values


def _text_times(series: pl.Series) -> pl.Series:
    whole = series.cast(pl.Int64, strict=False)
    if not whole.null_count():
        return whole
    number = series.str.strip_chars().cast(pl.Float64, strict=False)
    if number.null_count() < len(series):
        return number
    for form in ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d"):
        trimmed = series.str.strip_chars().str.strip_suffix("Z")
        date = trimmed.str.to_datetime(form, strict=False, time_unit="us")
        if date.null_count() < len(series):
            return date
    return number


def ratings(table: Table) -> npt.NDArray[np.float32]:
    """Finite float32 ratings (n,)."""
    series = table.data["rating"]
    fix = "write a number, drop the row, or leave the column out with Columns(ignore=...)"
    if isinstance(series.dtype, pl.Categorical | pl.Enum):
        series = series.cast(pl.String)
    if series.dtype == pl.String:
        series = series.str.strip_chars().cast(pl.Float64, strict=False)
    elif isinstance(series.dtype, pl.Decimal):
        series = series.cast(pl.Float64)
    elif not (series.dtype.is_integer() or series.dtype.is_float() or series.dtype == pl.Null):
        label = table.labels["rating"]
        raise DataError(f"{table.source}, column {label!r}: ratings must be numbers, not {series.dtype}; cast it first")
    if series.null_count():
        table.fail("rating", _first(series.is_null()), "the rating is not a number", fix)
    with np.errstate(over="ignore"):
        values = series.to_numpy().astype(np.float32)
    if (bad := ~np.isfinite(values)).any():
        table.fail("rating", int(bad.argmax()), "the rating is not a finite 32-bit number", fix)
    return values


def small_integers(table: Table, field: str, high: int) -> npt.NDArray[np.int64]:
    """Whole numbers 0..high (n,) of the column domain, split (names allowed) or position."""
    series = table.data[field]
    words = f"0 to {high}" if field != "split" else "0 train, 1 test, 2 valid"
    fix = f"write whole numbers ({words}), or leave the column out with Columns(ignore=...)"
    if isinstance(series.dtype, pl.Categorical | pl.Enum):
        series = series.cast(pl.String)
    if series.dtype == pl.String:
        cleaned = series.str.strip_chars()
        if field == "split":
            cleaned = cleaned.str.to_lowercase().replace({key: str(value) for key, value in SPLIT_NAMES.items()})
        series = cleaned.cast(pl.Float64, strict=False)
    if not (series.dtype.is_integer() or series.dtype.is_float()):
        label = table.labels[field]
        raise DataError(f"{table.source}, column {label!r}: expected whole numbers, not {series.dtype}; {fix}")
    if series.null_count():
        table.fail(field, _first(series.is_null()), f"the {field} is not a whole number", fix)
    values = series.to_numpy()
    with np.errstate(invalid="ignore"):
        bad = ~np.isfinite(values) | (values < 0) | (values > high) | (np.floor(values) != values)
    if bad.any():
        table.fail(field, int(bad.argmax()), f"the {field} is outside {words}", fix)
    return values.astype(np.int64)


def _first(mask: pl.Series) -> int:
    return int(mask.fill_null(False).arg_max() or 0)
