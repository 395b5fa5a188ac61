"""A comparison's record as tables: rows for the console and a Markdown page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SHOWN = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
_BEYOND = (("coverage@10", "coverage"), ("novelty@10", "novelty"), ("popularity_percentile@10", "popularity"))

Table = tuple[list[str], list[list[str]]]


def cells_table(record: Mapping[str, Any], *, brief: bool = False) -> Table:
    """A row a cell: accuracy as mean ± standard deviation over seeds, gains over base and the best noise arm, what lies
    beyond accuracy; `brief` leaves out validation, best epochs and times."""
    primary = record["protocol"]["primary"]
    cells = record["cells"]
    shown = [name for name in _SHOWN if cells and name in cells[0]["test"]]
    beyond = [(name, title) for name, title in _BEYOND if cells and name in cells[0]["beyond_accuracy"]]
    head = ["cell", "weight", "seeds", *shown, "over base", "over noise", *(f"{title}@10" for _, title in beyond)]
    head += [] if brief else [f"valid {primary}", "best epochs", "s/epoch"]
    rows = []
    for cell in cells:
        gain = cell["gain"]
        noise = [values[primary] for name, values in gain.items() if name != "base" and values.get(primary) is not None]
        row = [cell["cell"], ", ".join(f"{value:g}" for value in cell["weight"].values()) or "-"]
        row += [str(len(cell["seeds"])), *(spread(cell["test"][name]) for name in shown)]
        row += [_percent(gain["base"].get(primary)) if gain.get("base") else "-", _percent(min(noise, default=None))]
        row += [_number(cell["beyond_accuracy"][name]["mean"]) for name, _ in beyond]
        if not brief:
            epochs = [str(one) for one in cell["epochs_best"] if one]
            row += [spread(cell["valid"].get(primary)), " ".join(epochs) or "-"]
            row += [_number(cell["seconds"]["epoch_median"])]
        rows.append(row)
    return head, rows


def tests_table(record: Mapping[str, Any], *, every: bool = False) -> Table:
    """A row a comparison on the primary metric, or on every metric."""
    primary = record["protocol"]["primary"]
    head = [
        "a",
        "b",
        "metric",
        "a - b",
        "95 % interval",
        "relative",
        "t",
        "Wilcoxon",
        "sign flips",
        "Holm",
        "over seeds",
    ]
    rows = []
    for one in record["comparisons"]:
        if one["metric"] != primary and not every:
            continue
        ahead = f"{p_value(one['p_seeds'])} ({one['seeds_a_ahead']} of {len(one['seeds'])} ahead)"
        row = [one["a"], one["b"], one["metric"], f"{one['difference']:+.5f}"]
        row += [f"{one['low']:+.5f} to {one['high']:+.5f}", _percent(one["relative"])]
        row += [p_value(one[f"p_{test}"]) for test in ("t", "wilcoxon", "permutation")]
        rows.append([*row, p_value(one["holm_permutation"]), ahead])
    return head, rows


def activity_table(record: Mapping[str, Any]) -> Table:
    """A row a cell: the primary metric within groups of users by their number of train events."""
    groups = record["by_activity"]
    head = ["cell", *(f"{_range(one['train_events'])} train events ({one['users']} users)" for one in groups)]
    names = groups[0]["mean"] if groups else ()
    base = [one["mean"].get("base") for one in groups]
    rows = []
    for name in names:
        row = [name]
        for one, plain in zip(groups, base, strict=True):
            gain = f" ({one['mean'][name] / plain - 1:+.2%})" if plain and name != "base" else ""
            row.append(f"{one['mean'][name]:.4f}{gain}")
        rows.append(row)
    return head, rows


def notes(record: Mapping[str, Any], *, verdicts: bool = False) -> list[str]:
    """What a reader must know beside the tables: conclusions (and the verdict on each comparison), baselines above,
    cells that may not have converged, chosen weights, what is missing."""
    primary = record["protocol"]["primary"]
    found = list(record["conclusions"])
    if verdicts:
        found += [one["verdict"] for one in record["comparisons"] if one["metric"] == primary]
    values = {cell["cell"]: cell["test"][primary]["mean"] for cell in record["cells"] if primary in cell["test"]}
    sober = [cell["cell"] for cell in record["cells"] if cell["role"] == "baseline" and cell["cell"] in values]
    if sober:
        best = max(sober, key=lambda name: float(values[name]))
        below = [name for name, value in values.items() if name not in sober and value < values[best]]
        if below:
            found.append(
                f"the sober baseline {best} reaches {primary} {values[best]:.4f}, above {', '.join(below)} (not tested)"
            )
    open_ended = [
        f"{cell['cell']} {cell['not_stopped_early']} of {len(cell['seeds'])}"
        for cell in record["cells"]
        if cell["not_stopped_early"]
    ]
    if open_ended:
        found.append(f"runs that used all their epochs and may not have converged: {', '.join(open_ended)}")
    weights = record["weights"]
    chosen = [f"{part}.weight={value:g}" for one in weights["chosen"].values() for part, value in one.items()]
    if chosen:
        grid = ", ".join(f"{value:g}" for value in weights["grid"])
        found.append(
            f"chosen among {grid} on {weights['selected_on']}: {', '.join(chosen)}; base had no such choice to make"
        )
    found += [f"{name} is left out: {why}" for name, why in record["left_out"].items()]
    if record["left"]:
        found.append(
            f"the time budget ended; the same command goes on with what is left ({len(record['left'])}): "
            f"{', '.join(record['left'])}"
        )
    return found


def markdown(record: Mapping[str, Any]) -> str:
    """compare.md: tables, verdicts, protocol, versions and the command."""
    cells = record["cells"]
    base = next((cell for cell in cells if cell["role"] == "base"), None)
    title = f"{base['model']} ({base['objective']})" if base else "no cell is finished"
    data, split, protocol = record["data"] or {}, record["split"] or {}, record["protocol"]
    parts = [
        f"# Comparison: {title} on {data.get('name', '-')}",
        f"{protocol['standing'][0].upper()}{protocol['standing'][1:]}.",
        pipe(*cells_table(record)),
        'Accuracy on the test part, mean ± standard deviation over seeds. "over base" and "over noise" (the best noise '
        f"arm) are relative gains in {protocol['primary']}. Popularity is the mean percentile of the recommended items "
        "(0.5: random lists).",
        f"## Who gains: {protocol['primary']} by train events of the user",
        pipe(*activity_table(record)),
        "Relative gains over base in brackets; groups are not tested.",
        "## Tests",
        pipe(*tests_table(record, every=True)),
        f"{protocol['tests'][0].upper()}{protocol['tests'][1:]}.",
        "## What this says",
        "\n".join(f"- {line}" for line in notes(record, verdicts=True)),
        "## Protocol",
        pipe(["", ""], [[key, _plain(value)] for key, value in {**protocol, **_prefixed(data, split)}.items()]),
        "## Made with",
        f"{', '.join(f'{name} {number}' for name, number in record['versions'].items())}",
        f"```\n{record['command']}\n```",
        "One run of each cell (further seeds: `--seed N` and the same `--set`):",
        "```\n" + "\n".join(cell["command"] for cell in cells) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _prefixed(data: Mapping[str, Any], split: Mapping[str, Any]) -> dict[str, Any]:
    return {f"data {k}": v for k, v in data.items()} | {f"split {k}": v for k, v in split.items()}


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def pipe(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(one).replace("|", "\\|") for one in line) + " |" for line in lines)


def _range(ends: Sequence[int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}-{ends[1]}"


def spread(values: Mapping[str, float | None] | None) -> str:
    """Mean ± standard deviation, or the mean alone."""
    if not values or values["mean"] is None:
        return "-"
    return f"{values['mean']:.4f}" + ("" if values["std"] is None else f" ± {values['std']:.4f}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def p_value(value: float | None) -> str:
    """A p value as text."""
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
