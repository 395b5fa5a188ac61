"""Text logs: delimited tables (CSV, TSV, RecBole .inter) and "user item item ..." lines.

Every cell is read as text and cast afterwards, so a bad value can be named with its line and ids such as "001" survive.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from augrec.data.casting import Table
from augrec.data.explain import SEPARATORS, WORDS, explain, line_of, not_utf8
from augrec.data.files import Opened
from augrec.data.schema import Columns, plain, recognised, resolve, typed_header
from augrec.errors import DataError

_HEAD = 1 << 20


def guess_format(opened: Opened) -> str:
    """Kind of text ("inter", "sequences" or "table") by the file's ending and first line."""
    suffixes = [suffix.lower() for suffix in opened.path.suffixes if suffix.lower() != ".gz"]
    ending = suffixes[-1] if suffixes else ""
    if ending == ".inter":
        return "inter"
    if ending in (".csv", ".tsv", ".tab"):
        return "table"
    first = first_line(opened)
    known = max((recognised(split_line(first, mark)) for mark in SEPARATORS), key=len)
    if known & {"user", "item"} or any(mark in first for mark in ",;|\t") or "::" in first:
        return "inter" if _is_typed(first) else "table"
    return "sequences" if ending in (".txt", "", ".dat", ".data") else "table"


def first_line(opened: Opened) -> str:
    """The first line, without byte order mark and line end. Raises DataError when it is blank or not UTF-8."""
    with opened.stream() as stream:
        line = stream.readline(_HEAD)
    if len(line) >= _HEAD and not line.endswith(b"\n"):
        raise DataError(f"{opened.source}, line 1: is longer than 1 MiB; a log has one interaction per line")
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        not_utf8(opened)
        raise DataError(f"{opened.source}, line 1: is not UTF-8 text; save the file as UTF-8") from None
    if not text.strip():
        raise DataError(f"{opened.source}, line 1: is blank; the header (or the first row) must stand in line 1")
    if "\r" in text:
        raise DataError(f"{opened.source}: ends its lines with CR alone; save it with LF or CRLF line ends")
    return text


def split_line(line: str, separator: str, quoted: bool = True) -> list[str]:
    """Cells of one line, blanks around them removed."""
    if separator == "::":
        return [cell.strip() for cell in line.split("::")]
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, quoting=0 if quoted else 3), [])]
    except csv.Error:
        return line.split(separator)


def read_table(opened: Opened, columns: Columns, separator: str | None, inter: bool) -> Table:
    """A delimited table with a header line (or `columns.names`). Raises DataError naming line and column.

    Rows in which every recognised column is empty are blank lines and left out. RecBole's .inter knows no quotes.
    """
    if separator is not None and separator != "::" and (len(separator) != 1 or not separator.isascii()):
        raise DataError(
            f"{opened.source}: the separator must be one ASCII character or '::', not {separator!r}; give one"
        )
    head = first_line(opened)
    mark = separator or _detect(opened, head, columns, inter)
    quoted, headed = not inter and mark != "::", columns.names is None
    header = list(columns.names or split_line(head, mark, quoted))
    if headed and inter:
        header = typed_header(header, opened.source)
    elif headed and _is_typed(head):
        header = [cell.partition(":")[0] for cell in header]
    if headed:
        _check_header(opened, header, mark)
    places = resolve(header, columns, opened.source)
    data: Path | bytes = opened.path if opened.data is None else opened.data
    if mark == "::":
        with opened.stream() as stream:
            data = stream.read().replace(b"::", b"\t")
    skipped = _lines_before_rows(opened, headed)
    frame = _parse(data, mark, quoted, skipped, len(header), sorted(places.values()))
    if quoted and isinstance(frame, str):
        # Quotes that only stand inside cells (5" nail) are letters: read again without quoting.
        plain_frame = _parse(data, mark, False, skipped, len(header), list(range(len(header))))
        if isinstance(plain_frame, pl.DataFrame) and not _any_quoted(plain_frame):
            frame, quoted = plain_frame.select(str(place) for place in sorted(places.values())), False
    if isinstance(frame, str):
        explain(opened, len(header), mark, quoted, headed)
        raise DataError(f"{opened.source}: is not a readable table ({frame}); check quotes and separators")
    rows: npt.NDArray[np.int64] | None = None
    missing = {field for field, place in places.items() if frame[str(place)].null_count()}
    if missing == set(places):
        full = ~pl.Series(frame.select(pl.all_horizontal(pl.all().is_null())).to_series())
        rows, frame = full.arg_true().to_numpy().astype(np.int64), frame.filter(full)
    if not frame.height:
        raise DataError(f"{opened.source}: has a header but no rows; add at least one interaction")
    if any(frame[str(places[field])].null_count() for field in ("user", "item")):
        explain(opened, len(header), mark, quoted, headed)
    return Table(
        source=opened.source,
        data={field: frame[str(place)] for field, place in places.items()},
        labels={field: header[place] for field, place in places.items()},
        locate=lambda row: f"line {line_of(opened, skipped + int(row if rows is None else rows[row]), mark, quoted)}",
        text=True,
    )


def _parse(
    data: Path | bytes, mark: str, quoted: bool, skipped: int, width: int, wanted: list[int]
) -> pl.DataFrame | str:
    """The wanted columns (named by their places) as text, or the reason why they cannot be read."""
    # Older polars refuses to project columns of a path with glob characters, even with glob=False.
    projection = None if isinstance(data, Path) and set("*?[") & set(str(data)) else wanted
    try:
        return pl.read_csv(
            data, separator="\t" if mark == "::" else mark, quote_char='"' if quoted else None, has_header=False,
            skip_lines=skipped, schema={str(place): pl.String for place in range(width)}, columns=projection,
            raise_if_empty=False, glob=False,
        )  # fmt: skip
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        return str(error).partition("\n")[0][:120]


def _any_quoted(frame: pl.DataFrame) -> bool:
    return any(frame[name].str.contains(r'^\s*"').any() for name in frame.columns)


def read_sequences(opened: Opened) -> Table:
    """Lines "user item item ...", oldest item first; a line with a user alone is left out.

    The rows keep the order of the lines, so a user may stand on several lines.
    """
    first_line(opened)
    with opened.stream() as stream:
        raw = stream.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        not_utf8(opened)
        raise
    lines = pl.Series("line", text.splitlines() if "\r" in text else text.split("\n"))
    del raw, text
    number = pl.Series("number", range(1, len(lines) + 1), dtype=pl.Int64)
    frame = (
        pl.DataFrame({"number": number, "cells": lines.str.replace_all(r"\s+", " ").str.strip_chars()})
        .filter(pl.col("cells") != "")
        .with_columns(pl.col("cells").str.split(" "))
        .with_columns(user=pl.col("cells").list.first(), item=pl.col("cells").list.slice(1))
        .filter(pl.col("item").list.len() > 0)
        .select("number", "user", "item")
        .explode("item")
    )
    if not frame.height:
        raise DataError(
            f"{opened.source}: no line has a user and an item; each line reads: user item item ... (blanks between)"
        )
    numbers = frame["number"]
    return Table(
        source=opened.source, data={"user": frame["user"], "item": frame["item"]},
        labels={"user": "first word", "item": "words after the first"},
        locate=lambda row: f"line {numbers[row]}", text=True,
    )  # fmt: skip


def _lines_before_rows(opened: Opened, headed: bool) -> int:
    """Lines to skip: the header and the blank lines that follow it. Raises DataError when nothing else follows."""
    skipped = int(headed)
    with opened.stream() as stream:
        if headed:
            stream.readline()
        for line in stream:
            if line.strip(b"\r\n"):
                return skipped
            skipped += 1
    raise DataError(f"{opened.source}: has a header but no rows; add at least one interaction")


def _is_typed(line: str) -> bool:
    return ":token" in line


def _detect(opened: Opened, head: str, columns: Columns, inter: bool) -> str:
    if "::" in head and "\t" not in head:
        return "::"
    asked = {plain(name) for name in (columns.user, columns.item) if name}
    scored = []
    for mark in SEPARATORS:
        cells = split_line(head, mark, not inter)
        names = [cell.partition(":")[0] for cell in cells] if inter else cells
        known = len(recognised(names)) + len(asked & {plain(name) for name in names})
        scored.append((known, len(cells), mark))
    _, width, mark = max(scored, key=lambda entry: (entry[0], entry[1]))
    if width == 1:
        raise DataError(
            f"{opened.source}, line 1: one single column {head[:60]!r}; no separator was found (comma, tab, semicolon, "
            "bar, blank): give it with separator=..., and check that there is a user and an item column"
        )
    return mark


def _check_header(opened: Opened, header: list[str], mark: str) -> None:
    if len(header) == 1:
        others = [other for other in SEPARATORS if other != mark and other in header[0]]
        hint = f"; the line seems to be separated by {WORDS[others[0]]}" if others else ""
        raise DataError(
            f"{opened.source}, line 1: separated by {WORDS.get(mark, repr(mark))} the header is one column "
            f"{header[0][:60]!r}{hint}; give the right separator=..."
        )
    if not recognised(header) and all(_is_number(cell) for cell in header):
        names = ("user", "item", "rating", "timestamp")[: len(header)]
        raise DataError(
            f"{opened.source}, line 1: {header[:6]} looks like data, not like a header; add a header line or name the "
            f"columns with Columns(names={names!r})"
        )
    for place, name in enumerate(header, start=1):
        if not name:
            raise DataError(f"{opened.source}, line 1: column {place} has no name; fill in the header")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
