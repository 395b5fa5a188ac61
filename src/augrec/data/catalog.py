"""Known data sets by name: what ships inside the package, what can be fetched, and what lies in `AUGREC_DATA`."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import polars as pl

from augrec.data.fetch import Archive, cache_folder, download
from augrec.data.files import check_file
from augrec.data.interactions import Interactions
from augrec.data.readers import read_interactions
from augrec.data.schema import Columns
from augrec.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One data set that `load` knows by name."""

    name: str
    """What to call it."""
    title: str
    """What it is."""
    users: int | None
    """Users, where known without reading it."""
    items: int | None
    """Items that occur, where known."""
    interactions: int | None
    """Rows, where known."""
    licence: str
    """Terms of use, as known."""
    source: str
    """Where it comes from."""
    state: str
    """"embedded", "fetched", "to fetch", "removed", or the file it is read from."""


_AMAZON = "no licence stated; research use, cite the papers in the NOTICE"
_GROUPLENS = "GroupLens: research use, no redistribution, no commercial use without permission"
BEAUTY = Entry(
    name="beauty", title="Amazon Beauty 2014, 5-core", users=22_363, items=12_101, interactions=198_502,
    licence=_AMAZON, source="McAuley et al.; sequences of S3-Rec, timestamps of TiCoSeRec", state="embedded",
)  # fmt: skip
FETCHED: dict[str, tuple[Entry, Archive]] = {
    "ml-100k": (
        Entry(
            name="ml-100k", title="MovieLens 100K", users=943, items=1_682, interactions=100_000, licence=_GROUPLENS,
            source="https://files.grouplens.org/datasets/movielens/", state="to fetch",
        ),
        Archive(file="ml-100k.zip", md5="0e33842e24a9c977be4e0107933c0723", member="ml-100k/u.data"),
    ),
    "ml-1m": (
        Entry(
            name="ml-1m", title="MovieLens 1M", users=6_040, items=3_706, interactions=1_000_209, licence=_GROUPLENS,
            source="https://files.grouplens.org/datasets/movielens/", state="to fetch",
        ),
        Archive(file="ml-1m.zip", md5="c4d9eecfca2ab87c1945afe126590906", member="ml-1m/ratings.dat"),
    ),
}  # fmt: skip
GROUPLENS = "https://files.grouplens.org/datasets/movielens/"
_SPELLINGS = {"ml100k": "ml-100k", "ml1m": "ml-1m", "movielens-100k": "ml-100k", "movielens-1m": "ml-1m"}
_ENDINGS = (".csv", ".tsv", ".tab", ".txt", ".parquet", ".pq", ".inter", ".dat", ".data", ".gz")


def load(name_or_path: str | os.PathLike[str], *, folder: Path | None = None) -> Interactions:
    """A data set by name or path: embedded, an existing file, AUGREC_DATA/NAME.parquet, or fetched before.

    An existing file is preferred to a name only when it is spelt as a path (with a folder or a known ending).
    `folder` stands in for AUGREC_DATA. Raises DataError that lists the known names and suggests the nearest.
    """
    place, name = locate(name_or_path, folder=folder)
    if isinstance(place, Path):
        return read_interactions(place, name=name)
    with resources.as_file(place) as path:
        return read_interactions(path, name=name)


def locate(
    name_or_path: str | os.PathLike[str], *, folder: Path | None = None
) -> tuple[Path | Traversable, str | None]:
    """Where `load` reads a data set, and what it then calls it (None: by its file). Raises DataError where there is
    none by that name."""
    text = os.fspath(name_or_path)
    name = text.strip()
    looks_like_path = not isinstance(name_or_path, str) or os.sep in text or "/" in text or _ends(text)
    if not name:
        raise _unknown(text)
    if looks_like_path:
        return Path(text), None
    if name == "beauty" and _beauty().is_file():
        return _beauty(), name
    for one in [folder] if folder is not None else _folders():
        if (one / f"{name}.parquet").is_file():
            return one / f"{name}.parquet", name
    key = _SPELLINGS.get(name.lower(), name)
    if key in FETCHED:
        cached = cache_folder(None) / f"{key}.parquet"
        if cached.is_file():
            return cached, key
        raise DataError(f"the data set {key!r} is not on this computer yet; get it with: augrec data fetch {key}")
    if Path(name).is_file():
        return Path(name), None
    if name == "beauty":
        raise DataError(
            "the embedded data set 'beauty' was removed from this installation; reinstall augrec, or put "
            "beauty.parquet (user, item, timestamp, position: Amazon Beauty 2014 5-core as distributed with S3-Rec) "
            "into the folder AUGREC_DATA"
        )
    raise _unknown(name)


def available() -> list[Entry]:
    """Every data set `load` can name now or after `fetch`, with counts, licence and source."""
    entries = [BEAUTY if _beauty().is_file() else _with_state(BEAUTY, "removed")]
    for name, (entry, _) in FETCHED.items():
        here = (cache_folder(None) / f"{name}.parquet").is_file()
        entries.append(_with_state(entry, "fetched") if here else entry)
    for folder in _folders():
        for path in sorted(folder.glob("*.parquet")):
            if path.stem.endswith(".items") or path.stem in {entry.name for entry in entries}:
                continue
            entries.append(_local(path))
    return entries


def fetch(name: str, *, folder: Path | None = None, base_url: str = GROUPLENS, timeout: float = 30.0) -> Path:
    """Download a data set into the cache and return its Parquet file; nothing is done when it is there already.

    The archive is checked against its MD5 sum (as published by GroupLens), bounded in size, and only the one member
    with the ratings is unpacked. The file appears in the cache as a whole or not at all. Raises DataError for an
    unknown name and for every failure of network, sum or archive. `folder` defaults to the cache (AUGREC_CACHE).
    """
    key = _SPELLINGS.get(name.lower(), name)
    if key not in FETCHED:
        if key == "beauty":
            raise DataError("the data set 'beauty' ships inside the package; there is nothing to fetch")
        near = difflib.get_close_matches(key, FETCHED, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise DataError(f"cannot fetch {name!r}{hint} Can be fetched: {', '.join(FETCHED)}")
    target = cache_folder(folder) / f"{key}.parquet"
    if target.is_file():
        return target
    entry, archive = FETCHED[key]
    raw = download(archive, base_url=base_url, folder=target.parent, timeout=timeout)
    try:
        columns = Columns(names=("user", "item", "rating", "timestamp"))
        log = read_interactions(raw, columns=columns, format="csv", name=key)
        if (len(log), log.n_users, log.n_items) != (entry.interactions, entry.users, entry.items):
            raise DataError(f"{key}: {log!r} is not the known data set; report this")
        frame = pl.DataFrame(
            {
                "user": log.users.take(log.user),
                "item": log.items.take(log.item),
                "rating": log.rating,
                "timestamp": log.timestamp,
            }
        )
        partial = target.with_suffix(f".{os.getpid()}.partial")
        try:
            frame.write_parquet(partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror}); free space or set AUGREC_CACHE") from None
    finally:
        raw.unlink(missing_ok=True)
    return target


def _beauty() -> Traversable:
    return resources.files("augrec.data") / "embedded" / "beauty.parquet"


def _folders() -> list[Path]:
    value = os.environ.get("AUGREC_DATA", "")
    return [Path(value)] if value and Path(value).is_dir() else []


def _local(path: Path) -> Entry:
    try:
        check_file(path, os.fspath(path))
        rows = int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item())
    except (DataError, OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        rows = -1
    return Entry(
        name=path.stem, title="a file of yours" if rows >= 0 else "an unreadable file", users=None, items=None,
        interactions=rows if rows >= 0 else None, licence="as you know it", source="AUGREC_DATA", state=str(path),
    )  # fmt: skip


def _with_state(entry: Entry, state: str) -> Entry:
    return Entry(**{**entry.__dict__, "state": state})


def _ends(text: str) -> bool:
    return text.lower().endswith(_ENDINGS)


def _unknown(name: str) -> DataError:
    names = [entry.name for entry in available()]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return DataError(
        f"unknown data set {name!r}{hint} Known: {', '.join(names)}; or give the path of a CSV, TSV, Parquet, .inter "
        'or "user item item ..." file, or put NAME.parquet into the folder AUGREC_DATA'
    )
