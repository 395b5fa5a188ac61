"""What a finished run records: the fields of result.json."""

from __future__ import annotations

import io
import resource
import statistics
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from augrec import __version__
from augrec.errors import ConfigError
from augrec.evaluate.sampled import PREFIX, SampledConfig, evaluate_sampled, sampled_names
from augrec.experiment.protocols import protocol_of
from augrec.experiment.registry import find, nearest
from augrec.storage import write_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from augrec.backbones.base import Scorer
    from augrec.evaluate.metrics import Metrics
    from augrec.evaluate.protocol import Evaluation
    from augrec.experiment.config import RunConfig
    from augrec.splits import Split
    from augrec.train.state import Progress


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training leaves for evaluation and the record."""

    scorer: Scorer
    progress: Progress
    prepare_seconds: float
    refit_seconds: float = 0.0
    valid: Evaluation | None = None
    """Validation of what was trained without the validation part, where the scorer has since been refitted on it."""


def select_metric(config: RunConfig) -> str:
    """The validation metric a run selects on; `sampled99:…` is one among 99 sampled negatives."""
    chosen: str | None = config.part("train").select
    kind = find(config.model, ("backbone",), option="--model").load().kind
    select = chosen or ("recall@20" if kind == "pairs" else "ndcg@10")
    known = [f"{name}@{k}" for k in config.part("evaluate").ks for name in ("recall", "ndcg", "hr", "mrr", "precision")]
    among = sampled_names(SampledConfig())
    if select not in (*known, *among):
        raise ConfigError(
            f"train.select: no validation metric '{select}'{nearest(select, [*known, *among])} With evaluate.ks = "
            f"{list(config.part('evaluate').ks)} there are {', '.join(known)}; among 99 sampled negatives "
            f"{', '.join(among)}"
        )
    return select


def _deviations(config: RunConfig) -> list[str]:
    """What in a run departs from the clean protocol, by name."""
    found = ["preset published-code"] if config.preset == "published-code" else []
    if config.part("train").select_part == "test":
        found.append("train.select_part=test: the epoch was chosen on the test part")
    for name in (config.model, *config.augment):
        chosen = find(name, ("backbone", "baseline", "augmentation"), option="--model").load()
        if hasattr(chosen, "deviations"):
            found += chosen.deviations(config.part(name))
    return list(dict.fromkeys(found))


def _training(config: RunConfig) -> dict[str, str]:
    """How a sequence model's rows were made, and the name of the protocol where the settings are those of one."""
    model = find(config.model, ("backbone", "baseline"), option="--model").load()
    if getattr(model, "kind", "pairs") != "sequences":
        return {}
    name = protocol_of(config)
    return {"rows": config.part("train").rows} | ({} if name is None else {"name": name})


def describe_result(
    config: RunConfig,
    split: Split,
    trained: Trained,
    found: Mapping[str, Evaluation],
    evaluations: list[dict[str, Any]],
) -> dict[str, Any]:
    """The fields of result.json, in their order."""
    whole, progress = split.train, trained.progress
    counts = {part: len(getattr(split, part)) for part in ("train", "valid", "test")}
    times = progress.epoch_seconds
    test = found.get("test")
    selected = None if progress.best_value is None else select_metric(config)
    deviations = _deviations(config)
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
            "selected_on": f"{config.part('train').select_part} {selected}" if selected else "nothing",
            **_training(config),
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
            "train": round(sum(times) + trained.refit_seconds, 3),
            "epoch_median": round(statistics.median(times), 4) if times else 0.0,
            "evaluate": round(test.seconds, 3) if test else 0.0,
        },
        "peak_rss_mb": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)
        ),
        "deviations": deviations,
    }


def sampled_figures(scorer: Scorer, split: Split, part: Any, seed: int) -> dict[str, float]:
    """Metrics among 99 sampled negatives by the names `train.select` knows them by."""
    found = evaluate_sampled(scorer, split, part, SampledConfig(seed=seed)).metrics.mean
    return {f"{PREFIX}{name}": value for name, value in found.items()}


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
