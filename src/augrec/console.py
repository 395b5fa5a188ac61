"""Tables and lists as a person reads them; standard output only."""

from __future__ import annotations

import io
import json
import math
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from augrec.errors import UsageError
from augrec.storage import write_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import polars as pl

_WRITERS = MappingProxyType({".parquet": "write_parquet", ".csv": "write_csv", ".jsonl": "write_ndjson"})


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table; numbers stand right, thousands are grouped. Wide enough for its content when no terminal
    watches."""
    # Ids and paths are text, whatever brackets and colons they hold.
    console = Console(width=None if sys.stdout.isatty() else 200, markup=False, emoji=False, highlight=False)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    numeric = [bool(rows) and all(_is_number(row[n]) for row in rows) for n in range(len(header))]
    for name, right in zip(header, numeric, strict=True):
        shown.add_column(name, justify="right" if right else "left")
    for row in rows:
        shown.add_row(*[Text(_text(value)) for value in row])
    console.print(shown)


def _is_number(value: Any) -> bool:
    return (
        value is None or isinstance(value, int | float) or str(value).replace(".", "", 1).replace("-", "", 1).isdigit()
    )


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value) or "none"
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
    else:
        out.write("not evaluated: no user has events enough for one to be held out\n")
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
    if out.suffix not in _WRITERS:
        raise UsageError(f"--out {out}: unknown ending; use .parquet, .csv or .jsonl")
    write_frame(lists, out)
    if as_json:
        print_json({"out": str(out), "users": lists["user"].n_unique(), "recommendations": len(lists)})
    else:
        sys.stdout.write(f"{out}: {len(lists):,} recommendations\n")


def write_frame(frame: pl.DataFrame, out: Path) -> None:
    """A frame to a Parquet, CSV or JSON-lines file by its ending (Parquet where it has another), whole or not at all.

    Raises `UsageError` for a folder and `OSError` where it cannot be written.
    """
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name a file in it, such as {out / 'out.parquet'}")
    buffer = io.BytesIO()
    getattr(frame, _WRITERS.get(out.suffix, "write_parquet"))(buffer)
    write_file(out, buffer.getvalue())


def print_json(values: Any) -> None:
    """Prints values for machines: strict JSON, so a number that is not finite becomes null."""
    sys.stdout.write(json.dumps(_finite(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(values: Any) -> Any:
    if isinstance(values, float) and not math.isfinite(values):
        return None
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    return [_finite(value) for value in values] if isinstance(values, list | tuple) else values
