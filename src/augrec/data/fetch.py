"""Downloads that can be trusted: checksum, bounded sizes, one named member, and nothing half written."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from augrec.errors import DataError

CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A ZIP archive on a server and the one member of it that is wanted."""

    file: str
    """File name below the base URL."""
    md5: str
    """Checksum its publisher states."""
    member: str
    """Path of the wanted file inside the archive."""
    max_packed: int = 64 << 20
    """Most bytes to download."""
    max_unpacked: int = 256 << 20
    """Most bytes to unpack."""


def cache_folder(folder: Path | None) -> Path:
    """Where fetched data lie: `folder`, else AUGREC_CACHE, else the platform's cache folder. Not created here."""
    if folder is not None:
        return Path(folder)
    if own := os.environ.get("AUGREC_CACHE"):
        return Path(own)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "augrec" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "augrec"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "augrec"


def download(archive: Archive, *, base_url: str, folder: Path, timeout: float) -> Path:
    """Fetch, verify and unpack the wanted member to a new file in `folder`, which the caller removes.

    `timeout` (seconds) bounds every wait for data, and twenty times it the whole download. Raises DataError.
    """
    url = base_url.rstrip("/") + "/" + archive.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as work:
            packed = Path(work) / "archive.zip"
            _fetch(url, packed, archive, timeout)
            unpacked = Path(work) / "member"
            _unpack(packed, unpacked, archive, url)
            handle, name = tempfile.mkstemp(dir=folder, prefix=".fetch-", suffix=Path(archive.member).suffix)
            os.close(handle)
            os.replace(unpacked, name)
            return Path(name)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{folder}: cannot store the download ({reason}); free space or set AUGREC_CACHE") from None


def _fetch(url: str, target: Path, archive: Archive, timeout: float) -> None:
    if not url.startswith(("https://", "http://")):
        raise DataError(f"{url}: only http and https are fetched")
    again = "try again later, or fetch the file yourself and give its path"
    digest, size, expected = hashlib.md5(usedforsecurity=False), 0, None
    deadline = time.monotonic() + 20 * timeout
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "augrec"})  # noqa: S310
        # The scheme was checked above.
        with urllib.request.urlopen(request, timeout=timeout) as answer, open(target, "wb") as file:  # noqa: S310
            expected = answer.headers.get("Content-Length")
            while piece := answer.read(CHUNK):
                size += len(piece)
                if size > archive.max_packed:
                    raise DataError(f"{url}: larger than the {archive.max_packed >> 20} MiB it may have; {again}")
                if time.monotonic() > deadline:
                    raise DataError(f"{url}: slower than {20 * timeout:g} s for the whole file; {again}")
                digest.update(piece)
                file.write(piece)
    except urllib.error.HTTPError as error:
        raise DataError(f"{url}: the server answers {error.code} {error.reason}; {again}") from None
    except urllib.error.URLError as error:
        raise DataError(f"{url}: cannot be reached ({error.reason}); check the network, or {again}") from None
    except TimeoutError:
        raise DataError(f"{url}: no data for {timeout:g} s after {size:,} bytes; {again}") from None
    except (http.client.HTTPException, ConnectionError) as error:
        raise DataError(f"{url}: broke off after {size:,} bytes ({type(error).__name__}); {again}") from None
    if expected is not None and expected.isdigit() and int(expected) != size:
        raise DataError(f"{url}: broke off after {size:,} of {int(expected):,} bytes; {again}")
    if digest.hexdigest() != archive.md5:
        raise DataError(
            f"{url}: the MD5 sum is {digest.hexdigest()} and should be {archive.md5}; the file was damaged or changed, "
            f"nothing was kept; {again}"
        )


def _unpack(packed: Path, target: Path, archive: Archive, url: str) -> None:
    """Write one member, read in pieces; names inside the archive never become paths."""
    try:
        with zipfile.ZipFile(packed) as opened, opened.open(archive.member) as stream, open(target, "wb") as file:
            size = 0
            while piece := stream.read(CHUNK):
                size += len(piece)
                if size > archive.max_unpacked:
                    raise DataError(f"{url}: {archive.member} unpacks to more than {archive.max_unpacked >> 20} MiB")
                file.write(piece)
    except KeyError:
        raise DataError(f"{url}: the archive has no {archive.member}; its layout has changed") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{url}: not a readable ZIP archive ({error})") from None
