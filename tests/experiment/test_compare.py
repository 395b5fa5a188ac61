"""Grids that resume, comparisons that pair users and say only what their seeds allow."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from augrec.augment.adar.config import ARMS
from augrec.cli import main
from augrec.data import read_interactions
from augrec.data.interactions import Interactions
from augrec.errors import AugrecError, Interrupted, NumericalError, UnsupportedCombinationError, UsageError
from augrec.experiment import grid as grid_module
from augrec.experiment.cells import plan
from augrec.experiment.compare import compare
from augrec.experiment.config import parse_overrides, resolve
from augrec.experiment.grid import Grid, Planned, command_of, config_hash, round_robin
from augrec.experiment.paired import PerUser, compare_cells, conclusion, finding, read_per_user, standing
from augrec.experiment.registry import entries
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


@pytest.fixture(scope="module")
def finished(log: Interactions, tmp_path_factory: pytest.TempPathFactory):
    """One small comparison that several tests read."""
    out = tmp_path_factory.mktemp("compare")
    return compare(
        log, model="mf", augment=["adar"], arms=["fixed-0.75"], seeds=2, tune_weight=[0.1, 0.9], overrides=TINY,
        out=out, callbacks=quiet,
    )  # fmt: skip


# --- names of arms


def test_every_arm_of_adar_can_be_named() -> None:
    known = entries()
    for arm, fields in ARMS.items():
        if arm not in ("off", "eq11"):  # base, and ADAR itself
            assert dict(known[f"adar-{arm}"].fixed) == dict(fields)
            config = resolve(model="mf", augment=[f"adar-{arm}"]).part(f"adar-{arm}")
            assert {name: getattr(config, name) for name in fields} == dict(fields)
    assert {name for name, entry in known.items() if entry.noise} == {"adar-gaussian", "adar-ridge"}


def test_fields_of_an_arm_with_a_dot_in_its_name_can_be_set() -> None:
    assert parse_overrides(["adar-fixed-0.75.weight=0.2"]) == {"adar-fixed-0.75": {"weight": 0.2}}


# --- the grid


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


# --- the cells


def names(**options: object) -> list[str]:
    return list(plan(data="toy", model="mf", **{"augment": ["adar"], **options}).cells)


def test_every_comparison_carries_its_controls() -> None:
    assert names() == ["popularity", "itemknn", "ease", "base", "adar-gaussian", "adar-ridge", "adar"]
    found = plan(data="toy", model="mf", augment=["adar"], arms=["random"])
    assert set(found.pairs) == {
        ("adar-gaussian", "base"), ("adar-ridge", "base"), ("adar", "base"), ("adar", "adar-gaussian"),
        ("adar", "adar-ridge"), ("adar", "adar-random"), ("adar-random", "base"), ("adar-random", "adar-gaussian"),
        ("adar-random", "adar-ridge"),
    }  # fmt: skip


def test_the_ridge_arm_stands_only_where_negatives_are_drawn() -> None:
    found = plan(data="toy", model="sasrec", augment=["adar"])
    assert found.configs["base"].objective == "softmax"
    assert "adar-gaussian" in found.cells
    assert "adar-ridge" not in found.cells
    assert "draws none" in found.left_out["adar-ridge"]
    assert found.cells["adar"].controls == ("adar-gaussian",)
    with pytest.raises(UnsupportedCombinationError, match="draws none"):
        plan(data="toy", model="sasrec", augment=["adar-ridge"])


def test_all_cells_share_split_protocol_and_budget() -> None:
    found = plan(
        data="toy", model="sasrec", augment=["adar"], epochs=9,
        overrides={"split": {"kind": "temporal"}, "train": {"patience": 3}},
    )  # fmt: skip
    for part in ("data", "split", "evaluate"):
        assert len({config.part(part) for config in found.configs.values()}) == 1
    trained = [config for name, config in found.configs.items() if found.cells[name].role != "baseline"]
    assert {(one.part("train").epochs, one.part("train").patience) for one in trained} == {(9, 3)}
    assert {one.objective for one in trained} == {"softmax"}


def test_overrides_of_a_method_hold_for_its_arms_but_not_what_they_fix() -> None:
    found = plan(
        data="toy", model="mf", augment=["adar"], arms=["fixed-0.75", "random"],
        overrides={
            "adar": {"weight": 0.3, "selector": "theorem"}, "adar-random": {"weight": 0.7},
            "ease": {"regularisation": 7},
        },
    )  # fmt: skip
    part = {name: config.part(name) for name, config in found.configs.items() if name.startswith("adar")}
    assert {name: one.weight for name, one in part.items()} == {
        "adar-gaussian": 0.3, "adar-ridge": 0.3, "adar": 0.3, "adar-fixed-0.75": 0.3, "adar-random": 0.7,
    }  # fmt: skip
    assert part["adar"].selector == "theorem"
    assert part["adar-fixed-0.75"].selector == "fixed"
    assert found.configs["ease"].part("ease").regularisation == 7


def test_presets_stand_side_by_side_and_plugins_in_one_cell() -> None:
    found = plan(data="toy", model="mf", augment=["adar", "adar@robust"])
    assert list(found.cells)[3:] == [
        "base", "adar-gaussian", "adar-ridge", "adar-gaussian@robust", "adar-ridge@robust", "adar", "adar@robust",
    ]  # fmt: skip
    assert found.configs["adar@robust"].part("adar").sampler == "ddpm"
    assert found.cells["adar@robust"].controls == ("adar-gaussian@robust", "adar-ridge@robust")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": ["adra"]}, "did you mean 'adar'"),
        ({"augment": ["adar@robsut"]}, "did you mean 'robust'"),
        ({"augment": []}, "name what is to be compared"),
        ({"model": "ease"}, "is a baseline"),
        ({"arms": ["fixed-0.7"]}, "has no arm 'fixed-0.7'; did you mean 'adar-fixed-0.75'"),
        ({"overrides": {"adra": {"weight": 1}}}, "no part 'adra'; did you mean 'adar'"),
        ({"overrides": {"adar": {"wieght": 1}}}, "no such field; did you mean 'weight'"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(**{"data": "toy", "model": "mf", "augment": ["adar"], **options})


# --- the statistics


def cell(*values: list[float], users: str = "abcdefgh") -> PerUser:
    arrays = {seed: {"m": np.asarray(one, dtype=np.float64)} for seed, one in enumerate(values)}
    return PerUser(users=pl.Series("user", list(users)), values=arrays)


def test_users_of_other_cells_and_seeds_are_never_paired(tmp_path: Path) -> None:
    values = [0.0] * 8
    with pytest.raises(AugrecError, match="different users"):
        compare_cells({"a": cell(values), "b": cell(values, users="abcdefgx")}, [("a", "b")], ["m"])
    for seed, users in enumerate(["abc", "acb"]):
        pl.DataFrame({"user": list(users), "m": [0.0, 1.0, 0.5]}).write_parquet(tmp_path / f"{seed}.parquet")
    with pytest.raises(AugrecError, match="not the users of the other seeds"):
        read_per_user({seed: tmp_path / f"{seed}.parquet" for seed in range(2)}, ["m"])


def test_statistics_equal_scipy_on_seed_means_and_holm_by_hand() -> None:
    rng = np.random.default_rng(1)
    one = {name: rng.random((3, 8)) for name in "abc"}
    cells = {name: cell(*array.tolist()) for name, array in one.items()}
    rows = compare_cells(cells, [("a", "b"), ("a", "c"), ("b", "c")], ["m"])
    for row in rows:
        a, b = one[row["a"]], one[row["b"]]
        assert row["p_t"] == pytest.approx(stats.ttest_rel(a.mean(0), b.mean(0)).pvalue)
        assert row["p_seeds"] == pytest.approx(stats.ttest_rel(a.mean(1), b.mean(1)).pvalue)
        assert row["relative"] == pytest.approx(a.mean() / b.mean() - 1)
    p = sorted((row["p_t"], n) for n, row in enumerate(rows))
    running = 0.0
    for place, (value, n) in enumerate(p):
        running = max(running, value * (3 - place))
        assert rows[n]["holm_t"] == pytest.approx(min(1.0, running))


def test_only_seeds_that_both_cells_have_are_compared() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random((3, 8)), rng.random((2, 8))
    (row,) = compare_cells({"a": cell(*a.tolist()), "b": cell(*b.tolist())}, [("a", "b")], ["m"])
    assert row["seeds"] == [0, 1]
    assert row["difference"] == pytest.approx((a[:2] - b).mean())


def test_equal_cells_give_p_1_and_gain_0() -> None:
    values = np.random.default_rng(3).random((5, 8)).tolist()
    (row,) = compare_cells({"a": cell(*values), "b": cell(*values)}, [("a", "b")], ["m"])
    assert [row[f"{kind}_{test}"] for kind in ("p", "holm") for test in ("t", "wilcoxon", "permutation")] == [1.0] * 6
    assert (row["p_seeds"], row["relative"], row["difference"], row["low"], row["high"]) == (1.0, 0.0, 0.0, 0.0, 0.0)
    assert row["finding"] == "none"
    assert "nothing is claimed" in row["verdict"]


@pytest.mark.parametrize(
    ("seeds", "said", "not_said"),
    [
        (1, "one seed: no test over seeds; not a claim", "over seeds p"),
        (2, "not a claim", ": a claim"),
        (3, "three seeds: a measurement", "a claim"),
        (4, "four seeds: a measurement", "a claim"),
        (5, "five seeds: a claim", "measurement"),
    ],
)
def test_verdicts_say_what_the_seeds_allow(seeds: int, said: str, not_said: str) -> None:
    rng = np.random.default_rng(4)
    low = rng.random((seeds, 40))
    high = low + 0.2 + 0.02 * rng.random((seeds, 40))
    users = [f"u{n}" for n in range(40)]
    cells = {"a": PerUser(users=pl.Series("user", users), values={s: {"m": high[s]} for s in range(seeds)})}
    cells["base"] = PerUser(users=pl.Series("user", users), values={s: {"m": low[s]} for s in range(seeds)})
    (row,) = compare_cells(cells, [("a", "base")], ["m"])
    assert row["finding"] == "higher"
    assert said in row["verdict"]
    assert said in standing(seeds)
    assert not_said not in row["verdict"]
    assert said in conclusion("a", (), [row], "m")


def row(b: str, difference: float, p: float, p_seeds: float | None, seeds: int = 5) -> dict:
    made = {"a": "x", "b": b, "metric": "m", "difference": difference, "holm_permutation": p, "p_seeds": p_seeds}
    made |= {"seeds": list(range(seeds))}
    return made | {"finding": finding(made)}


def test_conclusions_ask_for_the_noise_arms_too() -> None:
    above, level = row("base", 1.0, 0.001, 0.01), row("noise", 0.1, 0.4, 0.5)
    assert "noise alone may explain" in conclusion("x", ["noise"], [above, level], "m")
    beaten = row("noise", 0.1, 0.01, 0.02)
    assert conclusion("x", ["noise"], [above, beaten], "m").endswith("above its noise arm noise; five seeds: a claim")
    assert "more than noise" in conclusion("x", ["noise"], [above], "m")
    assert "not shown to raise" in conclusion("x", [], [row("base", 1.0, 0.2, 0.01)], "m")
    assert "not shown to raise" in conclusion("x", [], [row("base", 1.0, 0.001, 0.3)], "m")
    assert "below base" in conclusion("x", [], [row("base", -1.0, 0.001, 0.01)], "m")
    assert conclusion("x", [], [], "m") == "x: not finished"
    assert row("base", 1.0, 0.001, 0.3)["finding"] == "users only"
    assert row("base", 1.0, 0.001, None, 1)["finding"] == "higher"


# --- the whole


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
