"""Published tables as data: one module a paper, found by name.

An installed package adds a paper through the entry-point group `augrec.recipes`, an object of type `Paper`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType

from augrec.errors import UsageError
from augrec.experiment.recipes.base import Paper, RecipeCell, Table
from augrec.experiment.registry import nearest

_OWN = MappingProxyType(
    {
        "adar": "augrec.experiment.recipes.adar:PAPER",
        "simdiffrec": "augrec.experiment.recipes.simdiffrec:PAPER",
        "pdrec": "augrec.experiment.recipes.pdrec:PAPER",
    }
)


def paper_names() -> list[str]:
    """Papers that can be named: augrec's own, then those of installed packages."""
    return list(_targets())


def find_paper(name: str) -> Paper:
    """The paper called `name`. Raises `UsageError` with the nearest name."""
    targets = _targets()
    if name not in targets:
        raise UsageError(f"reproduce: unknown paper '{name}'{nearest(name, list(targets))} Known: {', '.join(targets)}")
    module, _, attribute = targets[name].partition(":")
    found: Paper = getattr(import_module(module), attribute)
    return found


def select(target: str) -> tuple[Paper, list[tuple[Table, RecipeCell]]]:
    """The cells that PAPER, PAPER/TABLE or PAPER/TABLE/CELL names. Raises `UsageError` with the nearest name."""
    name, _, rest = target.partition("/")
    paper = find_paper(name)
    table_name, _, cell_name = rest.partition("/")
    tables = [table for table in paper.tables if table.name == table_name] if table_name else list(paper.tables)
    if not tables:
        known = [table.name for table in paper.tables]
        raise UsageError(
            f"reproduce: {name} has no table '{table_name}'{nearest(table_name, known)} Known: {', '.join(known)}"
        )
    found = [(table, cell) for table in tables for cell in table.cells if not cell_name or cell.name == cell_name]
    if not found:
        known = [cell.name for cell in tables[0].cells]
        raise UsageError(
            f"reproduce: {name}/{table_name} has no cell '{cell_name}'{nearest(cell_name, known)} "
            f"Known: {', '.join(known)}"
        )
    return paper, found


def _targets() -> dict[str, str]:
    found = dict(_OWN)
    for point in entry_points(group="augrec.recipes"):
        found.setdefault(point.name, point.value)
    return found
