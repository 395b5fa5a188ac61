"""Which column of a table means what: recognised names, an explicit override, and typed RecBole headers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from augrec.errors import DataError

FIELDS = ("user", "item", "timestamp", "rating", "domain", "split", "position")
ALIASES: dict[str, tuple[str, ...]] = {
    "user": (
        "user", "userid", "uid", "u", "customer", "customerid", "reviewer", "reviewerid", "visitor", "visitorid",
        "member", "memberid", "account", "accountid", "session", "sessionid",
    ),
    "item": (
        "item", "itemid", "iid", "i", "movie", "movieid", "product", "productid", "asin", "sku", "track", "trackid",
        "song", "songid", "artist", "artistid", "book", "bookid", "isbn", "business", "businessid", "article",
        "articleid", "video", "videoid", "news", "newsid", "game", "gameid",
    ),
    "timestamp": (
        "timestamp", "time", "ts", "t", "unix", "unixtime", "unixtimestamp", "unixreviewtime", "datetime", "date",
        "eventtime", "createdat",
    ),
    "rating": ("rating", "ratings", "score", "stars", "overall"),
    "domain": ("domain", "domainid"),
    "split": ("split", "part", "subset"),
    "position": ("position", "pos"),
}  # fmt: skip
INTER_TYPES = ("token", "token_seq", "float", "float_seq")


class Columns(BaseModel):
    """Names the columns of a source where they are not recognised, and how its ids are read."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    user: str | None = None
    """Column of the user ids; recognised by name when None (user, user_id, userId, uid, customer_id, ...)."""
    item: str | None = None
    """Column of the item ids (item, item_id, movieId, product_id, asin, ...)."""
    timestamp: str | None = None
    """Column of the times (timestamp, time, ts, unixReviewTime, date, ...): Unix time or ISO dates in UTC."""
    rating: str | None = None
    """Column of the ratings (rating, score, stars, overall)."""
    domain: str | None = None
    """Column of the domain of a mixed log: whole numbers 0 to 127."""
    split: str | None = None
    """Column of a split the source fixes: 0 or train, 1 or test, 2 or valid."""
    position: str | None = None
    """Column of the place in the user's history: orders rows of equal time."""
    ignore: tuple[str, ...] = ()
    """Columns to leave out although their names are recognised."""
    names: tuple[str, ...] | None = None
    """Column names, in order, of a text file without a header line."""
    ids: Literal["auto", "text"] = "auto"
    """auto: ids in text files are integers where all have the plain form of one ("7", not "007"); text: always text."""


def plain(name: str) -> str:
    """A column name without case, blanks and punctuation, as names are compared ("userId" = "user_id")."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def recognised(header: Sequence[str]) -> set[str]:
    """Fields that some column of `header` is an alias of."""
    names = {plain(name) for name in header}
    return {field for field in FIELDS if names & set(ALIASES[field])}


def resolve(header: Sequence[str], columns: Columns, source: str) -> dict[str, int]:
    """Position of each field's column in `header`; user and item are always present.

    Raises DataError for repeated names, for a name in `columns` that does not occur (with the nearest one), for a field
    that several columns could be, and when there is no user or item column.
    """
    seen: dict[str, int] = {}
    for place, name in enumerate(header, start=1):
        if name in seen:
            raise DataError(
                f"{source}: the column {name!r} occurs twice (columns {seen[name]} and {place}); rename or remove one"
            )
        seen[name] = place
    for wanted in columns.ignore:
        _must_occur(wanted, header, "ignore", source)
    found: dict[str, int] = {}
    taken = {name for field in FIELDS if (name := getattr(columns, field)) is not None}
    for field in FIELDS:
        wanted = getattr(columns, field)
        if wanted is not None:
            _must_occur(wanted, header, field, source)
            found[field] = seen[wanted] - 1
            continue
        fits = [n for n in header if plain(n) in ALIASES[field] and n not in columns.ignore and n not in taken]
        if len(fits) > 1:
            fits = [name for name in fits if name == field] or fits
        if len(fits) > 1:
            raise DataError(
                f"{source}: the columns {', '.join(map(repr, fits))} could each be the {field}; choose one with "
                f"Columns({field}={fits[0]!r})"
            )
        if fits:
            found[field] = seen[fits[0]] - 1
    for field in ("user", "item"):
        if field not in found:
            raise DataError(
                f"{source}: no {field} column among {_shown(header)}; rename one to {field!r} or name it with "
                f"Columns({field}=...)"
            )
    return found


def typed_header(header: Sequence[str], source: str) -> list[str]:
    """Names of a RecBole header (`user_id:token`). Raises DataError for a missing, extra or unknown type."""
    names = []
    for place, cell in enumerate(header, start=1):
        name, colon, kind = cell.partition(":")
        if not colon or not name:
            raise DataError(
                f"{source}, line 1, column {place}: {cell!r} has no type; an .inter header reads name:type, for "
                f"example {cell or 'user_id'}:token"
            )
        if kind not in INTER_TYPES:
            raise DataError(
                f"{source}, line 1, column {place}: {cell!r} must be name:type with one colon and a type of "
                f"{', '.join(INTER_TYPES)}; for example {name}:token"
            )
        if kind.endswith("_seq") and recognised([name]):
            raise DataError(
                f"{source}, line 1, column {place}: {cell!r} holds lists; one interaction per line is needed: write "
                f"{name}:{kind.removesuffix('_seq')}"
            )
        names.append(name)
    return names


def _must_occur(wanted: str, header: Sequence[str], field: str, source: str) -> None:
    if wanted not in header:
        near = difflib.get_close_matches(wanted, header, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{source}: Columns({field}=...) names {wanted!r}, no column of {_shown(header)}{hint}")


def _shown(header: Sequence[str]) -> str:
    names = ", ".join(repr(name if len(name) <= 40 else name[:40] + "...") for name in header[:12])
    return f"[{names}{', ...' if len(header) > 12 else ''}]"
