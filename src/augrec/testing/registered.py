"""Everything that can be named, so that a suite covers a new class on the day it is registered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from augrec.experiment.registry import entries

if TYPE_CHECKING:
    from augrec.backbones.base import Kind
    from augrec.experiment.registry import Entry, Family
    from augrec.typed import Config


def registered(family: Family) -> list[Entry]:
    """The entries of a family, augrec's own and those of installed packages."""
    return [entry for entry in entries().values() if entry.family == family]


def backbones_of_kind(kind: Kind) -> list[Entry]:
    """Backbones of one kind."""
    return [entry for entry in registered("backbone") if entry.load().kind == kind]


def settings_of(entry: Entry) -> Config:
    """An entry's default settings with the fields its name fixes."""
    made: Config = entry.load().Config(**entry.fixed)
    return made
