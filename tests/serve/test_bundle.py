"""A bundle recommends exactly what the trained model does, and is safe to load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import augrec
from augrec.data.interactions import Interactions
from augrec.errors import CheckpointError, NumericalError
from augrec.evaluate.protocol import EvaluateConfig, evaluate
from augrec.evaluate.ranking import rank
from augrec.serve.bundle import load_bundle, save_bundle
from augrec.serve.recommender import Recommender
from augrec.splits import make_split


def test_the_slice_is_large_enough(logs):
    assert logs.n_users == 1000
    assert logs.n_items > 3000


def test_lists_equal_those_of_the_trained_model(served):
    """H4: 1,000 users, original ids, everything known masked as evaluation masks it."""
    history = served.split.history("test").merge(served.split.test)
    top = rank(served.scorer, np.arange(history.n_users), history, k=20, mask_seen=True)
    lists = served.recommender.recommend(k=20)
    assert lists["user"].to_list() == np.repeat(history.users.ids.to_numpy(), 20).tolist()
    assert lists["item"].to_list() == history.items.take(top.items.ravel()).to_list()
    assert lists["rank"].to_list() == list(range(1, 21)) * history.n_users
    assert np.array_equal(lists["score"].to_numpy(), top.scores.ravel())
    seen = set(zip(history.user.tolist(), history.item.tolist(), strict=True))
    inner = zip(history.users.index_of(lists["user"]), history.items.index_of(lists["item"]), strict=True)
    assert not seen & {(int(user), int(item)) for user, item in inner}


@pytest.mark.parametrize("seen_items", ["mask", "keep"])
def test_evaluation_of_the_bundle_equals_that_of_the_trained_model(served, seen_items):
    config = EvaluateConfig(seen_items=seen_items)
    ours = evaluate(served.scorer, served.split, "test", config).metrics
    theirs = evaluate(served.recommender.bundle.scorer, served.split, "test", config).metrics
    assert theirs.mean == ours.mean
    for name, values in ours.per_user.items():
        assert np.array_equal(values, theirs.per_user[name])


def test_saving_what_was_loaded_gives_the_same_weights(served, tmp_path):
    run = json.loads((served.folder / "bundle.json").read_text(encoding="utf-8"))
    config = type("Config", (), {"model_dump": lambda self, mode: run["config"]})()
    again = tmp_path / "again"
    save_bundle(again, model=run["model"], model_config=config, scorer=served.recommender.bundle.scorer,
                split=served.split)  # fmt: skip
    for file in served.folder.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


def test_a_bundle_replaces_another_as_a_whole(served, tmp_path, logs):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "stray").write_text("x", encoding="utf-8")
    run = json.loads((served.folder / "bundle.json").read_text(encoding="utf-8"))
    config = type("Config", (), {"model_dump": lambda self, mode: run["config"]})()
    save_bundle(folder, model=run["model"], model_config=config, scorer=served.scorer, split=served.split)
    assert {path.name for path in folder.iterdir()} == {path.name for path in served.folder.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("ids", [[3, 1, 900_000_000_000], ["a", "b b", "Ünï–日本😀"]], ids=["integers", "text"])
def test_original_ids_come_back(ids, tmp_path):
    users, items = [one for one in ids for _ in range(3)], [ids[n % 3] for n in range(9)]
    log = Interactions.from_columns(user=users, item=items, name="ids")
    split = make_split(log, {"kind": "ratio"})
    from augrec.backbones.popularity import Popularity, PopularityConfig

    save_bundle(tmp_path / "b", model="popularity", model_config=PopularityConfig(), scorer=Popularity.fit(split.train),
                split=split)  # fmt: skip
    recommender = Recommender.load(tmp_path / "b")
    lists = recommender.recommend([ids[2]], k=3, seen=True)
    assert lists["user"].to_list() == [ids[2]] * 3
    assert set(lists["item"]) == set(ids)
    assert recommender.bundle.history.users.ids.equals(log.users.ids)
    as_text = recommender.recommend(pl.Series([str(ids[2])]), k=3, seen=True)
    assert as_text["item"].to_list() == lists["item"].to_list()


def rewritten(folder: Path, target: Path, **changes: bytes) -> Path:
    """A copy with some files replaced and a manifest that agrees, as somebody with bad intent would make it."""
    from augrec.storage import write_folder

    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    write_folder(target, files | {name.replace("__", "."): data for name, data in changes.items()})
    return target


def test_crafted_bundles_are_refused(served, tmp_path):
    from safetensors.torch import load, save

    about = json.loads((served.folder / "bundle.json").read_text(encoding="utf-8"))
    for number, change in enumerate(
        (
            {"format": 99},
            {"model": "os.system"},
            {"model": None},
            {"model": 3},
            {"config": {"nosuch": 1}},
            {"format": {}},
        )
    ):
        if "config" in change and about["model"] not in ("sasrec", "bert4rec", "gru4rec"):
            continue
        if "model" in change and about["model"] in ("mf", "lightgcn"):
            continue  # two tables of vectors are served whatever they are called
        crafted = json.dumps({**about, **change}).encode()
        with pytest.raises(CheckpointError):
            load_bundle(rewritten(served.folder, tmp_path / f"a{number}", bundle__json=crafted))
    for number, text in enumerate((b"", b"[]", b"null", b"{}", b"\xff", b'"x"')):
        with pytest.raises(CheckpointError):
            load_bundle(rewritten(served.folder, tmp_path / f"b{number}", bundle__json=text))
    rows = load((served.folder / "history.safetensors").read_bytes())
    for number, (name, value) in enumerate(
        [("item", rows["item"] + 10_000_000), ("item", -1 - rows["item"]), ("offsets", rows["offsets"][:-1].clone()),
         ("offsets", rows["offsets"].flip(0).clone()), ("item", rows["item"][:-1].clone())]
    ):  # fmt: skip
        with pytest.raises(CheckpointError):
            load_bundle(rewritten(served.folder, tmp_path / f"c{number}",
                                  history__safetensors=save({**rows, name: value})))  # fmt: skip
    weights = load((served.folder / "weights.safetensors").read_bytes())
    name = next(key for key, value in weights.items() if value.is_floating_point())
    broken = weights[name].clone()
    broken.view(-1)[0] = torch.nan
    with pytest.raises(NumericalError, match="not finite"):
        load_bundle(rewritten(served.folder, tmp_path / "nan", weights__safetensors=save({**weights, name: broken})))
    del weights[name]
    with pytest.raises(CheckpointError):
        load_bundle(rewritten(served.folder, tmp_path / "gone", weights__safetensors=save(weights)))


def test_truncated_and_swapped_files_are_refused(served, tmp_path):
    import shutil

    for path in served.folder.iterdir():
        copy = tmp_path / path.name
        shutil.copytree(served.folder, copy)
        (copy / path.name).write_bytes(path.read_bytes()[:-1])
        with pytest.raises(CheckpointError):
            load_bundle(copy)
        (copy / path.name).unlink()
        with pytest.raises(CheckpointError):
            load_bundle(copy)
    for text in (b"\x80\x04.", b"PK\x03\x04", b"{}"):
        with pytest.raises(CheckpointError):
            load_bundle(rewritten(served.folder, tmp_path / "x", weights__safetensors=text, users__parquet=text))


def fresh(code: str, *arguments: str) -> list[str]:
    path = os.pathsep.join(filter(None, [str(Path(augrec.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": path})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_serving_imports_no_training_and_executes_nothing(bundles):
    """H6, and no bundle runs code: what Python itself reports while one is loaded (audit events)."""
    code = """
import json, sys
from pathlib import Path
from augrec.serve.recommender import Recommender
folders = [Path(one) for one in sys.argv[1:]]
for folder in folders:
    Recommender.load(folder).recommend(k=3)  # whatever is loaded on first use
bad, watching = [], True
def watch(event, arguments):
    if not watching:
        return
    if event in ("exec", "compile", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen",
                 "pickle.find_class", "socket.connect", "import", "marshal.loads", "ctypes.dlopen"):
        bad.append(f"{event} {arguments[:1]}")
    if event == "open" and not set(folders) & set(Path(str(arguments[0])).parents):
        bad.append(f"open {arguments[0]}")
sys.addaudithook(watch)
for folder in folders:
    recommender = Recommender.load(folder)
watching = False
print(json.dumps([bad, sorted(sys.modules)]))
"""
    bad, modules = fresh(code, *(str(one.folder) for one in bundles.values()))
    assert bad == []
    assert "augrec.serve.recommender" in modules
    banned = ("augrec.train", "augrec.augment", "augrec.objectives", "augrec.experiment", "augrec.diffusion",
              "augrec.splits", "lightning_fabric", "optuna", "matplotlib", "sklearn", "pandas", "fastapi")  # fmt: skip
    found = [name for name in modules if name in banned or name.startswith(tuple(f"{one}." for one in banned))]
    assert found == []
