"""A grid reuses what is finished, resumes what is begun and stops in time."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from augrec.data import read_interactions
from augrec.data.interactions import Interactions
from augrec.errors import AugrecError, Interrupted, NumericalError, UsageError
from augrec.experiment import grid as grid_module
from augrec.experiment.config import parse_overrides, resolve
from augrec.experiment.grid import Grid, Planned, command_of, config_hash, round_robin
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


def configs(**options: object) -> list:
    first = resolve(data="toy", model="mf", overrides=TINY, **options)
    return [replace(first, seed=seed) for seed in range(2)]


def test_round_robin_takes_a_seed_of_every_cell_before_the_next() -> None:
    a, b = configs()
    order = round_robin({"x": [a, b], "one": [a], "y": [a, b]})
    assert [(one.cell, one.config.seed) for one in order] == [("x", 0), ("one", 0), ("y", 0), ("x", 1), ("y", 1)]


def test_the_hash_follows_every_setting() -> None:
    a, b = configs()
    changed = resolve(data="toy", model="mf", overrides={**TINY, "mf": {"dim": 5}})
    assert len({config_hash(one) for one in (a, b, changed)}) == 3
    assert config_hash(a) == config_hash(resolve(data="toy", model="mf", overrides=TINY))


def test_finished_runs_are_reused_and_a_lost_ledger_line_is_written_again(log: Interactions, tmp_path: Path) -> None:
    planned = round_robin({"base": configs()})
    first = Grid(tmp_path, source=log, callbacks=quiet).run(planned)
    before = {one.directory: (one.directory / "result.json").stat().st_mtime_ns for one in first.finished}
    ledger = (tmp_path / "ledger.jsonl").read_text()
    lines = ledger.splitlines(keepends=True)
    assert [(json.loads(line)["cell"], json.loads(line)["seed"]) for line in lines] == [("base", 0), ("base", 1)]
    # Killed after the second run's result, in the middle of its line.
    (tmp_path / "ledger.jsonl").write_text(lines[0] + lines[1][:40])
    again = Grid(tmp_path, source=log, callbacks=quiet).run(planned)
    assert {one.directory: (one.directory / "result.json").stat().st_mtime_ns for one in again.finished} == before
    assert (tmp_path / "ledger.jsonl").read_text() == ledger
    assert [one.result for one in again.finished] == [one.result for one in first.finished]


def test_a_grid_killed_inside_a_run_goes_on_to_the_same_results(
    log: Interactions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = round_robin({"base": configs()})

    class Dies(Callback):
        def on_epoch_start(self, epoch: int, batches: int, done: int) -> None:
            if epoch == 2:
                raise KeyboardInterrupt

    def watchers(one: Planned) -> list[Callback]:
        return [Dies()] if one.config.seed == 1 else []

    with pytest.raises(KeyboardInterrupt):
        Grid(tmp_path / "cut", source=log, callbacks=watchers).run(planned)
    assert len((tmp_path / "cut" / "ledger.jsonl").read_text().splitlines()) == 1
    cut = Grid(tmp_path / "cut", source=log, callbacks=quiet).run(planned)
    whole = Grid(tmp_path / "whole", source=log, callbacks=quiet).run(planned)
    for a, b in zip(cut.finished, whole.finished, strict=True):
        assert a.result["test"] == b.result["test"]
        assert (a.directory / "per_user.parquet").read_bytes() == (b.directory / "per_user.parquet").read_bytes()


def test_the_budget_stops_between_runs_and_says_what_is_left(
    log: Interactions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = round_robin({"base": configs(), "popularity": [resolve(data="toy", model="popularity")]})
    now = [0.0]
    monkeypatch.setattr(grid_module.time, "monotonic", lambda: now[0])

    class Clock(Callback):
        def on_epoch_end(self, line: object) -> None:
            now[0] += 31.0

    outcome = Grid(tmp_path, source=log, budget_minutes=1, callbacks=lambda one: [Clock()]).run(planned)
    # The first run takes 62 s and is finished all the same.
    assert [(one.cell, one.config.seed) for one in outcome.finished] == [("base", 0)]
    assert [(one.cell, one.config.seed) for one in outcome.left] == [("popularity", 0), ("base", 1)]
    rest = Grid(tmp_path, source=log, callbacks=quiet).run(planned)
    assert len(rest.finished) == 3
    assert not rest.left


def test_other_data_under_the_same_name_are_refused(log: Interactions, tmp_path: Path) -> None:
    planned = round_robin({"base": configs()[:1]})
    Grid(tmp_path, source=log, callbacks=quiet).run(planned)
    with pytest.raises(AugrecError, match="other data or another split"):
        Grid(tmp_path, source=read_interactions(frame(seed=1)), callbacks=quiet).run(planned)


def test_a_signal_a_diverged_run_and_a_refusing_baseline(
    log: Interactions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[Exception] = []

    def fails(*arguments: object, **options: object) -> None:
        raise raised[0]

    monkeypatch.setattr(grid_module, "run", fails)
    base, ease = configs()[0], resolve(data="toy", model="ease")
    grid = Grid(tmp_path, source=log, callbacks=quiet)
    raised[:] = [NumericalError("loss is nan")]
    assert grid.run([Planned(cell="base", config=base)]).refused == {"base seed 0": "loss is nan"}
    raised[:] = [UsageError("too many items")]
    assert grid.run([Planned(cell="ease", config=ease)]).refused == {"ease seed 0": "too many items"}
    with pytest.raises(UsageError, match="too many"):
        grid.run([Planned(cell="base", config=base)])
    raised[:] = [Interrupted(2)]
    with pytest.raises(Interrupted, match="the same command again") as stop:
        grid.run([Planned(cell="base", config=base)])
    assert stop.value.exit_code == 130


def test_the_command_of_a_run_gives_its_settings_back() -> None:
    config = replace(
        resolve(
            data="a b.csv", model="sasrec", objective="bpr", augment=["adar-fixed-0.75"], preset="robust",
            split="temporal", seed=0, epochs=7, refit=True,
            overrides={"sasrec": {"layers": 3}, "evaluate": {"ks": [1, 20]}, "adar-fixed-0.75": {"weight": 0.2}},
        ),
        seed=4,
    )  # fmt: skip
    words = shlex.split(command_of(config, threads=2))[2:]
    found: dict = {"overrides": []}
    while words:
        word = words.pop(0)
        if word == "--refit":
            found["refit"] = True
        elif word == "--set":
            found["overrides"].append(words.pop(0))
        else:
            found[word[2:]] = words.pop(0)
    found |= {"overrides": parse_overrides(found["overrides"]), "augment": found["augment"].split(",")}
    found["seed"] = int(found["seed"])
    expected = {**config.parts, "train": config.part("train").model_copy(update={"threads": 2})}
    assert resolve(**found) == replace(config, parts=expected)
