"""Files before parsing: existence, kind by content, hash, text checks and bounded decompression."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from augrec.errors import DataError

CHUNK = 1 << 20
GZIP_FREE = 64 << 20
"""Bytes a gzip file may expand to whatever its ratio."""
GZIP_RATIO = 100
"""Beyond `GZIP_FREE`, the largest accepted ratio of expanded to packed bytes (interaction logs pack 3 to 20 fold)."""
_MAGIC = (
    (b"PK\x03\x04", "a ZIP archive (or a spreadsheet); unpack it, or save the sheet as CSV"),
    (b"SQLite format 3", "an SQLite database; export the table as CSV or Parquet"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; decompress it first"),
    (b"BZh", "compressed with bzip2; decompress it first"),
    (b"\xfd7zXZ", "compressed with xz; decompress it first"),
    (b"\x93NUMPY", "a NumPy array; write its columns as CSV or Parquet"),
    (b"ARROW1", "an Arrow file; write it as Parquet"),
    (b"version https://git-lfs", "a Git LFS pointer and not the data; fetch the file with git lfs pull"),
)
_BOMS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"), (b"\x00\x00\xfe\xff", "UTF-32"))


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A checked file: its identity and where its bytes are."""

    path: Path
    """The file."""
    source: str
    """What messages call it."""
    sha256: str
    """Hash of the file's bytes as stored."""
    parquet: bool
    """Whether it starts as a Parquet file does."""
    data: bytes | None
    """Decompressed bytes of a gzip file; None for a plain file, which is read from disk."""

    def stream(self) -> io.BufferedIOBase:
        """The text as a binary stream from its start."""
        return io.BytesIO(self.data) if self.data is not None else open(self.path, "rb")


def check_file(path: Path, source: str) -> os.stat_result:
    """Size and times of a readable, non-empty regular file. Raises DataError otherwise."""
    try:
        state = os.stat(path)
    except FileNotFoundError:
        raise DataError(f"{source}: no such file; check the path (looked in {path.absolute().parent})") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: cannot be opened ({_reason(error)}); check the path and its rights") from None
    if os.path.isdir(path):
        raise DataError(f"{source}: is a directory; name one file in it")
    if not os.path.isfile(path):
        raise DataError(f"{source}: is not a regular file; write the data to a file first")
    if not os.access(path, os.R_OK):
        raise DataError(f"{source}: may not be read; give yourself read permission (chmod u+r)")
    if state.st_size == 0:
        raise DataError(f"{source}: the file is empty; it needs a header line and at least one interaction")
    return state


def open_checked(path: Path, source: str, max_bytes: int) -> Opened:
    """Check, hash and (for gzip) expand a file.

    Raises DataError for missing or unreadable files, archives and other binary files, text that is not UTF-8 without
    NUL bytes, and gzip data that is damaged, larger than `max_bytes` or expands more than `GZIP_RATIO` fold.
    """
    check_file(path, source)
    try:
        with open(path, "rb") as stream:
            head = stream.read(32)
        digest = hashlib.sha256()
        if head[:4] == b"PAR1":
            with open(path, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256")
            return Opened(path=path, source=source, sha256=digest.hexdigest(), parquet=True, data=None)
        for magic, words in _MAGIC:
            if head.startswith(magic):
                raise DataError(f"{source}: is {words}")
        data = None
        if head[:2] == b"\x1f\x8b":
            with open(path, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256")
            data = _expand(path, source, max_bytes)
            head = data[:32]
            if not data:
                raise DataError(f"{source}: the compressed file is empty; it needs a header and one interaction")
        for bom, name in _BOMS:
            if head.startswith(bom):
                raise DataError(f"{source}: is encoded in {name}; save it as UTF-8 (iconv -f {name} -t UTF-8)")
        with io.BytesIO(data) if data is not None else open(path, "rb") as stream:
            _scan(stream, source, None if data is not None else digest)
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({_reason(error)}); check the file and its rights") from None
    return Opened(path=path, source=source, sha256=digest.hexdigest(), parquet=False, data=data)


def _scan(stream: io.BufferedIOBase, source: str, digest: hashlib._Hash | None) -> None:
    """Hash the text and refuse NUL bytes, naming the line."""
    lines = 1
    while chunk := stream.read(CHUNK):
        if digest is not None:
            digest.update(chunk)
        if (at := chunk.find(b"\0")) >= 0:
            lines += chunk.count(b"\n", 0, at)
            raise DataError(
                f"{source}, line {lines}: contains a NUL byte, so it is a binary file, UTF-16 text or damaged; "
                "save it as UTF-8 text (CSV) or as Parquet"
            )
        lines += chunk.count(b"\n")


def _expand(path: Path, source: str, max_bytes: int) -> bytes:
    packed = max(os.path.getsize(path), 1)
    pieces: list[bytes] = []
    size = 0
    try:
        with gzip.open(path, "rb") as stream:
            while piece := stream.read(CHUNK):
                size += len(piece)
                if size > max_bytes or (size > GZIP_FREE and size > GZIP_RATIO * packed):
                    raise DataError(
                        f"{source}: expands to more than {size >> 20} MiB from {packed:,} packed bytes, which no "
                        "interaction log does; decompress it yourself if you trust it"
                    )
                pieces.append(piece)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{source}: the gzip data is damaged or cut short ({error}); fetch the file again") from None
    return b"".join(pieces)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
