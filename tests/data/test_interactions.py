"""The shared types: vocabulary look-ups, parts, merges, filters and windows against plain Python."""

from __future__ import annotations

import collections

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augrec.data import Interactions, Vocabulary, drop_duplicates, k_core, min_rating
from augrec.data.filters import shrink
from augrec.errors import DataError

LOG = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8), st.integers(0, 5)), min_size=1, max_size=60)


def make(rows, timed=True):
    user, item, time = (list(column) for column in zip(*rows, strict=True))
    return Interactions.from_columns(user=user, item=item, timestamp=time if timed else None)


def pairs(log):
    return list(zip(log.users.take(log.user).to_list(), log.items.take(log.item).to_list(), strict=True))


def test_vocabulary_finds_what_it_holds_and_nothing_else():
    dense = Vocabulary.of([5, 3, 9, 3])
    assert dense.ids.to_list() == [3, 5, 9]
    assert dense.index_of([9, 4, 3, None, -1, 2**62]).tolist() == [2, -1, 0, -1, -1, -1]
    assert dense.index_of(["5", "05", "+5", " 5", "5.0", "x", "99999999999999999999"]).tolist() == [1] + [-1] * 6
    sparse = Vocabulary.of([-(2**63), 0, 2**63 - 1])
    assert sparse.index_of([2**63 - 1, 1, -(2**63), 0]).tolist() == [2, -1, 0, 1]
    text = Vocabulary.of(["b", "a", "é", "10"])
    assert text.ids.to_list() == ["10", "a", "b", "é"]
    assert text.index_of(["é", "e", None, "10"]).tolist() == [3, -1, -1, 0]
    assert text.index_of([10, 11]).tolist() == [0, -1]
    assert text.take([3, 0]).to_list() == ["é", "10"]
    assert text.index_of([]).tolist() == []


def test_vocabulary_refuses_odd_input():
    with pytest.raises(DataError, match="missing"):
        Vocabulary.of([1, None])
    with pytest.raises(DataError, match="Int64 or String"):
        Vocabulary(ids=pl.Series([1.5]))
    with pytest.raises(DataError, match=r"outside 0\.\.1"):
        Vocabulary.of([1, 2]).take([2])
    with pytest.raises(DataError, match="all integers"):
        Vocabulary.of([1, 2]).index_of([1, "a"])


@settings(max_examples=60, deadline=None)
@given(LOG, st.lists(st.booleans(), min_size=60, max_size=60))
def test_part_and_merge_restore_the_log(rows, flags):
    log = make(rows)
    mask = np.array(flags[: len(log)])
    chosen, rest = log.part(mask), log.part(~mask)
    assert pairs(chosen) == [pair for pair, flag in zip(pairs(log), mask, strict=True) if flag]
    assert chosen.n_items == log.n_items
    assert chosen.n_users == log.n_users
    assert chosen.degrees().tolist() == np.bincount(log.user[mask], minlength=log.n_users).tolist()
    merged = chosen.merge(rest)
    key = [(u, t) for u, t in zip(merged.user.tolist(), merged.timestamp.tolist(), strict=True)]
    assert key == sorted(key)
    assert collections.Counter(pairs(merged)) == collections.Counter(pairs(log))
    np.testing.assert_array_equal(merged.offsets, log.offsets)
    np.testing.assert_array_equal(merged.item_counts(), log.item_counts())


def test_merge_keeps_the_first_part_first_where_times_tie_or_lack():
    rows = [(0, 3, 5), (0, 1, 5), (1, 2, 9), (1, 0, 4)]
    for timed in (True, False):
        log = make(rows, timed)
        mask = np.array([False, True, True, False])
        merged = log.part(mask).merge(log.part(~mask))
        # Rows of user 1 were sorted by time before the mask was laid over them.
        assert pairs(merged) == [(0, 1), (0, 3), *([(1, 0), (1, 2)] if timed else [(1, 2), (1, 0)])]


def test_parts_carry_an_identity_of_their_own():
    log = make([(0, 1, 1), (0, 2, 2), (1, 1, 3)])
    one, other = log.part(np.array([True, False, True])), log.part(np.array([True, True, False]))
    assert len({log.sha256, one.sha256, other.sha256, one.merge(other).sha256}) == 4
    assert log.part(np.ones(3, dtype=bool)).sha256 == log.sha256
    with pytest.raises(DataError, match="bool mask"):
        log.part(np.array([0, 1, 0]))
    with pytest.raises(DataError, match="one vocabulary"):
        log.merge(make([(5, 5, 5)]))


def test_content_hash_sees_every_column_and_the_ids():
    base = {"user": [1, 1, 2], "item": [1, 2, 1], "timestamp": [1, 2, 3], "rating": [1.0, 2.0, 3.0]}
    variants = [
        base, {**base, "user": [1, 1, 3]}, {**base, "item": [1, 3, 1]}, {**base, "timestamp": [1, 2, 4]},
        {**base, "rating": [1.0, 2.0, 4.0]}, {**base, "user": ["1", "1", "2"]}, {**base, "split": [0, 0, 1]},
        {key: value for key, value in base.items() if key != "rating"},
    ]  # fmt: skip
    hashes = [Interactions.from_columns(**columns).sha256 for columns in variants]
    assert len(set(hashes)) == len(variants)
    assert Interactions.from_columns(**base, name="other").sha256 == hashes[0]
    glued = [Interactions.from_columns(user=[0, 0], item=names).sha256 for names in (["ab", "c"], ["a", "bc"])]
    assert glued[0] != glued[1]


def test_constructor_refuses_wrong_types():
    log = make([(0, 1, 1)])
    with pytest.raises(DataError, match=r"Interactions.item must be int32 of shape \(1,\), got int64"):
        Interactions(
            users=log.users, items=log.items, user=log.user, item=log.item.astype(np.int64), offsets=log.offsets,
            name="x", sha256="",
        )  # fmt: skip
    with pytest.raises(DataError, match="column item has 1 rows"):
        Interactions.from_columns(user=[1, 2], item=[1])


@settings(max_examples=60, deadline=None)
@given(LOG)
def test_duplicates_go_and_the_first_stays(rows):
    log = make(rows)
    kept = drop_duplicates(log)
    assert pairs(kept) == list(dict.fromkeys(pairs(log)))
    assert f"{len(log) - len(kept)} of {len(log)} removed" in kept.notes[-1]


@settings(max_examples=60, deadline=None)
@given(LOG, st.integers(1, 3), st.integers(1, 3))
def test_k_core_equals_repeated_plain_filtering(rows, user_k, item_k):
    log = make(rows)
    left = pairs(log)
    while True:
        users, items = collections.Counter(u for u, _ in left), collections.Counter(i for _, i in left)
        fewer = [(u, i) for u, i in left if users[u] >= user_k and items[i] >= item_k]
        if len(fewer) == len(left):
            break
        left = fewer
    if not left:
        with pytest.raises(DataError, match="removed all"):
            k_core(log, user_k=user_k, item_k=item_k)
        return
    core = k_core(log, user_k=user_k, item_k=item_k)
    assert pairs(core) == left
    assert core.n_users == len({u for u, _ in left})
    assert core.n_items == len({i for _, i in left})
    assert core.degrees().min() >= user_k
    assert core.item_counts().min() >= item_k


def test_min_rating_and_shrink():
    log = Interactions.from_columns(user=[1, 1, 2], item=[7, 8, 9], rating=[3, 4, 5], items=Vocabulary.of([6, 7, 8, 9]))
    good = min_rating(log, 4)
    assert pairs(good) == [(1, 8), (2, 9)]
    assert good.items.ids.to_list() == [8, 9]
    assert "1 of 3 removed (0 users and 2 items with them)" in good.notes[-1]
    assert shrink(log).items.ids.to_list() == [7, 8, 9]
    with pytest.raises(DataError, match="removed all 3 rows"):
        min_rating(log, 6)
    with pytest.raises(DataError, match="needs a rating column"):
        min_rating(Interactions.from_columns(user=[1], item=[1]), 1)
