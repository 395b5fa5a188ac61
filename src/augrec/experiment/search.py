"""A search space from texts such as `train.learning_rate=1e-4:1e-2:log`; values are checked as the run reads them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from augrec.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from augrec.experiment.config import RunConfig

    Resolve = Callable[[Mapping[str, Mapping[str, Any]]], RunConfig]

# What decides which question is asked: searching it would compare validation figures that do not compare.
_FIXED_PARTS = ("data", "split", "evaluate")
_FIXED_FIELDS = ("train.select", "train.threads")
_HOW = "write it as part.field=low:high, part.field=low:high:log or part.field=a,b,c"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """A field with listed values."""

    values: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Range:
    """A number between two bounds, both included."""

    low: float
    high: float
    log: bool
    whole: bool
    """Whether the field holds whole numbers."""


def read_search(texts: Sequence[str], resolve: Resolve) -> dict[str, Choices | Range]:
    """The space by `part.field`. `resolve` makes the run's settings from overrides and refuses what does not fit.

    Raises `UsageError` for a text that cannot be read, bounds in the wrong order, a field named twice and fields that
    decide what is measured; `ConfigError` with the nearest name for an unknown part or field or a value of the wrong
    type.
    """
    if not texts:
        raise UsageError(f"--search: name a field to search; {_HOW}")
    space: dict[str, Choices | Range] = {}
    for text in texts:
        path, sign, body = text.partition("=")
        path = path.strip()
        part, dot, name = path.rpartition(".")
        if not (sign and dot and part and name and body.strip()):
            raise UsageError(f"--search {text}: {_HOW}")
        if part in _FIXED_PARTS or path in _FIXED_FIELDS:
            raise UsageError(
                f"--search {text}: {path} decides what is measured or how, so trials would not compare; set it"
            )
        if path in space:
            raise UsageError(f"--search {text}: {path} is searched twice; name it once")

        def typed(value: Any, part: str = part, name: str = name) -> Any:
            try:
                return getattr(resolve({part: {name: value}}).part(part), name)
            except ConfigError as error:
                raise ConfigError(str(error).replace("--set", "--search", 1)) from None

        space[path] = _range(text, body, typed) if ":" in body else _choices(text, body, typed)
    return space


def _choices(text: str, body: str, typed: Callable[[Any], Any]) -> Choices:
    values = tuple(_value(one) for one in body.split(","))
    for value in values:
        typed(value)
        if not isinstance(value, str | int | float | bool | None):
            raise UsageError(f"--search {text}: {value!r} is no single value; {_HOW}")
    if len({json.dumps(value) for value in values}) < max(2, len(values)):
        raise UsageError(f"--search {text}: give two or more different values; {_HOW}")
    return Choices(values=values)


def _range(text: str, body: str, typed: Callable[[Any], Any]) -> Range:
    pieces = [one.strip() for one in body.split(":")]
    if len(pieces) not in (2, 3) or (len(pieces) == 3 and pieces[2] != "log"):
        raise UsageError(f"--search {text}: {_HOW}")
    bounds = [_value(one) for one in pieces[:2]]
    for bound in bounds:
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            raise UsageError(f"--search {text}: '{bound}' is not a number; {_HOW}")
    read = [typed(bound) for bound in bounds]
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in read):
        raise UsageError(f"--search {text}: this field holds no number; list its values: part.field=a,b,c")
    low, high = read
    log = len(pieces) == 3
    if not low < high:
        raise UsageError(f"--search {text}: the lower bound must be below the upper")
    if log and low <= 0:
        raise UsageError(f"--search {text}: a logarithmic range must start above 0")
    return Range(low=low, high=high, log=log, whole=isinstance(low, int) and isinstance(high, int))


def _value(text: str) -> Any:
    try:
        return json.loads(text.strip())
    except ValueError:
        return text.strip()
