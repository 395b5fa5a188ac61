"""`read_interactions`: any log a person has at hand to `Interactions`, or one clear DataError."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from augrec.data.casting import Table, ids, ratings, small_integers, times
from augrec.data.files import open_checked
from augrec.data.frames import read_frame
from augrec.data.interactions import Interactions, Vocabulary
from augrec.data.parquet import read_parquet
from augrec.data.schema import Columns
from augrec.data.text import guess_format, read_sequences, read_table
from augrec.errors import DataError

Format = Literal["csv", "tsv", "inter", "sequences", "parquet"]
FORMATS = ("csv", "tsv", "inter", "sequences", "parquet")


def read_interactions(
    source: Any,
    *,
    format: Format | None = None,
    columns: Columns | None = None,
    name: str | None = None,
    separator: str | None = None,
    users: Sequence[Any] | pl.Series | None = None,
    items: Sequence[Any] | pl.Series | None = None,
    max_bytes: int = 16 << 30,
) -> Interactions:
    """Read a log of interactions.

    Args:
        source: path of a CSV, TSV, Parquet, RecBole `.inter` or "user item item ..." file (gzip accepted for text), or
            a data frame (polars, pandas, a pyarrow table, a mapping of columns).
        format: kind of file; recognised by content and ending when None. "csv" and "tsv" both mean a delimited table.
        columns: which column is which, where names are not recognised; see `Columns`.
        name: short name for messages and reports; the file's stem by default.
        separator: separator of a delimited table; detected when None.
        users, items: declared ids; those that never occur stay in the vocabulary, an id outside them is an error.
        max_bytes: largest size a gzip file may expand to.

    Returns rows sorted by user, then time, then position, then row. Times become Unix seconds: a column that is
    consistently in milli-, micro- or nanoseconds is converted, with a note in `Interactions.notes`. Integer and text
    ids are kept apart: "001" and "1" are two ids.

    Raises DataError, naming file, line (1-based, counting the header) or row, column, value and a fix.
    """
    if format is not None and format not in FORMATS:
        raise DataError(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    columns = columns or Columns()
    if not isinstance(source, str | os.PathLike):
        table = read_frame(source, columns)
        return _assemble(table, columns, name or "data frame", None, users, items)
    path = Path(source)
    shown = os.fspath(source)
    shown = shown if len(shown) <= 300 else shown[:300] + "..."
    opened = open_checked(path, shown, max_bytes)
    if opened.parquet or format == "parquet" or path.suffix.lower() in (".parquet", ".pq"):
        table = read_parquet(opened, columns)
    else:
        kind = format or guess_format(opened)
        if kind == "sequences":
            table = read_sequences(opened)
        else:
            table = read_table(opened, columns, separator, kind == "inter")
    stem = path.name.removesuffix(".gz")
    return _assemble(table, columns, name or Path(stem).stem, opened.sha256, users, items)


def _assemble(
    table: Table,
    columns: Columns,
    name: str,
    sha256: str | None,
    users: Sequence[Any] | pl.Series | None,
    items: Sequence[Any] | pl.Series | None,
) -> Interactions:
    notes: list[str] = []
    extra: dict[str, npt.NDArray[Any] | None] = {"position": None, "rating": None, "domain": None, "split": None}
    for field in ("user", "item"):
        table.data[field] = ids(table, field, columns.ids == "text", notes)
    if "position" in table.data:
        extra["position"] = small_integers(table, "position", 2**53)
    if "rating" in table.data:
        extra["rating"] = ratings(table)
        table.data.pop("rating")
    for field, high in (("domain", 127), ("split", 2)):
        if field in table.data:
            extra[field] = small_integers(table, field, high).astype(np.int8)
            table.data.pop(field)
    timestamp: npt.NDArray[np.int64] | None = None
    if "timestamp" in table.data and extra["position"] is not None and table.data["timestamp"].null_count():
        notes.append("times are missing in some rows and were left out: the position column gives the order")
    elif "timestamp" in table.data:
        timestamp, fine = times(table, notes)
        table.data.pop("timestamp")
        if fine is not None:
            # Rows are put in the order of the finer times first; the later sort by seconds is stable.
            order = np.argsort(fine, kind="stable")
            timestamp = timestamp[order]
            extra = {key: None if values is None else values[order] for key, values in extra.items()}
            for field in ("user", "item"):
                table.data[field] = table.data[field].gather(pl.Series(order))
    made = Interactions.from_columns(
        user=table.data.pop("user"), item=table.data.pop("item"), timestamp=timestamp,
        position=extra["position"], rating=extra["rating"], domain=extra["domain"], split=extra["split"],
        users=None if users is None else Vocabulary.of(users), items=None if items is None else Vocabulary.of(items),
        name=name, sha256=sha256, notes=tuple(notes),
    )  # fmt: skip
    if not len(made):
        raise DataError(f"{table.source}: has no rows; add at least one interaction")
    return made
