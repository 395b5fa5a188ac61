"""Parquet logs: only the needed columns are read, and damage is one clear error."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

from augrec.data.casting import Table
from augrec.data.files import Opened
from augrec.data.schema import Columns, resolve
from augrec.errors import DataError

MAX_ROWS = 2_000_000_000
"""Most rows a file may declare: a small file can claim any number through run-length encoding."""


def read_parquet(opened: Opened, columns: Columns) -> Table:
    """Columns of a Parquet file. Raises DataError for a damaged file and for columns that hold no plain values."""
    source = opened.source
    if not opened.parquet:
        raise DataError(f"{source}: is no Parquet file (it does not start with PAR1); give its real format=...")
    with open(opened.path, "rb") as stream:
        stream.seek(-4, os.SEEK_END)
        whole = stream.read() == b"PAR1" and os.path.getsize(opened.path) >= 12
    if not whole:
        raise DataError(f"{source}: the Parquet file is cut short (its end is missing); write or fetch it again")
    try:
        scan = pl.scan_parquet(Path(opened.path), glob=False)
        header = scan.collect_schema().names()
        rows = int(scan.select(pl.len()).collect().item())
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError, MemoryError):
        raise DataError(f"{source}: the Parquet file is damaged (its index); write or fetch it again") from None
    places = resolve(header, columns, source)
    if rows > MAX_ROWS:
        raise DataError(f"{source}: declares {rows:,} rows, more than {MAX_ROWS:,}; split it or mend the file")
    if not rows:
        raise DataError(f"{source}: has columns but no rows; add at least one interaction")
    labels = {field: header[place] for field, place in places.items()}
    schema = scan.collect_schema()
    for field, label in labels.items():
        check_plain(schema[label], field, label, source)
    try:
        frame = pl.read_parquet(Path(opened.path), columns=list(labels.values()), glob=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError, MemoryError):
        raise DataError(f"{source}: the Parquet file is damaged (a data page); write or fetch it again") from None
    return Table(
        source=source, data={field: frame[label] for field, label in labels.items()}, labels=labels,
        locate=lambda row: f"row {row + 1}", text=False,
    )  # fmt: skip


def check_plain(dtype: pl.DataType, field: str, label: str, source: str) -> None:
    """Raise DataError for a type that cannot be the field: lists, structs, bytes, and decimals or booleans as ids."""
    odd = dtype.is_nested() or dtype in (pl.Binary, pl.Object) or isinstance(dtype, pl.Duration | pl.Time)
    if field in ("user", "item"):
        odd = odd or isinstance(dtype, pl.Decimal | pl.Datetime) or dtype in (pl.Boolean, pl.Date)
    if odd:
        kind = "integers or text" if field in ("user", "item") else "plain values"
        raise DataError(f"{source}, column {label!r}: the {field} must be {kind}, not {dtype}; cast the column first")
