"""One run from a resolved config to a run directory: split, train, evaluate, bundle, result."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch

from augrec import __version__
from augrec.backbones.base import InnerProductScorer, Scorer
from augrec.evaluate.protocol import EvaluateConfig, Evaluation, evaluate
from augrec.experiment.build import build, choose_threads, make_fabric, read_split, validator
from augrec.experiment.directory import RunDirectory
from augrec.experiment.registry import find
from augrec.serve.bundle import save_bundle
from augrec.train.callbacks import Callback, ProgressBar
from augrec.train.loop import Loop
from augrec.train.state import Checkpoints, Progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from augrec.data.interactions import Interactions
    from augrec.experiment.build import Parts
    from augrec.experiment.config import RunConfig
    from augrec.splits import Split


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run."""

    directory: Path
    result: dict[str, Any]
    """What result.json holds."""


@dataclass(frozen=True, kw_only=True)
class _Trained:
    scorer: Scorer
    progress: Progress
    prepare_seconds: float


def run(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    source: Any = None,
    callbacks: Sequence[Callback] | None = None,
    cache: Path | None = None,
) -> Run:
    """Trains `config` in the directory `out` and returns what it found. `source` stands in for reading `config.data`.

    Raises `UsageError` for a directory in use, `NumericalError` for a loss that is not finite, `Interrupted` after a
    signal.
    """
    with RunDirectory(out).open(resume=resume) as directory:
        if resume and directory.result.exists():
            return Run(directory=out, result=directory.read_json(directory.result))
        split = read_split(config, source)
        family = find(config.model, ("backbone", "baseline"), option="--model").family
        saved = directory.read_json(directory.config) if resume else None
        threads_before = torch.get_num_threads()
        try:
            if family == "baseline":
                trained, choices = _fit_baseline(config, split), {"threads": threads_before}
                directory.write_json(directory.config, _config_json(config, choices))
            else:
                watchers: list[Callback] = [ProgressBar(_title(config))] if callbacks is None else list(callbacks)
                trained = _train(config, split, directory, saved, watchers, cache)
            return _finish(config, split, directory, trained)
        finally:
            torch.set_num_threads(threads_before)


def _title(config: RunConfig) -> str:
    return " + ".join([config.model, *config.augment])


def _config_json(config: RunConfig, choices: Mapping[str, Any]) -> dict[str, Any]:
    return {"augrec": __version__, **config.to_json(), "choices": dict(choices)}


def _fit_baseline(config: RunConfig, split: Split) -> _Trained:
    kind = find(config.model, ("baseline",), option="--model").load()
    begun = time.perf_counter()
    log = split.history("test") if config.refit else split.train
    return _Trained(
        scorer=kind.fit(log, config=config.part(config.model)),
        progress=Progress(epoch_seconds=[round(time.perf_counter() - begun, 4)]),
        prepare_seconds=0.0,
    )


def select_metric(config: RunConfig) -> str:
    """The validation metric a run selects on."""
    chosen: str | None = config.part("train").select
    kind = find(config.model, ("backbone",), option="--model").load().kind
    return chosen or ("recall@20" if kind == "pairs" else "ndcg@10")


def _train(
    config: RunConfig,
    split: Split,
    directory: RunDirectory,
    saved: Mapping[str, Any] | None,
    watchers: list[Callback],
    cache: Path | None,
) -> _Trained:
    begun = time.perf_counter()
    parts = build(config, split.train, seed=config.seed, cache=cache)
    seconds = time.perf_counter() - begun
    if saved is not None:
        threads = int(saved["choices"]["threads"])
    else:
        threads = config.part("train").threads or choose_threads(parts)
        directory.write_json(directory.config, _config_json(config, {"threads": threads, "device": "cpu"}))
    torch.set_num_threads(threads)
    options: EvaluateConfig = config.part("evaluate")
    validate = None
    if len(split.valid):
        validate = validator(parts.step, lambda scorer: evaluate(scorer, split, "valid", options).metrics.mean)
    loop = _loop(config, parts, directory, "checkpoints", watchers, validate=validate, resume=saved is not None)
    progress = loop.run()
    if config.refit:
        again = replace(
            config,
            parts={
                **config.parts,
                "train": config.part("train").model_copy(update={"epochs": progress.best_epoch or progress.epoch}),
            },
        )
        parts = build(again, split.history("test"), seed=config.seed, cache=cache)
        _loop(again, parts, directory, "checkpoints-refit", watchers, validate=None, resume=saved is not None).run()
    return _Trained(scorer=InnerProductScorer(parts.step.backbone), progress=progress, prepare_seconds=seconds)


def _loop(
    config: RunConfig,
    parts: Parts,
    directory: RunDirectory,
    name: str,
    watchers: list[Callback],
    *,
    validate: Any,
    resume: bool,
) -> Loop:
    checkpoints = Checkpoints(directory.path / name)
    loop = Loop(
        fabric=make_fabric("cpu"),
        step=parts.step,
        batches=parts.batches,
        groups=parts.groups,
        config=config.part("train"),
        select=select_metric(config),
        validate=validate,
        checkpoints=checkpoints,
        metrics_file=directory.path / ("metrics.jsonl" if name == "checkpoints" else "metrics-refit.jsonl"),
        callbacks=watchers,
    )
    snapshot = checkpoints.latest() if resume else None
    if snapshot is not None:
        loop.resume(snapshot)
    elif resume and loop.metrics_file is not None:
        loop.metrics_file.unlink(missing_ok=True)
    return loop


def _finish(config: RunConfig, split: Split, directory: RunDirectory, trained: _Trained) -> Run:
    """Evaluates on validation and test by the run's protocol and by the other seen-items rule, writes bundle and
    result."""
    options: EvaluateConfig = config.part("evaluate")
    found = {}
    for part in ("valid", "test"):
        if len(getattr(split, part)):
            found[part] = evaluate(trained.scorer, split, part, options)
    evaluations = []
    if "test" in found:
        other = options.model_copy(update={"seen_items": "keep" if options.seen_items == "mask" else "mask"})
        evaluations = [entry(evaluate(trained.scorer, split, "test", other))]
        write_per_user(directory.per_user, found["test"], split.test)
    save_bundle(
        directory.bundle, model=config.model, model_config=config.part(config.model), scorer=trained.scorer, split=split
    )
    result = _result(config, split, trained, found, evaluations)
    directory.write_json(directory.result, result)
    return Run(directory=directory.path, result=result)


def entry(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as result.json lists it."""
    protocol = dict(evaluation.protocol)
    return {
        "protocol": protocol,
        "part": protocol["part"],
        "metrics": evaluation.metrics.mean,
        "diagnostics": evaluation.diagnostics,
        "seconds": round(evaluation.seconds, 3),
    }


def write_per_user(path: Path, evaluation: Evaluation, truth: Interactions) -> None:
    """Per-user metrics with original user ids, for paired tests."""
    metrics = evaluation.metrics
    frame = pl.DataFrame({"user": truth.users.take(metrics.users), **metrics.per_user})
    temporary = path.with_name(f".writing-{path.name}")
    frame.write_parquet(temporary)
    temporary.replace(path)


def _result(
    config: RunConfig,
    split: Split,
    trained: _Trained,
    found: Mapping[str, Evaluation],
    evaluations: list[dict[str, Any]],
) -> dict[str, Any]:
    whole, progress = split.train, trained.progress
    counts = {part: len(getattr(split, part)) for part in ("train", "valid", "test")}
    times = progress.epoch_seconds
    test = found.get("test")
    selected = None if progress.best_value is None else select_metric(config)
    deviations = ["preset published-code"] if config.preset == "published-code" else []
    return {
        "augrec": __version__,
        "data": {
            "name": whole.name,
            "sha256": whole.sha256,
            "users": whole.n_users,
            "items": whole.n_items,
            "interactions": sum(counts.values()),
        },
        "split": {"name": split.name, "sha256": split.sha256, **split.options, **counts},
        "protocol": {
            **(dict(test.protocol) if test else {}),
            "selected_on": f"valid {selected}" if selected else "nothing",
        },
        "model": config.model,
        "objective": config.objective,
        "augment": list(config.augment),
        "preset": config.preset,
        "seed": config.seed,
        "refit": config.refit,
        "epochs": {"run": progress.epoch, "best": progress.best_epoch, "stopped_early": progress.stopped_early},
        **{part: one.metrics.mean for part, one in found.items()},
        "beyond_accuracy": test.diagnostics if test else {},
        "evaluations": evaluations,
        "seconds": {
            "prepare": round(trained.prepare_seconds, 3),
            "train": round(sum(times), 3),
            "epoch_median": round(statistics.median(times), 4) if times else 0.0,
            "evaluate": round(test.seconds, 3) if test else 0.0,
        },
        "peak_rss_mb": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)
        ),
        "deviations": deviations,
    }
