"""augrec reproduce: published tables made again, beside the published figures."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from augrec.cli.app import Flag, Json, Whole, app, print_json
from augrec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@app.command
def reproduce(
    target: str | None = None,
    /,
    *,
    seeds: int | None = None,
    budget_minutes: float | None = None,
    workers: Annotated[int | None, Whole] = None,
    ray: str | None = None,
    out: Path = Path("runs/reproduce"),
    data_dir: Path | None = None,
    ledger: Path | None = None,
    list: Annotated[bool, Flag] = False,
    set: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    json: Json = False,
) -> None:
    """Makes a paper's table again, PAPER[/TABLE[/CELL]], and sets ours beside the published figures with a verdict.

    Finished runs are read, begun ones resumed: the same command goes on where it stopped. Cells share runs.

    Parameters
    ----------
    target
        What to make: adar, adar/table2 or adar/table2/beauty:lightgcn; --list names all there are.
    seeds
        Training seeds 0 to N - 1 of every row; by default the recipe's. One seed is an indication only.
    budget_minutes
        Start no run after this many minutes; the same command goes on later.
    workers
        Make so many runs at a time, each in a process of its own.
    ray
        Make the runs on a Ray cluster: its address, auto, or local.
    out
        The folder of the runs.
    data_dir
        A folder of NAME.parquet files in place of AUGREC_DATA.
    ledger
        A .jsonl file that takes a line a run; the cells' records go into ..._cells.json beside it. By default in --out.
    list
        Say what cells there are and how they stand; nothing is run.
    set
        One typed field of every cell that has it, as part.field=value. May be repeated.
    json
        Print the record as JSON.
    """
    from augrec.console import table
    from augrec.experiment.config import parse_overrides
    from augrec.experiment.recipes import paper_names
    from augrec.experiment.reproduce import reproduce as make
    from augrec.experiment.reproduce import states
    from augrec.experiment.spread import make_spread
    from augrec.train.memory import keep_freed_memory

    if ledger is not None and ledger.suffix != ".jsonl":
        raise UsageError(f"--ledger {ledger}: name a .jsonl file, such as {ledger.with_suffix('.jsonl')}")
    if list:
        asked = [target] if target else paper_names()
        rows = [row for one in asked for row in states(one, out=out, data_dir=data_dir, ledger=ledger)]
        if json:
            print_json(rows)
        else:
            _list(rows)
        return
    if not target:
        raise UsageError(f"reproduce: name a paper, one of {', '.join(paper_names())}; --list names their cells")
    keep_freed_memory()
    done = make(
        target, seeds=seeds, budget_minutes=budget_minutes, out=out, data_dir=data_dir, ledger=ledger,
        overrides=parse_overrides(set), spread=make_spread(workers=workers, ray=ray),
    )  # fmt: skip
    if json:
        print_json(done.record)
        return
    table(
        ["cell", "row", "metric", "seeds", "ours", "gain", "published", "gain there", "over noise"],
        [row for key, cell in done.record["cells"].items() for row in _rows(key, cell)],
    )
    sys.stdout.write("\n")
    for key, cell in done.record["cells"].items():
        said = f" [{cell['standing']}]" if cell["standing"] else ""
        sys.stdout.write(f"- {key}: {cell['verdict']}{said}: {cell['detail']}\n")
        for row, reasons in cell["flags"].items():
            sys.stdout.write(f"  the published row {row} cannot be right: {'; '.join(reasons)}\n")
    sys.stdout.write(f"ledger: {done.ledger}\n")


def _list(rows: Sequence[Mapping[str, Any]]) -> None:
    """A line a cell; a state that many cells have, such as data that are not here, is spelled out once below."""
    from augrec.console import table

    often = {state for state, count in Counter(row["state"] for row in rows).items() if count > 1 and len(state) > 60}
    notes = {state: f"[{number}]" for number, state in enumerate(sorted(often), 1)}
    table(["cell", "rows", "state"], [[row["cell"], row["rows"], _brief(row["state"], notes)] for row in rows])
    for state, mark in notes.items():
        sys.stdout.write(f"{mark} {state}\n")


def _brief(state: str, notes: Mapping[str, str]) -> str:
    return f"{state.partition(':')[0]} {notes[state]}" if state in notes else state


def _rows(key: str, cell: Mapping[str, Any]) -> Sequence[Sequence[str]]:
    """A line for each row of a cell that is ours or published; baselines are in the record."""
    ours = {row["row"]: row for row in cell["rows"] if row["role"] != "baseline"}
    names = dict.fromkeys([*ours, *cell["published"]])
    return [
        [
            key,
            name,
            cell["primary"],
            str(len(ours[name]["seeds"])) if name in ours else "-",
            _spread(ours.get(name, {}).get("test", {}).get(cell["primary"])),
            _percent(ours.get(name, {}).get("gain", {}).get("base", {}).get(cell["primary"])),
            _figure(cell["published"].get(name, {}).get(cell["primary"])),
            _percent(cell["published_gain"].get(name, {}).get(cell["primary"])),
            _percent(_over_noise(ours.get(name), cell["primary"])),
        ]
        for name in names
    ]


def _over_noise(row: Mapping[str, Any] | None, metric: str) -> float | None:
    """The gain over the best of a row's noise arms."""
    gains = {} if row is None else row["gain"]
    found = [one[metric] for name, one in gains.items() if name != "base" and one.get(metric) is not None]
    return min(found, default=None)


def _spread(value: Mapping[str, float | None] | None) -> str:
    if value is None:
        return "-"
    return f"{value['mean']:.4f}" + ("" if value["std"] is None else f" ± {value['std']:.4f}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1%}"
