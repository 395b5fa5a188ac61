"""Popularity, ItemKNN and EASE against dense formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from augrec.backbones import ease, itemknn
from augrec.backbones.base import Scorer
from augrec.backbones.ease import EASE, EASEConfig
from augrec.backbones.itemknn import ItemKNN, ItemKNNConfig, binary_rows
from augrec.backbones.popularity import Popularity, PopularityConfig
from augrec.data.interactions import Interactions, Vocabulary
from augrec.errors import UsageError
from augrec.evaluate.ranking import rank


def make_log(seed, n_users=60, n_items=35, rows=500, minimum=0):
    """A log with repeated pairs, an item nobody met (the last) and a user without rows (the last)."""
    rng = np.random.default_rng(seed)
    item = (rng.random(rows) ** 2 * (n_items - 1)).astype(np.int64)
    return Interactions.from_columns(
        user=rng.integers(0, n_users - 1, rows),
        item=item,
        users=Vocabulary.of(list(range(n_users))),
        items=Vocabulary.of(list(range(n_items))),
    )


def dense(log):
    x = np.zeros((log.n_users, log.n_items))
    x[log.user, log.item] = 1.0
    return x


@pytest.fixture(scope="module")
def train():
    return make_log(0)


@pytest.fixture(scope="module")
def later():
    """Another history over the same catalogue: scorers read it, not what they were fitted on."""
    return make_log(1, rows=300)


def test_all_are_scorers(train):
    for scorer in (Popularity.fit(train), ItemKNN.fit(train), EASE.fit(train)):
        assert isinstance(scorer, Scorer)
        scores = scorer.score(torch.tensor([3, 59, 3]), train)
        assert scores.shape == (3, 35)
        assert scores.dtype == torch.float32
        assert torch.equal(scores[0], scores[2])


def test_binary_rows_equal_dense(train):
    users = np.array([4, 59, 0, 4])
    np.testing.assert_array_equal(binary_rows(train, users).toarray(), dense(train)[users])
    assert binary_rows(train, np.zeros(0, dtype=np.int64)).shape == (0, 35)


def test_popularity_counts_events_or_users(train):
    users = torch.arange(60)
    np.testing.assert_array_equal(Popularity.fit(train).score(users, train)[7], train.item_counts())
    by_users = Popularity.fit(train, config=PopularityConfig(count="users"))
    np.testing.assert_array_equal(by_users.score(users, train)[7], dense(train).sum(axis=0))
    assert (dense(train).sum(axis=0) != train.item_counts()).any()


def test_popularity_ranks_ties_by_id(train):
    counts = train.item_counts()
    got = rank(Popularity.fit(train), np.arange(60), train, k=35, mask_seen=False)
    expected = np.lexsort((np.arange(35), -counts))
    assert (got.items == expected).all()


def naive_knn(x, k, shrinkage):
    n_items = x.shape[1]
    common, degree = x.T @ x, x.sum(axis=0)
    similarity = np.zeros((n_items, n_items))
    for i in range(n_items):
        value = {
            j: np.float32(common[i, j] / (np.sqrt(degree[i] * degree[j]) + shrinkage))
            for j in range(n_items)
            if j != i and common[i, j] > 0
        }
        for j in sorted(value, key=lambda j: (-value[j], j))[:k]:
            similarity[i, j] = value[j]
    return similarity


@pytest.mark.parametrize("k", [1, 5, 1000])
@pytest.mark.parametrize("shrinkage", [0.0, 7.5])
@pytest.mark.parametrize("chunk", [1, 300, 1 << 23])
def test_itemknn_equals_the_dense_formula(train, later, monkeypatch, k, shrinkage, chunk):
    monkeypatch.setattr(itemknn, "_CHUNK_PRODUCTS", chunk)
    model = ItemKNN.fit(train, config=ItemKNNConfig(neighbours=k, shrinkage=shrinkage))
    similarity = naive_knn(dense(train), k, shrinkage)
    np.testing.assert_allclose(model.similarity.toarray(), similarity, rtol=1e-6)
    got = model.score(torch.arange(60), later)
    np.testing.assert_allclose(got, dense(later) @ similarity.T, rtol=1e-5, atol=1e-6)


def naive_ease(x, regularisation):
    p = np.linalg.inv(x.T @ x + regularisation * np.eye(x.shape[1]))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0.0)
    return b


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-7)])
@pytest.mark.parametrize("strip", [1, 8, 1024])
def test_ease_equals_the_dense_formula(train, later, monkeypatch, dtype, tolerance, strip):
    monkeypatch.setattr(ease, "_STRIP", strip)
    model = EASE.fit(train, config=EASEConfig(regularisation=3.0, dtype=dtype))
    b = naive_ease(dense(train), 3.0)
    np.testing.assert_allclose(model.weights, b, atol=tolerance)
    assert model.weights.dtype == torch.float32
    np.testing.assert_allclose(model.score(torch.arange(60), later), dense(later) @ b, atol=20 * tolerance)


def test_ease_is_the_constrained_minimum(train):
    x = dense(train)
    model = EASE.fit(train, config=EASEConfig(regularisation=3.0, dtype="float64"))
    b = model.weights.double().numpy()

    def objective(weights):
        return ((x - x @ weights) ** 2).sum() + 3.0 * (weights**2).sum()

    rng = np.random.default_rng(0)
    for _ in range(20):
        step = rng.normal(size=b.shape) * 1e-2
        np.fill_diagonal(step, 0.0)
        assert objective(b + step) > objective(b)


def test_ease_refuses_a_matrix_beyond_its_budget():
    log = make_log(0, n_items=600)
    with pytest.raises(UsageError, match="600 x 600 matrix of 3 MiB, over the budget of 2 MiB"):
        EASE.fit(log, config=EASEConfig(dtype="float64", memory_budget_mb=2))
    assert EASE.fit(log, config=EASEConfig(memory_budget_mb=2)).n_items == 600


def test_user_without_history_scores_nothing(train):
    for model in (ItemKNN.fit(train), EASE.fit(train)):
        assert not model.score(torch.tensor([59]), train).any()


def test_order_and_repeats_of_the_log_do_not_matter(train):
    order = np.random.default_rng(0).permutation(len(train))
    again = Interactions.from_columns(
        user=np.concatenate([train.user[order], train.user[:40]]).astype(np.int64),
        item=np.concatenate([train.item[order], train.item[:40]]).astype(np.int64),
        users=train.users,
        items=train.items,
    )
    users = torch.arange(60)
    for kind in (ItemKNN, EASE):
        first, second = (kind.fit(log).score(users, log) for log in (train, again))
        assert torch.equal(first, second)
