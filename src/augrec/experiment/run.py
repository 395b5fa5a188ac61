"""One run from a resolved config to a run directory: split, train, evaluate, bundle, result."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch

from augrec import __version__
from augrec.backbones.base import InnerProductScorer
from augrec.errors import UsageError
from augrec.evaluate.protocol import EvaluateConfig, Evaluation, evaluate
from augrec.evaluate.sampled import SampledConfig, evaluate_sampled
from augrec.experiment.build import build, choose_threads, make_fabric, read_split, validator
from augrec.experiment.directory import RunDirectory
from augrec.experiment.registry import find
from augrec.experiment.result import Trained, describe_result, select_metric
from augrec.serve.bundle import save_bundle
from augrec.storage import write_file
from augrec.train.callbacks import Callback, ProgressBar
from augrec.train.loop import Loop
from augrec.train.state import Checkpoints, Progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from augrec.backbones.base import Scorer
    from augrec.evaluate.metrics import Metrics
    from augrec.experiment.build import Parts
    from augrec.experiment.config import RunConfig
    from augrec.splits import Split


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run."""

    directory: Path
    result: dict[str, Any]
    """What result.json holds."""


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
        choices: dict[str, Any] = {"split": split.sha256, "device": "cpu"}
        if resume:
            choices |= directory.read_json(directory.config).get("choices", {})
            if choices["split"] != split.sha256:
                raise UsageError(
                    f"{out}: the data is not what the run was started on (split {split.sha256[:12]}, run "
                    f"{choices['split'][:12]}); restore the data, or start again with another --out"
                )
        else:
            directory.write_json(directory.config, _config_json(config, choices))
        threads_before = torch.get_num_threads()
        try:
            if family == "baseline":
                trained = _fit_baseline(config, split)
            else:
                watchers: list[Callback] = [ProgressBar(_title(config))] if callbacks is None else list(callbacks)
                trained = _train(config, split, directory, choices, resume, watchers, cache)
            return _finish(config, split, directory, trained)
        except UsageError:
            # Refused before anything was made: the directory is free for the mended command.
            if not directory.checkpoints.exists():
                directory.config.unlink(missing_ok=True)
            raise
        finally:
            torch.set_num_threads(threads_before)


def _title(config: RunConfig) -> str:
    return " + ".join([config.model, *config.augment])


def _config_json(config: RunConfig, choices: Mapping[str, Any]) -> dict[str, Any]:
    return {"augrec": __version__, **config.to_json(), "choices": dict(choices)}


def _fit_baseline(config: RunConfig, split: Split) -> Trained:
    kind = find(config.model, ("baseline",), option="--model").load()
    begun = time.perf_counter()
    scorer, valid = kind.fit(split.train, config=config.part(config.model)), None
    seconds, refit_seconds = time.perf_counter() - begun, 0.0
    if config.refit:
        valid = _validation(config, split, scorer)
        begun = time.perf_counter()
        scorer = kind.fit(split.history("test"), config=config.part(config.model))
        refit_seconds = time.perf_counter() - begun
    return Trained(
        scorer=scorer,
        progress=Progress(epoch_seconds=[round(seconds, 4)]),
        prepare_seconds=0.0,
        refit_seconds=refit_seconds,
        valid=valid,
    )


def _validation(config: RunConfig, split: Split, scorer: Scorer) -> Evaluation | None:
    return evaluate(scorer, split, "valid", config.part("evaluate")) if len(split.valid) else None


def _train(
    config: RunConfig,
    split: Split,
    directory: RunDirectory,
    choices: dict[str, Any],
    resume: bool,
    watchers: list[Callback],
    cache: Path | None,
) -> Trained:
    select_metric(config)
    begun = time.perf_counter()
    parts = build(config, split.train, seed=config.seed, cache=cache)
    seconds = time.perf_counter() - begun
    if "threads" not in choices:
        choices["threads"] = config.part("train").threads or choose_threads(parts)
        directory.write_json(directory.config, _config_json(config, choices))
    torch.set_num_threads(int(choices["threads"]))
    options: EvaluateConfig = config.part("evaluate")
    validate, part = None, config.part("train").select_part
    if part == "test" or len(split.valid):
        validate = validator(parts.step, lambda scorer: evaluate(scorer, split, part, options).metrics.mean)
    loop = _loop(config, parts, directory, "checkpoints", watchers, validate=validate, resume=resume)
    progress = loop.run()
    valid, refit_seconds = None, 0.0
    if config.refit:
        valid = _validation(config, split, InnerProductScorer(parts.step.backbone))
        again = replace(
            config,
            parts={
                **config.parts,
                "train": config.part("train").model_copy(update={"epochs": progress.best_epoch or progress.epoch}),
            },
        )
        parts = build(again, split.history("test"), seed=config.seed, cache=cache)
        loop = _loop(again, parts, directory, "checkpoints-refit", watchers, validate=None, resume=resume)
        refit_seconds = sum(loop.run().epoch_seconds)
    return Trained(
        scorer=InnerProductScorer(parts.step.backbone),
        progress=progress,
        prepare_seconds=seconds,
        refit_seconds=refit_seconds,
        valid=valid,
    )


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


def _finish(config: RunConfig, split: Split, directory: RunDirectory, trained: Trained) -> Run:
    """Evaluates on validation and test by the run's protocol and by the other seen-items rule, writes bundle and
    result."""
    options: EvaluateConfig = config.part("evaluate")
    found = {}
    valid = trained.valid if config.refit else _validation(config, split, trained.scorer)
    if valid is not None:
        found["valid"] = valid
    if len(split.test):
        found["test"] = evaluate(trained.scorer, split, "test", options)
    evaluations = []
    if "test" in found:
        other = options.model_copy(update={"seen_items": "keep" if options.seen_items == "mask" else "mask"})
        evaluations = [entry(evaluate(trained.scorer, split, "test", other))]
        write_per_user(directory.per_user, found["test"].metrics, split)
    unmade: list[str] = []
    for part in found if options.sampled else ():
        try:
            evaluations.append(sampled_entry(trained.scorer, split, part, config.seed))
        except UsageError as error:  # too few items to sample from: no reason to lose a trained run
            unmade.append(f"evaluate.sampled on {part} was not made: {error}")
    save_bundle(
        directory.bundle, model=config.model, model_config=config.part(config.model), scorer=trained.scorer, split=split
    )
    result = describe_result(config, split, trained, found, evaluations)
    result["deviations"] += unmade
    directory.write_json(directory.result, result)
    return Run(directory=directory.path, result=result)


def sampled_entry(scorer: Scorer, split: Split, part: Any, seed: int) -> dict[str, Any]:
    """An evaluation among 99 sampled negatives as result.json lists it."""
    sampled = evaluate_sampled(scorer, split, part, SampledConfig(seed=seed))
    return {
        "protocol": dict(sampled.protocol),
        "part": part,
        "metrics": sampled.metrics.mean,
        "seconds": round(sampled.seconds, 3),
    }


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


def write_per_user(path: Path, metrics: Metrics, split: Split) -> None:
    """Per-user test metrics with original user ids and the number of train events, for paired tests and groups."""
    columns = {"user": split.test.users.take(metrics.users), "train_events": split.train.degrees()[metrics.users]}
    buffer = io.BytesIO()
    pl.DataFrame({**columns, **metrics.per_user}).write_parquet(buffer)
    write_file(path, buffer.getvalue())
