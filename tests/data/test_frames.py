"""Data frames of several makes give the same log as a file, and say clearly what is wrong with them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from augrec.data import Columns, read_interactions
from augrec.errors import DataError

COLUMNS = {"user_id": [2, 1, 1], "movieId": ["b", "a", "b"], "rating": [5.0, 4.0, 3.0], "time": [30, 20, 10]}
ROWS = [(1, "b", 10, 3.0), (1, "a", 20, 4.0), (2, "b", 30, 5.0)]


def rows(log):
    users, items = log.users.take(log.user).to_list(), log.items.take(log.item).to_list()
    return list(zip(users, items, log.timestamp.tolist(), log.rating.tolist(), strict=True))


class PandasLike:
    """What pandas offers without Arrow: columns, item access, and arrays of objects for text."""

    def __init__(self, columns):
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, name):
        return np.asarray(self._columns[name], dtype=object if name == "movieId" else None)


@pytest.mark.parametrize("make", [dict, pl.DataFrame, pl.LazyFrame, PandasLike])
def test_frame_gives_the_same_rows(make):
    log = read_interactions(make(COLUMNS))
    assert rows(log) == ROWS
    assert log.sha256 == read_interactions(COLUMNS).sha256
    assert log.name == "data frame"


def test_pandas_frames_of_every_text_type():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(COLUMNS)
    assert rows(read_interactions(frame)) == ROWS
    assert rows(read_interactions(frame.astype({"movieId": "category"}))) == ROWS
    assert rows(read_interactions(frame.astype({"movieId": "string"}))) == ROWS
    assert rows(read_interactions(frame.astype({"user_id": "Int64"}))) == ROWS
    assert rows(read_interactions(frame.iloc[::-1])) == ROWS
    stamped = frame.assign(time=pandas.to_datetime(frame["time"], unit="s"))
    assert rows(read_interactions(stamped)) == ROWS
    missing = frame.assign(user_id=[2, None, 1])
    with pytest.raises(DataError, match=r"data frame, row 2, column 'user_id': the user id is"):
        read_interactions(missing)
    with pytest.raises(DataError, match=r"data frame, row 1, column 'movieId': the item id is missing"):
        read_interactions(frame.assign(movieId=[None, "a", "b"]))


def test_arrow_table_gives_the_same_rows():
    pyarrow = pytest.importorskip("pyarrow")
    assert rows(read_interactions(pyarrow.table(COLUMNS))) == ROWS
    chunked = pyarrow.concat_tables([pyarrow.table(COLUMNS).slice(0, 1), pyarrow.table(COLUMNS).slice(1)])
    assert rows(read_interactions(chunked)) == ROWS


BAD = [
    ([1, 2], r"cannot read interactions from list; give a path"),
    (None, r"cannot read interactions from NoneType"),
    ({"user": [1, 2], "item": [1]}, r"different lengths \{'user': 2, 'item': 1\}"),
    ({"user": [], "item": []}, r"no rows"),
    ({"user": [1, "a"], "item": [1, 2]}, r"column 'user': the user column mixes types"),
    ({"user": np.array([1, "a"], dtype=object), "item": [1, 2]}, r"column 'user': the user column mixes types"),
    ({"user": np.ones((2, 2)), "item": [1, 2]}, r"column 'user': has 2 dimensions"),
    ({"user": [1.5, 2.0], "item": [1, 2]}, r"row 1, column 'user': the user id is no whole number \(value 1.5\)"),
    ({"user": [1, 2], "item": [1, None]}, r"row 2, column 'item': the item id is missing"),
    ({"user": [1, 2], "item": [1, 2], "time": [1, -1]}, r"row 2, column 'time': the time is negative"),
    ({0: [1], 1: [2]}, r"column names must be text"),
    ({"user": [2**70], "item": [1]}, r"column 'user'"),
    ({"user": [1], "item": [object()]}, r"column 'item'"),
    (pl.DataFrame({"a": [1]}).lazy().select("nope"), r"lazy frame cannot be computed"),
]  # fmt: skip


@pytest.mark.parametrize(("frame", "message"), BAD)
def test_bad_frame_is_one_clear_error(frame, message):
    with pytest.raises(DataError, match=message) as caught:
        read_interactions(frame)
    assert "\n" not in str(caught.value)


def test_declared_ids_keep_their_places_and_reject_strangers():
    log = read_interactions(COLUMNS, items=["z", "b", "a"], users=[1, 2, 3])
    assert log.n_items == 3
    assert log.n_users == 3
    assert log.items.ids.to_list() == ["a", "b", "z"]
    assert log.item_counts().tolist() == [1, 2, 0]
    assert log.degrees().tolist() == [2, 1, 0]
    with pytest.raises(DataError, match="item id 'b' of row 1 is not among the 1 declared"):
        read_interactions(COLUMNS, items=["a"])


def test_source_is_not_changed_and_arrays_cannot_be():
    user = np.array([0, 0, 1])
    log = read_interactions({"user": user, "item": [1, 2, 3]}, columns=Columns(user="user"))
    user[0] = 5
    assert log.user.tolist() == [0, 0, 1]
    for name in ("user", "item", "offsets"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(log, name)[0] = 7
