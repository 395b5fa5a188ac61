"""What a finished run is: its files, its record, and what refitting does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

import augrec
from augrec.data import read_interactions
from augrec.errors import ConfigError, UnsupportedCombinationError, UsageError
from augrec.evaluate.protocol import evaluate
from augrec.experiment import run as run_module
from augrec.experiment.build import build, read_split
from augrec.experiment.config import RunConfig, resolve
from augrec.serve.bundle import load_bundle


@pytest.fixture(scope="module")
def log():
    return make_log(items=50)


def make_log(*, items: int):
    rng = np.random.default_rng(1)
    rows = []
    for user in range(80):
        near = np.where(np.arange(items) % 4 == user % 4, 8.0, 1.0)
        chosen = rng.choice(items, size=rng.integers(6, 15), replace=False, p=near / near.sum())
        rows += [(user, int(item), 1000 * n) for n, item in enumerate(chosen)]
    return read_interactions(pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row"))


def settings(model: str, **train: object) -> dict:
    return {model: {"dim": 6}, "train": {"epochs": 5, "batch_size": 150, "threads": 1, "learning_rate": 0.1, **train}}


@pytest.fixture(scope="module")
def finished(log, tmp_path_factory):
    made = {}
    for model, refit in (("mf", False), ("mf", True), ("sasrec", False)):
        overrides = settings(model, learning_rate=0.1 if model == "mf" else 0.01)
        out = tmp_path_factory.mktemp(f"{model}-{refit}") / "run"
        made[model, refit] = augrec.train(
            log, model=model, augment=["adar"], seed=2, refit=refit, out=out, overrides=overrides, callbacks=[]
        )
    return made


METRICS = {f"{name}@{k}" for name in ("recall", "ndcg", "hr", "mrr", "precision") for k in (5, 10, 20)}


@pytest.mark.parametrize("which", [("mf", False), ("mf", True), ("sasrec", False)])
def test_result_has_exactly_its_fields(which, finished, log):
    result = json.loads((finished[which].directory / "result.json").read_text())
    assert result == finished[which].result
    assert list(result) == [
        "augrec", "data", "split", "protocol", "model", "objective", "augment", "preset", "seed", "refit", "epochs",
        "valid", "test", "beyond_accuracy", "evaluations", "seconds", "peak_rss_mb", "deviations",
    ]  # fmt: skip
    assert list(result["data"]) == ["name", "sha256", "users", "items", "interactions"]
    assert (result["data"]["users"], result["data"]["items"]) == (80, 50)
    assert set(result["epochs"]) == {"run", "best", "stopped_early"}
    assert set(result["seconds"]) == {"prepare", "train", "epoch_median", "evaluate"}
    assert {"ranking", "seen_items", "ties", "selected_on"} <= result["protocol"].keys()
    assert result["protocol"]["selected_on"] == ("valid recall@20" if which[0] == "mf" else "valid ndcg@10")
    assert set(result["valid"]) == set(result["test"]) == METRICS
    (other,) = result["evaluations"]
    assert {"protocol", "part", "metrics"} <= other.keys()
    assert {other["protocol"]["seen_items"], result["protocol"]["seen_items"]} == {"mask", "keep"}
    assert result["augrec"] == augrec.__version__
    assert (result["model"], result["augment"], result["seed"], result["refit"]) == (which[0], ["adar"], 2, which[1])
    assert result["split"]["train"] + result["split"]["valid"] + result["split"]["test"] == len(log)
    assert result["data"]["interactions"] == len(log)
    assert result["deviations"] == []
    assert result["peak_rss_mb"] > 50
    lines = [json.loads(line) for line in (finished[which].directory / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == result["epochs"]["run"]
    best = max(lines, key=lambda line: (line["valid"][line["selected_on"]], -line["epoch"]))
    assert result["epochs"]["best"] == best["epoch"]
    # The validation figures are those that were selected on, also after a refit on these very rows.
    assert result["valid"] == best["valid"]


def test_the_bundle_scores_as_the_record_says(finished, log):
    for one in finished.values():
        config = RunConfig.from_json(json.loads((one.directory / "config.json").read_text()))
        split = read_split(config, log)
        again = evaluate(load_bundle(one.directory / "bundle").scorer, split, "test", config.part("evaluate"))
        assert again.metrics.mean == pytest.approx(one.result["test"], abs=1e-12)
        per_user = pl.read_parquet(one.directory / "per_user.parquet")
        assert per_user["recall@20"].mean() == pytest.approx(one.result["test"]["recall@20"], abs=1e-12)
        assert set(per_user["user"]) <= set(range(80))


def test_refit_trains_on_train_and_validation_for_the_best_number_of_epochs(log, tmp_path, monkeypatch):
    trained_on, epochs = [], []
    monkeypatch.setattr(
        run_module, "build", lambda config, train, **more: trained_on.append(train) or build(config, train, **more)
    )
    loop = run_module.Loop

    class Noted(loop):
        def run(self):
            epochs.append(self.config.epochs)
            assert (self.validate is None) == (len(epochs) == 2)
            return super().run()

    monkeypatch.setattr(run_module, "Loop", Noted)
    once = augrec.train(
        log, model="mf", seed=2, refit=True, out=tmp_path / "run", overrides=settings("mf"), callbacks=[]
    )
    split = read_split(resolve(model="mf", seed=2), log)
    first, second = trained_on
    pairs = [sorted(zip(part.user.tolist(), part.item.tolist(), strict=True)) for part in trained_on]
    assert pairs[0] == sorted(zip(split.train.user.tolist(), split.train.item.tolist(), strict=True))
    assert pairs[1] == sorted(pairs[0] + list(zip(split.valid.user.tolist(), split.valid.item.tolist(), strict=True)))
    assert len(second) > len(first)
    best = once.result["epochs"]["best"]
    assert best > 1
    assert epochs == [5, best]
    lines = (once.directory / "metrics-refit.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, best + 1))
    # The bundle holds the second model: the very one that a bare loop of that many epochs makes.
    again = build(resolve(model="mf", seed=2, overrides=settings("mf", epochs=best)), split.history("test"), seed=2)
    from augrec.train.config import TrainConfig

    loop(
        fabric=run_module.make_fabric("cpu"), step=again.step, batches=again.batches, groups=again.groups,
        config=TrainConfig(**settings("mf", epochs=best)["train"]), select="none",
    ).run()  # fmt: skip
    saved = load_file(once.directory / "bundle" / "weights.safetensors")
    assert torch.equal(torch.cat([saved["user"], saved["item"]]), again.step.backbone.nodes)


@pytest.mark.parametrize("model", ["popularity", "itemknn", "ease"])
def test_a_refitted_baseline_keeps_the_validation_figures_it_earned(model, log, tmp_path):
    plain = augrec.train(log, model=model, out=tmp_path / "plain")
    refit = augrec.train(log, model=model, refit=True, out=tmp_path / "refit")
    assert refit.result["valid"] == plain.result["valid"]
    assert refit.result["test"] != plain.result["test"]
    assert refit.result["protocol"]["selected_on"] == "nothing"


def test_without_validation_rows_every_epoch_runs(log, tmp_path):
    overrides = settings("mf", epochs=3, patience=1) | {"split": {"kind": "ratio", "valid": 0.0}}
    run = augrec.train(log, model="mf", out=tmp_path / "run", overrides=overrides, callbacks=[])
    assert run.result["epochs"] == {"run": 3, "best": 0, "stopped_early": False}
    assert run.result["protocol"]["selected_on"] == "nothing"
    assert "valid" not in run.result
    assert "test" in run.result


def test_the_selection_metric_is_checked_before_any_work(log, tmp_path):
    with pytest.raises(ConfigError, match=r"train.select: no validation metric 'recall@15'; did you mean 'recall@1?5?"):
        augrec.train(log, model="mf", out=tmp_path / "a", overrides=settings("mf", select="recall@15"), callbacks=[])
    with pytest.raises(ConfigError, match=r"'recall@20'.*evaluate.ks = \[3\]"):
        augrec.train(log, model="mf", out=tmp_path / "b", overrides=settings("mf") | {"evaluate": {"ks": [3]}})
    run = augrec.train(
        log, model="mf", out=tmp_path / "c", callbacks=[],
        overrides=settings("mf", select="hr@3", epochs=1) | {"evaluate": {"ks": [3]}},
    )  # fmt: skip
    assert run.result["protocol"]["selected_on"] == "valid hr@3"


def test_a_refused_combination_leaves_the_directory_free(log, tmp_path):
    out = tmp_path / "run"
    overrides = settings("sasrec", epochs=1) | {"adar": {"source": "ridge"}}
    with pytest.raises(UnsupportedCombinationError):
        augrec.train(log, model="sasrec", augment=["adar"], out=out, overrides=overrides, callbacks=[])
    assert not (out / "config.json").exists()
    augrec.train(log, model="sasrec", out=out, overrides=settings("sasrec", epochs=1), callbacks=[])


def test_choices_are_recorded(finished):
    config = json.loads((finished["mf", False].directory / "config.json").read_text())
    result = finished["mf", False].result
    assert config["choices"] == {"split": result["split"]["sha256"], "device": "cpu", "threads": 1}
    assert config["augrec"] == augrec.__version__
    names = {path.name for path in Path(finished["mf", False].directory).iterdir()}
    assert names == {
        ".lock", "config.json", "metrics.jsonl", "checkpoints", "bundle", "per_user.parquet", "result.json"
    }  # fmt: skip


def test_a_run_may_select_among_sampled_negatives(tmp_path):
    wide = make_log(items=150)
    overrides = settings("mf", epochs=4, select="sampled99:ndcg@10")
    run = augrec.train(wide, model="mf", seed=5, out=tmp_path / "run", overrides=overrides, callbacks=[])
    lines = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    figures = [line["valid"]["sampled99:ndcg@10"] for line in lines]
    assert run.result["protocol"]["selected_on"] == "valid sampled99:ndcg@10"
    assert run.result["epochs"]["best"] == 1 + figures.index(max(figures))
    # What was kept is what was chosen, and full ranking stands beside it.
    assert run.result["valid"]["sampled99:ndcg@10"] == max(figures)
    assert 0 < run.result["valid"]["ndcg@10"] < max(figures)
    sampled = run.evaluate(part="valid", protocol="sampled99", data=wide)
    assert sampled["metrics"]["ndcg@10"] == pytest.approx(max(figures), abs=1e-12)


def test_a_catalogue_too_small_to_sample_from_is_refused_and_leaves_the_directory_free(log, tmp_path):
    overrides = settings("mf", epochs=1, select="sampled99:auc")
    with pytest.raises(UsageError, match="fewer than the 99 negatives"):
        augrec.train(log, model="mf", out=tmp_path / "run", overrides=overrides, callbacks=[])
    assert not (tmp_path / "run" / "config.json").exists()
