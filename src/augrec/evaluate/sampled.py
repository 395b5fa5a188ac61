"""Ranking against a few sampled negatives: kept only to compare with papers that do so, and labelled as biased.

With n negatives in place of the catalogue, metrics rise several-fold and can order recommenders differently from full
ranking (Krichene & Rendle, KDD 2020). Never compare such figures with those of `augrec.evaluate.protocol`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field

from augrec.data.interactions import Vocabulary
from augrec.errors import UsageError
from augrec.evaluate.metrics import Metrics, check_ks, means
from augrec.evaluate.protocol import candidates_note, held_out_users, part_of
from augrec.evaluate.ranking import csr_rows, score_blocks
from augrec.typed import Config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from augrec.backbones.base import Scorer
    from augrec.data.interactions import Interactions
    from augrec.splits.base import Split


PREFIX = "sampled99:"
"""What the name of a metric begins with where it stands beside those of full ranking: `sampled99:ndcg@10`."""


class SampledConfig(Config):
    """How recommenders are evaluated against sampled negatives."""

    negatives: int = Field(default=99, ge=1)
    """Distinct negatives per held-out item, uniform over the items the user never interacted with."""
    ks: tuple[int, ...] = Field(default=(1, 5, 10, 20, 50), min_length=1)
    """Cut-offs K of HR and NDCG, each at least 1."""
    memory_budget_mb: int = Field(default=1024, ge=1)
    """Memory for blocks of scores, in MiB."""
    max_users: int | None = Field(default=None, ge=1)
    """Evaluate a seeded random sample of this many users; all of them by default."""
    seed: int = Field(default=0, ge=0)
    """Seed of the negatives and of the sample of users."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """A row per distinct held-out (user, item), by user: `user` (n,), `target` (n,), `negatives` (n, K), all int64."""

    user: NDArray[np.int64]
    target: NDArray[np.int64]
    negatives: NDArray[np.int64]


def sampled_names(config: SampledConfig) -> list[str]:
    """The metrics an evaluation gives, as `sampled99:auc`."""
    return [f"{PREFIX}{name}" for k in config.ks for name in (f"ndcg@{k}", f"hr@{k}")] + [
        f"{PREFIX}{name}" for name in ("mrr", "auc")
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledEvaluation:
    """HR@K, NDCG@K, MRR and AUC among sampled candidates; `protocol["biased"]` is always true."""

    metrics: Metrics
    protocol: dict[str, str | int | bool | list[int]]
    seconds: float


def sampled_candidates(
    users: NDArray[np.int64],
    truth: Interactions,
    exclude: Sequence[Interactions] = (),
    *,
    n: int = 99,
    seed: int = 0,
) -> Candidates:
    """For each distinct held-out item of `users`, a uniform sample of `n` distinct items not in `truth` or `exclude`,
    out of the log's candidates where it names them.

    Exact and without retries: Floyd's sampling (Bentley & Floyd, CACM 1987) draws n of the free places 0..F_u-1, and
    place r is the item r + #{j : i_j - j <= r} where i_0 < i_1 < ... are the user's excluded items. Raises UsageError
    when a user has fewer than `n` free items.
    """
    users = np.unique(users)
    if truth.candidates is not None:
        return _among(truth.candidates, users, truth, exclude, n=n, seed=seed)
    n_items = truth.n_items
    entry, row = csr_rows(truth.offsets, users)
    target_key = np.unique(row * n_items + truth.item[entry])
    known = [target_key]
    for part in exclude:
        entry, row = csr_rows(part.offsets, users)
        known.append(row * n_items + part.item[entry])
    known_row, known_item = np.divmod(np.unique(np.concatenate(known)), n_items)
    degree = np.bincount(known_row, minlength=len(users))
    first = np.cumsum(degree) - degree
    gap_key = known_row * (n_items + 1) + known_item - (np.arange(len(known_row)) - first[known_row])

    target_row, target = np.divmod(target_key, n_items)
    free = n_items - degree[target_row]
    if len(free) and free.min() < n:
        worst = int(users[target_row[int(free.argmin())]])
        raise UsageError(
            f"User {worst} leaves {int(free.min())} of {n_items} items to sample from, fewer than the {n} negatives "
            "asked for: ask for fewer, or rank the full catalogue."
        )
    rng = np.random.default_rng(seed)
    place = np.empty((len(target), n), dtype=np.int64)
    for j in range(n):
        last = free - n + j
        drawn = rng.integers(0, last + 1)
        taken = (place[:, :j] == drawn[:, None]).any(axis=1)
        place[:, j] = np.where(taken, last, drawn)
    base = target_row[:, None]
    skipped = np.searchsorted(gap_key, base * (n_items + 1) + place, side="right") - first[base]
    return Candidates(user=users[target_row], target=target, negatives=place + skipped)


def _among(
    candidates: NDArray[np.bool_],
    users: NDArray[np.int64],
    truth: Interactions,
    exclude: Sequence[Interactions],
    *,
    n: int,
    seed: int,
) -> Candidates:
    """As `sampled_candidates`, drawn from the candidates: their rows, numbered among themselves and back again."""
    ids, place = np.flatnonzero(candidates), (np.cumsum(candidates) - 1).astype(np.int32)

    def renumbered(log: Interactions) -> Interactions:
        part = log.part(log.in_candidates())
        items = Vocabulary.of(ids)
        return replace(part, items=items, item=place[part.item], candidates=None)

    found = sampled_candidates(users, renumbered(truth), [renumbered(one) for one in exclude], n=n, seed=seed)
    return Candidates(user=found.user, target=ids[found.target], negatives=ids[found.negatives])


def candidate_ranks(
    scorer: Scorer,
    candidates: Candidates,
    history: Interactions,
    *,
    memory_budget_mb: int = 1024,
    device: torch.device | str = "cpu",
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rank of each target among itself and its negatives (1 is best), and the share of negatives below it; both (n,).

    A tied negative stands before the target when its id is lower, as in full ranking; in the share (AUC) it counts
    half.
    """
    users, row = np.unique(candidates.user, return_inverse=True)
    order = np.argsort(row, kind="stable")
    ends = np.searchsorted(row[order], np.arange(len(users) + 1))
    rank = np.empty(len(row), dtype=np.int64)
    share = np.empty(len(row), dtype=np.float64)
    for where, scores in score_blocks(scorer, users, history, memory_budget_mb=memory_budget_mb, device=device):
        part = order[ends[where.start] : ends[where.stop]]
        item = np.concatenate([candidates.target[part, None], candidates.negatives[part]], axis=1)
        line = torch.from_numpy(row[part] - where.start)[:, None].to(scores.device)
        value = scores[line, torch.from_numpy(item).to(scores.device)].cpu().numpy()
        above, level = value[:, 1:] > value[:, :1], value[:, 1:] == value[:, :1]
        rank[part] = 1 + (above | (level & (item[:, 1:] < item[:, :1]))).sum(axis=1)
        share[part] = 1.0 - (above + 0.5 * level).mean(axis=1)
    return rank, share


def evaluate_sampled(
    scorer: Scorer,
    split: Split,
    part: Literal["valid", "test"],
    config: SampledConfig | None = None,
    *,
    device: torch.device | str = "cpu",
) -> SampledEvaluation:
    """HR, NDCG, MRR and AUC of each held-out item among seeded negatives (never in train, valid or test of the user).

    A user with several held-out items gets the mean over them. Raises UsageError when there is nothing to evaluate.
    """
    config = config or SampledConfig()
    start = time.perf_counter()
    truth = part_of(split, part)
    users, total = held_out_users(truth, max_users=config.max_users, seed=config.seed, part=part)
    candidates = sampled_candidates(
        users, truth, (split.train, split.valid, split.test), n=config.negatives, seed=config.seed
    )
    rank, share = candidate_ranks(
        scorer, candidates, split.history(part), memory_budget_mb=config.memory_budget_mb, device=device
    )
    kept, row = np.unique(candidates.user, return_inverse=True)
    targets = np.bincount(row)
    values = {"auc": share, "mrr": 1.0 / rank}
    for k in check_ks(config.ks):
        values[f"hr@{k}"] = (rank <= k).astype(np.float64)
        values[f"ndcg@{k}"] = np.where(rank <= k, 1.0 / np.log2(rank + 1.0), 0.0)
    per_user = {name: np.bincount(row, weights=value) / targets for name, value in values.items()}
    return SampledEvaluation(
        metrics=Metrics(mean=means(per_user), per_user=per_user, users=kept),
        protocol={
            "ranking": f"sampled{config.negatives}",
            "biased": True,
            "negatives": config.negatives,
            "seen_items": "mask",
            "ties": "lowest id",
            "part": part,
            **candidates_note(split),
            "ks": check_ks(config.ks),
            "users": len(users),
            "users_with_truth": total,
            "seed": config.seed,
        },
        seconds=time.perf_counter() - start,
    )
