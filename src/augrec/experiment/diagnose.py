"""What the negatives of a finished run really are, measured after training on batches drawn again from its own step.

The step is rebuilt from config, data and checkpoint, and draws from streams of its own; nothing of the run is changed.
Held-out items are read here and nowhere in training.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from augrec.backbones.base import InnerProductScorer
from augrec.batches.negatives import NegativeSampler
from augrec.errors import CheckpointError, UsageError
from augrec.experiment.api import prepared_cache
from augrec.experiment.build import build, read_split
from augrec.experiment.config import RunConfig
from augrec.experiment.directory import RunDirectory
from augrec.experiment.drawing import Drawn, draw
from augrec.experiment.figures import (
    ItemSets,
    alignment,
    expected_rate,
    neighbourhood,
    offset_weights,
    rate,
    ridge,
    spread,
)
from augrec.experiment.registry import find
from augrec.experiment.space import Space, look
from augrec.train.state import Checkpoints, under
from augrec.train.streams import Streams, seed_of, stream

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from augrec.data.interactions import Interactions
    from augrec.experiment.build import Parts
    from augrec.splits import Split

NEAREST = 8192
"""Generated vectors compared with the whole catalogue."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Diagnosis:
    """Figures of one run, and the values they summarise, for plots."""

    figures: dict[str, Any]
    """What diagnose.json holds; figures without values are None."""
    samples: dict[str, NDArray[np.float32]]
    """1-D values by name: score/..., margin/..., weight/..., norm/..., cosine/..., share."""
    space: Space
    """Vectors of sampled users and items."""


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """A finished run, rebuilt at its best weights."""

    config: RunConfig
    split: Split
    parts: Parts
    train: Interactions
    epoch: int
    metrics: Path


def diagnose(run: str | Path, *, batches: int = 32, seed: int | None = None, source: Any = None) -> Diagnosis:
    """Figures of the finished run in the directory `run`, from `batches` training batches drawn anew.

    `seed` is the seed of these draws (default: the run's). `source` stands in for reading the run's data, for a run on
    a data frame. Raises `UsageError` where there is no finished run of a trained model, where the data has changed
    since, or for fewer than one batch; `CheckpointError` where the weights are damaged.
    """
    if batches < 1:
        raise UsageError(f"--batches: at least one batch must be drawn (got {batches})")
    place = RunDirectory(Path(run))
    opened = _open(place, source)
    seed = opened.config.seed if seed is None else seed
    step = opened.parts.step
    step.streams = Streams(seed_of(seed, "diagnose"))
    chosen = stream(seed, "diagnose/sample")
    reference = NegativeSampler(opened.train, allow_full=True)
    drawn = draw(opened.parts, batches=batches, reference=reference, keep=NEAREST, generator=chosen)
    space = look(
        opened.parts.step.backbone,
        opened.split,
        opened.train,
        alignment_train=alignment(drawn.rows["cosine/query/positive"]),
        generator=chosen,
    )
    sets = {"test": ItemSets(opened.split.test), "train": ItemSets(opened.train)}
    if not opened.config.refit:
        sets["valid"] = ItemSets(opened.split.valid)
    config, result = opened.config, place.read_json(place.result)
    figures = {
        "run": str(place.path),
        **{key: result[key] for key in ("model", "objective", "augment", "preset")},
        "data": {"name": result["data"]["name"], "split_sha256": result["split"]["sha256"]},
        "seed": config.seed,
        "epoch": opened.epoch,
        "drawn": {"batches": batches, "targets": len(drawn.rows["user"]), "seed": seed, "refit": config.refit},
        "negatives": _false_negatives(drawn.ids, drawn.rows, sets, sampled=drawn.sampled),
        **_scores(drawn.rows, shifts_margin=config.objective != "bce"),
        "ridge": _ridge(drawn.rows) if config.objective == "bpr" else None,
        "steps": _steps(opened, drawn.logs),
        "generated": _generated(drawn, opened.parts, sets, chosen),
        "space": space.figures,
    }
    samples = {name: value.numpy().astype(np.float32).reshape(-1) for name, value in drawn.rows.items() if "/" in name}
    return Diagnosis(figures=figures, samples=samples, space=space)


def _open(place: RunDirectory, source: Any) -> _Opened:
    result = place.read_json(place.result)
    config = RunConfig.from_json(place.read_json(place.config))
    if find(config.model, ("backbone", "baseline"), option="--model").family == "baseline":
        raise UsageError(f"{place.path}: '{config.model}' is fitted in closed form and draws no negatives")
    split = read_split(config, source)
    if split.sha256 != result["split"]["sha256"]:
        raise UsageError(
            f"{place.path}: the data or split is not what the run was made on (split {split.sha256[:12]}, run "
            f"{result['split']['sha256'][:12]}); restore the data, or train again"
        )
    folder = place.path / ("checkpoints-refit" if config.refit else "checkpoints")
    snapshot = Checkpoints(folder).latest()
    if snapshot is None:
        raise UsageError(f"{folder}: holds no checkpoint to take the weights from; train again")
    train = split.history("test") if config.refit else split.train
    parts = build(config, train, seed=config.seed, cache=prepared_cache())
    try:
        parts.step.load_state_dict(under("best", snapshot.tensors) or under("model", snapshot.tensors))
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder}: the weights do not fit config.json; it was edited, or the run was made by another version "
            f"({error})"
        ) from None
    epoch = snapshot.progress.best_epoch or snapshot.progress.epoch
    for plugin in parts.step.plugins:
        plugin.start_epoch(epoch)  # type: ignore[operator]
    metrics = place.path / "metrics-refit.jsonl" if config.refit else place.metrics
    return _Opened(config=config, split=split, parts=parts, train=train, epoch=epoch, metrics=metrics)


def _false_negatives(
    ids: dict[str, Tensor], rows: dict[str, Tensor], sets: dict[str, ItemSets], *, sampled: bool
) -> dict[str, Any]:
    """By source of ids: how many negatives are items of the user in test, valid and train."""
    found: dict[str, Any] = {"drawn_by_objective": sampled}
    for name, items in ids.items():
        counts = {
            part: {
                **rate(int(one.hold(rows["user"], items).sum()), items.numel()),
                "expected": expected_rate(rows["user"], one, sets["train"]),
            }
            for part, one in sets.items()
        }
        found[name] = {"negatives": items.numel(), **counts}
    return found


def _scores(rows: dict[str, Tensor], *, shifts_margin: bool) -> dict[str, Any]:
    """Scores, margins and gradient weights; adds the drawn margins and weights to `rows` for the plots."""
    margin = rows["score/positive"][:, None] - rows["score/negative"]
    rows["margin/without offset"] = margin
    shift = rows.get("shift")
    without, with_ = offset_weights(margin, torch.zeros(len(margin)) if shift is None else shift)
    rows["weight/without offset"] = without
    if shift is not None and shifts_margin:
        rows["margin/with offset"], rows["weight/with offset"] = margin - shift[:, None], with_
    shown = ("positive", "negative", "generated")
    share = rows.get("share/generated")
    return {
        "scores": {name: spread(rows[f"score/{name}"]) for name in shown if f"score/{name}" in rows},
        "margin": {
            name.partition("/")[2].replace(" ", "_"): {
                **spread(value), "wrong_order": float((value < 0).float().mean()) if value.numel() else None
            }
            for name, value in rows.items() if name.startswith("margin/")
        },
        "gradient": {
            "weight": {
                name.partition("/")[2].replace(" ", "_"): spread(value)
                for name, value in rows.items() if name.startswith("weight/")
            },
            "share_generated": None if share is None else spread(share[torch.isfinite(share)]),
        },
        "norms": {name[5:]: spread(value) for name, value in rows.items() if name.startswith("norm/")},
    }  # fmt: skip


def _ridge(rows: dict[str, Tensor]) -> dict[str, float] | None:
    """The ridge check on the margin of all negatives of a row together."""
    if "shift" not in rows:
        return None
    margin = rows["score/positive"] - torch.logsumexp(rows["score/negative"], 1)
    return ridge(margin, rows["shift"], rows["norm/query"].square(), rows["strength"].mean())


def _steps(opened: _Opened, logs: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Choices of t* while training (metrics.jsonl) and in the drawn batches, of the first plug-in that logs them."""
    for name, log in logs.items():
        if "t_star" not in log:
            continue
        kept = {"mean": "t_star_mean", "saturated": "saturated", "histogram": "t_star"}
        lines = []
        if opened.metrics.exists():
            lines = [json.loads(line) for line in opened.metrics.read_text().splitlines()]
        epochs = [
            {"epoch": line["epoch"], **{key: line[f"{name}/{old}"] for key, old in kept.items()}}
            for line in lines
            if f"{name}/t_star" in line
        ]
        return {"plugin": name, "drawn": {key: log[old] for key, old in kept.items()}, "epochs": epochs}
    return None


@torch.no_grad()
def _generated(drawn: Drawn, parts: Parts, sets: dict[str, ItemSets], generator: torch.Generator) -> dict[str, Any]:
    """By source of vectors: weight, norms, cosines and what lies nearest in the catalogue."""
    found: dict[str, Any] = {}
    table = InnerProductScorer(parts.step.backbone).tables.item.detach()
    for name, kept in drawn.vectors.items():
        noise = torch.randn(kept.vectors.shape, generator=generator)
        near = {
            key: neighbourhood(kept.vectors, table, kept.user, kept.positive, sets, noise=noise, cosine=key == "cosine")
            for key in ("inner_product", "cosine")
        }
        cosines = {
            key.rpartition("/")[2]: spread(value)
            for key, value in drawn.rows.items()
            if key.startswith(f"cosine/{name}/")
        }
        found[name] = {"weight": kept.weight, "cosine": cosines, "compared": len(kept.vectors), "nearest": near}
    return found
