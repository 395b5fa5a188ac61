"""Protocols by name: settings in, the name back out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import augrec
from augrec.errors import ConfigError, UnsupportedCombinationError
from augrec.experiment.config import resolve
from augrec.experiment.protocols import PROTOCOLS, protocol_of
from augrec.testing import tiny_log

SMALL = {"sasrec": {"dim": 8, "inner": 8, "heads": 1, "layers": 1}, "train": {"epochs": 1, "threads": 1}}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_name_is_settings_and_settings_are_a_name(name: str) -> None:
    run = resolve(model="sasrec", protocol=name)
    assert protocol_of(run) == name
    one = PROTOCOLS[name]
    fields = {"train": {"rows": one.rows}, "evaluate": {"seen_items": one.seen_items}}
    assert resolve(model="sasrec", objective=one.objective, overrides=fields) == run
    assert protocol_of(resolve(model="sasrec", objective=one.objective, split="temporal", overrides=fields)) is None


def test_a_comparison_and_a_search_are_made_by_a_name(tmp_path: Path) -> None:
    log = tiny_log(shortest=4)
    small = {**SMALL, "train": {**SMALL["train"], "epochs": 1}}
    options: dict = {"model": "sasrec", "protocol": "P2", "overrides": small, "callbacks": lambda _: []}
    done = augrec.compare(log, augment=["hbr"], seeds=1, out=tmp_path / "compare", **options)
    assert "--objective bce" in done.record["command"]
    assert "--set train.rows=whole --set evaluate.seen_items=mask" in done.record["command"]
    for path in (tmp_path / "compare" / "runs").glob("*/result.json"):
        result = json.loads(path.read_text())
        assert result["protocol"]["seen_items"] == "mask", result["model"]
        assert result["model"] != "sasrec" or result["protocol"]["name"] == "P2"
    found = augrec.tune(log, search=["train.learning_rate=0.01,0.02"], trials=1, out=tmp_path / "tune", **options)
    assert "--objective bce" in found.record["best"]["command"]
    with pytest.raises(ConfigError, match="leave out --objective softmax"):
        augrec.compare(log, augment=["hbr"], objective="softmax", out=tmp_path / "no", **options)


def test_our_own_default_is_none_of_them() -> None:
    assert protocol_of(resolve(model="sasrec")) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "P1x"}, "unknown protocol 'P1x'.*Known: P1, P1d, P2"),
        ({"protocol": "P1", "model": "mf"}, "sequence models"),
        ({"protocol": "P2", "objective": "softmax"}, "trains with bce; leave out --objective softmax"),
        ({"protocol": "P1", "split": "temporal"}, "leave out --split temporal"),
        ({"protocol": "P1", "overrides": {"train": {"rows": "whole"}}}, r"leave out --set train\.rows=whole"),
    ],
)
def test_what_contradicts_a_name_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(**{"model": "sasrec", **options})


@pytest.mark.parametrize("name", ["P1", "P1d"])
def test_a_run_says_how_it_was_trained(tmp_path: Path, name: str) -> None:
    done = augrec.train(
        tiny_log(shortest=4), model="sasrec", augment=["cl4srec"], protocol=name, out=tmp_path / "run", overrides=SMALL,
        callbacks=[],
    )  # fmt: skip
    assert done.result["protocol"]["name"] == name
    assert done.result["protocol"]["rows"] == PROTOCOLS[name].rows
    assert done.result["protocol"]["seen_items"] == "keep"


@pytest.mark.parametrize("model", ["bert4rec", "mf", "t-diffrec"])
def test_models_without_such_rows_refuse_them(tmp_path: Path, model: str) -> None:
    with pytest.raises(UnsupportedCombinationError, match=r"train\.rows=prefix"):
        augrec.train(
            tiny_log(shortest=4), model=model, out=tmp_path / "run", overrides={"train": {"rows": "prefix"}},
            callbacks=[],
        )  # fmt: skip
    assert not (tmp_path / "run").exists()
