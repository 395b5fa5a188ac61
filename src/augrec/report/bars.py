"""The plot of a benchmark run: how many times faster than each peer, what each augmentation costs, how time grows."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from augrec.report.panels import BLUE, GREEN, GREY, ORANGE, PURPLE, extra
from augrec.storage import write_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", "#F0E442")
_PEERS = ("epoch", "evaluate", "sampling", "prepare", "quality")


def write_bars(record: Mapping[str, Any], path: Path) -> bool:
    """Writes the plot of `record` (a bench.json) as PNG: False, and no file, where it holds nothing to plot. Raises
    `UsageError` without the extra `report`.

    Args:
        record: a run's record as plain values.
        path: the PNG file.
    """
    threads = max((row["threads"] for row in record["rows"]), default=1)
    rows = [row for row in record["rows"] if row["threads"] == threads]
    peers = _bars(rows, _PEERS, against_ours=False)
    costs = _bars(rows, ("augment",), against_ours=True)
    times, memory = (_grown(record["rows"], field) for field in ("nanoseconds_each", "peak_rss_mb"))
    panels = [one for one in (peers, costs, times, memory) if one]
    if not panels:
        return False
    heights = [max(1.6, 0.28 * len(one) + 1.1) if one in (peers, costs) else 3.4 for one in panels]
    figure: Figure = extra("matplotlib.figure").Figure(figsize=(9.0, sum(heights) + 0.4), layout="constrained")
    extra("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, one in zip(axes, panels, strict=True):
        if one is peers:
            _draw(panel, peers, "the other's seconds over ours: right of 1 we are faster", better="right")
        elif one is costs:
            _draw(panel, costs, "a step's seconds over the plain step's: left is cheaper", better="left")
        elif one is times:
            _draw_growth(panel, times, "ns an interaction (evaluation: a score)", slopes=True)
        else:
            _draw_growth(panel, memory, "peak memory, MB", slopes=False)
    note = f"{threads} thread{'s' * (threads > 1)}"
    if record.get("quick"):
        note += "; a quick run, no measurement"
    figure.suptitle(note, fontsize=9, color=GREY)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    write_file(path, buffer.getvalue())
    return True


def _bars(rows: Sequence[Mapping[str, Any]], families: Sequence[str], *, against_ours: bool) -> list[dict[str, Any]]:
    """Label, series, value, ends and wish of every bar. `against_ours`: cost over the arm "plain", for ours and the
    naive arm."""
    found = []
    for row in rows:
        family, _, name = row["name"].partition("/")
        if family not in families:
            continue
        arms = {arm["name"]: arm for arm in row["arms"]}
        goals = {goal["against"]: goal for goal in row["goals"] if goal["kind"] in ("faster", "ratio")}
        if against_ours:
            plain = arms.get("plain", {}).get("ratio")
            if plain is None:
                continue
            wish = goals.get("plain", {}).get("wanted")
            bar = {"label": name, "series": "augrec", "value": 1 / plain["median"], "wanted": wish}
            found.append(bar | {"low": 1 / plain["p90"], "high": 1 / plain["p10"]})
            naive = arms.get("naive", {}).get("ratio")
            if naive is not None:
                value = naive["median"] / plain["median"]
                found.append({"label": name, "series": "naive", "value": value, "low": value, "high": value})
            continue
        for arm in row["arms"][1:]:
            ratio = arm.get("ratio")
            if ratio is not None:
                label = name if family == "epoch" else f"{family}: {name}"
                bar = {"label": label, "series": arm["name"], "value": ratio["median"], "low": ratio["p10"]}
                found.append(bar | {"high": ratio["p90"], "wanted": goals.get(arm["name"], {}).get("wanted")})
    return found


def _draw(panel: Axes, bars: Sequence[Mapping[str, Any]], title: str, *, better: str) -> None:
    series = list(dict.fromkeys(bar["series"] for bar in bars))
    last = ""
    labels = []
    for place, bar in enumerate(bars):
        colour = _COLOURS[series.index(bar["series"]) % len(_COLOURS)]
        panel.barh(place, bar["value"] - 1, left=1, height=0.7, color=colour)
        panel.plot([bar["low"], bar["high"]], [place, place], color="black", linewidth=1)
        if bar.get("wanted"):
            panel.plot([bar["wanted"]] * 2, [place - 0.45, place + 0.45], color="black", linestyle=":", linewidth=1.8)
        end = (max(bar["value"], bar["high"], 1), place)
        panel.annotate(f"{bar['value']:.3g}x", end, xytext=(4, 0), textcoords="offset points", va="center", fontsize=7)
        labels.append(bar["label"] if bar["label"] != last else "")
        last = bar["label"]
    panel.set_xscale("log")
    values = [value for bar in bars for value in (bar["value"], bar["high"], bar.get("wanted") or 1)]
    panel.set_xlim(min(0.9, *(0.85 * bar["low"] for bar in bars)), 1.6 * max(values))
    panel.set_yticks(range(len(bars)), labels, fontsize=8)
    panel.set_ylim(len(bars) - 0.4, -0.6)
    panel.axvline(1, color=GREY, linewidth=0.8)
    _scale(panel)
    panel.set_title(f"{title} (dotted: wanted, at {'least' if better == 'right' else 'most'})", fontsize=9)
    panel.spines[["top", "right"]].set_visible(False)
    patch = extra("matplotlib.patches").Patch
    handles = [patch(color=_COLOURS[n % len(_COLOURS)], label=name) for n, name in enumerate(series)]
    panel.legend(handles=handles, fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _grown(rows: Sequence[Mapping[str, Any]], field: str) -> list[dict[str, Any]]:
    """A line for each growth row: `field` of its points over the size of the log."""
    found = []
    for row in rows:
        growth = row.get("growth") if row["name"].startswith("growth/") else None
        points = [(one["interactions"], one[field]) for one in growth["points"] if one[field]] if growth else []
        if growth and points:
            line = {"task": row["name"].partition("/")[2], "threads": row["threads"], "slope": growth["slope"]}
            found.append(line | {"points": points})
    return found


def _draw_growth(panel: Axes, lines: Sequence[Mapping[str, Any]], unit: str, *, slopes: bool) -> None:
    """A colour a task, dashed for one thread."""
    tasks = list(dict.fromkeys(one["task"] for one in lines))
    for one in lines:
        said = "" if one["slope"] is None or not slopes else f", slope of seconds {one['slope']:.2f}"
        panel.plot(
            *zip(*one["points"], strict=True), marker="o", markersize=4,
            color=_COLOURS[tasks.index(one["task"]) % len(_COLOURS)], linestyle="-" if one["threads"] > 1 else "--",
            label=f"{one['task']}, {one['threads']} thread{'s' * (one['threads'] > 1)}{said}",
        )  # fmt: skip
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("events of the log", fontsize=8)
    panel.set_ylabel(unit, fontsize=8)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25)
    panel.set_title(f"growth with the log: {unit}", fontsize=9)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _scale(panel: Axes) -> None:
    """Ticks at 1, 2, 5 as plain numbers."""
    ticker = extra("matplotlib.ticker")
    panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=20))
    panel.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_formatter(ticker.NullFormatter())
    panel.tick_params(labelsize=8)
    panel.grid(axis="x", alpha=0.25)
