"""What a recipe is: a paper's tables as typed data, with the figures it published and where they stand.

A recipe holds no code. `augrec.experiment.reproduce` makes its runs, `augrec.experiment.outcome` judges them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from augrec.errors import ConfigError

Figures = Mapping[str, float]
"""Metrics by name (`recall@20`) as fractions."""
Settings = Mapping[str, Mapping[str, Any]]
"""Fields by part, as `--set part.field=value` gives them."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row beside the base of a cell: what is added to it."""

    name: str
    """Row name, unique in the cell."""
    augment: tuple[str, ...]
    """Registered augmentations added to those of the base."""
    claim: bool = False
    """The paper's own method: this row gets the verdict."""
    control: bool = False
    """The claim must be above this row too, as above a noise arm."""
    preset: str | None = None
    """Settings of the augmentations; None is the cell's preset."""
    settings: Settings = field(default_factory=dict)
    """Fields of this row alone."""
    published: Figures = field(default_factory=dict)
    """What the paper prints for the row; empty where it prints nothing (an arm it lacks, a plot)."""


@dataclass(frozen=True, kw_only=True)
class Tune:
    """A weight (`weight` of the augmentation) chosen once on validation, seed 0, and shared by every cell that names
    the same choice."""

    cell: str
    """TABLE/CELL it is chosen on: its claimed arms and their noise arms each choose their own; another arm of the
    method takes what the method chose."""
    values: tuple[float, ...]
    """The weights tried."""


@dataclass(frozen=True, kw_only=True)
class RecipeCell:
    """One cell of a table: a base and what is added to it, on one data set."""

    name: str
    """`data:row`, as on the command line."""
    data: str
    """Data set by name."""
    model: str
    """Backbone."""
    primary: str
    """Test metric the verdict is given on."""
    objective: str | None = None
    """Objective; None is the backbone's usual one. The base has it too: it is the loss-matched control."""
    base: tuple[str, ...] = ()
    """Augmentations the base carries itself."""
    arms: tuple[Arm, ...] = ()
    """Rows beside the base; without any, the cell is a figure to compare and gets no verdict."""
    preset: str = "paper"
    """Settings of all augmentations of the cell."""
    published: Figures = field(default_factory=dict)
    """What the paper prints for the base."""
    split: str | None = None
    """Kind of split; None is the backbone's usual one."""
    settings: Settings = field(default_factory=dict)
    """Fields of every run of the cell."""
    noise: tuple[str, ...] | None = None
    """Noise arms that are run; None takes all that are registered for the arms."""
    tune: Tune | None = None
    """How the weight of what is added is chosen; None leaves the preset's."""
    comparable: bool = True
    """Whether our figures and the published ones are of the same data and protocol."""
    single_target: bool = True
    """One held-out item a user, so that published rows can be checked by the identity of NDCG and HR."""
    lacks: str = ""
    """What its data do not have and the cell cannot do without; it is then listed and recorded as not run."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table or figure of a paper."""

    name: str
    """As on the command line: table2, figure3."""
    title: str
    """What it shows."""
    place: str
    """Where the published figures stand."""
    metrics: tuple[str, ...]
    """Metrics it reports."""
    cells: tuple[RecipeCell, ...]
    """Its cells, in the order they are run."""
    protocol: Literal["full", "sampled99"] = "full"
    """Ranking of the whole catalogue, or among 99 sampled negatives (biased)."""
    decimals: int = 4
    """Decimals of the published figures as fractions, for the rounding that checks allow."""
    notes: tuple[str, ...] = ()
    """What a reader must know: departures, open points."""

    def __post_init__(self) -> None:
        for cell in self.cells:
            if cell.primary not in self.metrics:
                raise ConfigError(
                    f"recipe {self.name}/{cell.name}: its primary metric '{cell.primary}' is not among those the "
                    f"table reports ({', '.join(self.metrics)})"
                )


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A paper and its tables."""

    name: str
    """As on the command line."""
    title: str
    """The paper's title."""
    source: str
    """Where it appeared."""
    tables: tuple[Table, ...]
    """Its tables and figures."""
    seeds: int = 3
    """Training seeds unless --seeds says otherwise."""


_S3REC = "the sequence file distributed with S3-Rec (user item item ...)"
_PDREC = "the log distributed with PDRec"
HOW: Mapping[str, str] = {
    "toys": f"Amazon Toys and Games 2014 5-core, {_S3REC}",
    "sports": f"Amazon Sports and Outdoors 2014 5-core, {_S3REC}",
    "yelp": f"Yelp reviews of 2019, 5-core, {_S3REC}",
    "ml1m": "MovieLens 1M; also: augrec data fetch ml-1m",
    "pdrec_toy": f"Amazon Toys and Games 2018, users shared with Video Games, {_PDREC}",
    "pdrec_game": f"Amazon Video Games 2018, users shared with Toys and Games, {_PDREC}",
    "pdrec_toygame_mix": f"the two Amazon logs merged, column domain: 0 toys, 1 games, {_PDREC}",
    "douban_book": f"Douban books, users shared with music, {_PDREC}",
    "douban_music": f"Douban music, users shared with books, {_PDREC}",
    "douban_bookmusic_mix": f"the two Douban logs merged, column domain: 0 books, 1 music, {_PDREC}",
}
"""What a data set is and where it comes from, for those that do not ship with augrec."""


def fractions(metrics: tuple[str, ...], values: tuple[float, ...], *, percent: bool = False) -> Figures:
    """Published values by metric; percentages become fractions."""
    return {name: round(value / 100, 6) if percent else value for name, value in zip(metrics, values, strict=True)}
