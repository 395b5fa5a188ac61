"""One run: rows, thread counts, child processes, and the record that comes out."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import augrec
from augrec.bench.child import Child
from augrec.bench.growth import run_growth, sizes
from augrec.bench.judge import goal_record, row_record, with_floors
from augrec.bench.quality import quality_record
from augrec.bench.record import MachineRecord, Record, RowRecord
from augrec.bench.rows import OURS, module_of
from augrec.bench.rows import rows as every_row
from augrec.bench.timing import QUICK, ArmFailed, Effort, interleave
from augrec.data import load
from augrec.errors import UsageError
from augrec.train.threads import cores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from augrec.bench.environments import Environments
    from augrec.bench.rows import Arm, Row


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run is made."""

    threads: Sequence[int] = (1, 2)
    quick: bool = False
    large: bool = False
    """Growth up to 10^8 events."""
    curves: Path | None = None
    """A folder with recorded validation curves, for the rows of time to a quality."""
    effort: Effort = field(default_factory=Effort)
    say: Callable[[str], None] = lambda _: None
    keep: Callable[[Record], None] = lambda _: None
    """Told the record after every row, so that a stopped run leaves what it measured."""
    earlier: Record | None = None
    """A run to go on with: its rows that are whole are not measured again."""


def our_environment() -> dict[str, str]:
    """Where a child of ours finds augrec: where this process found it."""
    known = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(Path(augrec.__file__).parents[1]), *([known] if known else [])])}


def bench(rows: Sequence[Row], environments: Environments, options: Options) -> Record:
    """Runs the rows at each thread count. An arm that cannot run says why in its place; nothing else stops for it.

    Raises `UsageError` where `options.earlier` cannot be gone on with.
    """
    effort = QUICK if options.quick else options.effort
    record = Record(
        augrec=augrec.__version__, started=_now(), quick=options.quick, effort=asdict(effort), machine=_machine({}),
    )  # fmt: skip
    if options.earlier is not None:
        record = _same(options.earlier, record)
    known = dict(record.machine.rates)
    for count in options.threads:
        # What the machine does at its best: a slow hour must not make a floor look nearer than it is.
        before, now = known.get(str(count), {}), _rates(count, options.quick)
        if now:
            known[str(count)] = {name: max(before.get(name, 0.0), rate) for name, rate in now.items()}
    machine = record.machine.model_copy(update={"rates": known})
    record = record.model_copy(update={"machine": machine, "rows": with_floors(record.rows, known)})
    found = {(row.name, row.threads): row for row in record.rows}
    order = {row.name: place for place, row in enumerate(every_row())}
    with tempfile.TemporaryDirectory(prefix="augrec-bench-") as folder:
        log = _log_file(Path(folder)) if any(arm.program != OURS for row in rows for arm in row.arms) else None
        for number, row in enumerate(rows, start=1):
            for count in options.threads:
                if (row.name, count) in found and _whole(found[row.name, count], options):
                    continue
                options.say(f"{row.name} ({number} of {len(rows)}), {count} thread{'s' * (count > 1)}")
                if row.family in ("growth", "million"):
                    made = _growth_row(row, count, Path(folder), options)
                elif row.family == "quality":
                    made = quality_record(row, count, list(found.values()), options.curves)
                else:
                    made = _row(row, count, effort, environments, log, known.get(str(count), {}), options.quick)
                if options.quick:
                    # A quick run has figures, but nothing that could meet a goal or miss it.
                    open_ = [goal.model_copy(update={"met": None}) for goal in made.goals]
                    made = made.model_copy(update={"goals": open_})
                found[row.name, count] = made.model_copy(update={"taken": _now()})
                every = sorted(found.values(), key=lambda one: (order.get(one.name, len(order)), one.threads))
                record = record.model_copy(update={"rows": every})
                options.keep(record)
    return record


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _same(earlier: Record, record: Record) -> Record:
    """`earlier`, if the same program would measure the same way on the same machine. Raises `UsageError`."""
    before, now = earlier.model_dump(), record.model_dump()
    places = {name: (before[name], now[name]) for name in ("augrec", "quick", "effort")}
    places |= {name: (one, now["machine"][name]) for name, one in before["machine"].items() if name != "rates"}
    for name, (old, new) in places.items():
        if old != new:
            raise UsageError(
                f"--resume: the earlier run has another {name} ({old}; now {new}), its figures do not go with new "
                f"ones; give another folder with --out"
            )
    return earlier


def _whole(row: RowRecord, options: Options) -> bool:
    """True where nothing failed and no log is missing. A row of others' figures costs nothing and is made anew."""
    points = row.growth.points if row.growth else []
    failed = row.reason or any(arm.state == "not run" for arm in row.arms) or any(one.reason for one in points)
    missing = row.growth is not None and len(points) < len(sizes(row.name, quick=options.quick, large=options.large))
    return not (failed or missing or row.name.startswith("quality/"))


def _row(
    row: Row, threads: int, effort: Effort, environments: Environments, log: Path | None, rates: Mapping[str, float],
    quick: bool,
) -> RowRecord:  # fmt: skip
    """All arms of a row open at once, each in its process; then turns."""
    infos: dict[str, dict[str, Any]] = {}
    reasons: dict[str, str] = {}
    peaks: dict[str, int] = {}
    where: dict[str, float] = {}
    children: dict[str, Child] = {}
    with ExitStack() as stack:
        for arm in row.arms:
            try:
                child = stack.enter_context(_child(arm, threads, environments))
                infos[arm.name] = child.open(arm.task, _settings(arm, log, quick))
                children[arm.name] = child
            except ArmFailed as error:
                reasons[arm.name] = str(error)
        measured = interleave(children, effort)
        for name, child in children.items():
            if not measured[name].failure:
                try:
                    own = bool(row.floor) and name == row.arms[0].name
                    peaks[name], shares = child.close(where=own)
                    where = shares or where
                except ArmFailed as error:
                    measured[name].failure = str(error)
    return row_record(row, threads, measured, infos, peaks, reasons, rates, where)


def _child(arm: Arm, threads: int, environments: Environments) -> Child:
    ours = arm.program == OURS
    python = sys.executable if ours else environments.python(arm.program)
    variables = our_environment() if ours else environments.variables(arm.program)
    return Child(python, module_of(arm), threads=threads, environment=variables)


def _settings(arm: Arm, log: Path | None, quick: bool) -> dict[str, Any]:
    found = {**arm.settings, **(arm.quick if quick else {})}
    return found if arm.program == OURS or log is None else {"log": str(log), **found}


def _log_file(folder: Path) -> Path:
    """Beauty as arrays that every peer can read: `user` and `item` in the order of user and time."""
    log = load("beauty")
    path = folder / "log.npz"
    np.savez(path, user=log.user, item=log.item)
    return path


def _growth_row(row: Row, threads: int, folder: Path, options: Options) -> RowRecord:
    made = run_growth(
        row.name, threads=threads, folder=folder, quick=options.quick, large=options.large,
        environment=our_environment(), say=options.say,
    )  # fmt: skip
    # Limits of memory are meant for the largest log.
    peak = max((one.peak_rss_mb or 0 for one in made.points), default=0) if options.large else 0
    goals = [goal_record(goal, [], slope=made.slope, peak=peak or None) for goal in row.goals]
    return RowRecord(
        name=row.name, about=row.about, unit=row.unit, threads=threads, equal=row.equal, unequal=row.unequal,
        goals=goals, growth=made, reason="" if made.points else "only with --large",
    )  # fmt: skip


def _rates(threads: int, quick: bool) -> dict[str, float]:
    """Bandwidths and product rate with so many threads; nothing where that fails."""
    try:
        with Child(sys.executable, "augrec.bench.ours", threads=threads, environment=our_environment()) as child:
            return {key: float(value) for key, value in child.open("rates", {"size": 16 if quick else 256}).items()}
    except ArmFailed:
        return {}


def _machine(rates: dict[str, dict[str, float]]) -> MachineRecord:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [one for one in info.read_text(encoding="utf-8").splitlines() if one.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    return MachineRecord(
        processor=name, cores=cores(), memory_mb=memory, system=platform.platform(), python=platform.python_version(),
        torch=version("torch"), rates=rates,
    )  # fmt: skip
