"""One run from a resolved config to a run directory: split, train, evaluate, bundle, result."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from augrec import __version__
from augrec.backbones.base import InnerProductScorer
from augrec.errors import UsageError
from augrec.evaluate.protocol import EvaluateConfig, Evaluation
from augrec.evaluate.sampled import PREFIX
from augrec.experiment.build import build, choose_threads, make_fabric, read_split, validator
from augrec.experiment.directory import RunDirectory
from augrec.experiment.processes import Processes
from augrec.experiment.registry import find
from augrec.experiment.result import (
    Trained,
    describe_result,
    entry,
    sampled_entry,
    sampled_figures,
    select_metric,
    write_per_user,
)
from augrec.serve.bundle import save_bundle
from augrec.train.callbacks import Callback, ProgressBar
from augrec.train.loop import Loop
from augrec.train.state import Checkpoints, Progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from augrec.backbones.base import Scorer
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
    threads: int | None = None,
    devices: int | None = None,
    num_nodes: int | None = None,
) -> Run:
    """Trains `config` in the directory `out` and returns what it found. `source` stands in for reading `config.data`;
    `threads` are used where the config names none, instead of measuring.

    `devices` processes on each of `num_nodes` machines share the run (by default one, or what torchrun has started);
    process 0 writes the directory, and the others run the same program and get the same result. Its losses are those
    of one process but for rounding and for dropout.

    Raises `UsageError` for a directory in use, `NumericalError` for a loss that is not finite, `Interrupted` after a
    signal, `ProcessError` where another process of the run has ended.
    """
    directory = RunDirectory(out)
    with ExitStack() as stack:
        processes = stack.enter_context(Processes(devices=devices, num_nodes=num_nodes, threads=threads))
        if processes.first:
            stack.enter_context(directory.open(resume=resume))
        if resume and directory.result.exists():
            return Run(directory=out, result=directory.read_json(directory.result))
        split = read_split(config, source)
        family = find(config.model, ("backbone", "baseline"), option="--model").family
        if family == "baseline" and processes.place.world > 1:
            raise UsageError(f"--devices, --num-nodes: {config.model} is fitted in closed form by one process")
        choices: dict[str, Any] = {"split": split.sha256, "device": "cpu"}
        if resume:
            choices |= _choices(directory, split, processes)
        elif processes.first:
            directory.write_json(directory.config, _config_json(config, choices))
        threads_before = torch.get_num_threads()
        try:
            if family == "baseline":
                trained = _fit_baseline(config, split, processes)
            else:
                watchers: list[Callback] = [ProgressBar(_title(config))] if callbacks is None else list(callbacks)
                trained = _train(config, split, directory, choices, resume, watchers, cache, processes)
            return _finish(config, split, directory, trained, processes)
        except UsageError:
            # Refused before anything was made: the directory is free for the mended command.
            if processes.first and not directory.checkpoints.exists():
                directory.config.unlink(missing_ok=True)
            raise
        finally:
            torch.set_num_threads(threads_before)


def _choices(directory: RunDirectory, split: Split, processes: Processes) -> dict[str, Any]:
    """What a run that goes on had chosen; threads are chosen anew where the number of processes is another."""
    found: dict[str, Any] = directory.read_json(directory.config).get("choices", {})
    known = found.get("split", split.sha256)
    if known != split.sha256:
        raise UsageError(
            f"{directory.path}: the data is not what the run was started on (split {split.sha256[:12]}, run "
            f"{known[:12]}); restore the data, or start again with another --out"
        )
    if found.get("processes", 1) != processes.place.world:
        found = {key: value for key, value in found.items() if key not in ("threads", "processes")}
    return found


def _title(config: RunConfig) -> str:
    return " + ".join([config.model, *config.augment])


def _config_json(config: RunConfig, choices: Mapping[str, Any]) -> dict[str, Any]:
    return {"augrec": __version__, **config.to_json(), "choices": dict(choices)}


def _fit_baseline(config: RunConfig, split: Split, processes: Processes) -> Trained:
    kind = find(config.model, ("baseline",), option="--model").load()
    begun = time.perf_counter()
    scorer, valid = kind.fit(split.train, config=config.part(config.model)), None
    seconds, refit_seconds = time.perf_counter() - begun, 0.0
    if config.refit:
        valid = _validation(config, split, scorer, processes)
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


def _selects_among_sampled(config: RunConfig) -> bool:
    return (config.part("train").select or "").startswith(PREFIX)


def _validation(config: RunConfig, split: Split, scorer: Scorer, processes: Processes) -> Evaluation | None:
    """By full ranking; with the figures among sampled negatives beside them where the run selects on one of those."""
    if not len(split.valid):
        return None
    found = processes.evaluate(scorer, split, "valid", config.part("evaluate"))
    if not _selects_among_sampled(config):
        return found
    mean = {**found.metrics.mean, **sampled_figures(scorer, split, "valid", config.seed)}
    return replace(found, metrics=replace(found.metrics, mean=mean))


def _train(
    config: RunConfig,
    split: Split,
    directory: RunDirectory,
    choices: dict[str, Any],
    resume: bool,
    watchers: list[Callback],
    cache: Path | None,
    processes: Processes,
) -> Trained:
    select_metric(config)
    begun = time.perf_counter()
    parts = build(config, split.train, seed=config.seed, cache=cache)
    seconds = time.perf_counter() - begun
    # Only now are the others started: what can be refused has been.
    parts = processes.shared(parts)
    processes.same("split of the data", split.sha256)
    if "threads" not in choices:
        choices["threads"] = config.part("train").threads or processes.threads or choose_threads(parts)
        if parts.step.backbone.sparse:
            choices["sparse"] = True
        if processes.place.world > 1:
            choices["processes"] = processes.place.world
        if processes.first:
            directory.write_json(directory.config, _config_json(config, choices))
    torch.set_num_threads(int(choices["threads"]))
    options: EvaluateConfig = config.part("evaluate")
    validate, part = None, config.part("train").select_part
    if part == "test" or len(split.valid):

        def judged(scorer: Scorer) -> Mapping[str, float]:
            if _selects_among_sampled(config):
                return sampled_figures(scorer, split, part, config.seed)
            return processes.evaluate(scorer, split, part, options).metrics.mean

        validate = validator(parts.step, judged)
    place = directory.path / "checkpoints"
    loop = _loop(config, parts, place, watchers, processes, validate=validate, resume=resume)
    progress = loop.run()
    valid, refit_seconds = None, 0.0
    if config.refit:
        valid = _validation(config, split, InnerProductScorer(parts.step.backbone), processes)
        again = replace(
            config,
            parts={
                **config.parts,
                "train": config.part("train").model_copy(update={"epochs": progress.best_epoch or progress.epoch}),
            },
        )
        parts = processes.shared(build(again, split.history("test"), seed=config.seed, cache=cache))
        place = directory.path / "checkpoints-refit"
        loop = _loop(again, parts, place, watchers, processes, validate=None, resume=resume)
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
    place: Path,
    watchers: list[Callback],
    processes: Processes,
    *,
    validate: Any,
    resume: bool,
) -> Loop:
    """The loop with its checkpoints in the folder `place`; only process 0 writes and is watched."""
    checkpoints = Checkpoints(place) if processes.first else None
    loop = Loop(
        fabric=processes.fabric or make_fabric("cpu"),
        step=parts.step,
        batches=parts.batches,
        groups=parts.groups,
        config=config.part("train"),
        select=select_metric(config),
        validate=validate,
        checkpoints=checkpoints,
        metrics_file=place.with_name(place.name.replace("checkpoints", "metrics") + ".jsonl") if checkpoints else None,
        callbacks=watchers if checkpoints else (),
    )
    snapshot = processes.snapshot(checkpoints) if resume else None
    if snapshot is not None:
        loop.resume(snapshot)
    elif resume and loop.metrics_file is not None:
        loop.metrics_file.unlink(missing_ok=True)
    return loop


def _finish(config: RunConfig, split: Split, directory: RunDirectory, trained: Trained, processes: Processes) -> Run:
    """Evaluates on validation and test by the run's protocol and by the other seen-items rule, writes bundle and
    result."""
    options: EvaluateConfig = config.part("evaluate")
    found = {}
    valid = trained.valid if config.refit else _validation(config, split, trained.scorer, processes)
    if valid is not None:
        found["valid"] = valid
    if len(split.test):
        found["test"] = processes.evaluate(trained.scorer, split, "test", options)
    evaluations = []
    if "test" in found:
        other = options.model_copy(update={"seen_items": "keep" if options.seen_items == "mask" else "mask"})
        evaluations = [entry(processes.evaluate(trained.scorer, split, "test", other))]
    if not processes.first:
        return Run(directory=directory.path, result=processes.result(None))
    if "test" in found:
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
    return Run(directory=directory.path, result=processes.result(result))
