"""Odd but sound logs: each is read exactly, within two seconds."""

from __future__ import annotations

import datetime
import gzip
import io
import time

import polars as pl
import pytest

from augrec.data import Columns, read_interactions

SECONDS = 2.0
GOOD = b"user,item,timestamp\n1,10,100\n1,11,200\n2,10,150\n"


def parquet(**columns) -> bytes:
    out = io.BytesIO()
    pl.DataFrame(columns).write_parquet(out)
    return out.getvalue()


A = [(1, 10, 100), (1, 11, 200), (2, 10, 150)]
PAIRS = [(1, 10, None), (1, 11, None), (2, 10, None)]
# name, file, content, options, expected rows (user, item, time)
FINE = [
    ("plain", "a.csv", GOOD, {}, A),
    ("byte order mark", "a.csv", b"\xef\xbb\xbf" + GOOD, {}, A),
    ("CRLF", "a.csv", GOOD.replace(b"\n", b"\r\n"), {}, A),
    ("no last line end", "a.csv", GOOD.rstrip(), {}, A),
    ("blank lines", "a.csv", GOOD.replace(b"\n", b"\n\n"), {}, A),
    ("blank lines at the end", "a.csv", GOOD + b"\n\r\n\n", {}, A),
    ("semicolons", "a.csv", GOOD.replace(b",", b";"), {}, A),
    ("tabs in a .csv", "a.csv", GOOD.replace(b",", b"\t"), {}, A),
    ("bars", "a.log", GOOD.replace(b",", b"|"), {}, A),
    ("blanks", "a.txt", GOOD.replace(b",", b" "), {}, A),
    ("quotes", "a.csv", b'"user","item","timestamp"\n"1","10","100"\n"1","11","200"\n"2","10","150"\n', {}, A),
    ("blank after comma", "a.csv", b"user, item, timestamp\n1, 10, 100\n1, 11, 200\n2, 10, 150\n", {}, A),
    ("gzip", "a.csv.gz", gzip.compress(GOOD), {}, A),
    ("gzip named otherwise", "a.csv", gzip.compress(GOOD), {}, A),
    ("floats of whole seconds", "a.csv", GOOD.replace(b"00\n", b"00.0\n"), {}, A),
    ("upper-case aliases", "a.csv", GOOD.replace(b"user,item,timestamp", b"UserID,movieId,unixReviewTime"), {}, A),
    ("canonical name wins", "a.csv", b"user,user_id,item\n1,7,10\n1,8,11\n2,9,10\n", {}, PAIRS),
    ("override", "a.csv", b"a,b,c\n1,10,100\n1,11,200\n2,10,150\n",
     {"columns": Columns(user="a", item="b", timestamp="c")}, A),
    ("ignored time", "a.csv", GOOD, {"columns": Columns(ignore=("timestamp",))}, PAIRS),
    ("names for a headless file", "u.data", b"1\t10\t100\n1\t11\t200\n2\t10\t150\n",
     {"columns": Columns(names=("user", "item", "timestamp"))}, A),
    ("double colons", "r.dat", b"1::10::100\n1::11::200\n2::10::150\n",
     {"columns": Columns(names=("user", "item", "timestamp"))}, A),
    ("inter", "a.inter", b"user_id:token\titem_id:token\ttimestamp:float\n1\t10\t100\n1\t11\t200.0\n2\t10\t150\n",
     {}, A),
    ("inter with commas", "a.inter", b"user_id:token,item_id:token,timestamp:float\n1,10,100\n1,11,200\n2,10,150\n",
     {}, A),
    ("inter with a list column", "a.inter",
     b"user_id:token\titem_id:token\tclass:token_seq\ttimestamp:float\n1\t10\ta b\t100\n1\t11\t\t200\n2\t10\tc\t150\n",
     {}, A),
    ("sequences", "a.txt", b"1 10 11\n2 10\n", {}, PAIRS),
    ("sequences, tabs between", "a.txt", b"1 10\t 11 \r\n2  10\r\n", {"format": "sequences"}, PAIRS),
    ("sequences, a lonely user", "a.txt", b"3\n1 10 11\n\n2 10", {}, PAIRS),
    ("milliseconds", "a.csv", b"user,item,ts\n1,11,1600000000900\n1,10,1600000000100\n", {},
     [(1, 10, 1600000000), (1, 11, 1600000000)]),
    ("ISO dates", "a.csv", b"user,item,date\n1,11,2020-01-02\n1,10,2020-01-01\n", {},
     [(1, 10, 1577836800), (1, 11, 1577923200)]),
    ("ISO times", "a.csv", b"user,item,time\n1,11,2020-01-01T00:00:01Z\n1,10,2020-01-01T00:00:00Z\n", {},
     [(1, 10, 1577836800), (1, 11, 1577836801)]),
    ("unsorted", "a.csv", b"user,item,timestamp\n2,10,150\n1,11,200\n1,10,100\n", {}, A),
    ("ties keep their order", "a.csv", b"user,item,timestamp\n1,12,5\n1,10,5\n1,11,5\n", {},
     [(1, 12, 5), (1, 10, 5), (1, 11, 5)]),
    ("position orders ties", "a.csv", b"user,item,timestamp,position\n1,12,5,2\n1,10,5,0\n1,11,5,1\n", {},
     [(1, 10, 5), (1, 11, 5), (1, 12, 5)]),
    ("001 is not 1", "a.csv", b"user,item\n001,10\n1,11\n", {}, [("001", 10, None), ("1", 11, None)]),
    ("mixed ids are text", "a.csv", b"user,item\na,10\n1,11\n", {}, [("1", 11, None), ("a", 10, None)]),
    ("beyond 64 bits is text", "a.csv", b"user,item\n9223372036854775808,1\n", {}, [("9223372036854775808", 1, None)]),
    ("ends of 64 bits", "a.csv", b"user,item\n9223372036854775807,1\n-9223372036854775808,1\n", {},
     [(-(2**63), 1, None), (2**63 - 1, 1, None)]),
    ("unicode", "a.csv", "user,item\nÅsa,日本\n😀,é\n".encode(), {}, [("Åsa", "日本", None), ("😀", "é", None)]),
    ("comma in quotes", "a.csv", b'user,item\n"a,b","say ""x"""\n', {}, [("a,b", 'say "x"', None)]),
    ("line end in quotes", "a.csv", b'user,item\n"a\nb",1\n', {}, [("a\nb", 1, None)]),
    ("quotes in .inter are letters", "a.inter", b'user_id:token\titem_id:token\n1\t5" nail\n', {},
     [(1, '5" nail', None)]),
    ("quote inside a cell", "a.csv", b'user,item\n1,5" nail\n2,6\n', {}, [(1, '5" nail', None), (2, "6", None)]),
    ("nan as real text", "a.csv", b"user,item\nnan,null\n", {"columns": Columns(ids="text")}, [("nan", "null", None)]),
    ("one row", "a.csv", b"user,item\n1,1\n", {}, [(1, 1, None)]),
    ("one user", "a.csv", b"user,item\n1,1\n1,2\n1,1\n", {}, [(1, 1, None), (1, 2, None), (1, 1, None)]),
    ("one item", "a.csv", b"user,item\n3,1\n1,1\n2,1\n", {}, [(1, 1, None), (2, 1, None), (3, 1, None)]),
    ("parquet", "a.parquet", parquet(user=[1, 1, 2], item=[10, 11, 10], timestamp=[100, 200, 150]), {}, A),
    ("parquet without ending", "log", parquet(user=[1, 1, 2], item=[10, 11, 10], timestamp=[100, 200, 150]), {}, A),
    ("parquet whole floats", "a.parquet", parquet(user=[1.0, 1.0, 2.0], item=[10, 11, 10]), {}, PAIRS),
    ("parquet nested column unused", "a.parquet", parquet(user=[1, 1, 2], item=[10, 11, 10], tags=[[1], [], [2]]), {},
     PAIRS),
    ("parquet categories", "a.parquet", parquet(user=pl.Series(["b", "a"], dtype=pl.Categorical), item=[1, 2]), {},
     [("a", 2, None), ("b", 1, None)]),
    ("parquet text digits stay text", "a.parquet", parquet(user=["10", "9"], item=[1, 2]), {},
     [("10", 1, None), ("9", 2, None)]),
    ("parquet datetimes", "a.parquet", parquet(user=[1, 1], item=[11, 10],
     time=[datetime.datetime(2020, 1, 1, 0, 0, 1), datetime.datetime(2020, 1, 1)]), {},
     [(1, 10, 1577836800), (1, 11, 1577836801)]),
    ("null times beside positions", "a.parquet", parquet(user=[1, 1, 2], item=[11, 10, 10], timestamp=[None, 5, 6],
     position=[1, 0, 0]), {}, PAIRS),
]  # fmt: skip


def rows(log):
    times = [None] * len(log) if log.timestamp is None else log.timestamp.tolist()
    users, items = log.users.take(log.user).to_list(), log.items.take(log.item).to_list()
    return list(zip(users, items, times, strict=True))


@pytest.mark.parametrize(("file", "content", "options", "expected"), [c[1:] for c in FINE], ids=[c[0] for c in FINE])
def test_odd_log_is_read_exactly(tmp_path, file, content, options, expected):
    path = tmp_path / file
    path.write_bytes(content)
    start = time.perf_counter()
    log = read_interactions(path, **options)
    assert time.perf_counter() - start < SECONDS
    assert rows(log) == expected


def test_relative_path_and_glob_characters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a[1]*.csv").write_bytes(GOOD)
    (tmp_path / "b[1]*.parquet").write_bytes(parquet(user=[1, 1, 2], item=[10, 11, 10], timestamp=[100, 200, 150]))
    assert rows(read_interactions("a[1]*.csv")) == A
    assert rows(read_interactions("b[1]*.parquet")) == A
