"""One log written as .inter, CSV, TSV and Parquet is read as one and the same Interactions."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from augrec.data import Interactions, read_interactions
from augrec.data.casting import MISSING

INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)
# Ids as .inter can hold them: no tab, line end or NUL, no blank at either end; one letter makes sure they are text.
TEXT = (
    st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=8)
    .filter(lambda text: text == text.strip() and "\x85" not in text and text not in MISSING)
    .map(lambda text: "x" + text)
    .filter(lambda text: text == text.strip())
)
ROW = st.tuples(st.integers(0, 2**33), st.floats(0, 5, width=32).map(lambda x: round(x, 2)))


def logs(ids):
    return st.lists(st.tuples(ids, ids, ROW), min_size=1, max_size=25)


def written(folder: Path, rows: list) -> list[Path]:
    header = ["user_id", "item_id", "timestamp", "rating"]
    cells = [[user, item, time, repr(rating)] for user, item, (time, rating) in rows]
    (folder / "log.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\trating:float\n"
        + "".join("\t".join(map(str, line)) + "\n" for line in cells),
        encoding="utf-8", newline="",
    )  # fmt: skip
    for name, mark in (("log.csv", ","), ("log.tsv", "\t"), ("semicolon.csv", ";")):
        out = io.StringIO(newline="")
        csv.writer(out, delimiter=mark).writerows([header, *cells])
        (folder / name).write_text(out.getvalue(), encoding="utf-8", newline="")
    columns = dict(zip(header, zip(*[(u, i, t, r) for u, i, (t, r) in rows], strict=True), strict=True))
    pl.DataFrame({name: list(values) for name, values in columns.items()}).write_parquet(folder / "log.parquet")
    return sorted(folder.iterdir())


def expected(rows: list) -> Interactions:
    order = sorted(range(len(rows)), key=lambda row: (_key(rows[row][0]), rows[row][2][0], row))
    return [rows[row] for row in order]


def _key(value):
    return value.encode() if isinstance(value, str) else value


def check_all_formats(rows: list) -> None:
    with tempfile.TemporaryDirectory() as folder:
        read = [read_interactions(path) for path in written(Path(folder), rows)]
    assert len(read) == 5
    truth = expected(rows)
    for log in read:
        got = list(
            zip(
                log.users.take(log.user).to_list(),
                log.items.take(log.item).to_list(),
                log.timestamp.tolist(),
                strict=True,
            )
        )
        assert got == [(user, item, time) for user, item, (time, _) in truth]
        np.testing.assert_array_equal(log.rating, np.array([row[2][1] for row in truth], dtype=np.float32))
        assert log.content_hash() == read[0].content_hash()


@settings(max_examples=20, deadline=None)
@given(logs(INT64))
@example([(-(2**63), 2**63 - 1, (0, 0.0)), (0, -1, (2**33, 5.0))])
def test_integer_ids(rows):
    check_all_formats(rows)


@settings(max_examples=20, deadline=None)
@given(logs(TEXT))
@example([("x😀", "x\u202e", (1, 1.0)), ("x,;|", 'x"', (1, 1.0)), ("x'", "x\\n", (1, 0.5))])
def test_text_ids(rows):
    check_all_formats(rows)


def test_shuffled_rows_of_distinct_times_give_the_same_content(tmp_path):
    rng = np.random.default_rng(3)
    frame = pl.DataFrame(
        {"user": rng.integers(0, 50, 400), "item": rng.integers(0, 90, 400), "timestamp": rng.permutation(400)}
    )
    straight = read_interactions(frame)
    shuffled = read_interactions(frame.sample(fraction=1.0, shuffle=True, seed=1))
    assert straight.content_hash() == shuffled.content_hash()
    assert straight.item.tolist() == shuffled.item.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_order_equals_a_plain_python_sort(seed):
    rng = np.random.default_rng(seed)
    user, item = rng.integers(-5, 5, 300), rng.integers(0, 9, 300)
    time, position = rng.integers(0, 4, 300), rng.integers(0, 3, 300)
    log = Interactions.from_columns(user=user, item=item, timestamp=time, position=position)
    order = sorted(range(300), key=lambda row: (user[row], time[row], position[row], row))
    assert log.users.take(log.user).to_list() == user[order].tolist()
    assert log.items.take(log.item).to_list() == item[order].tolist()
    assert log.timestamp.tolist() == time[order].tolist()


def test_times_too_wide_to_pack_sort_alike():
    user, time = np.array([1, 0, 1, 0]), np.array([2**62, 2**62, 0, 1])
    position = np.array([2**52, 0, 0, 0])
    log = Interactions.from_columns(user=user, item=[0, 1, 2, 3], timestamp=time, position=position)
    assert log.item.tolist() == [3, 1, 2, 0]
