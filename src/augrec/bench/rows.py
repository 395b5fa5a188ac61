"""What is measured, as data: a row is some arms that do equal work, how it is equal, and what is wanted of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from augrec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OURS = "augrec"
Family = Literal["epoch", "evaluate", "step", "augment", "sampling", "prepare", "start", "growth", "million", "quality"]
Kind = Literal["faster", "ratio", "added", "seconds", "memory", "slope"]
"""faster: the peer's time over ours, at least; ratio: ours over the base's, at most; added: milliseconds over the base,
at most; seconds, memory (MB), slope: ours, at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What a row is to show."""

    kind: Kind
    wanted: float
    aim: float | None = None
    against: str = ""
    """The arm it is compared with, for the first three kinds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One side of a row."""

    name: str
    program: str = OURS
    """Whose environment it runs in: augrec, recbole, rectools or implicit."""
    task: str = "train"
    settings: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)
    """Settings that replace some of them in a quick run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One comparison."""

    name: str
    """FAMILY/NAME."""
    about: str
    arms: tuple[Arm, ...]
    """The first is ours."""
    unit: str = "step"
    equal: str = ""
    """What is the same for all arms."""
    unequal: str = ""
    """What is not, and cannot be."""
    goals: tuple[Goal, ...] = ()
    floor: str = ""
    """What in `floors` counts its bytes and operations."""
    recorded: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Peers that are not run: {"seconds", "peak_rss_mb", "source"} as measured before."""
    covers: tuple[str, ...] = ()
    """Registered names whose cost it shows."""

    @property
    def family(self) -> str:
        """The part before the slash."""
        return self.name.partition("/")[0]


def faster(against: str, wanted: float, aim: float | None = None) -> Goal:
    """The peer's time over ours."""
    return Goal(kind="faster", against=against, wanted=wanted, aim=aim)


def rows() -> list[Row]:
    """Every row, in the order in which they are shown."""
    from augrec.bench.rows_ours import our_rows
    from augrec.bench.rows_peers import peer_rows

    return [*peer_rows(), *our_rows()]


def select(patterns: Sequence[str], every: Sequence[Row] | None = None) -> list[Row]:
    """The rows whose name fits one of `patterns` (shell patterns; a bare family stands for all of it), all for none.

    Raises `UsageError` for a pattern that fits nothing.
    """
    known = rows() if every is None else list(every)
    chosen: dict[str, Row] = {}
    for pattern in patterns or ("*",):
        found = [one for one in known if fnmatchcase(one.name, pattern) or one.family == pattern]
        if not found:
            raise UsageError(
                f"--rows {pattern}: no row is called so; `augrec bench --list` names all {len(known)}; families: "
                f"{', '.join(dict.fromkeys(one.family for one in known))}"
            )
        chosen |= {one.name: one for one in found}
    return [one for one in known if one.name in chosen]


PROGRAMS: Mapping[str, str] = MappingProxyType(
    {"recbole": "recbole_peer", "rectools": "rectools_peer", "implicit": "implicit_peer"}
)
"""The module of `peers` that runs a program's arms."""


def module_of(arm: Arm) -> str:
    """What `host.py` imports for an arm."""
    if arm.task == "command":
        return "commands"
    return "augrec.bench.ours" if arm.program == OURS else PROGRAMS[arm.program]
