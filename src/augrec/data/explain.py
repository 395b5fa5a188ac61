"""Why a text log cannot be read, and where: slow passes in Python, taken only when an error is certain."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import islice

from augrec.data.files import Opened
from augrec.errors import DataError

SEPARATORS = (",", "\t", ";", "|", " ")
WORDS = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar", " ": "a blank"}


def records(opened: Opened, mark: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """First line number (1-based) and cells of every record, blank lines included as no cells."""
    with opened.stream() as stream:
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")  # type: ignore[type-var]
        if mark == "::":
            for number, line in enumerate(lines, start=1):
                yield number, line.rstrip("\r\n").split("::") if line.strip() else []
            return
        reader = csv.reader(lines, delimiter=mark, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
        before = 0
        for cells in reader:
            yield before + 1, cells
            before = reader.line_num


def line_of(opened: Opened, record: int, mark: str, quoted: bool) -> int:
    """Line on which a 0-based record starts (they differ where a quoted cell holds line ends)."""
    try:
        return next(islice(records(opened, mark, quoted), record, None))[0]
    except (csv.Error, StopIteration):
        return record + 1


def explain(opened: Opened, width: int, mark: str, quoted: bool, headed: bool) -> None:
    """Raise the DataError that explains why a table of `width` columns cannot be read; return if nothing is found."""
    not_utf8(opened)
    line = 0
    try:
        for line, cells in records(opened, mark, quoted):
            if not cells or len(cells) == width or (line == 1 and headed):
                continue
            others = [other for other in SEPARATORS if other != mark and any(other in cell for cell in cells)]
            hint = f"; the line seems to be separated by {WORDS[others[0]]}" if len(cells) == 1 and others else ""
            if any("\n" in cell for cell in cells):
                hint = "; a quote that is opened in this line is never closed"
            shown = mark.join(cells).partition("\n")[0][:60]
            raise DataError(
                f"{opened.source}, line {line}: {len(cells)} columns where the header has {width} ({shown!r}){hint}; "
                "correct the line or the separator"
            )
    except csv.Error:
        raise DataError(
            f"{opened.source}, after line {line}: a cell is longer than 128 KiB; check for a quote that is never closed"
        ) from None


def not_utf8(opened: Opened) -> None:
    """Raise DataError for the first line that is not UTF-8."""
    with opened.stream() as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{opened.source}, line {number}: byte {error.start + 1} is not UTF-8 (it may be Latin-1); save "
                    "the file as UTF-8 (iconv -f LATIN1 -t UTF-8)"
                ) from None
