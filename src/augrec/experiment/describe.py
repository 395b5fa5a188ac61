"""What a log holds, as facts and as a frame in original ids."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from augrec.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from augrec.data.interactions import Interactions


def describe(log: Interactions) -> dict[str, Any]:
    """Counts, lengths, repeats and the span of time."""
    lengths, items = log.degrees(), log.item_counts()
    pairs = len(np.unique(log.user.astype(np.int64) * max(log.n_items, 1) + log.item))
    facts: dict[str, Any] = {
        "name": log.name,
        "sha256": log.sha256,
        "users": log.n_users,
        "items": log.n_items,
        "interactions": len(log),
        "density": round(len(log) / max(log.n_users * log.n_items, 1), 8),
        "events per user (min / median / mean / max)": _spread(lengths),
        "events per item (min / median / mean / max)": _spread(items),
        "repeated (user, item) events": len(log) - pairs,
        "columns": [name for name in ("timestamp", "rating", "domain", "split") if getattr(log, name) is not None],
    }
    if log.timestamp is not None and len(log):
        first, last = int(log.timestamp.min()), int(log.timestamp.max())
        if abs(first) < 2**36 and abs(last) < 2**36:
            facts["time"] = " to ".join(datetime.fromtimestamp(t, tz=UTC).date().isoformat() for t in (first, last))
    return facts


def _spread(counts: np.ndarray) -> str:
    if not len(counts):
        return "none"
    return f"{counts.min()} / {np.median(counts):g} / {counts.mean():.2f} / {counts.max()}"


def to_frame(log: Interactions) -> pl.DataFrame:
    """The log with original ids, a row an event, in the order of the log; `position` keeps the order inside equal
    times."""
    columns: dict[str, Any] = {"user": log.users.take(log.user), "item": log.items.take(log.item)}
    columns["position"] = (np.arange(len(log)) - log.offsets[log.user]).astype(np.int32)
    for name in ("timestamp", "rating", "domain", "split"):
        if getattr(log, name) is not None:
            columns[name] = getattr(log, name)
    return pl.DataFrame(columns)


def read_ids(path: Path) -> pl.Series:
    """Ids from a text file, one a line. Raises `DataError` where it cannot be read or is empty."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as a list of ids ({error}); give a UTF-8 text file with an id a line"
        ) from None
    ids = [line for line in lines if line]
    if not ids:
        raise DataError(f"{path}: holds no ids; give a UTF-8 text file with an id a line")
    return pl.Series("id", ids)
