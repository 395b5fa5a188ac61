"""PDRec and its preference models as whole runs: one shared preparation, presets, bundles, resume, protocols."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

import augrec
from augrec.backbones.base import InnerProductScorer
from augrec.backbones.diffrec import TIDiffRec
from augrec.data import read_interactions
from augrec.errors import UnsupportedCombinationError, UsageError
from augrec.experiment import build as build_module
from augrec.experiment.cells import plan
from augrec.experiment.config import resolve
from augrec.serve.bundle import load_bundle
from augrec.testing import log_of
from augrec.train.callbacks import Callback


def make_log(last_shift=0, users=40, items=130):
    """Users keep to a quarter of the items; `last_shift` moves the item of everybody's last event."""
    rng, rows = np.random.default_rng(1), []
    for user in range(users):
        near = np.where(np.arange(items) % 4 == user % 4, 9.0, 1.0)
        chosen = rng.choice(items, size=rng.integers(6, 12), replace=False, p=near / near.sum())
        chosen[-1] = (chosen[-1] + last_shift) % items
        rows += [(user, int(item), 1000 * n * (1 + user % 3)) for n, item in enumerate(chosen)]
    # Every item keeps its place in the catalogue whatever the last events are.
    rows += [(users + item, item, item) for item in range(items)]
    return read_interactions(pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row"))


@pytest.fixture(scope="module")
def log():
    return make_log()


SASREC = {"sasrec": {"dim": 8, "inner": 8, "heads": 1, "layers": 1}, "train": {"epochs": 2, "threads": 1}}
PREFERENCE = {"hidden": 12, "epochs": 3, "learning_rate": 0.01}
PARTS = {**SASREC, "preference": PREFERENCE}


@pytest.fixture
def fits(monkeypatch, tmp_path):
    """The models that were trained inside `prepare`."""
    monkeypatch.setenv("AUGREC_CACHE", str(tmp_path / "cache"))
    found, original = [], build_module.fit

    def counting(backbone, **options):
        found.append(backbone.name)
        return original(backbone, **options)

    monkeypatch.setattr(build_module, "fit", counting)
    return found


def train(log, out, *, augment=("pdrec",), objective="bce", seed=0, overrides=PARTS, **options):
    return augrec.train(
        log, model="sasrec", objective=objective, augment=augment, seed=seed, out=out, overrides=overrides,
        callbacks=[], **options,
    )  # fmt: skip


def test_three_parts_and_several_seeds_share_one_preference_model(log, tmp_path, fits) -> None:
    first = train(log, tmp_path / "a")
    assert first.result["augment"] == ["hbr", "dpa", "nns"]
    assert fits == ["ti-diffrec"]
    train(log, tmp_path / "b", seed=1)
    train(log, tmp_path / "c", augment=("hbr",), objective="softmax")
    assert fits == ["ti-diffrec"]
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config["parts"]["preference"]["hidden"] == 12
    train(log, tmp_path / "d", overrides={**PARTS, "preference": {**PREFERENCE, "model": "sasrec"}})
    assert fits == ["ti-diffrec", "sasrec"]
    own = {**PARTS, "preference": {**PREFERENCE, "seed": None}}
    train(log, tmp_path / "e", seed=0, overrides=own)
    train(log, tmp_path / "f", seed=1, overrides=own)
    assert fits == ["ti-diffrec", "sasrec", "ti-diffrec"], "seed 0 of the run is the fixed seed 0; seed 1 is another"


def test_random_preferences_train_no_model(log, tmp_path, fits) -> None:
    done = train(log, tmp_path / "a", augment=("hbr-random", "dpa-random", "nns-random"))
    assert fits == []
    assert all(np.isfinite(value) for value in done.result["test"].values())


def test_a_comparison_replaces_the_parts_by_their_controls_together() -> None:
    made = plan(data="beauty", model="sasrec", augment=["pdrec", "hbr"], objective="bce",
                overrides={"preference": {"hidden": 5}})  # fmt: skip
    noise = [cell.augment for cell in made.cells.values() if cell.role == "noise"]
    assert noise == [("hbr-random", "dpa-random", "nns-random"), ("hbr-random",)]
    assert made.configs["hbr+dpa+nns"].part("preference").hidden == 5
    assert "preference" not in made.configs["base"].parts


def test_the_recipe_under_full_softmax_is_refused_by_the_part_that_cannot(log, tmp_path) -> None:
    with pytest.raises(UnsupportedCombinationError, match=r"'nns' acts on 'append'.*'softmax'.*--objective bpr or bce"):
        train(log, tmp_path / "a", objective="softmax")
    with pytest.raises(UsageError, match="did you mean 'pdrec'"):
        train(log, tmp_path / "a", augment=("pdrecc",))


def lines_of(run):
    lines = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("preset", ["default", "paper", "published-code"])
def test_only_published_code_looks_at_the_test_part(log, tmp_path, fits, preset) -> None:
    found = [train(one, tmp_path / str(n), preset=preset) for n, one in enumerate((log, make_log(last_shift=1)))]
    plain, poisoned = (lines_of(run) for run in found)
    if preset == "published-code":
        assert plain != poisoned
        assert found[0].result["protocol"]["selected_on"] == "test sampled99:ndcg@10"
        assert found[0].result["deviations"] == [
            "preset published-code", "train.select_part=test: the epoch was chosen on the test part",
            "hbr.minmax=padded", "dpa.exclude_observed=false", "nns.drop_lowest", "nns.cut=all",
        ]  # fmt: skip
        assert [one["part"] for one in found[0].result["evaluations"] if one["protocol"].get("biased")] == [
            "valid", "test",
        ]  # fmt: skip
    else:
        assert plain == poisoned
        assert found[0].result["protocol"]["selected_on"] == "valid ndcg@10"
        assert found[0].result["deviations"] == []
    assert [line["loss"] for line in plain] == [line["loss"] for line in poisoned]


DIFFREC = {
    "ti-diffrec": {"hidden": 10},
    "train": {"epochs": 4, "threads": 1, "batch_size": 12, "learning_rate": 0.01, "decay": 0.5},
    "evaluate": {"sampled": True},
}


class Halt(Callback):
    def __init__(self, left):
        self.left = left

    def on_step(self, *_):
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("halted")


def test_a_run_of_ti_diffrec_from_training_to_lists(log, tmp_path) -> None:
    options = {"model": "ti-diffrec", "refit": True, "overrides": DIFFREC}
    whole = augrec.train(log, out=tmp_path / "whole", callbacks=[], **options)
    result = whole.result
    assert result["objective"] == "denoising"
    assert result["epochs"]["run"] == 4
    with pytest.raises(RuntimeError, match="halted"):
        augrec.train(log, out=tmp_path / "again", callbacks=[Halt(7)], **options)
    again = augrec.train(log, model="ti-diffrec", out=tmp_path / "again", resume=True, callbacks=[])
    assert lines_of(again) == lines_of(whole)
    weights = [load_file(run.directory / "bundle" / "weights.safetensors") for run in (whole, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    sampled = [one for one in result["evaluations"] if one["protocol"].get("biased")]
    assert [one["part"] for one in sampled] == ["valid", "test"]
    assert set(sampled[0]["metrics"]) == {"auc", "mrr"} | {
        f"{m}@{k}" for m in ("hr", "ndcg") for k in (1, 5, 10, 20, 50)
    }
    later = whole.evaluate(protocol="sampled99", data=log)
    assert later["metrics"] == sampled[1]["metrics"], "candidates are seeded"
    lists = whole.recommend([0, 1], k=3)
    assert len(lists) == 6
    assert not set(lists.filter(pl.col("user") == 0)["item"]) & set(log.item[: log.offsets[1]].tolist())
    bundle = load_bundle(whole.directory / "bundle")
    assert bundle.reads_history
    assert bundle.history.timestamp is not None
    assert isinstance(bundle.scorer, InnerProductScorer)
    assert isinstance(bundle.scorer.backbone, TIDiffRec)
    fresh = log_of([[3, 7, 11]], n_items=log.n_items)
    assert len(whole.recommender().recommend_histories(fresh, k=4)) == 4


def test_the_learning_rate_falls_by_epoch_and_weights_decay_decoupled(log) -> None:
    run = resolve(model="ti-diffrec", overrides=DIFFREC)
    assert run.part("train").optimiser == "adamw"
    parts = build_module.build(run, log, seed=0)
    loop = build_module.Loop(
        fabric=build_module.make_fabric("cpu"), step=parts.step, batches=parts.batches, groups=parts.groups,
        config=run.part("train"), select="loss",
    )  # fmt: skip
    rates = []

    class Watch(Callback):
        def on_step(self, epoch, batch, loss):
            rates.append((epoch, loop.optimisers["main"].param_groups[0]["lr"]))

    loop.callbacks = (Watch(),)
    loop.run()
    assert isinstance(loop.optimisers["main"], torch.optim.AdamW)
    assert sorted(set(rates)) == [(epoch, pytest.approx(0.01 * 0.5 ** (epoch - 1))) for epoch in (1, 2, 3, 4)]
