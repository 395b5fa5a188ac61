"""Text logs: delimited tables (CSV, TSV, RecBole .inter) and "user item item ..." lines.

Every cell is read as text and cast afterwards, so a bad value can be named with its line and ids such as "001" survive.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from augrec.data.casting import Table
from augrec.data.files import Opened
from augrec.data.schema import Columns, plain, recognised, resolve, typed_header
from augrec.errors import DataError

SEPARATORS = (",", "\t", ";", "|", " ")
_WORDS = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar", " ": "a blank"}
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
        _not_utf8(opened)
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
    """A delimited table with a header line (or `columns.names`). Raises DataError naming line and column."""
    head = first_line(opened)
    mark = separator or _detect(opened, head, columns, inter)
    header = list(columns.names) if columns.names else split_line(head, mark, not inter)
    if inter and not columns.names:
        header = typed_header(header, opened.source)
    elif not columns.names and _is_typed(head):
        header = [cell.partition(":")[0] for cell in header]
    if not columns.names:
        _check_header(opened, header, mark, columns)
    places = resolve(header, columns, opened.source)
    data: Path | bytes = opened.path if opened.data is None else opened.data
    if mark == "::":
        with opened.stream() as stream:
            data = stream.read().replace(b"::", b"\t")
    real = "\t" if mark == "::" else mark
    schema = {str(place): pl.String for place in range(len(header))}
    try:
        frame = pl.read_csv(
            data, separator=real, has_header=False, skip_lines=0 if columns.names else 1, schema=schema,
            quote_char=None if inter or mark == "::" else '"', columns=sorted(places.values()), raise_if_empty=False,
            glob=False,
        )  # fmt: skip
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        _explain(opened, header, mark, inter, columns)
        reason = str(error).splitlines()[0][:120]
        raise DataError(f"{opened.source}: is not a readable table ({reason}); check quotes and separators") from None
    if not frame.height:
        raise DataError(f"{opened.source}: has a header but no rows; add at least one interaction")
    table = Table(
        source=opened.source,
        data={field: frame[str(place)] for field, place in places.items()},
        labels={field: header[place] for field, place in places.items()},
        locate=lambda row: f"line {_line_of(opened, row, mark, inter, bool(columns.names))}",
        text=True,
    )
    if any(table.data[field].null_count() for field in ("user", "item")):
        _explain(opened, header, mark, inter, columns)
    return table


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
        _not_utf8(opened)
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


def _check_header(opened: Opened, header: list[str], mark: str, columns: Columns) -> None:
    if len(header) == 1:
        others = [other for other in SEPARATORS if other != mark and other in header[0]]
        hint = f"; the line seems to be separated by {_WORDS[others[0]]}" if others else ""
        raise DataError(
            f"{opened.source}, line 1: separated by {_WORDS.get(mark, repr(mark))} the header is one column "
            f"{header[0][:60]!r}{hint}; give the right separator=..."
        )
    if not recognised(header) and all(_is_number(cell) for cell in header):
        names = ("user", "item", "rating", "timestamp")[: len(header)]
        raise DataError(
            f"{opened.source}, line 1: {header[:6]} looks like data, not like a header; add a header line or name the "
            f"columns with Columns(names={names!r})"
        )
    for place, name in enumerate(header, start=1):
        if not name and columns.user is None:
            raise DataError(f"{opened.source}, line 1: column {place} has no name; fill in the header")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _records(opened: Opened, mark: str, inter: bool) -> Iterator[tuple[int, list[str]]]:
    """First line number and cells of each record, in Python: only used to explain an error."""
    with opened.stream() as stream:
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")  # type: ignore[type-var]
        if mark == "::":
            yield from ((n, line.rstrip("\r\n").split("::")) for n, line in enumerate(lines, 1) if line.strip())
            return
        csv.field_size_limit(1 << 30)
        reader = csv.reader(lines, delimiter=mark, quoting=csv.QUOTE_NONE if inter else csv.QUOTE_MINIMAL)
        before = 0
        for cells in reader:
            if cells:
                yield before + 1, cells
            before = reader.line_num


def _line_of(opened: Opened, row: int, mark: str, inter: bool, headless: bool) -> int:
    wanted = row if headless else row + 1
    try:
        for place, (line, _) in enumerate(_records(opened, mark, inter)):
            if place == wanted:
                return line
    except csv.Error:
        pass
    return wanted + 1


def _explain(opened: Opened, header: list[str], mark: str, inter: bool, columns: Columns) -> None:
    """Raise the DataError that explains why the table cannot be read; return when nothing is found."""
    _not_utf8(opened)
    try:
        for line, row in _records(opened, mark, inter):
            if len(row) == len(header) or (line == 1 and not columns.names):
                continue
            others = [other for other in SEPARATORS if other != mark and sum(c.count(other) for c in row) >= 1]
            hint = f"; the line seems to be separated by {_WORDS[others[0]]}" if len(row) == 1 and others else ""
            if any("\n" in value for value in row):
                hint = "; a quote that is opened in this line is never closed"
            shown = mark.join(row).splitlines()[0][:60]
            raise DataError(
                f"{opened.source}, line {line}: {len(row)} columns where the header has {len(header)} "
                f"({shown!r}){hint}; correct the line or the separator"
            )
    except csv.Error as error:
        raise DataError(f"{opened.source}: {error}; check the quotes") from None


def _not_utf8(opened: Opened) -> None:
    with opened.stream() as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{opened.source}, line {number}: byte {error.start + 1} is not UTF-8 (it may be Latin-1); save "
                    "the file as UTF-8 (iconv -f LATIN1 -t UTF-8)"
                ) from None
