"""A search over typed fields with Optuna: on validation only, pruned, kept in SQLite and resumed by the same call."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from augrec import __version__
from augrec.data.interactions import Interactions
from augrec.data.readers import read_interactions
from augrec.errors import AugrecError, Interrupted, NumericalError, UsageError
from augrec.experiment.api import prepared_cache
from augrec.experiment.config import RunConfig, resolve
from augrec.experiment.directory import locked
from augrec.experiment.grid import Grid, command_of, config_hash, say, versions
from augrec.experiment.paired import metric_names
from augrec.experiment.protocols import spelled_out
from augrec.experiment.registry import find, nearest
from augrec.experiment.result import select_metric
from augrec.experiment.run import run
from augrec.experiment.search import Choices, Range, read_search
from augrec.storage import write_file
from augrec.train.callbacks import Callback
from augrec.train.streams import seed_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from augrec.experiment.directory import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A finished search."""

    directory: Path
    record: dict[str, Any]
    """What trials.json holds."""


class _Pruned(Exception):
    """Leaves a run that the pruner has given up."""


class _Reporter(Callback):
    """Tells a trial the validation value of each epoch and leaves the run when the pruner says so."""

    def __init__(self, trial: Any, metric: str, past: Path) -> None:
        """`past` is the run's metrics.jsonl: a resumed run does not validate its earlier epochs again."""
        self.trial, self.metric, self.epochs = trial, metric, 0
        self._told: set[int] = set()
        for line in past.read_bytes().splitlines(keepends=True) if past.exists() else ():
            if line.endswith(b"\n"):  # a process may die while writing the last one
                self._report(json.loads(line))

    def _report(self, line: Mapping[str, Any]) -> bool:
        self.epochs = max(self.epochs, line["epoch"])
        if line["valid"] is None:
            return False
        if line["epoch"] not in self._told:
            self._told.add(line["epoch"])
            self.trial.report(line["valid"][self.metric], line["epoch"])
        return bool(self.trial.should_prune())

    def on_epoch_end(self, line: Mapping[str, Any]) -> None:
        if self._report(line):
            raise _Pruned


def tune(
    data: Any = "beauty",
    *,
    model: str,
    search: Sequence[str],
    augment: Sequence[str] = (),
    objective: str | None = None,
    preset: str = "default",
    split: str | None = None,
    protocol: str | None = None,
    trials: int = 20,
    metric: str | None = None,
    seed: int = 0,
    epochs: int | None = None,
    startup_trials: int = 5,
    warmup_epochs: int = 5,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    out: str | Path | None = None,
    callbacks: Callable[[RunConfig], Sequence[Callback]] | None = None,
) -> Tuning:
    """Runs trials until `trials` have ended (completed, pruned or diverged) and returns all of them.

    `search` holds texts as `read_search` takes them, `protocol` is one of docs/protocols.md by its name. The objective
    is the best validation `metric`, which early stopping selects on too; no test figure is read. A trial is given up by
    the median rule (Golovin et al., KDD 2017) after `startup_trials` completed ones and `warmup_epochs` epochs. TPE is
    seeded by `seed` and the number of ended trials, so a search that was interrupted proposes what an uninterrupted one
    would.

    Raises `UsageError` where Optuna is missing, where `out` holds another search, and for everything wrong with the
    arguments, before anything is trained.
    """
    optuna = load_optuna()
    source = None
    if not isinstance(data, str | Path):
        source = data if isinstance(data, Interactions) else read_interactions(data)
        data = source.name
    if trials < 1 or startup_trials < 1 or warmup_epochs < 0 or seed < 0:
        raise UsageError(
            f"--trials and --startup-trials must be at least 1, --warmup-epochs and --seed at least 0 (got {trials}, "
            f"{startup_trials}, {warmup_epochs}, {seed})"
        )
    if protocol is not None:
        objective, split, overrides = spelled_out(
            protocol, model=model, objective=objective, split=split, overrides=overrides
        )
    given = {part: dict(fields) for part, fields in (overrides or {}).items()}
    if metric is not None:
        given.setdefault("train", {})["select"] = metric

    def settings(values: Mapping[str, Mapping[str, Any]]) -> RunConfig:
        merged = {part: {**given.get(part, {}), **values.get(part, {})} for part in {**given, **values}}
        return resolve(
            data=str(data), model=model, objective=objective, augment=augment, preset=preset, split=split, seed=seed,
            epochs=epochs, overrides=merged,
        )  # fmt: skip

    base = settings({})
    space = read_search(search, settings)
    for path in space:
        part, _, name = path.rpartition(".")
        if name in (overrides or {}).get(part, {}):
            raise UsageError(f"--search {path}=… and --set {path}=…: give one of them")
    measured = metric or "recall@20"
    if measured not in metric_names(base):
        known = metric_names(base)
        raise UsageError(f"--metric: unknown metric '{measured}'{nearest(measured, known)} Known: {', '.join(known)}")
    if find(model, ("backbone", "baseline"), option="--model").family == "backbone":
        measured = select_metric(base)
    folder = Path(out) if out is not None else _folder(base)
    grid = Grid(folder, source=source)
    identity: dict[str, Any] = {
        "settings": base.to_json(),
        "search": {path: asdict(one) for path, one in space.items()},
    }
    identity |= {"metric": measured, "startup_trials": startup_trials, "warmup_epochs": warmup_epochs}
    identity["split"] = grid.split_of(base)
    with locked(folder), _study(optuna, folder, identity) as study:
        study.pruner = optuna.pruners.MedianPruner(
            n_startup_trials=startup_trials, n_warmup_steps=warmup_epochs, interval_steps=1
        )
        while (ended := _ended(optuna, study)) < trials:
            study.sampler = optuna.samplers.TPESampler(seed=seed_of(seed, f"tune/{ended}") % 2**32)
            trial = study.ask()
            values = {path: suggest(trial, path, one) for path, one in space.items()}
            say(f"trial {ended + 1} of {trials}: " + ", ".join(f"{path}={value}" for path, value in values.items()))
            config = settings(_by_part(values))
            trial.set_user_attr("directory", f"runs/{config_hash(config)}")
            _one(optuna, study, trial, config, grid, measured, () if callbacks is None else callbacks(config))
        record = _record(optuna, study, space, measured, settings)
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        write_file(folder / "trials.json", text.encode())
    return Tuning(directory=folder, record=record)


def load_optuna() -> Any:
    """The package, or a `UsageError` that says how to get it."""
    try:
        import optuna
    except ImportError:
        raise UsageError(
            "augrec tune needs Optuna, which is not installed; get it with: pip install augrec[tune]"
        ) from None
    return optuna


def _folder(base: RunConfig) -> Path:
    names = [Path(base.data).stem, base.model, *([base.objective] if base.objective else []), *base.augment]
    return Path("runs") / "-".join(["tune", *names])


@contextmanager
def _study(optuna: Any, folder: Path, identity: Mapping[str, Any]) -> Iterator[Any]:
    """The study of this search in the folder, made or opened. Trials that a dead process left open are closed."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{(folder / 'study.db').resolve()}")
    except Exception as error:
        optuna.logging.set_verbosity(level)
        reason = str(error).splitlines()[0]
        raise AugrecError(f"{folder / 'study.db'}: cannot be opened as a study ({reason})") from None
    try:
        study = optuna.create_study(storage=storage, study_name="augrec", direction="maximize", load_if_exists=True)
        written = json.dumps(identity, sort_keys=True)
        if study.user_attrs.get("identity", written) != written:
            raise UsageError(
                f"{folder}: holds a search with other settings, fields or data; give the same command to go on with "
                f"it, or choose another --out"
            )
        study.set_user_attr("identity", written)
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()
        optuna.logging.set_verbosity(level)


def _ended(optuna: Any, study: Any) -> int:
    """Trials that count: a failed one was cut off by the end of its process and is proposed again."""
    states = optuna.trial.TrialState
    return len(study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED)))


def suggest(trial: Any, path: str, field: Choices | Range) -> Any:
    """The trial's value of one field."""
    if isinstance(field, Choices):
        return trial.suggest_categorical(path, list(field.values))
    if field.whole:
        return trial.suggest_int(path, int(field.low), int(field.high), log=field.log)
    return trial.suggest_float(path, field.low, field.high, log=field.log)


def _by_part(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        part, _, name = path.rpartition(".")
        found.setdefault(part, {})[name] = value
    return found


def _one(
    optuna: Any, study: Any, trial: Any, config: RunConfig, grid: Grid, metric: str, watchers: Sequence[Callback]
) -> None:
    """Runs one trial in its directory and tells the study. A loss that is not finite ends the trial, not the search."""
    place: RunDirectory = grid.directory(config)
    states = optuna.trial.TrialState
    reporter = _Reporter(trial, metric, place.metrics)
    try:
        result = run(
            config, place.path, resume=place.config.exists(), source=grid.log_of(config),
            callbacks=[*watchers, reporter], cache=prepared_cache(),
        ).result  # fmt: skip
    except _Pruned:
        trial.set_user_attr("epochs", reporter.epochs)
        study.tell(trial, state=states.PRUNED)
    except NumericalError as error:
        trial.set_user_attr("diverged", str(error))
        study.tell(trial, state=states.PRUNED)
    except Interrupted as stop:
        stop.args = ("stopped; the state is saved, give the same command again to go on",)
        raise
    else:
        if "valid" not in result:
            raise UsageError("a search needs a validation part, and this split has none; set split.valid above 0")
        trial.set_user_attr("epochs", result["epochs"]["run"])
        study.tell(trial, result["valid"][metric])


def _record(
    optuna: Any, study: Any, space: Mapping[str, Choices | Range], metric: str, settings: Callable[..., RunConfig]
) -> dict[str, Any]:
    """All ended trials and the best of the completed ones; of equals the first."""
    states = optuna.trial.TrialState
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))):
        complete = one.state == states.COMPLETE
        seen = one.intermediate_values
        rows.append(
            {
                "number": number,
                "values": dict(one.params),
                "value": one.value if complete else max(seen.values(), default=None),
                "state": "complete" if complete else "diverged" if "diverged" in one.user_attrs else "pruned",
                "epochs": one.user_attrs.get("epochs", max(seen, default=0)),
                "directory": one.user_attrs["directory"],
                "curve": {str(epoch): value for epoch, value in sorted(seen.items())},
            }
        )
    best = max((row for row in rows if row["state"] == "complete"), key=lambda row: row["value"], default=None)
    if best is not None:
        chosen = settings(_by_part(best["values"]))
        best = {key: best[key] for key in ("number", "values", "value")} | {"command": command_of(chosen)}
    return {
        "augrec": __version__,
        "versions": versions() | {"optuna": optuna.__version__},
        "metric": metric,
        "selected_on": f"valid {metric}; no test figure was read",
        "search": {path: asdict(one) for path, one in space.items()},
        "best": best,
        "trials": rows,
    }
