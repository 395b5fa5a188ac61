"""Many runs, one after another, each in a directory named after its settings: the same call again goes on where the
last one stopped, and two questions that need the same run share it."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from augrec import __version__
from augrec.data.catalog import load
from augrec.errors import AugrecError, Interrupted, NumericalError, UsageError
from augrec.experiment.api import prepared_cache
from augrec.experiment.build import read_split
from augrec.experiment.config import RunConfig, resolve
from augrec.experiment.directory import RunDirectory, locked
from augrec.experiment.registry import entries
from augrec.experiment.run import run
from augrec.experiment.spread import job_of, perform_all
from augrec.storage import write_bytes, write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from augrec.data.interactions import Interactions
    from augrec.experiment.spread import Job, Spread
    from augrec.train.callbacks import Callback


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One run that is wanted."""

    cell: str
    config: RunConfig


@dataclass(frozen=True, kw_only=True)
class Finished:
    """One run that is done."""

    cell: str
    config: RunConfig
    directory: Path
    result: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a call of `Grid.run` leaves: runs done, runs the budget did not reach, runs that cannot be made."""

    finished: tuple[Finished, ...] = ()
    left: tuple[Planned, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    """Reasons by "cell seed n"."""


def config_hash(config: RunConfig) -> str:
    """16 hexadecimal digits of SHA-256 over all settings of a run; equal settings give equal names."""
    text = json.dumps(config.to_json(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def round_robin(cells: Mapping[str, Sequence[RunConfig]]) -> list[Planned]:
    """The first run of every cell, then the second of every cell and so on, so that a grid cut short is balanced."""
    longest = max((len(configs) for configs in cells.values()), default=0)
    return [
        Planned(cell=name, config=configs[n])
        for n in range(longest)
        for name, configs in cells.items()
        if n < len(configs)
    ]


def command_of(config: RunConfig, *, threads: int | None = None) -> str:
    """The `augrec train` command that makes a run again: its names, and `--set` for each field that is not what these
    names alone give. `threads` are those the run had measured."""
    names: dict[str, Any] = {"data": config.data, "model": config.model, "objective": config.objective}
    names |= {"augment": config.augment, "preset": config.preset, "seed": config.seed, "refit": config.refit}
    kind = config.part("split").kind
    words = ["augrec", "train", "--data", config.data, "--model", config.model]
    if config.objective is not None:
        words += ["--objective", config.objective]
    if config.augment:
        words += ["--augment", ",".join(config.augment), "--preset", config.preset]
    words += ["--split", kind, "--seed", str(config.seed), *(["--refit"] if config.refit else [])]
    plain = resolve(**names, split=kind)
    for name, part in config.parts.items():
        usual = plain.part(name).model_dump(mode="json")
        for key, value in part.model_dump(mode="json").items():
            if key == "threads" and name == "train" and value is None:
                value = threads
            if value != usual[key]:
                words += ["--set", f"{name}.{key}={_as_text(value)}"]
    return shlex.join(words)


def _as_text(value: Any) -> str:
    """A value as `--set` reads it back: text bare unless it would read as JSON."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except ValueError:
        return value
    return json.dumps(value)


def versions() -> dict[str, str]:
    """Versions of what computes."""
    found = {"augrec": __version__, "python": platform.python_version()}
    return found | {name: version(name) for name in ("torch", "numpy", "scipy", "polars")}


def say(text: str) -> None:
    """A line on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class Grid:
    """Runs below one folder: `runs/<hash of the settings>/` and a line in `ledger.jsonl` for each that is finished.

    The time budget starts with the object and is looked at between runs: a run that has begun is finished.
    """

    def __init__(
        self,
        out: Path,
        *,
        source: Interactions | None = None,
        budget_minutes: float | None = None,
        callbacks: Callable[[Planned], Sequence[Callback]] | None = None,
        data_dir: Path | None = None,
        spread: Spread | None = None,
    ) -> None:
        """`source` stands in for reading the runs' data, `data_dir` for the folder AUGREC_DATA. `callbacks` gives the
        watchers of each run; by default a progress bar. `spread` makes runs side by side elsewhere, unwatched, on
        data read by name. Raises `UsageError` for a budget that is not above 0."""
        if spread is not None and source is not None:
            raise UsageError("--workers, --ray: name the data or give a file; workers cannot see a log in memory")
        if budget_minutes is not None and not budget_minutes > 0:
            raise UsageError(f"--budget-minutes: must be above 0 (got {budget_minutes:g})")
        self.out, self.source, self.data_dir = out, source, data_dir
        self.budget_minutes, self.callbacks, self.spread = budget_minutes, callbacks, spread
        self.ledger = out / "ledger.jsonl"
        self.finished: dict[str, Finished] = {}
        """Every finished run that was asked for so far, by the hash of its settings."""
        self._begun = time.monotonic()
        self._logs: dict[str, Interactions] = {}
        self._splits: dict[str, str] = {}

    def directory(self, config: RunConfig) -> RunDirectory:
        """Where a run lies, made or not."""
        return RunDirectory(self.out / "runs" / config_hash(config))

    def spent(self) -> bool:
        """Whether the time budget is used up."""
        return self.budget_minutes is not None and time.monotonic() - self._begun >= 60 * self.budget_minutes

    def run(self, planned: Sequence[Planned]) -> Outcome:
        """Makes the runs in their order; finished ones are read, begun ones resumed.

        A baseline that refuses the data and a run whose loss is not finite are noted and left out. Raises `UsageError`
        where a finished run was made on other data, and `Interrupted` after a signal, with the state saved.
        """
        finished: list[Finished] = []
        left: list[Planned] = []
        refused: dict[str, str] = {}
        with locked(self.out):
            failed = self._side_by_side(planned)
            for number, one in enumerate(planned, 1):
                title = f"{one.cell} seed {one.config.seed}"
                place = self.directory(one.config)
                unmade = not place.result.exists() and place.path.name not in failed
                if unmade and (self.spread is not None or self.spent()):
                    left.append(one)
                    continue
                known = "read" if place.result.exists() else "resumed" if place.config.exists() else "new"
                say(f"[{number}/{len(planned)}] {title} ({known})")
                try:
                    if place.path.name in failed:
                        raise failed[place.path.name]
                    done = self._one(one, place)
                except Interrupted as stop:
                    stop.args = ("stopped; the state is saved, give the same command again to go on",)
                    raise
                except NumericalError as error:
                    refused[title] = str(error)
                except UsageError as error:
                    if entries()[one.config.model].family != "baseline":
                        raise
                    refused[title] = str(error)
                else:
                    finished.append(done)
                    self.finished[done.directory.name] = done
                if title in refused:
                    say(f"{title} is left out: {refused[title]}")
        return Outcome(finished=tuple(finished), left=tuple(left), refused=refused)

    def _side_by_side(self, planned: Sequence[Planned]) -> Mapping[str, AugrecError]:
        """Has the runs that are missing made by the workers; the errors of those that cannot be, by directory."""
        if self.spread is None:
            return {}
        spread = self.spread

        def job(one: Planned, place: RunDirectory) -> Job:
            known = "resumed" if place.config.exists() else "new"
            say(f"{one.cell} seed {one.config.seed} ({known}, by a worker)")
            return job_of(one.config, place.path, data_dir=self.data_dir, threads=spread.threads)

        places = [(one, self.directory(one.config)) for one in planned]
        missing = {place.path.name: (one, place) for one, place in places if not place.result.exists()}
        try:
            jobs = [(name, partial(job, *what)) for name, what in missing.items()]
            return perform_all(spread, jobs, spent=self.spent)
        except Interrupted as stop:
            stop.args = ("stopped; the state is saved, give the same command again to go on",)
            raise

    def _one(self, one: Planned, place: RunDirectory) -> Finished:
        if place.result.exists():
            result = place.read_json(place.result)
            if result["split"]["sha256"] != self.split_of(one.config):
                raise AugrecError(
                    f"{place.path}: this run was made on other data or another split than '{one.config.data}' gives "
                    f"now; restore the data, or choose another --out"
                )
        else:
            watchers = None if self.callbacks is None else self.callbacks(one)
            result = run(
                one.config, place.path, resume=place.config.exists(), source=self.log_of(one.config),
                callbacks=watchers, cache=prepared_cache(),
            ).result  # fmt: skip
        done = Finished(cell=one.cell, config=one.config, directory=place.path, result=result)
        self._note(done)
        return done

    def log_of(self, config: RunConfig) -> Interactions:
        """The run's log, read once."""
        if self.source is not None:
            return self.source
        if config.data not in self._logs:
            self._logs[config.data] = load(config.data, folder=self.data_dir)
        return self._logs[config.data]

    def split_of(self, config: RunConfig) -> str:
        """The provenance hash of the split the run's data give now."""
        parts = [config.part(name).model_dump(mode="json") for name in ("data", "split")]
        key = json.dumps([config.data, *parts], sort_keys=True)
        if key not in self._splits:
            self._splits[key] = read_split(config, self.log_of(config)).sha256
        return self._splits[key]

    def _note(self, done: Finished) -> None:
        """A line in the ledger, unless it is there: a process may die between a run's result and its line."""
        key = {"cell": done.cell, "seed": done.config.seed, "config": done.directory.name}
        lines = read_lines(self.ledger)
        if any(all(line.get(name) == value for name, value in key.items()) for line in lines):
            return
        line = key | {"directory": f"runs/{done.directory.name}"} | describe_run(done)
        write_bytes(self.ledger, json.dumps(line, ensure_ascii=False).encode() + b"\n", append=True)


def describe_run(done: Finished) -> dict[str, Any]:
    """What a ledger says of a finished run, beside its name."""
    place, result = RunDirectory(done.directory), done.result
    threads = place.read_json(place.config).get("choices", {}).get("threads")
    return {
        "data": result["data"],
        "split": result["split"]["sha256"],
        **{name: result.get(name) for name in ("protocol", "valid", "test", "beyond_accuracy", "epochs")},
        "seconds": result["seconds"],
        "threads": threads,
        "versions": versions() | {"augrec": result["augrec"]},
        "command": command_of(done.config, threads=threads),
    }


def read_lines(ledger: Path) -> list[dict[str, Any]]:
    """The lines of a ledger; a last one without an end, from a process that died while writing, is removed."""
    if not ledger.exists():
        return []
    content = ledger.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        write_file(ledger, whole)
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise AugrecError(f"{ledger}: holds a line that is not JSON ({error}); move it away and start again") from None
