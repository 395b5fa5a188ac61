"""Splits against rows written by hand, plain Python rules and their own promises."""

from __future__ import annotations

import collections
import dataclasses
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augrec.data import Interactions, Vocabulary, load, read_interactions
from augrec.errors import ConfigError, DataError
from augrec.splits import RatioConfig, Split, TemporalConfig, make_split
from augrec.splits.base import from_codes

LOG = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12), st.integers(0, 40)), min_size=1, max_size=80)


def make(rows):
    user, item, time = (list(column) for column in zip(*rows, strict=True))
    return Interactions.from_columns(user=user, item=item, timestamp=time)


def triples(log):
    time = [0] * len(log) if log.timestamp is None else log.timestamp.tolist()
    return list(zip(log.users.take(log.user).to_list(), log.items.take(log.item).to_list(), time, strict=True))


def sizes(split):
    return len(split.train), len(split.valid), len(split.test)


@pytest.fixture(scope="module")
def beauty():
    return load("beauty")


HAND = [(1, 10, 1), (1, 11, 2), (1, 12, 3), (1, 13, 4), (2, 10, 1), (2, 12, 5), (3, 11, 2), (4, 13, 3), (4, 10, 2),
        (4, 11, 9)]  # fmt: skip


def test_leave_one_out_by_hand():
    split = make_split(make(HAND), "leave-one-out")
    assert triples(split.test) == [(1, 13, 4), (4, 11, 9)]
    assert triples(split.valid) == [(1, 12, 3), (4, 13, 3)]
    assert triples(split.train) == [(1, 10, 1), (1, 11, 2), (2, 10, 1), (2, 12, 5), (3, 11, 2), (4, 10, 2)]
    assert split.options == {"minimum": 3, "users_train_only": 2}
    assert triples(split.history("test")) == sorted(triples(split.train) + triples(split.valid), key=lambda r: r[::2])
    assert split.history("valid") is split.train
    larger = make_split(make(HAND), {"kind": "leave-one-out", "minimum": 4})
    assert triples(larger.test) == [(1, 13, 4)]


def test_temporal_by_hand():
    split = make_split(make(HAND), TemporalConfig(test=0.2, valid=0.2))
    assert triples(split.test) == [(2, 12, 5), (4, 11, 9)]
    assert triples(split.valid) == [(1, 12, 3), (1, 13, 4), (4, 13, 3)]
    assert split.options == {"test": 0.2, "valid": 0.2, "valid_from": 3, "test_from": 5}
    assert split.train.n_items == 4
    assert len(make_split(make(HAND), TemporalConfig(test=0.2, valid=0)).valid) == 0


def test_given_by_hand():
    columns = {"user": [1, 1, 1, 2], "item": [1, 2, 3, 1], "split": [0, 2, 1, 0]}
    split = make_split(Interactions.from_columns(**columns), "given")
    assert triples(split.valid) == [(1, 2, 0)]
    assert triples(split.test) == [(1, 3, 0)]
    assert split.options == {"valid_given": True}
    held = Interactions.from_columns(user=[0] * 30, item=list(range(30)), split=[0] * 20 + [1] * 10)
    one, again, other = (make_split(held, {"kind": "given", "seed": seed}) for seed in (0, 0, 1))
    assert sizes(one) == (18, 2, 10)
    assert set(one.test.item.tolist()) == set(range(20, 30))
    assert one.sha256 == again.sha256 != other.sha256


def test_beauty_counts(beauty):
    leave = make_split(beauty, "leave-one-out")
    assert sizes(leave) == (198_502 - 2 * 22_363, 22_363, 22_363)
    n = beauty.degrees()
    tests = np.floor(0.2 * n + 0.5).astype(int)
    assert tests.sum() == 38_590
    ratio = make_split(beauty, "ratio")
    assert sizes(ratio) == (142_341, 17_571, 38_590)
    np.testing.assert_array_equal(ratio.test.degrees(), tests)
    np.testing.assert_array_equal(ratio.valid.degrees(), np.floor(0.1 * (n - tests) + 0.5))
    bernoulli = make_split(beauty, RatioConfig(mode="bernoulli"))
    for part, share in ((bernoulli.test, 0.2), (bernoulli.valid, 0.08), (bernoulli.train, 0.72)):
        deviation = math.sqrt(len(beauty) * share * (1 - share))
        assert abs(len(part) - share * len(beauty)) < 4 * deviation
    temporal = make_split(beauty, "temporal")
    assert temporal.train.timestamp.max() < temporal.valid.timestamp.min()
    assert temporal.valid.timestamp.max() < temporal.test.timestamp.min()
    for split in (leave, ratio, bernoulli, temporal):
        assert split.train.n_items == split.test.n_items == 12_101
        assert split.train.items is beauty.items
        assert sum(sizes(split)) == len(beauty)


def test_every_row_is_equally_likely_to_be_held_out():
    log = Interactions.from_columns(user=np.repeat(np.arange(4000), 10), item=np.tile(np.arange(10), 4000))
    split = make_split(log, RatioConfig(seed=5))
    counts = split.test.item_counts()
    # 4000 users hold out 2 of 10 rows each: every place is a Binomial(4000, 0.2).
    assert (np.abs(counts - 800) < 4 * math.sqrt(4000 * 0.2 * 0.8)).all()
    assert (split.valid.degrees() == 1).all()


@settings(max_examples=80, deadline=None)
@given(LOG, st.integers(0, 5))
def test_ratio_per_user_promises(rows, seed):
    log = make(rows)
    split = make_split(log, RatioConfig(seed=seed))
    parts = [{(u, i) for u, i, _ in triples(part)} for part in (split.train, split.valid, split.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == sum(sizes(split))
    assert set.union(*parts) == {(u, i) for u, i, _ in rows}
    assert split.options["repeated_pairs_removed"] == len(rows) - sum(sizes(split))
    for user in {u for u, _, _ in rows}:
        n = len({i for u, i, _ in rows if u == user})
        tests = min(max(math.floor(0.2 * n + 0.5), 1), n - 1)
        got = [sum(1 for u, _ in part if u == user) for part in parts]
        assert got[2] == tests
        assert got[1] == min(math.floor(0.1 * (n - tests) + 0.5), n - tests - 1)
        assert got[0] >= 1


@settings(max_examples=80, deadline=None)
@given(LOG)
def test_leave_one_out_equals_the_plain_rule(rows):
    log = make(rows)
    split = make_split(log, "leave-one-out")
    by_user = collections.defaultdict(list)
    for row in triples(log):
        by_user[row[0]].append(row)
    long = {user: own for user, own in by_user.items() if len(own) >= 3}
    assert triples(split.test) == [own[-1] for own in long.values()]
    assert triples(split.valid) == [own[-2] for own in long.values()]
    assert triples(split.train) == [row for user, own in by_user.items() for row in (own[:-2] if user in long else own)]
    assert triples(split.history("test")) == [
        row for user, own in by_user.items() for row in (own[:-1] if user in long else own)
    ]


@settings(max_examples=60, deadline=None)
@given(LOG, st.randoms(use_true_random=False))
def test_row_order_of_the_source_does_not_matter(rows, random):
    rows = [(user, item, place) for place, (user, item, _) in enumerate(rows)]
    shuffled = random.sample(rows, len(rows))
    for kind in ("ratio", "leave-one-out", {"kind": "ratio", "mode": "bernoulli"}):
        one, other = make_split(make(rows), kind), make_split(make(shuffled), kind)
        assert one.sha256 == other.sha256
        assert triples(one.test) == triples(other.test)


def test_hash_is_of_content_and_options_and_not_of_the_file(tmp_path):
    frame = pl.DataFrame({"user": [1] * 10 + [2] * 10, "item": list(range(20)), "timestamp": list(range(20))})
    frame.write_csv(tmp_path / "a.csv")
    frame.write_parquet(tmp_path / "b.parquet")
    csv, parquet = read_interactions(tmp_path / "a.csv"), read_interactions(tmp_path / "b.parquet")
    assert csv.sha256 != parquet.sha256
    assert make_split(csv, "ratio").sha256 == make_split(parquet, "ratio").sha256
    other = read_interactions(frame.with_columns(item=pl.col("item") + 1))
    wider = read_interactions(frame, items=range(21))
    variants = [
        make_split(csv, "ratio"), make_split(csv, RatioConfig(seed=1)), make_split(csv, RatioConfig(valid=0.3)),
        make_split(csv, RatioConfig(mode="bernoulli")), make_split(csv, "leave-one-out"), make_split(csv, "temporal"),
        make_split(other, "ratio"), make_split(wider, "ratio"),
    ]  # fmt: skip
    assert len({split.sha256 for split in variants}) == len(variants)


def test_poisoned_test_rows_leave_train_untouched():
    log = make(HAND)
    split = make_split(log, "leave-one-out")
    changed = [(u, 10 if (u, i, t) in triples(split.test) else i, t) for u, i, t in HAND]
    poisoned = make_split(make([*changed]), "leave-one-out")
    assert triples(poisoned.test) != triples(split.test)
    assert triples(poisoned.train) == triples(split.train)
    assert triples(poisoned.valid) == triples(split.valid)


def test_leaks_are_refused():
    log = make(HAND)
    codes = np.zeros(len(log), dtype=np.int8)
    codes[0] = 2
    with pytest.raises(DataError, match="user 1 has a train row after its cut"):
        from_codes(log, codes, name="leave-one-out", options={}, ordered=True)
    with pytest.raises(DataError, match="codes 0, 1, 2"):
        from_codes(log, codes + 3, name="leave-one-out", options={}, ordered=True)
    with pytest.raises(DataError, match="codes 0, 1, 2"):
        from_codes(log, codes[1:], name="leave-one-out", options={}, ordered=True)
    split = make_split(log, "leave-one-out")
    with pytest.raises(DataError, match="has a row before the cut that is later"):
        Split(name="leave-one-out", train=split.test, valid=split.valid, test=split.train)
    twice = make([(1, 1, 1), (1, 1, 2), (1, 2, 3)])
    with pytest.raises(DataError, match="user 1 meets item 1 in two places"):
        from_codes(twice, np.array([0, 2, 0], dtype=np.int8), name="ratio", options={}, ordered=False)
    with pytest.raises(DataError, match="share the vocabularies"):
        Split(name="given", train=log, valid=make(HAND), test=log)
    dataclasses.replace(split, sha256="").check()


@pytest.mark.parametrize(
    ("rows", "config", "message"),
    [
        (HAND, "given", "needs a split column"),
        ([(1, 1, 5), (1, 2, 5), (2, 1, 5)], "temporal", "leaves train empty"),
        (HAND, {"kind": "temporal", "test": 0.6, "valid": 0.5}, "leave no rows to train on"),
    ],
)
def test_impossible_splits_are_explained(rows, config, message):
    with pytest.raises(DataError, match=message):
        make_split(make(rows), config)


def test_given_and_temporal_need_their_columns():
    with pytest.raises(DataError, match="needs a timestamp column"):
        make_split(Interactions.from_columns(user=[1], item=[1]), "temporal")
    for column, message in (([0, 0], r"no test \(1\) rows"), ([1, 1], r"no train \(0\) rows"), ([0, 7], "value 7")):
        with pytest.raises(DataError, match=message):
            make_split(Interactions.from_columns(user=[1, 1], item=[1, 2], split=column), "given")
    nothing = Interactions.from_columns(user=[], item=[], users=Vocabulary.of([1]), items=Vocabulary.of([1]))
    with pytest.raises(DataError, match="no rows to split"):
        make_split(nothing, "ratio")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("leave-one", r"unknown kind 'leave-one'; did you mean 'leave-one-out'\?"),
        ("zzz", r"unknown kind 'zzz'\. Known: ratio, leave-one-out"),
        ({"kind": "ratio", "sede": 1}, r"split.sede: "),
        ({"kind": "ratio", "test": 1.5}, r"split.test: .*less than 1 \(got 1.5\)"),
        ({"mode": "other"}, r"split.mode: .*per-user"),
        (7, "expected a name or a mapping"),
    ],
)
def test_bad_config_is_one_clear_error(config, message):
    with pytest.raises(ConfigError, match=message):
        make_split(make(HAND), config)


def test_history_of_another_part_is_refused():
    with pytest.raises(DataError, match="'train'"):
        make_split(make(HAND), "ratio").history("train")
