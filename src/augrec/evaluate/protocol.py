"""One evaluation by a stated protocol: rank the whole catalogue, judge the lists, and record how it was done."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field

from augrec.errors import UsageError
from augrec.evaluate.diagnostics import beyond_accuracy
from augrec.evaluate.metrics import Metrics, accuracy, check_identities
from augrec.evaluate.ranking import rank
from augrec.typed import Config

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from augrec.backbones.base import Scorer
    from augrec.data.interactions import Interactions
    from augrec.evaluate.ranking import TopK
    from augrec.splits.base import Split


class EvaluateConfig(Config):
    """How recommenders are evaluated."""

    ks: tuple[int, ...] = Field(default=(5, 10, 20), min_length=1)
    """Lengths K of the lists at which metrics are taken, each at least 1."""
    seen_items: Literal["mask", "keep"] = "mask"
    """Whether the items of a user's history are left out of the ranking (`mask`) or compete in it (`keep`)."""
    memory_budget_mb: int = Field(default=1024, ge=1)
    """Memory for blocks of scores, in MiB."""
    max_users: int | None = Field(default=None, ge=1)
    """Evaluate a seeded random sample of this many users; all of them by default."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sample of users."""
    sampled: bool = False
    """At the end of a run also rank among 99 sampled negatives, a biased protocol that some papers report; listed
    beside the full ranking, labelled."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Accuracy, diagnostics beyond accuracy, and the protocol (plain JSON values) that made them, in `seconds`."""

    metrics: Metrics
    diagnostics: dict[str, float]
    protocol: dict[str, str | int | bool | list[int] | None]
    seconds: float


def evaluate(
    scorer: Scorer,
    split: Split,
    part: Literal["valid", "test"],
    config: EvaluateConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    ranker: Callable[..., TopK] = rank,
) -> Evaluation:
    """Full ranking of the users that have a row in `part` of `split`, from the history known before it.

    `ranker` stands in for `rank`, with its arguments, where several processes share the users.

    Raises UsageError when no user has one, and NumericalError for scores that are not finite or metrics that
    contradict each other.
    """
    config = config or EvaluateConfig()
    start = time.perf_counter()
    truth = part_of(split, part)
    users, total = held_out_users(truth, max_users=config.max_users, seed=config.seed, part=part)
    history = split.history(part)
    top = ranker(
        scorer,
        users,
        history,
        k=max(config.ks),
        mask_seen=config.seen_items == "mask",
        memory_budget_mb=config.memory_budget_mb,
        allow=candidates_of(split),
        device=device,
    )
    metrics = accuracy(top, truth, config.ks)
    check_identities(metrics.mean, single_target=bool((truth.degrees()[users] == 1).all()))
    return Evaluation(
        metrics=metrics,
        diagnostics=beyond_accuracy(top, split.train.item_counts(), config.ks),
        protocol={
            "ranking": "full",
            "seen_items": config.seen_items,
            "ties": "lowest id",
            "part": part,
            **candidates_note(split),
            "ks": sorted(set(config.ks)),
            "users": len(users),
            "users_with_truth": total,
            "users_sampled": len(users) < total,
            "seed": config.seed if len(users) < total else None,
        },
        seconds=time.perf_counter() - start,
    )


def candidates_of(split: Split) -> Tensor | None:
    """(I,) bool items that are ranked: the split's target domain, or None for the whole catalogue."""
    known = split.train.candidates
    return None if known is None else torch.from_numpy(known.copy())


def candidates_note(split: Split) -> dict[str, str]:
    """What a protocol says of a ranking that is restricted to some items."""
    known = split.train.candidates
    if known is None:
        return {}
    domain = split.options.get("target_domain")
    what = "candidates" if domain is None else f"items of domain {domain}"
    return {"candidates": f"{what} only ({int(known.sum())} of {len(known)})"}


def part_of(split: Split, part: str) -> Interactions:
    """The held-out part by name; UsageError for another name."""
    if part not in ("valid", "test"):
        raise UsageError(f"A split is evaluated on 'valid' or 'test', not on {part!r}.")
    return split.valid if part == "valid" else split.test


def held_out_users(
    truth: Interactions, *, max_users: int | None, seed: int, part: str
) -> tuple[NDArray[np.int64], int]:
    """Users with a row in `truth`, or a seeded sample of `max_users` of them, rising; and how many there are in all."""
    users = np.flatnonzero(truth.degrees()).astype(np.int64)
    if not len(users):
        raise UsageError(
            f"No user has an interaction in the {part} part, so there is nothing to evaluate: choose another split."
        )
    total = len(users)
    if max_users is not None and max_users < total:
        users = np.sort(np.random.default_rng(seed).choice(users, size=max_users, replace=False))
    return users, total
