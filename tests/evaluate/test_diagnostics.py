"""Coverage, novelty, popularity bias and Gini against loops and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from augrec.errors import UsageError
from augrec.evaluate.diagnostics import beyond_accuracy, gini
from augrec.evaluate.ranking import TopK


def lists(items):
    items = np.asarray(items, dtype=np.int64)
    return TopK(users=np.arange(len(items)), items=items, scores=np.zeros(items.shape, dtype=np.float32))


def test_equals_a_loop():
    rng = np.random.default_rng(0)
    n_items = 25
    counts = rng.integers(0, 6, n_items)
    items = np.stack([rng.permutation(n_items)[:8] for _ in range(12)])
    items[3, 5:] = -1
    items[4, :] = -1
    got = beyond_accuracy(lists(items), counts, [3, 8])
    for k in (3, 8):
        shown = [int(i) for row in items for i in row[:k] if i >= 0]
        assert got[f"coverage@{k}"] == len(set(shown)) / n_items
        information = [-math.log2((counts[i] + 1) / (counts.sum() + n_items)) for i in shown]
        assert got[f"novelty@{k}"] == pytest.approx(np.mean(information))
        assert got[f"arp@{k}"] == pytest.approx(np.mean([counts[i] for i in shown]))
        below = [(np.sum(counts < counts[i]) + 0.5 * np.sum(counts == counts[i])) / n_items for i in shown]
        assert got[f"popularity_percentile@{k}"] == pytest.approx(np.mean(below))
        times = np.bincount(shown, minlength=n_items)
        pairs = np.abs(times[:, None] - times[None, :]).mean()
        assert got[f"gini@{k}"] == pytest.approx(pairs / (2 * times.mean()))


def test_extremes():
    n_items = 10
    counts = np.arange(1, n_items + 1)
    every = beyond_accuracy(lists(np.arange(n_items)[None]), counts, [n_items])
    assert every["coverage@10"] == 1.0
    assert every["gini@10"] == pytest.approx(0.0)
    assert every["popularity_percentile@10"] == pytest.approx(0.5)
    top = beyond_accuracy(lists([[9]] * 7), counts, [1])
    assert top["gini@1"] == pytest.approx(1 - 1 / n_items)
    assert top["popularity_percentile@1"] == pytest.approx(1 - 0.5 / n_items)
    assert top["novelty@1"] == pytest.approx(-math.log2(11 / 65))
    assert gini(np.array([0, 0, 0, 4])) == pytest.approx(0.75)


def test_nothing_recommended_and_wrong_k():
    got = beyond_accuracy(lists([[-1, -1]]), np.ones(4, dtype=np.int64), [2])
    assert got["coverage@2"] == 0.0
    assert math.isnan(got["novelty@2"])
    assert math.isnan(got["gini@2"])
    with pytest.raises(UsageError, match="K = 3"):
        beyond_accuracy(lists([[0, 1]]), np.ones(4, dtype=np.int64), [3])
