"""Data frames of any make, by what they can do and not by what they are: no other frame library is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from augrec.data.casting import Table
from augrec.data.parquet import check_plain
from augrec.data.schema import Columns, resolve
from augrec.errors import DataError

SOURCE = "data frame"


def read_frame(frame: Any, columns: Columns) -> Table:
    """Columns of a polars frame, a pandas frame, a pyarrow table or a mapping of names to sequences."""
    if isinstance(frame, pl.LazyFrame):
        try:
            frame = frame.collect()
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            reason = str(error).partition("\n")[0][:120]
            raise DataError(f"{SOURCE}: the lazy frame cannot be computed ({reason}); collect it yourself") from None
    header = _names(frame)
    places = resolve(header, columns, SOURCE)
    labels = {field: header[place] for field, place in places.items()}
    data = {field: _series(frame, label, field) for field, label in labels.items()}
    lengths = {label: len(data[field]) for field, label in labels.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{SOURCE}: columns of different lengths {lengths}; give each row a value in every column")
    if not len(data["user"]):
        raise DataError(f"{SOURCE}: has columns but no rows; add at least one interaction")
    for field, label in labels.items():
        check_plain(data[field].dtype, field, label, SOURCE)
    return Table(source=SOURCE, data=data, labels=labels, locate=lambda row: f"row {row + 1}", text=False)


def _names(frame: Any) -> list[str]:
    if isinstance(frame, Mapping):
        names = list(frame)
    elif hasattr(frame, "column_names") and hasattr(frame, "column"):
        names = list(frame.column_names)
    elif hasattr(frame, "columns") and hasattr(frame, "__getitem__"):
        names = list(frame.columns)
    else:
        raise DataError(
            f"cannot read interactions from {type(frame).__name__}; give a path, a polars or pandas frame, a pyarrow "
            "table or a mapping of columns"
        )
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"{SOURCE}: column names must be text, got {names[:6]!r}; rename the columns")
    return names


def _series(frame: Any, label: str, field: str) -> pl.Series:
    """One column as a polars series, with missing values as nulls."""
    column = frame.column(label) if hasattr(frame, "column_names") else frame[label]
    if isinstance(column, pl.Series):
        return column
    try:
        if isinstance(column, list | tuple):
            return pl.Series(label, [None if _missing(value) else value for value in column], strict=True)
        if hasattr(column, "to_numpy") and hasattr(column, "__arrow_c_stream__") and not hasattr(column, "index"):
            return pl.Series(label, column)
        values = column.to_numpy() if hasattr(column, "to_numpy") else np.asarray(column)
        if values.ndim != 1:
            raise DataError(f"{SOURCE}, column {label!r}: has {values.ndim} dimensions; each column needs one")
        if values.dtype.kind == "O":
            return pl.Series(label, [None if _missing(value) else value for value in values.tolist()], strict=True)
        if values.dtype.kind == "M":
            return pl.Series(label, values.astype("datetime64[us]"))
        return pl.Series(label, values)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        raise DataError(
            f"{SOURCE}, column {label!r}: the {field} column mixes types; convert it to one type (all integers or text)"
        ) from None


def _missing(value: Any) -> bool:
    """None, NaN, pandas' NA and NaT: what is not equal to itself, or will not say."""
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:
        return True
