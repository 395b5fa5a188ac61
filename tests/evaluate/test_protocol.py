"""The whole evaluation of one scorer: which rows are known, what is recorded, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from augrec.backbones.popularity import Popularity
from augrec.data.interactions import Interactions
from augrec.errors import NumericalError, UsageError
from augrec.evaluate import protocol
from augrec.evaluate.protocol import EvaluateConfig, evaluate
from augrec.splits import make_split


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(40), 8)
    item = np.concatenate([rng.choice(70, 8, replace=False) for _ in range(40)])
    return make_split(
        Interactions.from_columns(user=user, item=item, timestamp=np.tile(np.arange(8), 40)), "leave-one-out"
    )


class Oracle:
    """Knows what comes: the rows of `part` score highest, then everything in `history`."""

    def __init__(self, part):
        self.part, self.n_items = part, part.n_items

    def score(self, user, history):
        scores = torch.zeros(len(user), self.n_items)
        for row, u in enumerate(user.tolist()):
            for log, value in ((history, 1.0), (self.part, 2.0)):
                scores[row, torch.from_numpy(log.item[log.offsets[u] : log.offsets[u + 1]].astype(np.int64))] = value
        return scores


@pytest.mark.parametrize("part", ["valid", "test"])
def test_oracle_is_perfect_and_its_history_is_masked(split, part):
    truth = split.valid if part == "valid" else split.test
    got = evaluate(Oracle(truth), split, part, EvaluateConfig(ks=(1, 5)))
    assert got.metrics.mean["hr@1"] == got.metrics.mean["ndcg@5"] == got.metrics.mean["recall@1"] == 1.0
    assert got.metrics.mean["precision@5"] == pytest.approx(0.2)
    assert got.metrics.users.tolist() == list(range(40))


def test_seen_items_compete_only_when_kept(split):
    class Repeater(Oracle):
        def score(self, user, history):
            return super().score(user, history) * (super().score(user, history) < 2)

    masked = evaluate(Repeater(split.test), split, "test", EvaluateConfig(ks=(5, 70)))
    kept = evaluate(Repeater(split.test), split, "test", EvaluateConfig(ks=(5, 70), seen_items="keep"))
    assert kept.metrics.mean["hr@5"] == 0.0  # seven seen items stand before every other
    assert masked.metrics.mean["mrr@70"] > kept.metrics.mean["mrr@70"]
    assert (masked.protocol["seen_items"], kept.protocol["seen_items"]) == ("mask", "keep")


def test_protocol_is_recorded_as_json(split):
    got = evaluate(Popularity.fit(split.train), split, "valid", EvaluateConfig(ks=(10, 5)))
    assert json.loads(json.dumps(got.protocol)) == {
        "ranking": "full",
        "seen_items": "mask",
        "ties": "lowest id",
        "part": "valid",
        "ks": [5, 10],
        "users": 40,
        "users_with_truth": 40,
        "users_sampled": False,
        "seed": None,
    }
    assert set(got.diagnostics) >= {"coverage@5", "novelty@10", "arp@10", "popularity_percentile@5", "gini@10"}
    assert got.seconds > 0


def test_sample_of_users_is_seeded_and_recorded(split):
    scorer = Popularity.fit(split.train)
    whole = evaluate(scorer, split, "test")
    a, b = (evaluate(scorer, split, "test", EvaluateConfig(max_users=12, seed=3)) for _ in range(2))
    other = evaluate(scorer, split, "test", EvaluateConfig(max_users=12, seed=4))
    assert a.metrics.users.tolist() == b.metrics.users.tolist() != other.metrics.users.tolist()
    assert (a.protocol["users"], a.protocol["users_with_truth"], a.protocol["users_sampled"]) == (12, 40, True)
    assert a.protocol["seed"] == 3
    np.testing.assert_array_equal(a.metrics.per_user["mrr@20"], whole.metrics.per_user["mrr@20"][a.metrics.users])
    assert evaluate(scorer, split, "test", EvaluateConfig(max_users=999)).protocol["users_sampled"] is False


def test_impossible_metrics_are_refused(split, monkeypatch):
    real = protocol.accuracy

    def broken(*args):
        metrics = real(*args)
        metrics.mean["hr@5"] = metrics.mean["hr@10"] + 0.01
        return metrics

    monkeypatch.setattr(protocol, "accuracy", broken)
    with pytest.raises(NumericalError, match="hr@5 <= hr@10"):
        evaluate(Popularity.fit(split.train), split, "test")


def test_wrong_use(split):
    scorer = Popularity.fit(split.train)
    with pytest.raises(UsageError, match="'valid' or 'test'"):
        evaluate(scorer, split, "train")
    log = Interactions.from_columns(user=[0, 0, 1], item=[0, 1, 2])
    with pytest.raises(UsageError, match="No user has an interaction in the test part"):
        evaluate(scorer, make_split(log, "leave-one-out"), "test")
    for bad in ({"ks": ()}, {"max_users": 0}, {"seen_items": "hide"}, {"memory_budget_mb": 0}, {"k": 5}):
        with pytest.raises(ValidationError):
            EvaluateConfig(**bad)
    with pytest.raises(UsageError, match="ks must name"):
        evaluate(scorer, split, "test", EvaluateConfig(ks=(0, 5)))
