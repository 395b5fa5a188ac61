"""Whole comparisons: files, chosen weights, budgets and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from augrec.cli import main
from augrec.data import read_interactions
from augrec.data.interactions import Interactions
from augrec.experiment.compare import compare
from augrec.experiment.grid import Grid
from augrec.train.callbacks import Callback

TINY = {"train": {"epochs": 2, "threads": 1}, "mf": {"dim": 4}}


def frame(*, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(40):
        near = np.where(np.arange(40) % 4 == user % 4, 8.0, 1.0)
        chosen = rng.choice(40, size=rng.integers(6, 12), replace=False, p=near / near.sum())
        rows += [(f"u{user:03d}", f"i{item:03d}", 1000 * n) for n, item in enumerate(chosen)]
    return pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")


@pytest.fixture(scope="module")
def log() -> Interactions:
    return read_interactions(frame())


def quiet(planned: object) -> list[Callback]:
    return []


@pytest.fixture(scope="module")
def finished(log: Interactions, tmp_path_factory: pytest.TempPathFactory):
    """One small comparison that several tests read."""
    out = tmp_path_factory.mktemp("compare")
    return compare(
        log, model="mf", augment=["adar"], arms=["fixed-0.75"], seeds=2, tune_weight=[0.1, 0.9], overrides=TINY,
        out=out, callbacks=quiet,
    )  # fmt: skip


def test_a_comparison_and_its_files(finished) -> None:
    record, out = finished.record, finished.directory
    assert json.loads((out / "compare.json").read_text()) == record
    cells = {one["cell"]: one for one in record["cells"]}
    assert list(cells) == [
        "popularity",
        "itemknn",
        "ease",
        "base",
        "adar-gaussian",
        "adar-ridge",
        "adar",
        "adar-fixed-0.75",
    ]
    assert [len(one["seeds"]) for one in cells.values()] == [1, 1, 1, 2, 2, 2, 2, 2]
    ledger = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    # One split for all, whatever the training seed.
    assert len({line["split"] for line in ledger}) == 1
    assert {line["seed"] for line in ledger} == {0, 1}
    # Gains and statistics come from the same runs.
    (tested,) = [
        one for one in record["comparisons"]
        if (one["a"], one["b"], one["metric"]) == ("adar", "adar-gaussian", "recall@20")
    ]  # fmt: skip
    assert tested["mean_a"] == pytest.approx(cells["adar"]["test"]["recall@20"]["mean"])
    assert cells["adar"]["gain"]["adar-gaussian"]["recall@20"] == pytest.approx(tested["relative"])
    assert {"coverage@10", "novelty@10", "popularity_percentile@10"} <= set(cells["base"]["beyond_accuracy"])
    assert all(one["holm_permutation"] >= one["p_permutation"] for one in record["comparisons"])
    text = (out / "compare.md").read_text()
    for part in ("not a claim", "Holm over all", "torch", record["command"], cells["adar"]["command"], "| ease |"):
        assert part in text


def test_weights_are_chosen_on_validation_with_seed_0(finished) -> None:
    weights = finished.record["weights"]
    assert weights["selected_on"] == "valid recall@20, seed 0"
    assert set(weights["chosen"]) == {"adar-gaussian", "adar-ridge", "adar", "adar-fixed-0.75"}
    for name, chosen in weights["chosen"].items():
        best = max(weights["valid"][name], key=lambda one: one["recall@20"])
        assert chosen == {name: best[name]}
        assert [one[name] for one in weights["valid"][name]] == [0.1, 0.9]
    for one in finished.record["cells"]:
        if one["cell"] in weights["chosen"]:
            assert one["weight"] == weights["chosen"][one["cell"]]


def test_a_poisoned_test_part_leaves_the_chosen_weights(tmp_path: Path) -> None:
    given = frame().with_row_index("n")
    part = given.with_columns(split=pl.col("n").rank("ordinal", descending=True).over("user") - 1)
    part = part.with_columns(
        split=pl.when(pl.col("split") == 0).then(1).when(pl.col("split") == 1).then(2).otherwise(0)
    )
    rng = np.random.default_rng(7)
    other = pl.Series("item", rng.permutation(part["item"].to_numpy()))
    poisoned = part.with_columns(item=pl.when(pl.col("split") == 1).then(other).otherwise(pl.col("item")))
    # Both logs name every item, so the catalogue is the same.
    found = []
    for number, one in enumerate((part, poisoned)):
        source = read_interactions(one.drop("n"), name="toy")
        found.append(
            compare(
                source, model="mf", augment=["adar-gaussian"], seeds=1, split="given", tune_weight=[0.1, 0.9],
                overrides=TINY, out=tmp_path / str(number), callbacks=quiet,
            ).record
        )  # fmt: skip
    assert found[0]["weights"] == found[1]["weights"]
    assert found[0]["cells"][3]["test"] != found[1]["cells"][3]["test"]
    assert found[0]["cells"][3]["valid"] == found[1]["cells"][3]["valid"]


def test_base_against_an_augmentation_that_is_switched_off(log: Interactions, tmp_path: Path) -> None:
    # Weight 0 builds nothing, so the runs are equal byte for byte, and so must be the figures.
    done = compare(
        log, model="mf", augment=["adar"], seeds=3, overrides={**TINY, "adar": {"weight": 0.0}}, out=tmp_path,
        callbacks=quiet,
    )  # fmt: skip
    for one in done.record["comparisons"]:
        assert (one["difference"], one["p_t"], one["p_permutation"], one["p_seeds"]) == (0.0, 1.0, 1.0, 1.0)
    gain = next(one for one in done.record["cells"] if one["cell"] == "adar")["gain"]["base"]
    assert set(gain.values()) == {0.0}
    assert done.record["conclusions"] == ["adar is not shown to raise recall@20 over base; three seeds"]


def test_a_budget_cuts_a_comparison_short_and_the_same_call_ends_it(
    log: Interactions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"model": "mf", "augment": ["adar-gaussian"], "seeds": 2, "tune_weight": [0.1, 0.9], "overrides": TINY}
    checks = iter([False] * 2 + [True] * 50)
    monkeypatch.setattr(Grid, "spent", lambda self: next(checks))
    cut = compare(log, **options, out=tmp_path, callbacks=quiet).record
    assert cut["left"][:1] == ["adar-ridge seed 0"]
    assert "adar-ridge: all seeds, once its weight is chosen" in cut["left"]
    assert "the same command goes on" in (tmp_path / "compare.md").read_text()
    monkeypatch.undo()
    done = compare(log, **options, out=tmp_path, callbacks=quiet).record
    assert done["left"] == []
    assert [len(one["seeds"]) for one in done["cells"]] == [1, 1, 1, 2, 2, 2]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame().write_csv(tmp_path / "toy.csv")
    words = [
        "compare",
        "--data",
        str(tmp_path / "toy.csv"),
        "--model",
        "mf",
        "--augment",
        "adar-gaussian",
    ]
    words += ["--epochs", "1", "--set", "mf.dim=4", "--set", "train.threads=1", "--out", str(tmp_path / "c")]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--seeds", "1"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for part in ("popularity", "base", "adar-gaussian", "over base", "not a claim", "compare.md"):
        assert part in out
    with pytest.raises(SystemExit) as stop:
        main([*words, "--seeds", "1", "--json"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["protocol"]["standing"].startswith("one seed")
    for wrong, message in (
        (["--tune-weight", "a"], "give numbers"),
        (["--tune-weight", "2"], "at most 1"),
        (["--seeds", "0"], "at least 1"),
        (["--budget-minutes", "0"], "above 0"),
        (["--set", "mf.dmi=3"], "did you mean 'dim'"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*words, *wrong])
        assert stop.value.code == 2
        errors = capsys.readouterr().err
        assert message in errors
        assert "Traceback" not in errors
