"""What a reproduction leaves for good: a line a run, and a record a cell that keeps what larger runs found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from augrec.errors import AugrecError
from augrec.experiment.grid import Finished, describe_run, read_lines, say
from augrec.experiment.outcome import NOT_RUN
from augrec.storage import write_bytes, write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from augrec.experiment.config import RunConfig


def cells_file(ledger: Path) -> Path:
    """The file of cell records beside a ledger."""
    return ledger.with_name(f"{ledger.name.removesuffix('.jsonl')}_cells.json")


def label(config: RunConfig) -> str:
    """A run by what it is: `beauty:lightgcn+adar`."""
    return f"{config.data}:{'+'.join((config.model, *config.augment))}"


def add_runs(ledger: Path, finished: Iterable[Finished]) -> int:
    """Appends a line for each run that has none, by the hash of its settings and its seed; returns how many.

    Lines that are there stay as they are. Raises `AugrecError` for a ledger that holds something else.
    """
    ledger.parent.mkdir(parents=True, exist_ok=True)
    known = {(line.get("config"), line.get("seed")) for line in read_lines(ledger)}
    added = 0
    for one in finished:
        key = (one.directory.name, one.config.seed)
        if key in known:
            continue
        known.add(key)
        config = one.config
        names = {"cell": label(config), "seed": config.seed, "config": key[0], "model": config.model}
        names |= {"objective": config.objective, "augment": list(config.augment), "preset": config.preset}
        line = json.dumps(names | describe_run(one), ensure_ascii=False)
        write_bytes(ledger, line.encode() + b"\n", append=True)
        added += 1
    return added


def read_cells(ledger: Path) -> dict[str, Any]:
    """The cell records beside a ledger; empty where there are none. Raises `AugrecError` for a damaged file."""
    path = cells_file(ledger)
    if not path.exists():
        return {"cells": {}}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AugrecError(f"{path}: cannot be read ({error}); move it away and start again") from None
    if not isinstance(found, dict) or not isinstance(found.get("cells"), dict):
        raise AugrecError(f"{path}: holds no cell records; move it away and start again")
    return found


def add_cells(ledger: Path, about: Mapping[str, Any], cells: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """Merges cell records into the file beside a ledger.

    A record with fewer runs than the one that is there is not taken. `others` are records without runs of all the
    paper's cells, in their order: each stands where its cell was not asked for and nothing is known of it yet, or
    where what augrec lacks for it has changed.
    """
    known = read_cells(ledger)["cells"]
    merged = {}
    for key, other in others.items():
        old, new = known.get(key), cells.get(key)
        if new is None:
            same = old is not None and (runs_of(old) or old["lacks"] == other["lacks"])
            merged[key] = old if same else other
        elif old is not None and runs_of(old) > runs_of(new):
            say(f"{key}: the record with {runs_of(old)} runs is kept, this call made {runs_of(new)}")
            merged[key] = old
        else:
            merged[key] = new
    path = cells_file(ledger)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**about, "cells": merged}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(path, text.encode())


def runs_of(record: Mapping[str, Any]) -> int:
    """Runs behind a cell record."""
    return sum(len(row["seeds"]) for row in record["rows"])


def state_of(record: Mapping[str, Any] | None) -> str | None:
    """What a listing says of a recorded cell; None where it has no runs."""
    if record is None or not runs_of(record):
        return None
    verdict = str(record["verdict"])
    return f"{verdict}: {record['detail']}" if verdict == NOT_RUN else f"{verdict} ({record['standing'] or 'done'})"
