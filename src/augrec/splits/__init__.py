"""Splits of a log into train, validation and test, each with a provenance hash and leak assertions."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from augrec.data.interactions import Interactions
from augrec.errors import ConfigError, DataError
from augrec.splits.base import Split
from augrec.splits.given import GivenConfig, given
from augrec.splits.leave_one_out import LeaveOneOutConfig, leave_one_out
from augrec.splits.ratio import RatioConfig, ratio
from augrec.splits.temporal import TemporalConfig, temporal

SplitConfig = Annotated[RatioConfig | LeaveOneOutConfig | TemporalConfig | GivenConfig, Field(discriminator="kind")]
"""Configuration of any split, told apart by `kind`."""
SPLITS = ("ratio", "leave-one-out", "temporal", "given")

__all__ = [
    "SPLITS", "GivenConfig", "LeaveOneOutConfig", "RatioConfig", "Split", "SplitConfig", "TemporalConfig", "make_split",
]  # fmt: skip


def make_split(interactions: Interactions, config: SplitConfig | Mapping[str, Any] | str) -> Split:
    """Split `interactions` as `config` says: a typed config, a mapping with `kind`, or just a kind's name.

    Raises ConfigError for an unknown kind or option and DataError when the log cannot be split that way.
    """
    made = _as_config(config)
    if not len(interactions):
        raise DataError(f"{interactions.name}: there are no rows to split")
    if isinstance(made, RatioConfig):
        return ratio(interactions, made)
    if isinstance(made, LeaveOneOutConfig):
        return leave_one_out(interactions, made)
    if isinstance(made, TemporalConfig):
        return temporal(interactions, made)
    return given(interactions, made)


def _as_config(config: Any) -> RatioConfig | LeaveOneOutConfig | TemporalConfig | GivenConfig:
    if isinstance(config, RatioConfig | LeaveOneOutConfig | TemporalConfig | GivenConfig):
        return config
    values = {"kind": config} if isinstance(config, str) else config
    if not isinstance(values, Mapping):
        raise ConfigError(f"split: expected a name or a mapping with 'kind', got {type(config).__name__}")
    values = {"kind": "ratio", **values}
    if values["kind"] not in SPLITS:
        near = difflib.get_close_matches(str(values["kind"]), SPLITS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ConfigError(f"split: unknown kind {values['kind']!r}{hint} Known: {', '.join(SPLITS)}")
    try:
        adapter: TypeAdapter[RatioConfig | LeaveOneOutConfig | TemporalConfig | GivenConfig] = TypeAdapter(SplitConfig)
        return adapter.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        raise ConfigError(f"split.{where}: {first['msg']} (got {first.get('input')!r})") from None
