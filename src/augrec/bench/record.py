"""What a run of the benchmarks says, typed: bench.json is this and nothing else."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from augrec.typed import Config


class Spread(Config):
    """A median and its surroundings."""

    median: float
    p10: float
    p90: float


class ArmRecord(Config):
    """One side of a row."""

    name: str
    program: str
    """augrec, recbole, rectools or implicit."""
    state: Literal["run", "recorded", "not run"]
    """recorded: measured before, not beside ours."""
    reason: str = ""
    """Why it was not run, or where a recorded figure comes from."""
    seconds: Spread | None = None
    """Of the row's unit, scaled where `extrapolated`."""
    processor: Spread | None = None
    """Processor seconds of it, all threads together: the steadier figure on a busy machine."""
    ratio: Spread | None = None
    """Its seconds over ours, by round; of recorded arms over our median."""
    added_ms: Spread | None = None
    """Milliseconds that ours takes more than it, by round."""
    units: int = 0
    """Counted units, all rounds together."""
    extrapolated: bool = False
    """True where a part of the unit was timed and scaled."""
    peak_rss_mb: int | None = None
    """Of its process, everything it loads included."""
    foreign: float | None = None
    """Processors that other programs kept busy in its turns (mean); None where the system does not tell."""
    info: dict[str, Any] = Field(default_factory=dict)
    """Sizes and versions as it tells them."""


class GoalRecord(Config):
    """A wish and whether it is met."""

    kind: str
    against: str = ""
    wanted: float
    aim: float | None = None
    found: float | None = None
    met: bool | None = None
    """None where there is nothing to judge by."""


class FloorRecord(Config):
    """The physical floor of our arm."""

    seconds: float
    bound: Literal["operations", "memory", "cache"]
    bytes: float
    operations: float
    ratio: float
    """Our median over the floor."""


class PointRecord(Config):
    """One size of a growth row."""

    interactions: int
    users: int
    items: int
    seconds: float | None = None
    """Of the task alone; None where it failed."""
    nanoseconds_each: float | None = None
    """A train interaction, or for evaluation a score."""
    peak_rss_mb: int | None = None
    foreign: float | None = None
    reason: str = ""


class GrowthRecord(Config):
    """A growth row: points and the slope of log seconds against log interactions."""

    points: list[PointRecord]
    slope: float | None = None
    """By least squares; None for fewer than two points."""


class RowRecord(Config):
    """One row at one thread count."""

    name: str
    about: str
    unit: str
    threads: int
    equal: str = ""
    unequal: str = ""
    arms: list[ArmRecord] = Field(default_factory=list)
    goals: list[GoalRecord] = Field(default_factory=list)
    floor: FloorRecord | None = None
    where: dict[str, float] = Field(default_factory=dict)
    """What some profiled units of our arm were spent on: the largest shares of its time by torch operator, and what was
    in none."""
    growth: GrowthRecord | None = None
    reason: str = ""
    """Why the whole row was not run."""
    taken: str = ""
    """When it was measured: UTC, ISO 8601."""


class MachineRecord(Config):
    """Where it ran."""

    processor: str
    cores: int
    memory_mb: int | None
    system: str
    python: str
    torch: str
    rates: dict[str, dict[str, float]] = Field(default_factory=dict)
    """By thread count: bytes a second from memory and from the cache, float32 operations a second."""


class Record(Config):
    """A whole run."""

    schema_version: Literal[1] = 1
    """Raised when a field changes its meaning or goes."""
    augrec: str
    started: str
    """UTC, ISO 8601."""
    quick: bool
    """True where the effort was for showing that rows work: no figure of such a run is a measurement."""
    effort: dict[str, float]
    machine: MachineRecord
    rows: list[RowRecord] = Field(default_factory=list)
