"""A search that resumes, prunes, reads validation only and refuses what it cannot search."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import optuna
import polars as pl
import pytest

from augrec.cli import main
from augrec.data import read_interactions
from augrec.data.interactions import Interactions
from augrec.errors import ConfigError, NumericalError, UsageError
from augrec.experiment import tune as tune_module
from augrec.experiment.config import RunConfig, parse_overrides, resolve
from augrec.experiment.search import Choices, Range, read_search
from augrec.experiment.tune import tune
from augrec.train.callbacks import Callback

TINY = {"train": {"threads": 1, "evaluate_every": 1}, "mf": {"dim": 4}}
SEARCH = ["train.learning_rate=1e-3:1e-1:log", "mf.l2=0:0.01"]


def frame() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for user in range(40):
        near = np.where(np.arange(40) % 4 == user % 4, 8.0, 1.0)
        chosen = rng.choice(40, size=rng.integers(6, 12), replace=False, p=near / near.sum())
        rows += [(f"u{user:03d}", f"i{item:03d}", 1000 * n) for n, item in enumerate(chosen)]
    return pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")


@pytest.fixture(scope="module")
def log() -> Interactions:
    return read_interactions(frame())


def search(log: Interactions, out: Path, **options):
    given = {"model": "mf", "search": SEARCH, "trials": 4, "epochs": 3, "startup_trials": 1, "warmup_epochs": 1}
    return tune(log, **{**given, "overrides": TINY, "out": out, **options}).record


def outcome(record: dict) -> list:
    return [[one[key] for key in ("values", "value", "state", "curve")] for one in record["trials"]]


@pytest.fixture(scope="module")
def whole(log: Interactions, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("whole")
    return search(log, out), out


# --- the space


def settings(values) -> RunConfig:
    return resolve(model="sasrec", augment=["adar"], overrides=values)


def test_fields_are_read_by_their_own_type() -> None:
    texts = ["train.learning_rate=1e-4:1e-2:log", "sasrec.layers=1:4", "adar.weight=0:1", "adar.score=raw,cosine"]
    texts += ["adar.allow_T=true,false", "adar.steps=null,10", "train.batch_size=64:256:log"]
    assert read_search(texts, settings) == {
        "train.learning_rate": Range(low=1e-4, high=1e-2, log=True, whole=False),
        "sasrec.layers": Range(low=1, high=4, log=False, whole=True),
        # Whole bounds of a real field stay real.
        "adar.weight": Range(low=0.0, high=1.0, log=False, whole=False),
        "adar.score": Choices(values=("raw", "cosine")),
        "adar.allow_T": Choices(values=(True, False)),
        "adar.steps": Choices(values=(None, 10)),
        "train.batch_size": Range(low=64, high=256, log=True, whole=True),
    }


BAD = [
    ([], "name a field"),
    (["learning_rate=1:2"], "write it as"),
    (["train.learning_rate"], "write it as"),
    (["train.learning_rate="], "write it as"),
    (["train.lerning_rate=1e-3:1e-2"], "no such field; did you mean 'learning_rate'"),
    (["trian.epochs=1:4"], "no part 'trian'; did you mean 'train'"),
    (["sasrec.layers=one:4"], "'one' is not a number"),
    (["sasrec.layers=1.5:4"], "sasrec.layers"),
    (["sasrec.layers=1:true"], "not a number"),
    (["sasrec.layers=4:1"], "lower bound"),
    (["sasrec.layers=1:4:lin"], "write it as"),
    (["train.learning_rate=0:1"], "greater than 0"),
    (["adar.weight=0:1:log"], "above 0"),
    (["adar.weight=0:2"], "less than or equal to 1"),
    (["adar.score=1:2"], "adar.score"),
    (["adar.score=raw,cosien"], "cosine"),
    (["sasrec.layers=2"], "two or more"),
    (["sasrec.layers=2,2"], "different"),
    (["sasrec.layers=1:2", "sasrec.layers=1,2"], "searched twice"),
    (["evaluate.ks=5,10"], "decides what is measured"),
    (["split.seed=0:9"], "decides what is measured"),
    (["train.select=recall@10,ndcg@10"], "decides what is measured"),
    (["train.learning_rate=NaN:1"], "not a number"),
]


@pytest.mark.parametrize(("texts", "message"), BAD)
def test_bad_searches_say_how_to_mend_them(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        read_search(texts, settings)
    assert "--set" not in str(error.value)
    assert error.value.exit_code == 2


# --- the search


def test_the_best_completed_trial_wins_and_its_command_gives_its_settings(whole) -> None:
    record, out = whole
    assert json.loads((out / "trials.json").read_text()) == record
    assert len(record["trials"]) == 4
    complete = [one for one in record["trials"] if one["state"] == "complete"]
    assert record["best"]["value"] == max(one["value"] for one in complete)
    for one in complete:
        result = json.loads((out / one["directory"] / "result.json").read_text())
        assert one["value"] == result["valid"]["recall@20"] == max(one["curve"].values())
    words = shlex.split(record["best"]["command"])
    sets = parse_overrides([words[n + 1] for n, word in enumerate(words) if word == "--set"])
    for path, value in record["best"]["values"].items():
        part, name = path.split(".")
        assert sets[part][name] == value
        assert {"train.learning_rate": 1e-3 <= value <= 1e-1, "mf.l2": 0 <= value <= 0.01}[path]


def test_the_same_call_reads_and_a_larger_one_extends(log: Interactions, whole, tmp_path: Path) -> None:
    record, _ = whole
    search(log, tmp_path, trials=2)
    again = search(log, tmp_path, trials=2)
    assert outcome(again) == outcome(record)[:2]
    # Two trials and then two more are the same as four at once.
    assert outcome(search(log, tmp_path)) == outcome(record)


def test_a_search_killed_inside_a_trial_goes_on_to_the_same_trials(log: Interactions, whole, tmp_path: Path) -> None:
    record, _ = whole
    begun: list[RunConfig] = []

    class Dies(Callback):
        def on_epoch_start(self, epoch: int, batches: int, done: int) -> None:
            if epoch == 2 and len(begun) == 3:
                raise KeyboardInterrupt

    def watchers(config: RunConfig) -> list[Callback]:
        begun.append(config)
        return [Dies()]

    with pytest.raises(KeyboardInterrupt):
        search(log, tmp_path, callbacks=watchers)
    assert outcome(search(log, tmp_path)) == outcome(record)


def test_trials_below_the_median_are_given_up(log: Interactions, tmp_path: Path) -> None:
    # Seeded and tiny, so which trials fall is fixed; the rule itself is recomputed from the curves.
    options = {"search": ["train.learning_rate=1e-6,0.05"], "trials": 6, "epochs": 4, "seed": 2, "model": "mf"}
    record = search(log, tmp_path, **options, warmup_epochs=2, overrides={**TINY, "mf": {"dim": 8}})
    complete: list[dict] = []
    pruned = 0
    for one in record["trials"]:
        best = -1.0
        for epoch in map(int, one["curve"]):
            best = max(best, one["curve"][str(epoch)])
            behind = (
                bool(complete) and epoch >= 2 and best < np.median([other["curve"][str(epoch)] for other in complete])
            )
            last = epoch == max(map(int, one["curve"]))
            assert behind == (last and one["state"] == "pruned")
        if one["state"] == "complete":
            complete.append(one)
        else:
            pruned += 1
            assert one["epochs"] == max(map(int, one["curve"])) < 4
    assert pruned
    assert complete


def test_a_poisoned_test_part_leaves_the_search_as_it_is(tmp_path: Path) -> None:
    place = pl.int_range(pl.len()).reverse().over("user")
    part = frame().with_columns(split=pl.when(place == 0).then(1).when(place == 1).then(2).otherwise(0))
    other = pl.Series("item", np.random.default_rng(7).permutation(part["item"].to_numpy()))
    poisoned = part.with_columns(item=pl.when(pl.col("split") == 1).then(other).otherwise(pl.col("item")))
    records, tests = [], []
    for number, one in enumerate((part, poisoned)):
        out = tmp_path / str(number)
        records.append(search(read_interactions(one, name="toy"), out, split="given", trials=3))
        results = [out / trial["directory"] / "result.json" for trial in records[-1]["trials"]]
        tests.append([json.loads(path.read_text())["test"] for path in results if path.exists()])
    assert outcome(records[0]) == outcome(records[1])
    assert records[0]["best"] == records[1]["best"]
    assert tests[0] != tests[1]


def test_a_diverged_trial_is_noted_and_the_search_goes_on(
    log: Interactions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = tune_module.run, []

    def first_fails(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise NumericalError("loss term 'bpr' is nan")
        return real(*arguments, **options)

    monkeypatch.setattr(tune_module, "run", first_fails)
    record = search(log, tmp_path, trials=2)
    assert [one["state"] for one in record["trials"]] == ["diverged", "complete"]
    assert record["trials"][0]["value"] is None
    assert record["best"]["number"] == 1


def test_another_search_in_the_same_folder_is_refused(log: Interactions, whole) -> None:
    _, out = whole
    for change in ({"search": SEARCH[:1]}, {"epochs": 4}, {"seed": 1}, {"metric": "ndcg@10"}):
        with pytest.raises(UsageError, match="choose another --out"):
            search(log, out, **change)


def test_the_metric_is_also_what_a_trial_stops_on(log: Interactions, tmp_path: Path) -> None:
    record = search(log, tmp_path, metric="ndcg@10", trials=1)
    place = tmp_path / record["trials"][0]["directory"]
    assert json.loads((place / "result.json").read_text())["protocol"]["selected_on"] == "valid ndcg@10"
    assert record["metric"] == "ndcg@10"
    assert "--set train.select=ndcg@10" in record["best"]["command"]
    with pytest.raises(UsageError, match="did you mean 'ndcg@10'"):
        search(log, tmp_path / "x", metric="ndgc@10")


def test_a_baseline_can_be_tuned(log: Interactions, tmp_path: Path) -> None:
    record = search(
        log, tmp_path, model="ease", search=["ease.regularisation=1:1000:log"], trials=2, overrides={}, epochs=None
    )
    assert [one["state"] for one in record["trials"]] == ["complete"] * 2


def test_wrong_arguments(log: Interactions, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give one of them"):
        search(log, tmp_path, overrides={"train": {"learning_rate": 0.1}})
    for change in ({"trials": 0}, {"startup_trials": 0}, {"warmup_epochs": -1}, {"seed": -1}):
        with pytest.raises(UsageError, match="must be at least"):
            search(log, tmp_path, **change)
    with pytest.raises(ConfigError, match="no such field"):
        search(log, tmp_path, overrides={"mf": {"dmi": 3}})
    assert not list(tmp_path.iterdir())


def test_without_optuna_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit) as stop:
        main(["tune", "--model", "mf", "--search", "mf.dim=4,8"])
    assert stop.value.code == 2
    assert "pip install augrec[tune]" in capsys.readouterr().err


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame().write_csv(tmp_path / "toy.csv")
    words = ["tune", "--data", str(tmp_path / "toy.csv"), "--model", "mf", "--trials", "1", "--epochs", "1"]
    words += ["--set", "mf.dim=4", "--set", "train.threads=1", "--out", str(tmp_path / "t")]
    before = optuna.logging.get_verbosity()
    with pytest.raises(SystemExit) as stop:
        main([*words, "--search", "mf.l2=0:0.01"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "augrec train --data" in out
    assert "trials.json" in out
    with pytest.raises(SystemExit) as stop:
        main([*words, "--search", "mf.l2=0:0.01", "--json"])
    assert stop.value.code == 0
    assert len(json.loads(capsys.readouterr().out)["trials"]) == 1
    with pytest.raises(SystemExit) as stop:
        main([*words, "--search", "mf.l3=0:0.01"])
    assert stop.value.code == 2
    assert "Fields of mf" in capsys.readouterr().err
    assert optuna.logging.get_verbosity() == before
