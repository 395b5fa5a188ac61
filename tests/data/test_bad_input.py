"""Broken logs: each is refused within two seconds, by one message with the place, the value and a way to mend it."""

from __future__ import annotations

import datetime
import gzip
import io
import os
import time
import zipfile
from decimal import Decimal

import polars as pl
import pytest

from augrec.data import Columns, read_interactions
from augrec.errors import DataError

SECONDS = 2.0
GOOD = b"user,item,timestamp\n1,10,100\n1,11,200\n2,10,150\n"


def parquet(**columns) -> bytes:
    out = io.BytesIO()
    pl.DataFrame(columns).write_parquet(out)
    return out.getvalue()


def damaged_page() -> bytes:
    # Uncompressed pages: the damage must be met in a page header, not in a checksum.
    out = io.BytesIO()
    pl.DataFrame({"user": list(range(5000)), "item": list(range(5000))}).write_parquet(out, compression="zstd")
    raw = bytearray(out.getvalue())
    raw[4:1500] = b"\xff" * 1496
    return bytes(raw)


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("log.csv", GOOD)
    return out.getvalue()


# name, file, content, options, words the message must contain (besides the file name)
BAD = [
    ("empty", "a.csv", b"", {}, ["empty"]),
    ("blank first line", "a.csv", b"\n\nuser,item\n1,2\n", {}, ["line 1", "blank"]),
    ("only blanks", "a.csv", b"   \n", {}, ["line 1", "blank"]),
    ("header only", "a.csv", b"user,item,timestamp\n", {}, ["no rows", "add"]),
    ("header without line end", "a.csv", b"user,item,timestamp", {}, ["no rows"]),
    ("inter header only", "a.inter", b"user_id:token\titem_id:token\n", {}, ["no rows"]),
    ("no header", "a.csv", b"196,242,3,881250949\n186,302,3,891717742\n", {}, ["line 1", "header", "Columns(names="]),
    ("no header, tabs", "u.data", b"196\t242\t3\t881250949\n", {}, ["line 1", "header", "Columns(names="]),
    ("no user column", "a.csv", b"who,item\n1,2\n", {}, ["user", "'who'", "Columns(user="]),
    ("no item column", "a.csv", b"user,what\n1,2\n", {}, ["item", "'what'", "Columns(item="]),
    ("override misspelt", "a.csv", b"person,item\n1,2\n", {"columns": Columns(user="persn")}, ["persn", "'person'"]),
    ("ignored column absent", "a.csv", GOOD, {"columns": Columns(ignore=("tim",))}, ["tim", "ignore"]),
    ("two user columns", "a.csv", b"user_id,uid,item\n1,2,3\n", {}, ["user_id", "uid", "Columns(user="]),
    ("duplicate columns", "a.csv", b"user,item,item\n1,2,3\n", {}, ["'item'", "twice", "columns 2 and 3"]),
    ("duplicate unused columns", "a.csv", b"user,item,x,x\n1,2,3,4\n", {}, ["'x'", "twice"]),
    ("unnamed column", "a.csv", b"user,item,\n1,2,3\n", {}, ["line 1", "column 3", "no name"]),
    ("forced wrong separator", "a.csv", GOOD, {"separator": ";"}, ["line 1", "semicolon", "comma", "separator="]),
    ("unknown separator", "a.csv", b"user~item\n1~2\n", {}, ["line 1", "separator", "user~item"]),
    ("long separator", "a.csv", GOOD, {"separator": "<>"}, ["separator", "'<>'"]),
    ("empty separator", "a.csv", GOOD, {"separator": ""}, ["separator", "''"]),
    ("separator changes", "a.csv", b"user,item,time\n1;2;3\n", {}, ["line 2", "semicolon", "3"]),
    ("one row separated otherwise", "a.csv", b"user,item,time\n1,2,3\n1;2;3\n", {}, ["line 3", "semicolon"]),
    ("too many cells", "a.csv", b"user,item,time\n1,2,3\n1,2,3,4\n", {}, ["line 3", "4 columns", "3"]),
    ("too few cells", "a.csv", b"user,item,time\n1,2,3\n1\n", {}, ["line 3", "1 column"]),
    ("cut in the last line", "a.csv", b"user,item,time\n1,2,3\n1,2", {}, ["line 3", "'time'", "missing"]),
    ("missing item", "a.csv", b"user,item,time\n1,2,3\n\n1,,4\n", {}, ["line 4", "'item'", "missing", "drop"]),
    ("quoted empty item", "a.csv", b'user,item\n1,2\n1,""\n', {}, ["line 3", "'item'", "missing"]),
    ("blank item", "a.csv", b"user,item\n1,2\n1,  \n", {}, ["line 3", "'item'", "missing"]),
    ("nan user", "a.csv", b"user,item\n1,2\nnan,3\n", {}, ["line 3", "'user'", "'nan'", "ids='text'"]),
    ("null item", "a.tsv", b"user\titem\n1\tnull\n", {}, ["line 2", "'item'", "'null'"]),
    ("quote never closed", "a.csv", b'user,item,time\n1,2,3\n"1,2,4\n2,3,5\n', {}, ["line 3", "quote"]),
    ("lone quote at the end", "a.csv", GOOD + b'"', {}, ["line 5"]),
    ("UTF-16 little endian", "a.csv", GOOD.decode().encode("utf-16"), {}, ["UTF-16", "UTF-8"]),
    ("UTF-16 without mark", "a.csv", GOOD.decode().encode("utf-16-le"), {}, ["line 1", "NUL", "UTF-16"]),
    ("UTF-32", "a.csv", GOOD.decode().encode("utf-32-be"), {}, ["NUL"]),
    ("Latin-1", "a.csv", "user,item\nJos\xe9,1\n".encode("latin-1"), {}, ["line 2", "byte 4", "Latin-1"]),
    ("Latin-1 header", "a.csv", "user,item,pr\xe9\n1,1,1\n".encode("latin-1"), {}, ["line 1", "Latin-1"]),
    ("NUL byte", "a.csv", b"user,item\n1,2\n1,\x003\n", {}, ["line 3", "NUL"]),
    ("old Mac line ends", "a.csv", b"user,item\r1,2\r1,3\r", {}, ["CR"]),
    ("binary junk", "a.csv", bytes(range(256)) * 40, {}, ["NUL"]),
    ("binary junk without NUL", "a.csv", bytes(range(128, 256)) * 40, {}, ["line 1", "UTF-8"]),
    ("ten-megabyte line", "a.csv", b"user,item\n1," + b"x" * 10_000_000 + b"\n", {}, ["line 2", "'item'", "4096"]),
    ("ten-megabyte header", "a.csv", b"user" * 2_500_000, {}, ["line 1", "1 MiB"]),
    ("zip", "a.csv", zipped(), {}, ["ZIP", "unpack"]),
    ("sqlite", "a.csv", b"SQLite format 3\x00" + b"\x00" * 100, {}, ["SQLite", "export"]),
    ("LFS pointer", "a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", {}, ["Git LFS"]),
    ("gzip bomb", "a.csv.gz", gzip.compress(b"user,item\n" + b"1,2\n" * 25_000_000, 1), {}, ["expands", "MiB"]),
    ("gzip over the limit", "a.csv.gz", gzip.compress(GOOD * 100_000), {"max_bytes": 1000}, ["expands"]),
    ("gzip cut short", "a.csv.gz", gzip.compress(GOOD)[:-12], {}, ["gzip", "cut short"]),
    ("gzip damaged", "a.csv.gz", gzip.compress(GOOD)[:12] + b"\xff" * 30, {}, ["gzip", "damaged"]),
    ("gzip of nothing", "a.csv.gz", gzip.compress(b""), {}, ["empty"]),
    ("em dash in a rating", "a.csv", "user,item,rating\n1,2,5\n1,3,—\n".encode(), {}, ["line 3", "'rating'", "—"]),
    ("nan rating", "a.csv", b"user,item,rating\n1,2,nan\n", {}, ["line 2", "'rating'", "finite"]),
    ("rating beyond 32 bits", "a.csv", b"user,item,rating\n1,2,1e308\n", {}, ["line 2", "'rating'"]),
    ("decimal comma", "a.csv", b"user;item;rating\n1;2;4,5\n", {}, ["line 2", "'rating'", "4,5"]),
    ("time 1e308", "a.csv", b"user,item,time\n1,2,1e308\n", {}, ["line 2", "'time'", "1e308"]),
    ("time inf", "a.csv", b"user,item,time\n1,2,3\n1,3,inf\n", {}, ["line 3", "'time'"]),
    ("time NaN", "a.csv", b"user,item,time\n1,2,3\n1,3,NaN\n", {}, ["line 3", "'time'", "NaN"]),
    ("negative time", "a.csv", b"user,item,time\n1,2,3\n1,3,-5\n", {}, ["line 3", "'time'", "negative", "-5"]),
    ("words as time", "a.csv", b"user,item,time\n1,2,3\n1,3,soon\n", {}, ["line 3", "'time'", "soon"]),
    ("two date formats", "a.csv", b"user,item,date\n1,2,2020-01-01\n1,3,01/02/2020\n", {}, ["line 3", "'date'"]),
    ("date before 1970", "a.csv", b"user,item,date\n1,2,1969-01-01\n", {}, ["line 2", "1970"]),
    ("milliseconds and seconds", "a.csv", b"user,item,ts\n1,2,1600000000000\n1,3,1600000001\n", {}, ["line 3", "unit"]),
    ("seconds, one in microseconds", "a.csv", b"user,item,ts\n1,2,1600000000\n1,3,1600000000000000\n", {}, ["unit"]),
    ("domain of words", "a.csv", b"user,item,domain\n1,2,book\n", {}, ["line 2", "'domain'", "book", "127"]),
    ("domain too large", "a.csv", b"user,item,domain\n1,2,128\n", {}, ["line 2", "'domain'", "128"]),
    ("split of another kind", "a.csv", b"user,item,split\n1,2,train\n1,3,dev\n", {}, ["line 3", "'split'", "dev"]),
    ("split 3", "a.csv", b"user,item,split\n1,2,3\n", {}, ["line 2", "'split'", "0 train"]),
    ("position half", "a.csv", b"user,item,position\n1,2,0.5\n", {}, ["line 2", "'position'", "0.5"]),
    ("inter without type", "a.inter", b"user_id\titem_id:token\n1\t2\n", {}, ["line 1, column 1", "user_id:token"]),
    ("inter extra colon", "a.inter", b"user_id:token\titem_id:to:ken\n1\t2\n", {}, ["line 1, column 2", "one colon"]),
    ("inter unknown type", "a.inter", b"user_id:token\titem_id:int\n1\t2\n", {}, ["line 1, column 2", "token_seq"]),
    ("inter list of items", "a.inter", b"user_id:token\titem_id:token_seq\n1\t2 3\n", {},
     ["column 2", "item_id:token"]),
    ("users without items", "a.txt", b"1\n2\n3\n", {}, ["user item item"]),
    ("parquet nested item", "a.parquet", parquet(user=[1], item=[[2, 3]]), {}, ["'item'", "List", "cast"]),
    ("parquet struct user", "a.parquet", parquet(user=[{"a": 1}], item=[2]), {}, ["'user'", "Struct"]),
    ("parquet decimal item", "a.parquet", parquet(user=[1], item=[Decimal("2.5")]), {}, ["'item'", "Decimal"]),
    ("parquet boolean user", "a.parquet", parquet(user=[True], item=[1]), {}, ["'user'", "Boolean"]),
    ("parquet bytes", "a.parquet", parquet(user=[b"a"], item=[1]), {}, ["'user'", "Binary"]),
    ("parquet all null", "a.parquet", parquet(user=[None, None], item=[1, 2]), {}, ["row 1", "'user'", "missing"]),
    ("parquet null item", "a.parquet", parquet(user=[1, 2], item=[1, None]), {}, ["row 2", "'item'", "missing"]),
    ("parquet NaN user", "a.parquet", parquet(user=[1.0, float("nan")], item=[1, 2]), {}, ["row 2", "'user'"]),
    ("parquet half user", "a.parquet", parquet(user=[1.0, 1.5], item=[1, 2]), {}, ["row 2", "1.5", "whole"]),
    ("parquet NUL in id", "a.parquet", parquet(user=["a\0b"], item=[1]), {}, ["row 1", "NUL"]),
    ("parquet time of day", "a.parquet", parquet(user=[1], item=[1], time=[datetime.time(1)]), {}, ["'time'", "Time"]),
    ("parquet id beyond 64 bits", "a.parquet", parquet(user=pl.Series([2**64 - 1], dtype=pl.UInt64), item=[1]), {},
     ["row 1", "64 bits", "text"]),
    ("parquet no rows", "a.parquet", parquet(user=pl.Series([], dtype=pl.Int64), item=[]), {}, ["no rows"]),
    ("parquet no item column", "a.parquet", parquet(user=[1], thing=[1]), {}, ["item", "'thing'"]),
    ("parquet truncated", "a.parquet", parquet(user=[1, 2], item=[3, 4])[:-20], {}, ["cut short"]),
    ("parquet start only", "a.parquet", b"PAR1", {}, ["cut short"]),
    ("parquet junk footer", "a.parquet", b"PAR1" + b"\x01" * 64 + b"\x20\x00\x00\x00PAR1", {}, ["damaged"]),
    ("parquet damaged page", "a.parquet", damaged_page(), {}, ["damaged"]),
    ("csv called parquet", "a.parquet", GOOD, {}, ["no Parquet file", "PAR1"]),
    ("csv read as parquet", "a.csv", GOOD, {"format": "parquet"}, ["no Parquet file"]),
]  # fmt: skip


def test_the_table_is_as_long_as_promised():
    assert len(BAD) >= 60
    assert len({case[0] for case in BAD}) == len(BAD)


@pytest.mark.parametrize(("file", "content", "options", "words"), [c[1:] for c in BAD], ids=[c[0] for c in BAD])
def test_broken_log_is_one_clear_error(tmp_path, file, content, options, words):
    path = tmp_path / file
    path.write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(DataError) as caught:
        read_interactions(path, **options)
    assert time.perf_counter() - start < SECONDS
    message = str(caught.value)
    assert file in message
    for word in words:
        assert word in message, message
    assert ";" in message or "is a" in message, f"no fix in: {message}"
    assert "\n" not in message
    assert len(message) < 700
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_missing_file_directory_and_pipe(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_interactions(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="directory"):
        read_interactions(tmp_path)
    with pytest.raises(DataError, match="cannot be opened"):
        read_interactions("a\0b.csv")
    with pytest.raises(DataError, match="cannot be opened"):
        read_interactions("x" * 5000 + ".csv")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.csv")
        with pytest.raises(DataError, match="not a regular file"):
            read_interactions(tmp_path / "pipe.csv")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_file_without_permission(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(GOOD)
    path.chmod(0)
    with pytest.raises(DataError, match="permission"):
        read_interactions(path)


def test_unknown_format_is_named(tmp_path):
    with pytest.raises(DataError, match="unknown format 'xlsx'; known: csv"):
        read_interactions(tmp_path / "a.xlsx", format="xlsx")


def test_line_numbers_count_quoted_line_ends(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'user,item,rating\n"a\nb",1,5\n\nc,2,x\n')
    with pytest.raises(DataError, match="line 5, column 'rating'"):
        read_interactions(path)


def test_truncations_of_a_parquet_file_are_refused(tmp_path):
    raw = parquet(user=[1, 2, 3], item=[4, 5, 6])
    path = tmp_path / "a.parquet"
    for length in range(1, len(raw), 5):
        path.write_bytes(raw[:length])
        with pytest.raises(DataError):
            read_interactions(path)


def test_flipped_bytes_of_a_parquet_file_never_escape_as_other_errors(tmp_path):
    raw = parquet(user=[1, 2, 3], item=[4, 5, 6])
    path = tmp_path / "a.parquet"
    refused = 0
    for place in range(0, len(raw), 5):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0xFF]) + raw[place + 1 :])
        try:
            read_interactions(path)
        except DataError:
            refused += 1
    assert refused > len(raw) // 20
