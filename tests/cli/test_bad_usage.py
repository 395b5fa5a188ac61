"""Wrong usage of every kind: one message that says what, where and how to mend it, its exit code, nothing left."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

import polars as pl
import pytest

from augrec.errors import AugrecError

TRAIN = ("train", "--data", "LOG", "--model")
# arguments (LOG is the small log, MF and SASREC finished runs), words of the message
WRONG = [
    (("train", "--data", "LOG"), ["--model", "augrec models"]),
    ((*TRAIN, "lightgnc"), ["--model", "'lightgnc'", "did you mean 'lightgcn'"]),
    ((*TRAIN, "qqqq"), ["unknown name 'qqqq'.", "Known: mf"]),
    ((*TRAIN, "bpr"), ["--model", "'bpr'"]),
    (("train", "--data", "bueaty", "--model", "mf"), ["'bueaty'", "did you mean 'beauty'"]),
    (("train", "--data", "nowhere.csv", "--model", "mf"), ["nowhere.csv", "no such file"]),
    (("train", "--data", "", "--model", "mf"), ["unknown data set ''"]),
    (("train", "--data", ".", "--model", "mf"), ["."]),
    ((*TRAIN, "mf", "--augment", "adr"), ["--augment", "'adr'", "did you mean 'adar'"]),
    ((*TRAIN, "mf", "--augment", "adar,adar"), ["'adar'", "twice"]),
    ((*TRAIN, "mf", "--augment", "adar,adar-gaussian"), ["'adar'", "twice"]),
    ((*TRAIN, "mf", "--objective", "sofmax"), ["--objective", "did you mean 'softmax'"]),
    ((*TRAIN, "mf", "--preset", "papr"), ["--preset", "did you mean 'paper'"]),
    ((*TRAIN, "mf", "--augment", "adar", "--preset", "published-code"), ["published-code"]),
    ((*TRAIN, "ease", "--augment", "adar"), ["ease", "closed form", "--augment"]),
    ((*TRAIN, "popularity", "--objective", "bpr"), ["popularity", "--objective"]),
    ((*TRAIN, "mf", "--split", "ration"), ["split", "'ration'", "did you mean 'ratio'"]),
    ((*TRAIN, "sasrec", "--split", "ratio"), ["ratio", "sasrec", "leave-one-out"]),
    ((*TRAIN, "mf", "--split", "given"), ["given", "split column"]),
    ((*TRAIN, "mf", "--seed", "-1"), ["--seed", "-1"]),
    ((*TRAIN, "mf", "--seed", "one"), ["--seed", "one"]),
    ((*TRAIN, "mf", "--epochs", "0"), ["train.epochs", "got 0"]),
    ((*TRAIN, "mf", "--epochs", "1.5"), ["--epochs"]),
    ((*TRAIN, "mf", "--set", "train.epochs=many"), ["train.epochs", "'many'"]),
    ((*TRAIN, "mf", "--set", "train.epoch=3"), ["train.epoch", "did you mean 'epochs'", "batch_size"]),
    ((*TRAIN, "mf", "--set", "trian.epochs=3"), ["'trian'", "did you mean 'train'"]),
    ((*TRAIN, "mf", "--set", "adar.weight=0.2"), ["no part 'adar'"]),
    ((*TRAIN, "mf", "--set", "nonsense"), ["part.field=value"]),
    ((*TRAIN, "mf", "--set", "mf=3"), ["part.field=value"]),
    ((*TRAIN, "mf", "--set", ".=3"), ["part.field=value"]),
    ((*TRAIN, "mf", "--set", "mf.dim=0"), ["mf.dim", "got 0"]),
    ((*TRAIN, "mf", "--set", "mf.dim=__import__('os').getpid()"), ["mf.dim", "__import__"]),
    ((*TRAIN, "sasrec", "--set", "sasrec.heads=3"), ["sasrec.heads = 3", "multiple"]),
    ((*TRAIN, "mf", "--set", "evaluate.ks=[0]"), ["ks"]),
    ((*TRAIN, "mf", "--set", "evaluate.ks=[]"), ["evaluate.ks"]),
    ((*TRAIN, "mf", "--set", "evaluate.seen_items=some"), ["evaluate.seen_items", "'some'"]),
    ((*TRAIN, "mf", "--set", "split.test=2"), ["split.test", "less than 1"]),
    ((*TRAIN, "mf", "--set", "split.tset=0.3"), ["split.tset", "did you mean 'test'"]),
    ((*TRAIN, "mf", "--set", "train.select=recal@20"), ["train.select", "did you mean 'recall@20'"]),
    ((*TRAIN, "mf", "--set", "train.threads=1000000"), ["train.threads"]),
    ((*TRAIN, "mf", "--set", "data.user_core=1000"), ["small", "user_k=1000"]),
    ((*TRAIN, "mf", "--set", "data.min_rating=3"), ["rating"]),
    ((*TRAIN, "sasrec", "--augment", "adar", "--set", "adar.source=ridge"), ["'adar'", "'softmax'", "--objective"]),
    (("train", "--resume"), ["--resume", "--out DIR"]),
    (("train", "--resume", "--out", "nowhere"), ["nowhere", "no run to resume"]),
    ((*TRAIN, "mf", "--out", "LOG"), ["is a file"]),
    ((*TRAIN, "mf", "--out", "LOG/run"), ["cannot be written"]),
    ((*TRAIN, "mf", "--out", "MF"), ["already holds a run", "--resume"]),
    ((*TRAIN, "mf", "--bogus", "1"), ["--bogus", "--help"]),
    (("train", "--data"), ["--data", "--help"]),
    (("trian",), ["trian", "--help"]),
    (("data", "show"), ["SOURCE", "--help"]),
    (("data", "show", "nope"), ["'nope'", "Known: beauty"]),
    (("data", "fetch", "ml-2m"), ["'ml-2m'", "did you mean"]),
    (("data", "fetch", "beauty"), ["ships inside"]),
    (("data", "import", "LOG", "--out", "."), [".parquet"]),
    (("data", "import", "LOG", "--out", "log.csv"), ["log.csv", ".parquet"]),
    (("evaluate",), ["RUN"]),
    (("evaluate", "nowhere"), ["nowhere", "no such run directory"]),
    (("evaluate", "LOG"), ["no such run directory"]),
    (("evaluate", "."), ["result.json"]),
    (("evaluate", "MF", "--protocol", "ful"), ["--protocol", "full"]),
    (("evaluate", "MF", "--split-part", "train"), ["--split-part", "valid"]),
    (("evaluate", "MF", "--protocol", "sampled99"), ["fewer than the 99 negatives"]),
    (("recommend", "nowhere"), ["nowhere", "no such run directory"]),
    (("recommend", "MF", "--k", "0"), ["at least 1", "0"]),
    (("recommend", "MF", "--k", "-3"), ["at least 1", "-3"]),
    (("recommend", "MF", "--k", "ten"), ["--k", "ten"]),
    (("recommend", "MF", "--out", "recs.xls"), ["recs.xls", ".parquet"]),
    (("recommend", "MF", "--users", "nowhere.txt"), ["nowhere.txt"]),
    (("recommend", "MF", "--users", "LOG"), ["users are not in the model", "--unknown"]),
    (("recommend", "MF", "--users", "a", "--histories", "b"), ["give one of them"]),
    (("recommend", "MF", "--unknown", "guess"), ["--unknown", "popular"]),
    (("recommend", "MF", "--allow", "LOG"), ["--allow", "none of the"]),
    (("recommend", "SASREC", "--histories", "nowhere.csv"), ["nowhere.csv", "no such file"]),
]  # fmt: skip


def contents(runs: dict[str, Path]) -> dict[Path, bytes]:
    return {path: path.read_bytes() for run in runs.values() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=[" ".join(one[0]) for one in WRONG])
def test_wrong_usage_is_one_clear_message(cli, small, runs, arguments, words):
    names = {"LOG": str(small), "MF": str(runs["mf"]), "SASREC": str(runs["sasrec"])}
    before = contents(runs)
    answer = cli(*[names.get(one, one.replace("LOG/", f"{small}/")) for one in arguments])
    assert answer.code == 2
    for word in words:
        assert word in answer.message
    assert len(answer.message) < 900
    assert answer.out == ""
    assert not list(Path().iterdir()), "something half-written was left behind"
    assert before == contents(runs)


def test_a_refused_run_leaves_an_older_folder_as_it_was(cli, small):
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep", encoding="utf-8")
    assert cli("train", "--data", small, "--model", "mf", "--split", "given", "--out", "mine").code == 2
    assert Path("mine/notes.txt").read_text(encoding="utf-8") == "keep"
    assert not Path("mine/config.json").exists()
    assert cli("train", "--data", small, "--model", "popularity", "--out", "mine").code == 0


def test_a_run_in_use_is_refused(cli, small):
    Path("run").mkdir()
    with open("run/.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer = cli("train", "--data", small, "--model", "mf", "--out", "run")
    assert answer.code == 2
    assert "another process is using" in answer.message
    assert cli("train", "--data", small, "--model", "popularity", "--out", "run").code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(cli, small):
    Path("locked").mkdir(mode=0o500)
    answer = cli("train", "--data", small, "--model", "mf", "--out", "locked/run")
    assert answer.code == 2
    assert "cannot be written" in answer.message


@pytest.fixture
def copy(runs):
    """A finished run that may be damaged."""
    shutil.copytree(runs["sasrec"], "copy")
    return Path("copy")


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x01
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize(
    "file", ["weights.safetensors", "history.safetensors", "users.parquet", "items.parquet", "bundle.json"]
)
def test_a_damaged_bundle_is_named(cli, copy, file):
    flip(copy / "bundle" / file)
    answer = cli("recommend", copy)
    assert answer.code == 1
    assert file in answer.message
    assert "damaged" in answer.message
    assert cli("evaluate", copy).code == 1


def test_a_bundle_with_a_missing_or_foreign_file(cli, copy):
    (copy / "bundle" / "items.parquet").unlink()
    answer = cli("recommend", copy)
    assert answer.code == 1
    assert "items.parquet" in answer.message
    manifest = copy / "bundle" / "manifest.json"
    manifest.write_text(json.dumps({"../../secret": "0"}), encoding="utf-8")
    outside = cli("recommend", copy)
    assert outside.code == 1
    assert "outside the folder" in outside.message
    shutil.rmtree(copy / "bundle")
    assert cli("recommend", copy).code == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"augrec": "0.1.0"}', "\x00"])
def test_a_damaged_result_or_config(cli, copy, text):
    whole = (copy / "result.json").read_text(encoding="utf-8")
    (copy / "result.json").write_text(text, encoding="utf-8")
    answer = cli("evaluate", copy)
    assert answer.code in (1, 2)
    assert "result.json" in answer.message
    (copy / "result.json").write_text(whole, encoding="utf-8")
    (copy / "config.json").write_text(text, encoding="utf-8")
    answer = cli("evaluate", copy)
    assert answer.code in (1, 2)
    assert "config.json" in answer.message
    assert (copy / "result.json").read_text(encoding="utf-8") == whole


@pytest.mark.parametrize(
    ("key", "value"),
    [("model", "nosuch"), ("model", None), ("augment", "adar"), ("augment", ["nosuch"]), ("parts", []), ("seed", "x"),
     ("parts", {"train": 3}), ("parts", {"sasrec": {"layers": "two"}}), ("parts", {"evaluate": {"ks": None}})],
)  # fmt: skip
def test_an_edited_config(cli, copy, key, value):
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, key: value}), encoding="utf-8")
    answer = cli("evaluate", copy)
    assert answer.code == 2
    assert answer.message


def test_an_unfinished_run_is_named_as_such(cli, copy):
    (copy / "result.json").unlink()
    answer = cli("recommend", copy)
    assert answer.code == 2
    assert "not finished" in answer.message
    assert "--resume --out copy" in answer.message


def test_ids_that_look_like_markup_are_printed_as_they_are(cli):
    frame = pl.DataFrame(
        {"user": [f"[red]{u}[/blue]" for u in range(8)] * 4, "item": [f":smile:{i % 11}" for i in range(32)]}
    )
    frame.write_csv("odd.csv")
    assert cli("train", "--data", "odd.csv", "--model", "popularity", "--out", "run").code == 0
    shown = cli("recommend", "run", "--k", "2").out
    assert "[red]0[/blue]" in shown
    assert ":smile:" in shown


def test_a_full_disk_is_one_message_and_leaves_nothing(cli, small, monkeypatch):
    import errno

    import augrec.storage

    def full(path: Path, data: bytes, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(augrec.storage, "write_bytes", full)
    answer = cli("data", "import", small, "--out", "log.parquet")
    assert answer.code == 1
    assert "log.parquet" in answer.message
    assert "disk is full" in answer.message
    assert not list(Path().iterdir())


def test_a_defect_is_named_as_one_and_shown_on_request(cli, small, monkeypatch):
    import augrec.data.catalog

    def broken(name: str) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(augrec.data.catalog, "load", broken)
    answer = cli("data", "show", small)
    assert answer.code == 1
    assert answer.err == (
        "augrec: a defect of augrec: ZeroDivisionError: two lines; report it with the traceback that "
        "AUGREC_TRACEBACK=1 shows\n"
    )
    monkeypatch.setenv("AUGREC_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        cli("data", "show", small)
    assert not issubclass(ZeroDivisionError, AugrecError)
