"""Metrics against a loop over users, scikit-learn, ranx and the identities they obey."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augrec.data.interactions import Interactions, Vocabulary
from augrec.errors import NumericalError, UsageError
from augrec.evaluate.metrics import accuracy, check_identities, flag_published
from augrec.evaluate.ranking import TopK


def log(pairs, n_users, n_items):
    users, items = Vocabulary.of(list(range(n_users))), Vocabulary.of(list(range(n_items)))
    user = np.array([u for u, _ in pairs], dtype=np.int64)
    item = np.array([i for _, i in pairs], dtype=np.int64)
    return Interactions.from_columns(user=user, item=item, users=users, items=items)


def lists(items, users=None):
    items = np.asarray(items, dtype=np.int64)
    users = np.arange(len(items)) if users is None else np.asarray(users, dtype=np.int64)
    scores = np.where(items >= 0, -np.arange(items.shape[1], dtype=np.float32), -np.inf).astype(np.float32)
    return TopK(users=users, items=items, scores=scores)


def slow(ranked, truth, k):
    """The definitions, read aloud, for one user; None without truth."""
    wanted = set(truth)
    if not wanted:
        return None
    hit = [rank for rank, item in enumerate(ranked[:k], start=1) if item in wanted]
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))
    return {
        "recall": len(hit) / len(wanted),
        "ndcg": sum(1 / math.log2(rank + 1) for rank in hit) / ideal,
        "hr": float(bool(hit)),
        "mrr": 1 / hit[0] if hit else 0.0,
        "precision": len(hit) / k,
    }


@st.composite
def cases(draw):
    n_items = draw(st.integers(1, 15))
    k = draw(st.integers(1, 20))
    rows = draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ranked = np.full((rows, k), -1)
    for row in range(rows):
        length = min(k, rng.integers(0, n_items + 1))
        ranked[row, :length] = rng.permutation(n_items)[:length]
    # Truth of more users than are ranked, with repeated pairs and users without any.
    pairs = [(int(rng.integers(0, 7)), int(rng.integers(0, n_items))) for _ in range(rng.integers(0, 25))]
    users = rng.permutation(7)[:rows]
    ks = draw(st.lists(st.integers(1, k), min_size=1, max_size=3))
    return n_items, ranked, users, pairs, ks


@settings(max_examples=2000, deadline=None)
@given(cases())
def test_equals_the_definitions(case):
    n_items, ranked, users, pairs, ks = case
    got = accuracy(lists(ranked, users), log(pairs, 7, n_items), ks)
    expected_users = [u for u in users if any(p == u for p, _ in pairs)]
    assert got.users.tolist() == expected_users
    for k in ks:
        by_user = [slow(ranked[row], [i for p, i in pairs if p == u], k) for row, u in enumerate(users)]
        by_user = [m for m in by_user if m is not None]
        for name in ("recall", "ndcg", "hr", "mrr", "precision"):
            expected = [m[name] for m in by_user]
            np.testing.assert_allclose(got.per_user[f"{name}@{k}"], expected, atol=1e-12)
            if expected:
                assert got.mean[f"{name}@{k}"] == pytest.approx(np.mean(expected), abs=1e-12)
            else:
                assert math.isnan(got.mean[f"{name}@{k}"])
    if expected_users:
        single = all(len({i for p, i in pairs if p == u}) == 1 for u in expected_users)
        check_identities(got.mean, single_target=single)


def test_hand_computed():
    got = accuracy(lists([[3, 1, 2, 0]]), log([(0, 1), (0, 0), (0, 4)], 1, 5), [2, 4])
    assert got.mean["recall@2"] == pytest.approx(1 / 3)  # one of three, not one of min(2, 3)
    assert got.mean["ndcg@2"] == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))
    assert got.mean["recall@4"] == pytest.approx(2 / 3)
    assert got.mean["ndcg@4"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3) + 0.5))
    assert got.mean["mrr@4"] == 0.5
    assert got.mean["precision@4"] == 0.5
    assert got.mean["hr@2"] == 1.0


def test_ndcg_equals_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    n_users, n_items = 60, 40
    scores = rng.permuted(np.tile(np.arange(n_items, dtype=float), (n_users, 1)), axis=1)
    relevant = rng.random((n_users, n_items)) < 0.15
    relevant[:, 0] |= ~relevant.any(axis=1)
    truth = log([(int(u), int(i)) for u, i in zip(*relevant.nonzero(), strict=True)], n_users, n_items)
    got = accuracy(lists(np.argsort(-scores, axis=1)), truth, [1, 5, 10, 40])
    for k in (1, 5, 10, 40):
        assert got.mean[f"ndcg@{k}"] == pytest.approx(sklearn_metrics.ndcg_score(relevant, scores, k=k), abs=1e-12)


def test_equals_ranx():
    ranx = pytest.importorskip("ranx")
    rng = np.random.default_rng(1)
    n_users, n_items, k = 50, 60, 20
    ranked = np.stack([rng.permutation(n_items)[:k] for _ in range(n_users)])
    pairs = [(u, int(i)) for u in range(n_users) for i in rng.choice(n_items, rng.integers(1, 6), replace=False)]
    qrels: dict[str, dict[str, int]] = {}
    for u, i in pairs:
        qrels.setdefault(f"u{u}", {})[f"i{i}"] = 1
    run = {f"u{u}": {f"i{i}": float(k - r) for r, i in enumerate(ranked[u])} for u in range(n_users)}
    theirs = ("recall", "ndcg", "mrr")  # each costs ranx seconds of compilation; the other two are trivial
    names = [f"{name}@{cut}" for name in theirs for cut in (1, 5, 20)]
    expected = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), names)
    got = accuracy(lists(ranked), log(pairs, n_users, n_items), [1, 5, 20])
    for name in names:
        assert got.mean[name] == pytest.approx(expected[name], abs=1e-12), name


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_renaming_items_and_reordering_users_change_nothing(seed):
    rng = np.random.default_rng(seed)
    n_users, n_items, k = 6, 12, 8
    ranked = np.stack([rng.permutation(n_items)[:k] for _ in range(n_users)])
    pairs = [(int(rng.integers(0, n_users)), int(rng.integers(0, n_items))) for _ in range(20)]
    plain = accuracy(lists(ranked), log(pairs, n_users, n_items), [1, 3, 8])
    name, order = rng.permutation(n_items), rng.permutation(n_users)
    renamed = accuracy(
        lists(name[ranked][order], order), log([(u, int(name[i])) for u, i in pairs], n_users, n_items), [1, 3, 8]
    )
    for key, value in plain.mean.items():
        assert renamed.mean[key] == pytest.approx(value, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_moving_a_hit_up_never_lowers_a_metric(seed):
    rng = np.random.default_rng(seed)
    n_items, k = 15, 10
    ranked = rng.permutation(n_items)[:k]
    wanted = rng.choice(n_items, 4, replace=False)
    truth = log([(0, int(i)) for i in wanted], 1, n_items)
    moves = [r for r in range(1, k) if ranked[r] in wanted and ranked[r - 1] not in wanted]
    before = accuracy(lists([ranked]), truth, [1, 3, 5, 10])
    for r in moves:
        better = ranked.copy()
        better[[r - 1, r]] = better[[r, r - 1]]
        after = accuracy(lists([better]), truth, [1, 3, 5, 10])
        assert all(after.mean[name] >= before.mean[name] - 1e-12 for name in before.mean)
        assert after.mean["ndcg@10"] > before.mean["ndcg@10"]


def test_k_beyond_the_lists_and_empty_ks_are_refused():
    truth = log([(0, 0)], 1, 3)
    with pytest.raises(UsageError, match="K = 5"):
        accuracy(lists([[0, 1]]), truth, [1, 5])
    for ks in ([], [0]):
        with pytest.raises(UsageError, match="ks must name"):
            accuracy(lists([[0, 1]]), truth, ks)


SOUND = {"hr@5": 0.05, "hr@10": 0.08, "ndcg@5": 0.03, "ndcg@10": 0.0397, "recall@5": 0.05, "recall@10": 0.08}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hr@5": 0.09, "recall@5": 0.09}, "hr@5 <= hr@10"),
        ({"ndcg@5": 0.051}, "ndcg@5 <= hr@5"),
        ({"recall@10": 0.079}, "recall@10 = hr@10"),
        ({"ndcg@10": 0.03 + 0.03 * 0.3563}, "<= 0.3562"),
        ({"ndcg@10": 0.03 + 0.03 * 0.2890}, ">= 0.2891"),
        ({"ndcg@5": 0.05 * 0.386}, "0.3869 hr@5"),
        ({"hr@10": 1.2, "recall@10": 1.2}, "not in [0, 1]"),
    ],
)
def test_each_identity_is_enforced(change, reason):
    check_identities(SOUND, single_target=True)
    with pytest.raises(NumericalError) as error:
        check_identities(SOUND | change, single_target=True)
    assert reason in str(error.value)


def test_bounds_are_those_of_the_extreme_ranks():
    for rank, bound in ((6, 1 / math.log2(7)), (10, 1 / math.log2(11)), (5, 1 / math.log2(6))):
        ranked = np.arange(1, 11)[None].copy()
        ranked[0, rank - 1] = 0
        got = accuracy(lists(ranked), log([(0, 0)], 1, 11), [5, 10]).mean
        ratio = got["ndcg@5"] if rank == 5 else got["ndcg@10"] - got["ndcg@5"]
        assert ratio == pytest.approx(bound, abs=1e-12)
        check_identities(got, single_target=True)


def test_several_targets_are_held_to_fewer_identities():
    row = {"hr@10": 0.5, "recall@10": 0.2, "ndcg@10": 0.1}
    check_identities(row, single_target=False)
    with pytest.raises(NumericalError, match="recall@10 = hr@10"):
        check_identities(row, single_target=True)


def test_published_rows_are_judged_within_their_rounding():
    # MCLRec's row on Beauty is sound; the SASRec row on Beauty that many papers copy is not (ratio .172).
    assert flag_published({"hr@5": 0.0581, "hr@10": 0.0871, "ndcg@5": 0.0352, "ndcg@10": 0.0446}) == []
    (reason,) = flag_published({"hr@5": 0.0365, "hr@10": 0.0627, "ndcg@5": 0.0236, "ndcg@10": 0.0281})
    assert ">= 0.2891" in reason
    # The ratio .0107 / .03 = .3567 lies above .3562 but inside the rounding of four places; with six it does not.
    row = {"hr@5": 0.05, "hr@10": 0.08, "ndcg@5": 0.03, "ndcg@10": 0.0407}
    assert flag_published(row) == []
    assert any("0.3562" in reason for reason in flag_published(row, decimals=6))
    percent = {name: value * 100 for name, value in row.items()}
    assert flag_published(percent, decimals=2, percent=True) == []
    assert flag_published(percent, decimals=4, percent=True)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_rounding_a_true_row_is_never_flagged(seed, decimals):
    rng = np.random.default_rng(seed)
    rank = rng.integers(1, 30, rng.integers(1, 40))
    row = {}
    for k in (5, 10, 20):
        row[f"hr@{k}"] = round(float(np.mean(rank <= k)), decimals)
        row[f"recall@{k}"] = row[f"hr@{k}"]
        row[f"ndcg@{k}"] = round(float(np.mean(np.where(rank <= k, 1 / np.log2(rank + 1), 0))), decimals)
    assert flag_published(row, decimals=decimals) == []
