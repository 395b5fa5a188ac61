"""docs/results.md from the committed records: ours beside what was published, and what was not run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from augrec.errors import UsageError
from augrec.experiment.ledger import runs_of
from augrec.experiment.outcome import NOT_RUN
from augrec.experiment.tables import p_value, pipe, spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_HEAD = """# Results beside published figures

Made by `python scripts/make_results.py` from `results/reproduce` alone; edit nothing here. What a verdict means:
[reproduce](reproduce.md). Figures are of the test part, ours as mean ± standard deviation over seeds. "gain" is
relative, on the metric the verdict is given on; "over noise" is the gain over the best noise arm or control. p is that
of the row against the base: over users by sign flips under Holm, over seeds by the paired t-test. † marks a published
row that breaks an identity, so that at least one of its figures is wrong.
"""


def page(folder: Path) -> str:
    """The page of all papers that have records in `folder`. Raises `UsageError` where there are none."""
    files = sorted(folder.glob("*_cells.json"))
    if not files:
        raise UsageError(
            f"{folder}: holds no records; augrec reproduce PAPER --ledger {folder}/PAPER.jsonl writes them"
        )
    parts = [_HEAD]
    for path in files:
        record = json.loads(path.read_text(encoding="utf-8"))
        ledger = path.with_name(f"{path.name.removesuffix('_cells.json')}.jsonl")
        lines = ledger.read_text(encoding="utf-8").splitlines() if ledger.exists() else []
        parts.append(_paper(record, [json.loads(line) for line in lines]))
    return "\n".join(parts)


def _paper(record: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    parts = [f"## {record['paper']}: {record['title']} ({record['source']})\n"]
    hours = sum(line["seconds"]["train"] for line in runs) / 3600
    if runs:
        made = ", ".join(
            sorted({f"augrec {line['versions']['augrec']}, torch {line['versions']['torch']}" for line in runs})
        )
        parts.append(
            f"{len(runs)} runs in `results/reproduce/{record['paper']}.jsonl`, {hours:.1f} hours of training; {made}.\n"
        )
    else:
        parts.append("No run yet.\n")
    for name, table in record["tables"].items():
        cells = {key.partition("/")[2]: one for key, one in record["cells"].items() if key.partition("/")[0] == name}
        parts.append(_table(f"{record['paper']}/{name}", table, cells))
    return "\n".join(parts)


def _table(title: str, table: Mapping[str, Any], cells: Mapping[str, Mapping[str, Any]]) -> str:
    parts = [f"### {title}: {table['title']}\n", f"Published figures: {table['place']}.\n"]
    if table["protocol"] != "full":
        parts.append("Ranking among 99 sampled negatives: biased, not comparable with full ranking.\n")
    if table["notes"]:
        parts.append("\n".join(f"- {note}" for note in table["notes"]) + "\n")
    run = {name: cell for name, cell in cells.items() if runs_of(cell)}
    if run:
        head = ["cell", "row", "seeds", *(f"{name}: ours / published" for name in table["metrics"])]
        head += ["gain: ours / published", "over noise", "p users / seeds", "weight"]
        rows = [row for name, cell in run.items() for row in _rows(name, cell, table["metrics"])]
        parts.append(pipe(head, rows) + "\n")
        parts.append("\n".join(_verdict(name, cell) for name, cell in run.items()) + "\n")
        parts.append("```\n" + "\n".join(cell["command"] for cell in run.values()) + "\n```\n")
    wrong = [
        f"- {name}, row {row}: {'; '.join(reasons)}"
        for name, cell in cells.items()
        for row, reasons in cell["flags"].items()
    ]
    if wrong:
        parts.append("Published rows that cannot be right:\n")
        parts.append("\n".join(wrong) + "\n")
    left: dict[str, list[str]] = {}
    for name, cell in cells.items():
        if name not in run:
            left.setdefault(cell["detail"], []).append(name)
    if left:
        parts.append(
            f"Not run ({sum(map(len, left.values()))} of {len(cells)}; `augrec reproduce {title}/CELL` runs one):\n"
        )
        parts.append("\n".join(f"- {reason}: {', '.join(names)}" for reason, names in left.items()) + "\n")
    return "\n".join(parts)


def _rows(name: str, cell: Mapping[str, Any], metrics: Sequence[str]) -> list[list[str]]:
    primary = cell["primary"]
    tests = {one["a"]: one for one in cell["tests"] if one["b"] == "base" and one["metric"] == primary}
    rows = []
    for row in cell["rows"]:
        printed = cell["published"].get(row["row"], {})
        mark = "†" if row["row"] in cell["flags"] else ""
        gains = {other: values.get(primary) for other, values in row["gain"].items() if values.get(primary) is not None}
        noise = [value for other, value in gains.items() if other != "base"]
        test = tests.get(row["row"])
        line = [name, row["row"], str(len(row["seeds"]))]
        line += [
            f"{spread(row['test'].get(one))} / {_figure(printed.get(one))}{mark if one in printed else ''}"
            for one in metrics
        ]
        line += [f"{_percent(gains.get('base'))} / {_percent(cell['published_gain'].get(row['row'], {}).get(primary))}"]
        line += [_percent(min(noise, default=None))]
        line += ["-" if test is None else f"{p_value(test['holm_permutation'])} / {p_value(test['p_seeds'])}"]
        rows.append([*line, ", ".join(f"{value:g}" for value in row["weight"].values()) or "-"])
    return rows


def _verdict(name: str, cell: Mapping[str, Any]) -> str:
    said = f" ({cell['standing']})" if cell["standing"] else ""
    beside = "" if cell["comparable"] or not cell["published"] else "; the published figures are of other data"
    waits = f"; missing: {', '.join(cell['missing'])}" if cell["missing"] and cell["verdict"] != NOT_RUN else ""
    return f"- **{name}: {cell['verdict']}**{said}: {cell['detail']}{beside}{waits}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1%}"
