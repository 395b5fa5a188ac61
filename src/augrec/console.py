"""Tables and lists as a person reads them; standard output only."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from augrec.errors import UsageError
from augrec.storage import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import polars as pl


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table; numbers stand right, thousands are grouped. Wide enough for its content when no terminal
    watches."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    numeric = [bool(rows) and all(_is_number(row[n]) for row in rows) for n in range(len(header))]
    for name, right in zip(header, numeric, strict=True):
        shown.add_column(name, justify="right" if right else "left")
    for row in rows:
        shown.add_row(*[_text(value) for value in row])
    console.print(shown)


def _is_number(value: Any) -> bool:
    return (
        value is None or isinstance(value, int | float) or str(value).replace(".", "", 1).replace("-", "", 1).isdigit()
    )


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def show_result(result: Mapping[str, Any], directory: Path) -> None:
    """A finished run: what was trained, how it was judged, what it reached, where it lies."""
    out = sys.stdout
    title = " + ".join([result["model"], *result["augment"]])
    data, epochs, protocol = result["data"], result["epochs"], result["protocol"]
    counts = f"{data['users']:,} users, {data['items']:,} items, {data['interactions']:,} interactions"
    out.write(f"{title} on {data['name']} ({counts}), {result['split']['name']} split, seed {result['seed']}\n")
    if result["objective"]:
        stop = "stopped early" if epochs["stopped_early"] else "ran all its epochs: it may not have converged"
        out.write(f"best epoch {epochs['best']} of {epochs['run']} ({stop}), selected on {protocol['selected_on']}\n")
    columns = [("valid", result.get("valid")), (f"test, seen items {protocol.get('seen_items')}", result.get("test"))]
    columns += [
        (f"{one['part']}, seen items {one['protocol'].get('seen_items')}", one["metrics"])
        for one in result["evaluations"]
    ]
    found = [(name, metrics) for name, metrics in columns if metrics]
    if found:
        rows = [
            [metric, *[f"{metrics[metric]:.4f}" for _, metrics in found]]
            for metric in found[0][1]
            if all(metric in m for _, m in found)
        ]
        table(["full ranking", *[name for name, _ in found]], rows)
    seconds = result["seconds"]
    out.write(
        f"{seconds['train']:.1f} s training, {seconds['epoch_median']:.2f} s an epoch, peak memory "
        f"{result['peak_rss_mb']:,} MB\n"
    )
    for deviation in result["deviations"]:
        out.write(f"departs from the clean protocol: {deviation}\n")
    out.write(f"run directory: {directory}\n")


def write_lists(lists: pl.DataFrame, out: Path | None, *, as_json: bool) -> None:
    """Recommendations to a file by its ending, or to standard output."""
    if out is None:
        if as_json:
            sys.stdout.write(lists.write_json() + "\n")
        else:
            table(lists.columns, [[*row[:3], f"{row[3]:.4f}"] for row in lists.head(200).iter_rows()])
            if len(lists) > 200:
                sys.stdout.write(f"... {len(lists) - 200:,} more rows; write them all with --out FILE.parquet\n")
        return
    kinds = {".parquet": "write_parquet", ".csv": "write_csv", ".jsonl": "write_ndjson"}
    if out.suffix not in kinds:
        raise UsageError(f"--out {out}: unknown ending; use .parquet, .csv or .jsonl")
    with replacing(out) as temporary:
        getattr(lists, kinds[out.suffix])(temporary)
    sys.stdout.write(f"{out}: {len(lists):,} recommendations\n")
