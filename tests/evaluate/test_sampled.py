"""Sampled candidates are uniform, distinct and free; ranks among them equal a loop."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from augrec.data.interactions import Interactions, Vocabulary
from augrec.errors import UsageError
from augrec.evaluate.sampled import Candidates, SampledConfig, candidate_ranks, evaluate_sampled, sampled_candidates
from augrec.splits import make_split


def log(pairs, n_users, n_items):
    users, items = Vocabulary.of(list(range(n_users))), Vocabulary.of(list(range(n_items)))
    user = np.array([u for u, _ in pairs], dtype=np.int64)
    item = np.array([i for _, i in pairs], dtype=np.int64)
    return Interactions.from_columns(user=user, item=item, users=users, items=items)


class Table:
    def __init__(self, scores):
        self.scores = torch.as_tensor(scores, dtype=torch.float32)
        self.n_items = self.scores.shape[1]

    def score(self, user, history):
        return self.scores[user]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_negatives_are_distinct_free_and_reproducible(seed):
    rng = np.random.default_rng(seed)
    n_users, n_items = 5, 14
    truth = log([(int(rng.integers(0, 5)), int(rng.integers(0, n_items))) for _ in range(8)], n_users, n_items)
    past = log([(int(rng.integers(0, 5)), int(rng.integers(0, n_items))) for _ in range(15)], n_users, n_items)
    known = {u: set() for u in range(n_users)}
    for part in (truth, past):
        for u, i in zip(part.user.tolist(), part.item.tolist(), strict=True):
            known[u].add(i)
    users = np.unique(truth.user).astype(np.int64)
    n = min(n_items - len(known[int(u)]) for u in users)
    if n < 1:
        return
    got = sampled_candidates(users, truth, [past], n=n, seed=seed % 1000)
    assert list(zip(got.user.tolist(), got.target.tolist(), strict=True)) == sorted(
        set(zip(truth.user.tolist(), truth.item.tolist(), strict=True))
    )
    for user, negatives in zip(got.user.tolist(), got.negatives.tolist(), strict=True):
        assert len(set(negatives)) == n
        assert all(0 <= i < n_items for i in negatives)
        assert not known[user] & set(negatives)
    again = sampled_candidates(users, truth, [past], n=n, seed=seed % 1000)
    np.testing.assert_array_equal(got.negatives, again.negatives)


def test_every_subset_is_equally_likely():
    # 6 free items of 9, subsets of 3: 20 subsets, 20,000 users.
    users = 20_000
    truth = log([(u, 4) for u in range(users)], users, 9)
    past = log([(u, i) for u in range(users) for i in (0, 7)], users, 9)
    got = np.sort(sampled_candidates(np.arange(users), truth, [past], n=3, seed=1).negatives, axis=1)
    code = got @ np.array([81, 9, 1])
    expected = [a * 81 + b * 9 + c for a, b, c in combinations([1, 2, 3, 5, 6, 8], 3)]
    counts = np.array([np.sum(code == c) for c in expected])
    assert counts.sum() == users
    chi2 = float(((counts - users / 20) ** 2 / (users / 20)).sum())
    assert chi2 < 43.8  # 99.9 % of chi-square with 19 degrees of freedom


def test_too_few_free_items_names_the_user():
    truth = log([(0, 0), (1, 0)], 2, 5)
    past = log([(1, 1), (1, 2)], 2, 5)
    with pytest.raises(UsageError, match="User 1 leaves 2 of 5"):
        sampled_candidates(np.arange(2), truth, [past], n=3)
    assert sampled_candidates(np.arange(2), truth, [past], n=2).negatives[1].tolist() in ([3, 4], [4, 3])


def test_ranks_equal_a_loop_with_ties():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (6, 30))
    user = np.array([5, 0, 0, 3, 5, 5])
    item = np.stack([rng.permutation(30)[:11] for _ in user])
    candidates = Candidates(user=user, target=item[:, 0], negatives=item[:, 1:])
    for budget in (1, 64):
        rank, share = candidate_ranks(Table(scores), candidates, log([], 6, 30), memory_budget_mb=budget)
        for row, u in enumerate(user):
            order = sorted(item[row], key=lambda i: (-scores[u][i], i))
            assert rank[row] == 1 + order.index(item[row, 0])
            target = scores[u][item[row, 0]]
            other = scores[u][item[row, 1:]]
            assert share[row] == pytest.approx(np.mean((other < target) + 0.5 * (other == target)))


def test_equal_scores_give_chance_not_perfection():
    truth = log([(u, u % 50) for u in range(2000)], 2000, 50)
    candidates = sampled_candidates(np.arange(2000), truth, n=9, seed=0)
    rank, share = candidate_ranks(Table(np.zeros((2000, 50))), candidates, log([], 2000, 50))
    assert rank.mean() == pytest.approx(5.5, abs=0.25)
    assert (share == 0.5).all()


def test_whole_evaluation_is_labelled_biased_and_averages_a_users_targets():
    rng = np.random.default_rng(1)
    pairs = sorted({(int(rng.integers(0, 20)), int(rng.integers(0, 60))) for _ in range(250)})
    split = make_split(log(pairs, 20, 60), "ratio")
    scores = rng.random((20, 60))
    got = evaluate_sampled(Table(scores), split, "test", SampledConfig(negatives=20, ks=(1, 5)))
    assert got.protocol["biased"] is True
    assert got.protocol["ranking"] == "sampled20"
    candidates = sampled_candidates(
        np.flatnonzero(split.test.degrees()), split.test, (split.train, split.valid), n=20, seed=0
    )
    by_user: dict[int, list[int]] = {}
    for u, t, negatives in zip(candidates.user, candidates.target, candidates.negatives, strict=True):
        by_user.setdefault(int(u), []).append(1 + int(np.sum(scores[u][negatives] > scores[u][t])))
    assert any(len(ranks) > 1 for ranks in by_user.values())
    ndcg = np.mean([np.mean([1 / math.log2(r + 1) if r <= 5 else 0 for r in ranks]) for ranks in by_user.values()])
    assert got.metrics.mean["ndcg@5"] == pytest.approx(ndcg)
    assert got.metrics.mean["mrr"] == pytest.approx(np.mean([np.mean(1 / np.array(r)) for r in by_user.values()]))
    assert got.metrics.mean["hr@1"] == pytest.approx(np.mean([np.mean(np.array(r) <= 1) for r in by_user.values()]))
    assert 0 <= got.metrics.mean["auc"] <= 1
