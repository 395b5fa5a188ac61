"""Ranking against numpy's lexsort, in any block size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from augrec.data.interactions import Interactions, Vocabulary
from augrec.errors import NumericalError, UsageError
from augrec.evaluate import ranking
from augrec.evaluate.ranking import rank, top_k


def log(pairs, n_users, n_items):
    users, items = Vocabulary.of(list(range(n_users))), Vocabulary.of(list(range(n_items)))
    user = np.array([u for u, _ in pairs], dtype=np.int64)
    item = np.array([i for _, i in pairs], dtype=np.int64)
    return Interactions.from_columns(user=user, item=item, users=users, items=items)


class Table:
    """A scorer that looks its scores up and hands out the memory it owns."""

    def __init__(self, scores):
        self.scores = torch.as_tensor(scores, dtype=torch.float32)
        self.n_items = self.scores.shape[1]
        self.calls = []

    def score(self, user, history):
        self.calls.append(len(user))
        assert not torch.is_grad_enabled()
        rows = [int(u) for u in user]
        if rows == list(range(rows[0], rows[-1] + 1)):
            return self.scores[rows[0] : rows[-1] + 1]
        return self.scores[user]


def slow(scores, history, users, k, mask_seen, allowed=None):
    """One user at a time, full sort by (-score, id)."""
    items, values = [], []
    for u in users:
        s = scores[u].astype(np.float64).copy()
        if mask_seen:
            s[history.item[history.offsets[u] : history.offsets[u + 1]]] = -np.inf
        if allowed is not None:
            s[~allowed] = -np.inf
        order = [i for i in np.lexsort((np.arange(len(s)), -s)) if s[i] > -np.inf][:k]
        items.append(order + [-1] * (k - len(order)))
        values.append([s[i] for i in order] + [-np.inf] * (k - len(order)))
    return np.array(items, dtype=np.int64).reshape(len(users), k), np.array(values).reshape(len(users), k)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_equals_lexsort_with_ties_masks_and_short_catalogues(data):
    n_users, n_items = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 30))
    k = data.draw(st.integers(1, 35))
    levels = data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    scores = rng.integers(0, levels, (n_users, n_items)).astype(np.float32) - 1.0
    scores[rng.random(scores.shape) < 0.2] = -0.0  # equal to 0.0, so a tie
    pairs = [(u, i) for u in range(n_users) for i in range(n_items) if rng.random() < 0.4]
    history = log(pairs + pairs[:3], n_users, n_items)
    mask_seen = data.draw(st.booleans())
    allow = rng.random(n_items) < 0.8 if data.draw(st.booleans()) else None
    deny = rng.random(n_items) < 0.3 if data.draw(st.booleans()) else None
    allowed = (np.ones(n_items, dtype=bool) if allow is None else allow) & ~(
        np.zeros(n_items, dtype=bool) if deny is None else deny
    )
    users = rng.integers(0, n_users, data.draw(st.integers(0, 8)))
    table = Table(scores)
    got = rank(
        table,
        users,
        history,
        k=k,
        mask_seen=mask_seen,
        allow=None if allow is None else torch.from_numpy(allow),
        deny=None if deny is None else torch.from_numpy(deny),
    )
    items, values = slow(scores, history, users, k, mask_seen, allowed)
    np.testing.assert_array_equal(got.items, items)
    np.testing.assert_array_equal(got.scores, values)
    np.testing.assert_array_equal(table.scores.numpy(), scores)  # what the scorer owns is as it was


@pytest.mark.parametrize("levels", [1, 2, 5, 50])
@pytest.mark.parametrize("k", [1, 20, 300])
def test_ties_across_the_end_of_wide_lists(levels, k):
    rng = np.random.default_rng(levels * 1000 + k)
    scores = rng.integers(0, levels, (40, 5000)).astype(np.float32)
    scores[0, :4999] = 9.0  # the tie is completed by the very last column
    scores[0, 4999] = 10.0
    value, item = top_k(torch.from_numpy(scores), k)
    for row in range(40):
        expected = np.lexsort((np.arange(5000), -scores[row]))[:k]
        np.testing.assert_array_equal(item[row].numpy(), expected)
        np.testing.assert_array_equal(value[row].numpy(), scores[row][expected])


@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("more", [-1, 0, 1, 63, 777])
@pytest.mark.parametrize("levels", [4, 10**7])
def test_the_search_by_blocks_is_a_full_sort(k, more, levels):
    """Widths about where it begins, whole blocks or not, rows with few columns left, the best in the rest."""
    n_items = 8 * (k + 1) * ranking._BLOCK + more
    rng = np.random.default_rng(n_items)
    scores = rng.integers(0, levels, (30, n_items)).astype(np.float32)
    scores[3] = np.sort(scores[3])
    scores[4] = np.sort(scores[4])[::-1]
    scores[5, rng.random(n_items) < 0.9] = -np.inf
    scores[6, 2:] = -np.inf
    value, item = top_k(torch.from_numpy(scores), k)
    for row in range(30):
        expected = np.lexsort((np.arange(n_items), -scores[row]))[:k]
        np.testing.assert_array_equal(value[row].numpy(), scores[row][expected])
        known = np.isfinite(scores[row][expected])
        np.testing.assert_array_equal(item[row].numpy()[known], expected[known])


def test_users_are_encoded_many_at_a_time_and_scored_in_blocks(monkeypatch):
    class Encoder(Table):
        def queries(self, user, history):
            self.calls.append(len(user))
            return user[:, None].float()

        def score_queries(self, query):
            self.blocks.append(len(query))
            return self.scores[query[:, 0].long()]

    monkeypatch.setattr(ranking, "_AHEAD", 50)
    scores = np.random.default_rng(0).normal(size=(130, 1 << 14)).astype(np.float32)
    encoder, users = Encoder(scores), np.random.default_rng(1).permutation(130)
    encoder.blocks = []
    history = log([(0, 0)], 130, 1 << 14)
    found = rank(encoder, users, history, k=5, mask_seen=True, memory_budget_mb=4)
    wanted = rank(Table(scores), users, history, k=5, mask_seen=True)
    assert found.items.tobytes() == wanted.items.tobytes()
    assert encoder.blocks == [16] * 8 + [2]  # 4 MiB / (16 bytes x 16,384 items)
    assert encoder.calls == [48, 48, 34]


def test_rare_tie_far_apart_is_repaired():
    scores = torch.linspace(0, 1, 4096).repeat(3, 1)
    scores[:, 4095] = scores[:, 17] = 2.0
    scores[1, 30] = 2.0
    _, item = top_k(scores, 1)
    assert item[:, 0].tolist() == [17, 17, 17]
    _, item = top_k(scores, 2)
    assert item.tolist() == [[17, 4095], [17, 30], [17, 4095]]


def test_block_size_does_not_change_a_byte():
    rng = np.random.default_rng(3)
    n_users, n_items = 300, 1 << 15
    scores = rng.integers(0, 1000, (n_users, n_items)).astype(np.float32)
    history = log([(u, int(i)) for u in range(n_users) for i in rng.integers(0, n_items, 9)], n_users, n_items)
    whole, small = Table(scores), Table(scores)
    users = rng.permutation(n_users)
    a = rank(whole, users, history, k=20, mask_seen=True)
    b = rank(small, users, history, k=20, mask_seen=True, memory_budget_mb=1)
    assert max(small.calls) == 2  # 1 MiB / (16 bytes x 32,768 items)
    assert max(whole.calls) == 128  # 16 MB of scores
    assert a.items.tobytes() == b.items.tobytes()
    assert a.scores.tobytes() == b.scores.tobytes()
    items, _ = slow(scores, history, users[:20], 20, True)
    np.testing.assert_array_equal(a.items[:20], items)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_scores_name_the_user_and_the_item(bad):
    scores = np.zeros((5, 7), dtype=np.float32)
    scores[3, 2] = bad
    with pytest.raises(NumericalError, match="item 2 for user 3"):
        rank(Table(scores), np.arange(5), log([], 5, 7), k=2, mask_seen=True)


def test_huge_finite_scores_are_not_mistaken_for_infinity():
    scores = np.full((2, 100), 3e38, dtype=np.float32)
    assert rank(Table(scores), np.arange(2), log([], 2, 100), k=2, mask_seen=False).items.tolist() == [[0, 1], [0, 1]]


def test_expanded_and_gradient_carrying_scores():
    base = torch.arange(6, dtype=torch.float32, requires_grad=True)

    class Expanded(Table):
        def score(self, user, history):
            with torch.enable_grad():
                return (base * 1.0).expand(len(user), -1)

    class Inference(Table):
        def score(self, user, history):
            with torch.inference_mode():
                return (base * 1.0).expand(len(user), -1).contiguous()

    history = log([(0, 5), (1, 4)], 2, 6)
    for kind in (Expanded, Inference):
        got = rank(kind(np.zeros((2, 6))), np.arange(2), history, k=2, mask_seen=True)
        assert got.items.tolist() == [[4, 3], [5, 3]]


def test_masking_is_undone_when_ranking_fails(monkeypatch):
    def fail(scores, k):
        raise MemoryError

    monkeypatch.setattr(ranking, "top_k", fail)
    table = Table(np.ones((1, 3)))
    with pytest.raises(MemoryError):
        rank(table, np.arange(1), log([(0, 1)], 1, 3), k=1, mask_seen=True)
    assert table.scores.tolist() == [[1.0, 1.0, 1.0]]


def test_wrong_use_is_one_clear_message():
    table, history = Table(np.zeros((2, 3))), log([], 2, 3)
    with pytest.raises(UsageError, match="User 2 is not in the data"):
        rank(table, np.array([0, 2]), history, k=1, mask_seen=True)
    with pytest.raises(UsageError, match="User -1"):
        rank(table, np.array([-1]), history, k=1, mask_seen=True)
    with pytest.raises(UsageError, match="k must be"):
        rank(table, np.arange(2), history, k=0, mask_seen=True)
    with pytest.raises(UsageError, match="one-dimensional"):
        rank(table, np.zeros((2, 2), dtype=np.int64), history, k=1, mask_seen=True)
    with pytest.raises(UsageError, match="memory_budget_mb"):
        rank(table, np.arange(2), history, k=1, mask_seen=True, memory_budget_mb=0)
    with pytest.raises(UsageError, match="allow must be a bool tensor"):
        rank(table, np.arange(2), history, k=1, mask_seen=True, allow=torch.ones(3))
    with pytest.raises(UsageError, match="deny must be a bool tensor"):
        rank(table, np.arange(2), history, k=1, mask_seen=True, deny=torch.ones(2, dtype=torch.bool))
    with pytest.raises(UsageError, match="knows 3 items but the history declares 4"):
        rank(table, np.arange(2), log([], 2, 4), k=1, mask_seen=True)

    class Transposed(Table):
        def score(self, user, history):
            return torch.zeros(3, len(user))

    with pytest.raises(UsageError, match="one row per user"):
        rank(Transposed(np.zeros((2, 3))), np.arange(2), history, k=1, mask_seen=True)
