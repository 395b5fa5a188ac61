"""Names and paths of data sets, the embedded one, and downloads from a real server on this computer."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import threading
import time
import zipfile

import numpy as np
import polars as pl
import pytest

from augrec.data import available, catalog, fetch, load
from augrec.data.fetch import Archive, cache_folder, download
from augrec.errors import DataError


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("AUGREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AUGREC_DATA", raising=False)


def test_beauty_is_the_published_set():
    beauty = load("beauty")
    assert (beauty.n_users, beauty.n_items, len(beauty)) == (22_363, 12_101, 198_502)
    assert beauty.sha256 == "eae6ec22d1a102680dbe9ea2ad14cd3f76bc3a5d6af0c1bf5e4533caffd65af9"
    assert beauty.name == "beauty"
    assert beauty.degrees().min() == 5
    assert beauty.degrees().max() == 204
    assert beauty.item_counts().min() == 5
    assert (np.diff(beauty.timestamp)[np.diff(beauty.user) == 0] >= 0).all()
    entry = next(entry for entry in available() if entry.name == "beauty")
    assert (entry.users, entry.items, entry.interactions) == (22_363, 12_101, 198_502)
    assert "no licence" in entry.licence


def test_names_paths_and_the_data_folder(tmp_path, monkeypatch):
    pl.DataFrame({"user": [1], "item": [2]}).write_parquet(tmp_path / "mine.parquet")
    pl.DataFrame({"item": [2]}).write_parquet(tmp_path / "mine.items.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    monkeypatch.setenv("AUGREC_DATA", str(tmp_path))
    assert len(load("mine")) == 1
    assert load("mine").name == "mine"
    assert len(load(tmp_path / "mine.parquet")) == 1
    states = {entry.name: entry.title for entry in available()}
    assert states["mine"] == "a file of yours"
    assert states["broken"] == "an unreadable file"
    assert "mine.items" not in states
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").write_text("user,item\n1,2\n")
    assert len(load("log")) == 1
    assert len(load("mine.parquet")) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("beuty", r"unknown data set 'beuty'; did you mean 'beauty'\? Known: beauty, ml-100k, ml-1m"),
        ("qqq", r"unknown data set 'qqq'\. Known: beauty"),
        ("", r"unknown data set ''"),
        ("ml-1m", r"augrec data fetch ml-1m"),
        ("ml100k", r"augrec data fetch ml-100k"),
        ("nowhere.csv", r"nowhere.csv: no such file"),
        ("no/where", r"no/where: no such file"),
    ],
)
def test_unknown_names_are_explained(name, message):
    with pytest.raises(DataError, match=message):
        load(name)


def test_removed_beauty_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "_beauty", lambda: tmp_path / "gone.parquet")
    assert available()[0].state == "removed"
    with pytest.raises(DataError, match="was removed from this installation"):
        load("beauty")
    pl.DataFrame({"user": [1], "item": [2]}).write_parquet(tmp_path / "beauty.parquet")
    monkeypatch.setenv("AUGREC_DATA", str(tmp_path))
    assert len(load("beauty")) == 1


def zipped(member: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil.txt", b"never unpacked")
        archive.writestr(member, content)
    return out.getvalue()


def ratings(separator: bytes, rows: int) -> bytes:
    return b"".join(separator.join(b"%d" % v for v in (r % 7, r % 11, 3, 880_000_000 + r)) + b"\n" for r in range(rows))


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the first part of the path: good, short, corrupt, missing, endless."""

    def __init__(self, body, *args):
        self.body = body
        super().__init__(*args)

    def do_GET(self):
        kind = self.path.split("/")[1]
        if kind == "missing":
            self.send_error(404)
            return
        body = self.body[:-1] + b"?" if kind == "corrupt" else self.body
        self.send_response(200)
        if kind not in ("endless", "silent"):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if kind in ("short", "silent"):
            body = body[: len(body) // 2]
        try:
            self.wfile.write(body)
            while kind == "endless":
                self.wfile.write(b"0" * 65536)
        except OSError:
            pass

    def log_message(self, *args):
        pass


class Stalling(Handler):
    """Sends half of the answer and then nothing."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body[: len(self.body) // 2])
        self.wfile.flush()
        time.sleep(2)


@pytest.fixture
def serve():
    servers = []

    def start(body, handler=Handler):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, body))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def known(monkeypatch, name, body, content_rows):
    entry, archive = catalog.FETCHED[name]
    small = catalog.Entry(**{**entry.__dict__, "users": 7, "items": 11, "interactions": content_rows})
    sums = Archive(file=archive.file, member=archive.member, md5=hashlib.md5(body).hexdigest())
    monkeypatch.setattr(catalog, "FETCHED", {name: (small, sums)})


@pytest.mark.parametrize(
    ("name", "member", "separator"), [("ml-100k", "ml-100k/u.data", b"\t"), ("ml-1m", "ml-1m/ratings.dat", b"::")]
)
def test_good_download_is_stored_once_and_loads(serve, monkeypatch, tmp_path, name, member, separator):
    body = zipped(member, ratings(separator, 200))
    known(monkeypatch, name, body, 200)
    base = serve(body) + "/good"
    path = fetch(name, base_url=base)
    assert path == tmp_path / "cache" / f"{name}.parquet"
    log = load(name)
    assert (len(log), log.n_users, log.n_items) == (200, 7, 11)
    assert log.timestamp.min() == 880_000_000
    assert next(entry.state for entry in available() if entry.name == name) == "fetched"
    # The second call needs no server, and nothing else was left in the cache or above it.
    assert fetch(name, base_url="http://127.0.0.1:1") == path
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [f"{name}.parquet"]
    assert not list(tmp_path.glob("**/evil.txt"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("short", r"broke off after|IncompleteRead"),
        ("silent", r"MD5 sum is .* and should be .*nothing was kept"),
        ("corrupt", r"MD5 sum is .* and should be"),
        ("missing", r"answers 404"),
        ("endless", r"larger than the 64 MiB"),
    ],
)
def test_bad_downloads_leave_nothing(serve, monkeypatch, tmp_path, kind, message):
    body = zipped("ml-100k/u.data", ratings(b"\t", 200))
    known(monkeypatch, "ml-100k", body, 200)
    with pytest.raises(DataError, match=message):
        fetch("ml-100k", base_url=f"{serve(body)}/{kind}", timeout=5)
    assert list((tmp_path / "cache").iterdir()) == []


def test_stalled_download_ends_in_time(serve, monkeypatch, tmp_path):
    body = zipped("ml-100k/u.data", ratings(b"\t", 2000))
    known(monkeypatch, "ml-100k", body, 2000)
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"no data for 0.3 s"):
        fetch("ml-100k", base_url=serve(body, Stalling), timeout=0.3)
    assert time.perf_counter() - start < 2
    assert list((tmp_path / "cache").iterdir()) == []


def test_unreachable_server_other_schemes_and_other_archives(serve, tmp_path):
    archive = Archive(file="a.zip", md5="0" * 32, member="a")
    with pytest.raises(DataError, match="cannot be reached"):
        download(archive, base_url="http://127.0.0.1:1", folder=tmp_path, timeout=2)
    with pytest.raises(DataError, match="only http and https"):
        download(archive, base_url="file:///etc", folder=tmp_path, timeout=2)
    for body, message in (
        (b"no zip at all", "not a readable ZIP"),
        (zipped("b", b"x"), "the archive has no a"),
        (zipped("a", b"0" * 3_000_000), "unpacks to more than 1 MiB"),
    ):
        sums = Archive(file="a.zip", md5=hashlib.md5(body).hexdigest(), member="a", max_unpacked=1 << 20)
        with pytest.raises(DataError, match=message):
            download(sums, base_url=serve(body) + "/good", folder=tmp_path / "work", timeout=5)
        assert list((tmp_path / "work").iterdir()) == []


def test_content_that_is_not_the_known_set_is_refused(serve, monkeypatch, tmp_path):
    body = zipped("ml-100k/u.data", ratings(b"\t", 200))
    known(monkeypatch, "ml-100k", body, 999)
    with pytest.raises(DataError, match="is not the known data set"):
        fetch("ml-100k", base_url=serve(body) + "/good")
    assert list((tmp_path / "cache").iterdir()) == []


def test_fetch_of_other_names_and_unusable_cache(tmp_path, serve):
    with pytest.raises(DataError, match=r"cannot fetch 'ml-2m'; did you mean 'ml-1m'\?"):
        fetch("ml-2m")
    with pytest.raises(DataError, match="ships inside"):
        fetch("beauty")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot store the download"):
        fetch("ml-1m", folder=tmp_path / "file", base_url=serve(b"") + "/good")


def test_cache_folder_order(monkeypatch, tmp_path):
    assert cache_folder(tmp_path) == tmp_path
    assert cache_folder(None) == tmp_path / "cache"
    monkeypatch.delenv("AUGREC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder(None) == tmp_path / "xdg" / "augrec"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder(None) == tmp_path / "local" / "augrec" / "Cache"
