"""A recipe from the command line to the ledger: shared runs, chosen weights, budgets, cells that cannot run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from augrec.cli import main
from augrec.cli.reproduce import _list
from augrec.experiment.grid import Grid

PAPER = """
from augrec.experiment.recipes.base import Arm, Paper, RecipeCell, Table, Tune

MF = {"mf": {"dim": 4}, "train": {"epochs": 2, "threads": 1}}


def cell(name, data="toy", settings=MF, **fields):
    return RecipeCell(name=name, data=data, model="mf", primary=fields.pop("primary", "recall@20"), settings=settings,
                      noise=("adar-gaussian",), single_target=False, **fields)


ADAR = Arm(name="adar", augment=("adar",), claim=True, published={"recall@20": 0.9})
PAPER = Paper(name="toypaper", title="A toy", source="nowhere", seeds=2, tables=(
    Table(name="table1", title="main", place="Table 1", metrics=("recall@20", "ndcg@10"), cells=(
        cell("toy:mf", arms=(ADAR,), published={"recall@20": 0.8},
             tune=Tune(cell="table1/toy:mf", values=(0.2, 0.9))),
        cell("toy:shared", arms=(Arm(name="adar", augment=("adar",), claim=True),
                                 Arm(name="fixed", augment=("adar-fixed-0.75",))),
             tune=Tune(cell="table1/toy:mf", values=(0.2, 0.9))),
        cell("toy:off", arms=(Arm(name="adar", augment=("adar",), claim=True, settings={"adar": {"weight": 0.0}},
                                  published={"recall@20": 1e-6}),)),
        cell("absent:mf", data="absent", arms=(ADAR,)),
        cell("toy:nosuch", arms=(Arm(name="nosuch", augment=("nosuch",), claim=True),)),
        cell("toy:badfield", arms=(Arm(name="adar", augment=("adar",), settings={"adar": {"nosuch": 1}}),)),
    )),
    Table(name="table2", title="sampled", place="Table 2", metrics=("ndcg@10", "hr@10", "auc"), protocol="sampled99",
          cells=(cell("toy:plain", primary="ndcg@10"), RecipeCell(name="toy:seq", data="toy", model="gru4rec",
                 objective="bpr", primary="ndcg@10", noise=("adar-gaussian",), arms=(ADAR,), settings={
                 "gru4rec": {"dim": 4, "hidden": 4}, "train": {"epochs": 1, "threads": 1}}))),
))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a data set `toy`, and the paper `toypaper` installed as a package of its own."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(40):
        near = np.where(np.arange(130) % 4 == user % 4, 8.0, 1.0)
        chosen = rng.choice(130, size=rng.integers(6, 12), replace=False, p=near / near.sum())
        rows += [(f"u{user:03d}", f"i{item:03d}", 1000 * n) for n, item in enumerate(chosen)]
    items = [(f"u{user:03d}", f"i{item:03d}", 10**6) for user, item in zip(range(40), range(90, 130), strict=True)]
    frame = pl.DataFrame(rows + items, schema=["user", "item", "timestamp"], orient="row")
    (tmp_path / "data").mkdir()
    frame.unique(["user", "item"], maintain_order=True).write_parquet(tmp_path / "data" / "toy.parquet")
    package = tmp_path / "package"
    place = package / "toypaper-0.1.dist-info"
    place.mkdir(parents=True)
    (package / "toypaper_recipe.py").write_text(PAPER)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: toypaper\nVersion: 0.1\n")
    (place / "entry_points.txt").write_text("[augrec.recipes]\ntoypaper = toypaper_recipe:PAPER\n")
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.setenv("AUGREC_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("toypaper_recipe", None)


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["reproduce", *[str(word) for word in words]])
        out, err = capfd.readouterr()
        return int(str(stop.value.code)), out, err

    return run


def ledger(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def steady(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines without what the clock says."""
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_a_table_from_the_command_line_and_again(home: Path, call) -> None:
    words = ("toypaper/table1", "--ledger", home / "results" / "toypaper.jsonl")
    code, out, err = call(*words)
    assert code == 0, err
    for part in ("toy:mf", "no gain", "not run", "augrec has no 'nosuch'", "0.9000", "two seeds"):
        assert part in out, part
    lines = ledger(home / "results" / "toypaper.jsonl")
    # Under seed 0 ADAR and its noise arm have two weights each that were tried, and the rows of the cell without.
    names = [(line["cell"], line["seed"]) for line in lines]
    assert len({(line["config"], line["seed"]) for line in lines}) == len(lines)
    assert names.count(("toy:mf+adar", 0)) == 3
    assert names.count(("toy:mf+adar-gaussian", 0)) == 3
    assert names.count(("toy:mf", 0)) == names.count(("toy:mf", 1)) == 1
    assert {"data", "split", "test", "valid", "epochs", "seconds", "versions", "command"} <= set(lines[0])
    assert len({line["split"] for line in lines}) == 1
    record = json.loads((home / "results" / "toypaper_cells.json").read_text())
    cells = record["cells"]
    assert [key.partition("/")[0] for key in cells] == ["table1"] * 6 + ["table2"] * 2
    assert cells["table2/toy:plain"]["detail"] == "not asked for yet"
    assert "is not on this machine" in cells["table1/absent:mf"]["detail"]
    assert "no such field" in cells["table1/toy:badfield"]["detail"]
    # The same runs stand in two cells; the further arm takes the weight its method chose.
    first, second = cells["table1/toy:mf"], cells["table1/toy:shared"]
    rows = {row["row"]: row for row in second["rows"]}
    assert {row["row"]: row["configs"] for row in first["rows"]}["adar"] == rows["adar"]["configs"]
    assert rows["fixed"]["weight"] == {"adar-fixed-0.75": rows["adar"]["weight"]["adar"]}
    # Weight 0 builds nothing: equal runs, so nothing is gained, and the base is above what is published.
    off = cells["table1/toy:off"]
    assert off["verdict"] == "base already better"
    assert all(test["difference"] == 0 for test in off["tests"] if (test["a"], test["b"]) == ("adar", "base"))
    tests = [(test["a"], test["b"]) for test in first["tests"] if test["metric"] == "recall@20"]
    assert ("adar", "base") in tests
    assert ("adar", "adar-gaussian") in tests
    before = (home / "results" / "toypaper.jsonl").read_bytes(), (home / "results" / "toypaper_cells.json").read_bytes()
    assert call(*words)[0] == 0
    after = (home / "results" / "toypaper.jsonl").read_bytes(), (home / "results" / "toypaper_cells.json").read_bytes()
    assert after == before
    # Fewer seeds take nothing away, and the record stands in the listing.
    assert call("toypaper/table1/toy:mf", "--seeds", 1, *words[1:])[0] == 0
    assert (home / "results" / "toypaper.jsonl").read_bytes() == before[0]
    assert (home / "results" / "toypaper_cells.json").read_bytes() == before[1]
    code, out, _ = call("toypaper", "--list", "--json", *words[1:])
    listed = {row["cell"]: row["state"] for row in json.loads(out)}
    assert listed["toypaper/table1/toy:off"].startswith("base already better (two seeds")
    assert listed["toypaper/table2/toy:seq"] == "ready"
    assert listed["toypaper/table1/toy:nosuch"] == "not run: augrec has no 'nosuch'"


def test_cut_by_the_budget_and_resumed_is_as_if_never_cut(home: Path, call, monkeypatch: pytest.MonkeyPatch) -> None:
    target = "toypaper/table1/toy:shared"
    assert call(target, "--out", home / "whole")[0] == 0
    checks = iter([False] * 2 + [True] * 100)
    with monkeypatch.context() as patch:
        patch.setattr(Grid, "spent", lambda self: next(checks))
        code, out, _ = call(target, "--out", home / "cut", "--budget-minutes", 5, "--json")
    assert code == 0
    cell = json.loads(out)["cells"]["table1/toy:shared"]
    assert cell["verdict"] == "not run"
    assert "is still open" in cell["detail"]
    assert len(ledger(home / "cut" / "toypaper.jsonl")) == 2
    checks = iter([False] * 5 + [True] * 100)
    with monkeypatch.context() as patch:
        patch.setattr(Grid, "spent", lambda self: next(checks))
        cell = json.loads(call(target, "--out", home / "cut", "--json")[1])["cells"]["table1/toy:shared"]
    assert "the time budget ended" in cell["detail"]
    assert call(target, "--out", home / "cut")[0] == 0
    whole, cut = (ledger(home / name / "toypaper.jsonl") for name in ("whole", "cut"))
    key = lambda line: (line["config"], line["seed"])  # noqa: E731
    assert sorted(steady(cut), key=key) == sorted(steady(whole), key=key)
    records = [json.loads((home / name / "toypaper_cells.json").read_text()) for name in ("whole", "cut")]
    assert records[0] == records[1]


def test_one_seed_is_never_a_claim_and_set_holds_for_every_cell(home: Path, call) -> None:
    words = ("toypaper/table1/toy:mf", "--seeds", 1, "--set", "adar.weight=0.3", "--set", "train.epochs=1", "--json")
    code, out, err = call(*words)
    assert code == 0, err
    found = json.loads(out)
    cell = found["cells"]["table1/toy:mf"]
    assert cell["standing"] == "one seed: indication only"
    rows = {row["row"]: row for row in cell["rows"]}
    # A weight that is set is not searched, and holds for the noise arm too.
    assert rows["adar"]["weight"] == {"adar": 0.3}
    assert rows["adar-gaussian"]["weight"] == {"adar-gaussian": 0.3}
    assert found["weights"]["table1/toy:mf"]["values"] is None
    assert {line["epochs"]["run"] for line in ledger(Path(found["ledger"])) if "mf" in line["model"]} == {1}
    assert cell["command"] == (
        "augrec reproduce toypaper/table1/toy:mf --seeds 1 --set adar.weight=0.3 --set train.epochs=1"
    )


def test_sampled_negatives_are_the_same_for_every_run(home: Path, call) -> None:
    code, out, err = call("toypaper/table2", "--seeds", 2, "--json")
    assert code == 0, err
    cells = json.loads(out)["cells"]
    assert cells["table2/toy:plain"]["verdict"] == "figures only"
    seq = cells["table2/toy:seq"]
    row = next(row for row in seq["rows"] if row["row"] == "base")
    assert set(row["test"]) >= {"auc", "hr@1", "ndcg@50"}
    # Ranked among 100, every user has a share of negatives below; HR@50 is far above the full ranking's.
    assert 0.2 < row["test"]["auc"]["mean"] < 1
    assert row["test"]["ndcg@1"] == row["test"]["hr@1"]
    assert {test["metric"] for test in seq["tests"]} == {"ndcg@10", "hr@10", "auc"}
    assert len({test["users"] for test in seq["tests"]}) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("toypapr",), "did you mean 'toypaper'"),
        (("toypaper/table3",), "did you mean 'table"),
        (("toypaper/table1/toy:fm",), "did you mean 'toy:mf'"),
        ((), "name a paper"),
        (("toypaper/table1/toy:mf", "--set", "lightgcn.layers=2"), "none of these cells has a part 'lightgcn'"),
        (("toypaper/table1/toy:mf", "--set", "mf.dmi=2"), "did you mean 'dim'"),
        (("toypaper", "--set", "evaluate.ks=[5]"), "evaluate.ks leaves out recall@20"),
        (("toypaper", "--seeds", "0"), "at least 1"),
        (("toypaper", "--budget-minutes", "0"), "above 0"),
        (("toypaper", "--data-dir", "nowhere"), "is not a folder"),
        (("toypaper", "--ledger", "x.json"), "name a .jsonl file"),
    ],
)
def test_wrong_usage_is_one_line_and_nothing_is_left(home: Path, call, words, message) -> None:
    code, _, err = call(*words)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (home / "runs").exists()


def test_a_data_folder_stands_in_for_the_variable(home: Path, call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUGREC_DATA")
    listed = {row["cell"]: row["state"] for row in json.loads(call("toypaper/table1", "--list", "--json")[1])}
    assert "is not on this machine" in listed["toypaper/table1/toy:mf"]
    words = ("toypaper/table1", "--list", "--json", "--data-dir", home / "data")
    listed = {row["cell"]: row["state"] for row in json.loads(call(*words)[1])}
    assert listed["toypaper/table1/toy:mf"] == "ready"
    code, out, _ = call("toypaper/table2/toy:plain", "--data-dir", home / "data", "--seeds", 1, "--json")
    assert code == 0
    assert json.loads(out)["cells"]["table2/toy:plain"]["verdict"] == "figures only"


def test_a_list_spells_out_once_what_many_cells_lack(capsys: pytest.CaptureFixture[str]) -> None:
    why = (
        "not run: the data set 'x' is not on this machine: make x.parquet of its file and put it where it is looked for"
    )
    cells = [{"cell": f"p/t/x:{n}", "rows": ["a"], "state": why} for n in range(3)]
    _list([*cells, {"cell": "p/t/y", "rows": [], "state": "ready"}])
    said = capsys.readouterr().out
    assert said.count(why) == 1
    assert said.count("not run [1]") == 3
    assert "ready" in said
