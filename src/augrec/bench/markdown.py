"""A run as Markdown: the machine, a table a family, how the work is equal under each, and what was not run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from augrec.bench.record import ArmRecord, GoalRecord, Record, RowRecord, Spread

TITLES = {
    "epoch": "An epoch over the same transitions", "evaluate": "Full-ranking evaluation of the same users",
    "augment": "What an augmentation adds to a step", "step": "A training step", "sampling": "Sampling",
    "prepare": "Preparing preferences", "start": "Starting", "growth": "Growth with the log",
    "million": "A million users and a million items",
    "quality": "The same validation NDCG@10",
}  # fmt: skip
_FOREIGN = 0.1
"""Foreign processors above which a figure is marked."""


def markdown(record: Record) -> str:
    """The page's part that a run makes."""
    machine = record.machine
    last = max((f" to {row.taken}" for row in record.rows if row.taken), default="")
    parts = [
        f"augrec {record.augrec}, {record.started}{last}; {machine.processor}, {machine.cores} cores"
        + (f", {machine.memory_mb // 1024} GB" if machine.memory_mb else "")
        + f"; Python {machine.python}, torch {machine.torch}. {record.effort['rounds']:g} rounds of turns (A B A B), "
        "medians with 10th and 90th percentiles. Ratios are the other's seconds over ours, by round; an asterisk marks "
        f"figures scaled from a part, (!) turns in which other programs kept more than {_FOREIGN} processors busy.",
    ]
    if record.quick:
        parts.append("**A quick run: it shows that the rows work. None of its figures is a measurement.**")
    rates = [
        f"{threads} thread{'s' if threads != '1' else ''}: {one['memory_bandwidth'] / 1e9:.1f} GB/s from memory, "
        f"{one['cache_bandwidth'] / 1e9:.1f} GB/s from the cache, {one['gemm_rate'] / 1e9:.0f} GFLOP/s"
        for threads, one in machine.rates.items()
    ]
    if rates:
        parts.append(
            f"Measured rates that floors are taken by: {'; '.join(rates)}. A floor counts bytes and operations that "
            "the mathematics cannot do without (of sequence models with sampled negatives and of augmentations: Adam's "
            "passes and the dense products that are made); `x floor` is ours over it."
        )
    parts += _judged(record)
    for family in dict.fromkeys(row.name.partition("/")[0] for row in record.rows):
        rows = [row for row in record.rows if row.name.partition("/")[0] == family]
        parts.append(f"### {TITLES.get(family, family)}")
        parts.append(_growth(rows) if family in ("growth", "million") else _table(rows))
        notes = _notes(rows)
        if notes:
            parts.append(notes)
    return "\n\n".join(parts) + "\n"


def _judged(record: Record) -> list[str]:
    """How many wishes are met, and a table of all: what was wanted, and what was found with each number of threads."""
    every = [(row, goal) for row in record.rows for goal in row.goals if goal.met is not None]
    if not every:
        return []
    threads = sorted({row.threads for row, _ in every}, reverse=True)
    found: dict[tuple[str, str, str], dict[int, str]] = {}
    for row, goal in every:
        figure = _figure(goal) + ("" if goal.met else ", **NOT met**")
        found.setdefault((row.name, goal.against or "-", _wish(goal)), {})[row.threads] = figure
    counts = [f"{one} thread{'s' if one != 1 else ''}" for one in threads]
    lines = [f"| {' | '.join(['row', 'beside', 'wanted', *counts])} |", "|---" * (3 + len(threads)) + "|"]
    for what, figures in found.items():
        lines.append(f"| {' | '.join([*what, *(figures.get(one, '-') for one in threads)])} |")
    met = sum(bool(goal.met) for _, goal in every)
    return [f"**Goals**: {met} of {len(every)} are met.", "\n".join(lines)]


def _table(rows: Sequence[RowRecord]) -> str:
    lines = [
        "| row | threads | arm | median (p10 to p90) | ratio | goal | x floor | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if not row.arms:
            lines.append(f"| {_name(row)} | {row.threads} | - | not run | - | {_goals(row.goals, None)} | - | - |")
        for number, arm in enumerate(row.arms):
            floor = f"{row.floor.ratio:.2g} ({row.floor.bound})" if row.floor is not None and not number else "-"
            name = _name(row) if not number else ""
            goals = [one for one in row.goals if one.against == (arm.name if number else "")]
            cells = [
                name,
                str(row.threads) if not number else "",
                arm.name,
                _time(arm),
                _ratio(arm),
                _goals(goals, arm),
            ]
            peak = "-" if arm.peak_rss_mb is None else f"{arm.peak_rss_mb:,}"
            lines.append(f"| {' | '.join([*cells, floor, peak])} |")
    return "\n".join(lines)


def _growth(rows: Sequence[RowRecord]) -> str:
    lines = [
        "| row | threads | events | users | items | seconds | ns each | peak MB | slope |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.growth is None:
            continue
        for number, point in enumerate(row.growth.points):
            took = "not run" if point.seconds is None else _seconds(point.seconds) + _mark(point.foreign)
            each = "-" if point.nanoseconds_each is None else f"{point.nanoseconds_each:.3g}"
            peak = "-" if point.peak_rss_mb is None else f"{point.peak_rss_mb:,}"
            slope = "" if number or row.growth.slope is None else f"{row.growth.slope:.2f}"
            goal = f" {_goals(row.goals, None)}" if not number and row.goals else ""
            first = [_name(row), str(row.threads)] if not number else ["", ""]
            sizes = [f"{one:,}" for one in (point.interactions, point.users, point.items)]
            lines.append(f"| {' | '.join([*first, *sizes, took, each, peak, (slope + goal).strip()])} |")
    return "\n".join(lines)


def _notes(rows: Sequence[RowRecord]) -> str:
    """How the work is equal and what was not run; rows with the same words share a line."""
    said: dict[str, list[str]] = {}
    for row in rows:
        equal = f"equal: {row.equal}" if row.equal else ""
        unequal = f"not equal: {row.unequal}" if row.unequal else ""
        text = ". ".join(one for one in (equal, unequal) if one)
        if text:
            said.setdefault(text, []).append(row.name)
    lines = [f"- {', '.join(dict.fromkeys(names))}: {text}." for text, names in said.items()]
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            reasons.setdefault(f"not run: {row.reason}", []).append(row.name)
        for arm in row.arms:
            if arm.state == "not run":
                reasons.setdefault(f"{arm.name} not run: {arm.reason}", []).append(f"{row.name} ({row.threads})")
            elif arm.state == "recorded":
                reasons.setdefault(f"{arm.name} is not run but recorded: {arm.reason}", []).append(row.name)
            elif arm.reason:
                reasons.setdefault(f"{arm.name} stopped early: {arm.reason}", []).append(f"{row.name} ({row.threads})")
        for point in row.growth.points if row.growth else ():
            if point.reason:
                reasons.setdefault(f"{point.interactions:,} events not run: {point.reason}", []).append(row.name)
    lines += [f"- {', '.join(dict.fromkeys(names))}: {text}." for text, names in reasons.items()]
    lines += [f"- {row.name} ({row.threads}): ours spends {_shares(row)}." for row in rows if row.where]
    return "\n".join(lines).replace("..", ".")


def _shares(row: RowRecord) -> str:
    """What is worth naming, the largest first."""
    found = sorted(((share, name) for name, share in row.where.items() if share >= 0.03), reverse=True)
    return ", ".join(f"{share:.0%} in {name}" for share, name in found)


def _name(row: RowRecord) -> str:
    return row.name.partition("/")[2]


def _seconds(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f} s"
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def _mark(foreign: float | None) -> str:
    return " (!)" if foreign is not None and foreign > _FOREIGN else ""


def _time(arm: ArmRecord) -> str:
    if arm.seconds is None:
        return "not run"
    low, high = _seconds(arm.seconds.p10), _seconds(arm.seconds.p90)
    spread = "" if low == high else f" ({low} to {high})"
    scaled = "*" if arm.extrapolated else ""
    return f"{_seconds(arm.seconds.median)}{scaled}{spread}{_mark(arm.foreign)}"


def _ratio(arm: ArmRecord) -> str:
    return "-" if arm.ratio is None else f"{_two(arm.ratio)}"


def _two(value: Spread) -> str:
    low, high = f"{value.p10:.3g}", f"{value.p90:.3g}"
    return f"{value.median:.3g}" + ("" if low == high else f" ({low} to {high})")


def _goals(goals: Sequence[GoalRecord], arm: ArmRecord | None) -> str:
    """Wishes in words, with ours and whether they are met."""
    found = []
    for goal in goals:
        met = "" if goal.met is None else f": {_figure(goal)}, {'met' if goal.met else 'NOT met'}"
        found.append(_wish(goal) + met)
    return "; ".join(found) or "-"


def _figure(goal: GoalRecord) -> str:
    return f"{goal.found:,.0f}" if goal.kind == "memory" else f"{goal.found:.3g}"


def _wish(goal: GoalRecord) -> str:
    words = {
        "faster": "at least {0:g}x", "ratio": "ours at most {0:g}x", "added": "at most {0:g} ms added",
        "seconds": "at most {0:g} s", "memory": "at most {0:,.0f} MB", "slope": "slope at most {0:g}",
    }  # fmt: skip
    return words[goal.kind].format(goal.wanted) + ("" if goal.aim is None else f", aim {goal.aim:g}x")
