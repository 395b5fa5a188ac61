"""Going on with a run through the Python entrance: on its own settings and its own data, from any point."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

import augrec
from augrec.data import read_interactions
from augrec.errors import UsageError
from augrec.experiment import registry
from augrec.seams import Plugin, Prepared
from augrec.train.callbacks import Callback
from augrec.typed import Config


def make_log(seed: int = 1):
    rng = np.random.default_rng(seed)
    rows = [(u, int(i), n) for u in range(60) for n, i in enumerate(rng.choice(40, size=8, replace=False))]
    return read_interactions(pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row"))


@pytest.fixture(scope="module")
def log():
    return make_log()


SETTINGS = {"mf": {"dim": 4}, "train": {"epochs": 3, "batch_size": 100, "threads": 1}}


class Halt(Callback):
    """Fails at the n-th call of a method."""

    def __init__(self, method: str, n: int) -> None:
        self.left = n
        setattr(self, method, self.count)

    def count(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("halted")


def contents(run) -> tuple:
    lines = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds")
    return lines, (run.directory / "bundle" / "weights.safetensors").read_bytes(), run.result["test"]


@pytest.fixture(scope="module")
def whole(log, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    return contents(augrec.train(log, model="mf", augment=["adar"], out=out, overrides=SETTINGS, callbacks=[]))


PLACES = [("on_step", 1), ("on_step", 6), ("on_validation_start", 2), ("on_epoch_end", 1), ("on_epoch_end", 3)]


@pytest.mark.parametrize(("method", "n"), [*PLACES, ("on_end", 1)])
def test_after_an_error_the_run_goes_on_to_the_same_bytes(method, n, log, whole, tmp_path):
    options = {"model": "mf", "augment": ["adar"], "out": tmp_path / "run", "overrides": SETTINGS}
    with pytest.raises(RuntimeError, match="halted"):
        augrec.train(log, callbacks=[Halt(method, n)], **options)
    # Settings given at the resume do not count: the run's own do.
    again = augrec.train(log, model="sasrec", seed=9, out=tmp_path / "run", resume=True, callbacks=[])
    assert again.result["model"] == "mf"
    assert contents(again) == whole


def test_other_data_are_refused(log, whole, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(RuntimeError, match="halted"):
        augrec.train(log, model="mf", augment=["adar"], out=out, overrides=SETTINGS, callbacks=[Halt("on_step", 9)])
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="the data is not what the run was started on") as caught:
        augrec.train(make_log(2), model="mf", out=out, resume=True, callbacks=[])
    assert str(out) in str(caught.value)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert contents(augrec.train(log, model="mf", out=out, resume=True, callbacks=[])) == whole


def test_nothing_to_resume(log, tmp_path):
    with pytest.raises(UsageError, match="holds no run to resume"):
        augrec.train(log, model="mf", out=tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_lines_past_the_checkpoint_are_dropped(log, whole, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(RuntimeError, match="halted"):
        augrec.train(log, model="mf", augment=["adar"], out=out, overrides=SETTINGS, callbacks=[Halt("on_step", 8)])
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 77}\n{"epo')
    assert contents(augrec.train(log, model="mf", out=out, resume=True, callbacks=[])) == whole


class SlowConfig(Config):
    """Nothing to set."""


class Slow(Plugin):
    """Trains a model before training, for a term that pulls the queries to it."""

    name = "slow"
    acts = frozenset({"losses"})
    prepares = True
    Config = SlowConfig
    fails = False
    logs: tuple = ()

    def __init__(self, config, *, kind, dim, n_items):
        super().__init__(config, kind=kind, dim=dim, n_items=n_items)
        self.map = nn.Linear(dim, dim)

    def prepare(self, train, fit, *, seed):
        from augrec.backbones.mf import MF

        type(self).logs += (train,)
        backbone = MF(MF.Config(dim=self.dim), n_users=train.n_users, n_items=train.n_items,
                      generator=torch.Generator().manual_seed(seed))  # fmt: skip
        fit(backbone, objective="bpr", train=train, epochs=2, seed=seed)
        if type(self).fails:
            raise RuntimeError("halted")
        return Prepared(tensors={"user": backbone.nodes.detach()[: train.n_users].clone()})

    def load_prepared(self, prepared, train):
        self.user = prepared.tensors["user"]

    def losses(self, batch, encoded):
        return {"pull": (self.map(encoded.query) - self.user[batch.user]).square().mean()}


def test_stopped_while_preparing(log, tmp_path, monkeypatch):
    monkeypatch.setenv("AUGREC_CACHE", str(tmp_path / "cache"))
    known = registry.entries()
    entry = registry.Entry(name="slow", family="augmentation", target=f"{__name__}:Slow", about="prepares")
    monkeypatch.setattr(registry, "entries", lambda: known | {"slow": entry})
    options = {"model": "mf", "augment": ["slow"], "overrides": SETTINGS, "callbacks": []}
    monkeypatch.setattr(Slow, "fails", True)
    monkeypatch.setattr(Slow, "logs", ())
    with pytest.raises(RuntimeError, match="halted"):
        augrec.train(log, out=tmp_path / "run", **options)
    Slow.fails = False
    resumed = augrec.train(log, model="mf", out=tmp_path / "run", resume=True, callbacks=[])
    assert len(Slow.logs) == 2
    # Another arm asks for the same thing and finds it; one without a cache makes the same.
    shared = augrec.train(log, out=tmp_path / "shared", **options)
    assert len(Slow.logs) == 2
    monkeypatch.setenv("AUGREC_CACHE", str(tmp_path / "other"))
    fresh = augrec.train(log, out=tmp_path / "fresh", **options)
    assert len(Slow.logs) == 3
    assert contents(resumed) == contents(shared) == contents(fresh)
    # Only the train part is ever read.
    assert {len(one) for one in Slow.logs} == {fresh.result["split"]["train"]}
