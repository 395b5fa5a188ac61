"""The Python entrance: the same names and types as the command line."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from augrec.data.fetch import cache_folder
from augrec.data.interactions import Interactions
from augrec.data.readers import read_interactions
from augrec.errors import AugrecError, DataError, UsageError
from augrec.evaluate.protocol import evaluate
from augrec.experiment.build import read_split
from augrec.experiment.config import RunConfig, resolve
from augrec.experiment.directory import RunDirectory
from augrec.experiment.result import entry, sampled_entry
from augrec.experiment.run import run
from augrec.serve.bundle import load_bundle
from augrec.serve.recommender import Recommender

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import polars as pl

    from augrec.train.callbacks import Callback


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A finished run and what can be done with it."""

    directory: Path
    result: dict[str, Any]

    def recommend(self, users: Sequence[object] | None = None, *, k: int = 20, **options: Any) -> pl.DataFrame:
        """Top-k lists in original ids; see `Recommender.recommend`."""
        return self.recommender().recommend(users, k=k, **options)

    def recommender(self) -> Recommender:
        """The run's bundle, loaded."""
        return Recommender.load(RunDirectory(self.directory).bundle)

    def evaluate(
        self,
        *,
        protocol: Literal["full", "sampled99"] = "full",
        part: Literal["valid", "test"] = "test",
        seen_items: Literal["mask", "keep"] | None = None,
        data: Any = None,
    ) -> dict[str, Any]:
        """Evaluates the run's bundle by another protocol and notes it in result.json; see `evaluate_run`."""
        return evaluate_run(self.directory, protocol=protocol, part=part, seen_items=seen_items, data=data)


def train(
    data: Any = "beauty",
    *,
    model: str,
    objective: str | None = None,
    augment: Sequence[str] = (),
    preset: str = "default",
    split: str | None = None,
    seed: int = 0,
    epochs: int | None = None,
    refit: bool = False,
    protocol: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    callbacks: Sequence[Callback] | None = None,
    devices: int | None = None,
    num_nodes: int | None = None,
) -> TrainedRun:
    """Trains and evaluates one recommender.

    `data` is a name, a file, a data frame or `Interactions`. `out` is the run directory (default: `runs/` and a name
    from the settings). `protocol` is one of docs/protocols.md by its name (P1, P1d, P2). `overrides` sets typed fields
    by part: `{"adar": {"weight": 0.2}}`. `resume` goes on with the run in `out`; its settings are read from there.
    `devices` processes on each of `num_nodes` machines share the run: the calling program is started again for each,
    and all of them return the same (see docs/distributed.md). Raises `UsageError` and its kind for whatever is wrong
    with the arguments.
    """
    source = _source(data)
    if source is not None:
        data = source.name
    if resume:
        directory = RunDirectory(Path(out)) if out is not None else None
        if directory is None or not directory.config.exists():
            raise UsageError(
                f"{out or '--resume'}: holds no run to resume (config.json is missing); leave out --resume to start one"
            )
        config = RunConfig.from_json(directory.read_json(directory.config))
    else:
        config = resolve(
            data=str(data), model=model, objective=objective, augment=augment, preset=preset, split=split, seed=seed,
            epochs=epochs, refit=refit, protocol=protocol, overrides=overrides,
        )  # fmt: skip
    folder = Path(out) if out is not None else default_directory(config)
    with _nothing_left(folder):
        done = run(
            config, folder, resume=resume, source=source, callbacks=callbacks, cache=prepared_cache(),
            devices=devices, num_nodes=num_nodes,
        )  # fmt: skip
    return TrainedRun(directory=done.directory, result=done.result)


def _source(data: Any) -> Interactions | None:
    """The log where `data` is one already, or a data frame; None for a name, a path or nothing."""
    if data is None or isinstance(data, str | Path):
        return None
    return data if isinstance(data, Interactions) else read_interactions(data)


@contextmanager
def _nothing_left(folder: Path) -> Iterator[None]:
    """A run that is refused leaves no folder behind that was not there before."""
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        yield
    except UsageError:
        if new and folder.is_dir() and {one.name for one in folder.iterdir()} <= {".lock"}:
            (folder / ".lock").unlink(missing_ok=True)
            for one in new:
                with suppress(OSError):
                    one.rmdir()
        raise


def default_directory(config: RunConfig) -> Path:
    """`runs/<data>-<model>-<objective>-<augmentations>-seed<n>`."""
    name = "-".join(
        [Path(config.data).stem, config.model, *([config.objective] if config.objective else []), *config.augment]
    )
    return Path("runs") / f"{name}-seed{config.seed}"


def prepared_cache() -> Path:
    """Where prepared states are shared between runs."""
    return cache_folder(None) / "prepared"


def open_run(directory: str | Path) -> TrainedRun:
    """A finished run from its directory. Raises `UsageError` where there is none."""
    place = _finished(directory)
    return TrainedRun(directory=place.path, result=place.read_json(place.result))


def _finished(directory: str | Path) -> RunDirectory:
    place = RunDirectory(Path(directory))
    if not place.path.is_dir():
        raise UsageError(f"{place.path}: no such run directory; `augrec train` prints where it wrote the run")
    if place.config.exists() and not place.result.exists():
        raise UsageError(
            f"{place.path}: this run is not finished; go on with: augrec train --resume --out {place.path}"
        )
    return place


def evaluate_run(
    directory: str | Path,
    *,
    protocol: Literal["full", "sampled99"] = "full",
    part: Literal["valid", "test"] = "test",
    seen_items: Literal["mask", "keep"] | None = None,
    data: Any = None,
) -> dict[str, Any]:
    """Evaluates a run's bundle on its own split, read again from the data, and adds the figures to result.json.

    "full" ranks the whole catalogue; "sampled99" ranks the target among 99 seeded negatives, a biased protocol, and
    says so. `data` is the run's data where it has moved since, or was a data frame. Raises `UsageError` where it is
    not the data the run was made on.
    """
    place = _finished(directory)
    result = place.read_json(place.result)
    config = RunConfig.from_json(place.read_json(place.config))
    if not isinstance(result.get("split"), dict) or not isinstance(result.get("evaluations"), list):
        raise AugrecError(f"{place.result}: is damaged (no split or no evaluations); train again")
    try:
        split = read_split(config if data is None else replace(config, data=str(data)), _source(data))
    except DataError as error:
        raise DataError(f"{error} (the data of run {place.path}; where it has moved, give it with --data)") from None
    known = str(result["split"].get("sha256"))
    if split.sha256 != known:
        raise UsageError(
            f"{place.path}: the data is not what the run was made on (split {split.sha256[:12]}, run {known[:12]}); "
            f"give the run's own data with --data, or train again"
        )
    scorer = load_bundle(place.bundle).scorer
    options = config.part("evaluate")
    if seen_items is not None:
        options = options.model_copy(update={"seen_items": seen_items})
    if protocol == "full":
        found = entry(evaluate(scorer, split, part, options))
    else:
        found = sampled_entry(scorer, split, part, config.seed)
    kept = [one for one in result["evaluations"] if one["protocol"] != found["protocol"]]
    place.write_json(place.result, {**result, "evaluations": [*kept, found]})
    return found
