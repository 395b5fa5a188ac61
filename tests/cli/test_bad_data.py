"""Broken and odd logs through the command line: refused in one message, or carried through the whole chain."""

from __future__ import annotations

import gzip
import io
import zipfile
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

GOOD = b"user,item,timestamp\n1,10,100\n1,11,200\n2,10,150\n"


def parquet(**columns: object) -> bytes:
    out = io.BytesIO()
    pl.DataFrame(columns).write_parquet(out)
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("log.csv", GOOD)
    return out.getvalue()


# name, file, content, words of the message besides the file's name
BAD = [
    ("empty", "a.csv", b"", ["empty"]),
    ("header only", "a.csv", b"user,item,timestamp\n", ["no rows"]),
    ("blank first line", "a.csv", b"\n\nuser,item\n1,2\n", ["line 1", "blank"]),
    ("no header", "a.csv", b"196,242,3,881250949\n186,302,3,891717742\n", ["line 1", "header"]),
    ("no user column", "a.csv", b"who,item\n1,2\n", ["user", "'who'"]),
    ("duplicate columns", "a.csv", b"user,item,item\n1,2,3\n", ["'item'", "twice"]),
    ("unnamed column", "a.csv", b"user,item,\n1,2,3\n", ["column 3"]),
    ("unknown separator", "a.csv", b"user~item\n1~2\n", ["separator"]),
    ("separator changes", "a.csv", b"user,item,time\n1;2;3\n", ["line 2", "semicolon"]),
    ("too many cells", "a.csv", b"user,item,time\n1,2,3\n1,2,3,4\n", ["line 3", "4 columns"]),
    ("too few cells", "a.csv", b"user,item,time\n1,2,3\n1\n", ["line 3"]),
    ("missing item", "a.csv", b"user,item,time\n1,2,3\n\n1,,4\n", ["line 4", "'item'"]),
    ("nan user", "a.csv", b"user,item\n1,2\nnan,3\n", ["line 3", "'user'"]),
    ("open quote", "a.csv", b'user,item,time\n1,2,3\n"1,2,4\n2,3,5\n', ["line 3", "quote"]),
    ("UTF-16", "a.csv", GOOD.decode().encode("utf-16"), ["UTF-16"]),
    ("Latin-1", "a.csv", "user,item\nJos\xe9,1\n".encode("latin-1"), ["line 2", "Latin-1"]),
    ("NUL byte", "a.csv", b"user,item\n1,2\n1,\x003\n", ["line 3", "NUL"]),
    ("old Mac", "a.csv", b"user,item\r1,2\r1,3\r", ["CR"]),
    ("junk", "a.csv", bytes(range(256)) * 40, ["NUL"]),
    ("long line", "a.csv", b"user,item\n1," + b"x" * 10_000_000 + b"\n", ["line 2", "4096"]),
    ("zip", "a.csv", zipped(), ["ZIP"]),
    ("gzip bomb", "a.csv.gz", gzip.compress(b"user,item\n" + b"1,2\n" * 25_000_000, 1), ["expands"]),
    ("gzip cut", "a.csv.gz", gzip.compress(GOOD)[:-12], ["cut short"]),
    ("em dash rating", "a.csv", "user,item,rating\n1,2,5\n1,3,—\n".encode(), ["line 3", "'rating'"]),
    ("rating 1e308", "a.csv", b"user,item,rating\n1,2,1e308\n", ["line 2", "'rating'"]),
    ("time 1e308", "a.csv", b"user,item,time\n1,2,1e308\n", ["line 2", "1e308"]),
    ("time NaN", "a.csv", b"user,item,time\n1,2,3\n1,3,NaN\n", ["line 3", "NaN"]),
    ("negative time", "a.csv", b"user,item,time\n1,2,3\n1,3,-5\n", ["line 3", "-5"]),
    ("ms and s", "a.csv", b"user,item,ts\n1,2,1600000000000\n1,3,1600000001\n", ["line 3", "unit"]),
    ("split dev", "a.csv", b"user,item,split\n1,2,train\n1,3,dev\n", ["line 3", "dev"]),
    ("inter without type", "a.inter", b"user_id\titem_id:token\n1\t2\n", ["line 1, column 1"]),
    ("inter extra colon", "a.inter", b"user_id:token\titem_id:to:ken\n1\t2\n", ["line 1, column 2"]),
    ("users alone", "a.txt", b"1\n2\n3\n", ["user item item"]),
    ("nested parquet", "a.parquet", parquet(user=[1], item=[[2, 3]]), ["'item'", "List"]),
    ("decimal parquet", "a.parquet", parquet(user=[1], item=[Decimal("2.5")]), ["'item'", "Decimal"]),
    ("null parquet", "a.parquet", parquet(user=[None, None], item=[1, 2]), ["row 1", "'user'"]),
    ("parquet cut", "a.parquet", parquet(user=[1, 2], item=[3, 4])[:-20], ["cut short"]),
    ("csv called parquet", "a.parquet", GOOD, ["no Parquet file"]),
]


@pytest.mark.parametrize(("file", "content", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_broken_log_is_one_message(cli, file, content, words):
    Path(file).write_bytes(content)
    for arguments in (("data", "show", file), ("train", "--data", file, "--model", "mf", "--out", "run")):
        answer = cli(*arguments)
        assert answer.code == 2
        assert answer.out == ""
        for word in (file, *words):
            assert word in answer.message
    assert [path.name for path in Path().iterdir()] == [file]


def long_enough(rows: list[tuple[object, ...]], columns: str = "user,item,timestamp") -> bytes:
    return "\n".join([columns, *(",".join(str(cell) for cell in row) for row in rows)]).encode() + b"\n"


JUDGED, TRAINED, REFUSED = "judged", "trained", "refused"
WORDS = ["Åsa", "日本", "😀", "é b", "Ω,x"]
# name, content, what mf and sasrec make of it: judged, trained (nothing can be held out), or refused
ODD = [
    ("one user", long_enough([(7, i, i) for i in range(6)]), (JUDGED, JUDGED)),
    ("one item", long_enough([(u, 5, u) for u in range(6)]), (TRAINED, REFUSED)),
    ("one item, often", long_enough([(u, 5, t) for u in range(4) for t in range(5)]), (TRAINED, JUDGED)),
    ("one event each", long_enough([(u, u % 3, u) for u in range(9)]), (TRAINED, REFUSED)),
    ("one row", long_enough([(1, 1, 1)]), (TRAINED, REFUSED)),
    ("two users, two items", long_enough([(1, 1, 1), (1, 2, 2), (2, 1, 1), (2, 2, 2)]), (JUDGED, TRAINED)),
    ("duplicate rows", long_enough([(u, i, i) for u in range(5) for i in range(4)] * 3), (JUDGED, JUDGED)),
    ("unicode",
     long_enough([(f'"{u}"', f'"{WORDS[(j + n) % 5]}{n}"', n) for j, u in enumerate(WORDS) for n in range(6)]),
     (JUDGED, JUDGED)),
    ("no times", long_enough([(u, (u + j) % 9) for u in range(12) for j in range(5)], "user,item"), (JUDGED, JUDGED)),
    ("some users with one event", long_enough([(u, i, i) for u in range(6) for i in range(5)] + [(99, 1, 1)]),
     (JUDGED, JUDGED)),
    ("same time everywhere", long_enough([(u, (u + j) % 9, 5) for u in range(12) for j in range(5)]), (JUDGED, JUDGED)),
]  # fmt: skip


@pytest.mark.parametrize(("content", "works"), [case[1:] for case in ODD], ids=[case[0] for case in ODD])
def test_an_odd_log_goes_through_the_whole_chain_or_is_refused(cli, content, works):
    Path("odd.csv").write_bytes(content)
    for model, expected in zip(("mf", "sasrec"), works, strict=True):
        trained = cli("train", "--data", "odd.csv", "--model", model, "--epochs", "2", "--out", model, "--json",
                      "--set", "train.threads=1")  # fmt: skip
        if expected == REFUSED:
            assert trained.code == 2
            assert "nothing to learn from" in trained.message
            assert not Path(model).exists()
            continue
        result = trained.json
        assert ("test" in result) == (expected == JUDGED)
        evaluated = cli("evaluate", model, "--json")
        if expected == JUDGED:
            assert evaluated.json["metrics"] == result["test"]
        else:
            assert evaluated.code == 2
            assert "nothing to evaluate" in evaluated.message
            assert "not evaluated" in cli("train", "--resume", "--out", model).out
        rows = cli("recommend", model, "--k", "1000", "--seen", "--json").json
        frame = pl.read_csv("odd.csv", infer_schema=False)
        assert {str(row["user"]) for row in rows} == set(frame["user"])
        assert len(rows) == frame["user"].n_unique() * frame["item"].n_unique()
        unseen = cli("recommend", model, "--k", "1000", "--json").json
        assert len(unseen) == len(rows) - frame.select("user", "item").unique().height
