"""Policies of the recommender: unknown users and items, histories, allow and deny, odd k, many threads."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest

from augrec.data.interactions import Interactions
from augrec.errors import DataError, UsageError
from augrec.evaluate.ranking import rank

READS = {"sasrec", "bert4rec", "gru4rec", "popularity", "itemknn", "ease"}


def known(served) -> Interactions:
    return served.recommender.bundle.history


def as_histories(history: Interactions, users: np.ndarray) -> Interactions:
    """The rows of some users as a log of strangers: new user ids, items in another order of ids."""
    rows = np.flatnonzero(np.isin(history.user, users))
    return Interactions.from_columns(
        user=[f"new{one}" for one in history.user[rows]], item=history.items.take(history.item[rows]),
        position=np.arange(len(rows)), name="strangers",
    )  # fmt: skip


def test_histories_get_what_the_same_histories_get_in_the_model(served):
    history = known(served)
    users = np.arange(0, history.n_users, 7)
    strangers = as_histories(history, users)
    assert served.recommender.bundle.reads_history == (served.recommender.bundle.model in READS)
    if served.recommender.bundle.model not in READS:
        with pytest.raises(UsageError, match="vectors for the users it was trained on"):
            served.recommender.recommend_histories(strangers, k=10)
        return
    lists = served.recommender.recommend_histories(strangers, k=10)
    top = rank(served.scorer, users, history, k=10, mask_seen=True)
    expected = {
        f"new{user}": (history.items.take(items).to_list(), scores)
        for user, items, scores in zip(users, top.items, top.scores, strict=True)
    }
    for name, part in lists.group_by("user", maintain_order=True):
        items, scores = expected.pop(str(name[0]))
        assert np.allclose(part["score"].to_numpy(), scores, rtol=1e-5, atol=1e-6)
        # Another order of users sums in another order: places may swap only where scores tie to rounding.
        differ = [place for place, item in enumerate(part["item"]) if item != items[place]]
        assert all(np.isclose(np.delete(scores, p), scores[p], rtol=1e-5, atol=1e-6).any() or p == 9 for p in differ)
    assert not expected


def test_unknown_items_in_histories_are_refused(served):
    strangers = Interactions.from_columns(user=["x"], item=["no such item"], name="strangers")
    with pytest.raises(UsageError):  # DataError is one
        served.recommender.recommend_histories(strangers)


def test_unknown_users(served):
    history = known(served)
    asked = [history.users.ids[5], -77, history.users.ids[2], -78]
    with pytest.raises(DataError, match=r"2 of 4 users are not in the model \(first: -77\)"):
        served.recommender.recommend(asked, k=3)
    skipped = served.recommender.recommend(asked, k=3, unknown="skip")
    assert skipped["user"].unique(maintain_order=True).to_list() == [asked[0], asked[2]]
    filled = served.recommender.recommend(asked, k=3, unknown="popular")
    counts = np.bincount(history.item, minlength=history.n_items)
    best = np.lexsort((np.arange(history.n_items), -counts))[:3]
    for stranger in (-77, -78):
        part = filled.filter(pl.col("user") == stranger)
        assert part["item"].to_list() == history.items.take(best).to_list()
        assert part["score"].to_list() == counts[best].tolist()
        assert part["rank"].to_list() == [1, 2, 3]
    assert filled.filter(pl.col("user") > 0).equals(skipped)


def test_a_list_does_not_depend_on_who_else_is_asked_for(served):
    history = known(served)
    whole = served.recommender.recommend(k=5)
    for user in history.users.ids.gather([0, 17, 999]):
        alone = served.recommender.recommend([user], k=5)
        together = whole.filter(pl.col("user") == user)
        assert np.allclose(alone["score"].to_numpy(), together["score"].to_numpy(), rtol=1e-5, atol=1e-6)
        assert len(set(alone["item"]) & set(together["item"])) >= 4


def test_allow_and_deny(served):
    history, ids = known(served), known(served).items.ids
    allow, deny = ids.gather(range(0, 50)).to_list(), ids.gather(range(40, 60)).to_list()
    user = [history.users.ids[3]]
    lists = served.recommender.recommend(user, k=1000, seen=True, allow=[*allow, -5], deny=deny)
    assert set(lists["item"]) == set(allow) - set(deny)
    free = served.recommender.recommend(user, k=1000, seen=True, deny=deny)
    assert not set(free["item"]) & set(deny)
    assert len(free) == 1000
    stranger = served.recommender.recommend([-1], k=100, allow=allow, deny=deny, unknown="popular")
    assert set(stranger["item"]) == set(allow) - set(deny)
    with pytest.raises(DataError, match="--allow: none of the 1 items"):
        served.recommender.recommend(user, allow=[-5])
    with pytest.raises(DataError, match="--deny"):
        served.recommender.recommend(user, deny=["no such"])


def test_odd_k(served):
    user = [known(served).users.ids[0]]
    for k in (0, -1):
        with pytest.raises(UsageError, match="at least 1"):
            served.recommender.recommend(user, k=k)
    every = served.recommender.recommend(user, k=10**9, seen=True)
    assert len(every) == known(served).n_items
    assert every["item"].n_unique() == len(every)
    unseen = served.recommender.recommend(user, k=10**9)
    assert len(unseen) == known(served).n_items - int(known(served).degrees()[0])


def test_no_users_twice_the_same_user_and_missing_ids(served):
    nobody = served.recommender.recommend([], k=3)
    assert nobody.columns == ["user", "item", "rank", "score"]
    assert len(nobody) == 0
    user = known(served).users.ids[0]
    twice = served.recommender.recommend([user, user], k=3)
    assert twice.head(3)["item"].to_list() == twice.tail(3)["item"].to_list()
    with pytest.raises(DataError):
        served.recommender.recommend([None], k=3)


def test_threads_get_the_serial_answers(served):
    """H2: eight threads, switched between as often as possible."""
    ids = known(served).users.ids
    asked = [ids.gather(np.arange(start, start + 5)) for start in range(0, 200, 5)]
    serial = [served.recommender.recommend(one, k=5) for one in asked]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            parallel = list(pool.map(lambda one: served.recommender.recommend(one, k=5), asked))
    finally:
        sys.setswitchinterval(before)
    assert all(one.equals(two) for one, two in zip(serial, parallel, strict=True))
