"""The diagnosis of finished runs against sets and what went in, and that it leaves the run as it was."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys

import numpy as np
import pytest
import torch

import augrec
from augrec.augment.adar.arms import Adar
from augrec.cli import main
from augrec.cli.diagnose import diagnose as command
from augrec.cli.diagnose import rows_of
from augrec.errors import CheckpointError, UsageError
from augrec.experiment import diagnose as module
from augrec.experiment.build import read_split
from augrec.experiment.config import RunConfig
from augrec.experiment.diagnose import diagnose

N_USERS, N_ITEMS = 24, 30
original = module.draw


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("data") / "log.csv"
    lines = ["user,item,timestamp"]
    for user in range(N_USERS):
        # Every item occurs, so that the catalogue is known to be whole.
        items = {user, (user + 6) % N_ITEMS, *rng.choice(N_ITEMS, 8, replace=False).tolist()}
        lines += [f"u{user},i{item},{1000 * user + n}" for n, item in enumerate(sorted(items))]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def make(data, tmp_path_factory):
    made = {}

    def run(name, **options):
        if name not in made:
            folder = tmp_path_factory.mktemp("runs") / name
            overrides = {"train": {"threads": 1, "batch_size": 64}, **options.pop("overrides", {})}
            augrec.train(str(data), epochs=2, out=folder, overrides=overrides, callbacks=[], **options)
            made[name] = folder
        return made[name]

    return run


RUNS = {
    "mf": {"model": "mf"},
    "adar": {"model": "mf", "augment": ["adar"]},
    "noise": {"model": "lightgcn", "augment": ["adar-gaussian"], "objective": "bce"},
    "ridge": {"model": "mf", "augment": ["adar"], "overrides": {"adar": {"source": "ridge"}}},
    "sas": {"model": "sasrec"},
    "sas-adar": {"model": "sasrec", "augment": ["adar"], "objective": "bpr"},
    "shared": {"model": "sasrec", "objective": "sampled-softmax", "augment": ["adar"]},
    "refit": {"model": "mf", "augment": ["adar"], "refit": True},
}


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "diagnose" not in path.relative_to(folder).parts
    }


@pytest.mark.parametrize("name", RUNS)
def test_every_kind_of_run(name, make, monkeypatch):
    folder = make(name, **RUNS[name])
    before, outside = hashes(folder), torch.get_rng_state()
    kept, vectors = [], []
    monkeypatch.setattr(module, "draw", lambda *a, **k: kept.append(original(*a, **k)) or kept[-1])
    augment = Adar.augment
    monkeypatch.setattr(Adar, "augment", lambda *a, **k: vectors.append(augment(*a, **k)) or vectors[-1])
    one = diagnose(folder, batches=5)
    assert hashes(folder) == before
    assert torch.equal(torch.get_rng_state(), outside)
    figures, drawn = one.figures, kept[0]
    json.dumps(figures, allow_nan=False)
    config = RunConfig.from_json(json.loads((folder / "config.json").read_text()))
    split = read_split(config)
    rows = figures["drawn"]["targets"]
    assert rows == len(drawn.rows["user"]) > 100

    sets = {part: {*zip(*_columns(getattr(split, part)), strict=True)} for part in ("train", "valid", "test")}
    if config.refit:
        sets["train"] |= sets.pop("valid")
    for source, ids in drawn.ids.items():
        for part, pairs in sets.items():
            count = sum(
                (u, i) in pairs for u, row in zip(drawn.rows["user"].tolist(), ids.tolist(), strict=True) for i in row
            )
            assert figures["negatives"][source][part]["found"] == count
            assert figures["negatives"][source][part]["rate"] == pytest.approx(count / ids.numel())
        if name != "shared":
            assert figures["negatives"][source]["train"]["found"] == 0
    assert figures["negatives"]["drawn_by_objective"] == (name != "sas")
    assert "valid" not in figures["negatives"]["sampled"] or not config.refit
    margin = one.samples["margin/without offset"]
    assert figures["margin"]["without_offset"]["wrong_order"] == pytest.approx((margin < 0).mean())

    generates = bool(config.augment) and name != "ridge"
    assert bool(figures["generated"]) == bool(figures["steps"]) == generates
    if not generates:
        assert figures["ridge"] is None
        assert figures["gradient"]["share_generated"] is None
        assert set(figures["gradient"]["weight"]) == {"without_offset"}
        return
    made = torch.cat([one.vectors for one in vectors])
    torch.testing.assert_close(drawn.rows["norm/offset"], made.norm(dim=1))
    torch.testing.assert_close(
        drawn.rows["strength"], config.part(config.augment[0]).weight ** 2 * made.square().mean(1)
    )
    steps = torch.cat([one.t_star for one in vectors])
    assert (
        figures["steps"]["drawn"]["histogram"]
        == torch.bincount(steps, minlength=len(figures["steps"]["drawn"]["histogram"])).tolist()
    )
    metrics = folder / ("metrics-refit.jsonl" if config.refit else "metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["saturated"] for line in figures["steps"]["epochs"]] == [line["adar/saturated"] for line in lines]
    assert (figures["ridge"] is not None) == (config.objective == "bpr")
    assert ("with_offset" in figures["margin"]) == (config.objective != "bce")
    assert 0 < figures["gradient"]["share_generated"]["mean"] < 1
    if name in ("adar", "refit"):
        shift = 0.5 * one.samples["score/generated"].astype(np.float64)
        flat = margin.astype(np.float64)
        wanted = np.mean(np.log1p(np.exp(shift - flat)) - np.log1p(np.exp(-flat)))
        assert figures["ridge"]["measured"] == pytest.approx(wanted, rel=1e-4)


def _columns(part):
    return part.user.tolist(), part.item.tolist()


def test_the_same_seed_gives_the_same_figures_and_another_does_not(make):
    folder = make("adar", **RUNS["adar"])
    first, again, other = (diagnose(folder, batches=2, seed=seed).figures for seed in (3, 3, 4))
    assert first == again
    assert first["scores"] != other["scores"]


def test_it_measures_the_best_weights(make):
    folder = make("mf", **RUNS["mf"])
    one = diagnose(folder, batches=2)
    result = json.loads((folder / "result.json").read_text())
    assert one.figures["epoch"] == result["epochs"]["best"]
    bundle = augrec.open_run(folder).recommender().bundle.scorer
    wanted = bundle.user.norm(dim=1).double()
    assert one.figures["space"]["user_norm"]["mean"] == pytest.approx(float(wanted.mean()), rel=1e-6)


def test_sequences_shown_are_whole_histories_of_the_run(make):
    folder = make("sas", **RUNS["sas"])
    one = diagnose(folder, batches=2).space
    train = read_split(RunConfig.from_json(json.loads((folder / "config.json").read_text()))).train
    item = augrec.open_run(folder).recommender().bundle.scorer.tables.item.detach()
    sets = [set(train.item[train.user == user].tolist()) for user in range(train.n_users)]
    unit = torch.nn.functional.normalize(item.double(), dim=1)
    pairs = []
    for own in sets:
        cosine = unit[sorted(own)] @ unit[sorted(own)].T
        pairs += [float(cosine.triu(1).sum() / (len(own) * (len(own) - 1) / 2))] if len(own) > 1 else []
    assert one.figures["cohesion_sequences"] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert one.figures["cohesion_chance"] != one.figures["cohesion_sequences"]
    rows = {tuple(np.round(row, 5)): number for number, row in enumerate(item.numpy())}
    for number in range(one.sequence.max() + 1):
        shown = {rows[tuple(np.round(row, 5))] for row in one.items[one.sequence == number]}
        assert shown in sets


def test_runs_of_a_grid_are_called_by_what_was_run(make, tmp_path, capsys):
    folder = make("adar", **RUNS["adar"])
    named = tmp_path / "0123456789abcdef"
    shutil.copytree(folder, named)
    command(named, batches=1, plots=False)
    assert "mf + adar, seed 0" in capsys.readouterr().out


def test_command_line_writes_table_json_and_plots(make, capsys):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    folder, other = make("adar", **RUNS["adar"]), make("mf", **RUNS["mf"])
    before = hashes(folder), hashes(other)
    with pytest.raises(SystemExit) as left:
        main(["diagnose", str(folder), str(other), "--batches", "2", "--json"])
    assert left.value.code == 0
    out = folder / "diagnose" / "with-mf"
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "diagnose.json").read_text())
    assert [one["augment"] for one in printed["runs"]] == [["adar"], []]
    assert {path.name for path in out.glob("*.png")} == {
        "scores.png", "gradient.png", "norms.png", "users.png", "sequences.png", "steps.png",
    }  # fmt: skip
    with pytest.raises(SystemExit) as left:
        main(["diagnose", str(other), "--batches", "2", "--no-plots"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "sampled negatives in the user's test" in shown
    assert (other / "diagnose" / "diagnose.json").exists()
    assert not list((other / "diagnose").glob("*.png"))
    assert (hashes(folder), hashes(other)) == before


def test_table_lines_of_two_runs_stand_side_by_side(make):
    found = [diagnose(make(name, **RUNS[name]), batches=2).figures for name in ("mf", "adar")]
    table = {row[0]: row[1:] for row in rows_of(found)}
    assert table["model"] == ["mf, bpr", "mf + adar, bpr"]
    assert table["t*/T, mean"][0] == "-"
    assert table["t*/T, mean"][1] == f"{found[1]['steps']['drawn']['mean']:.4g}"
    assert list(table) == [row[0] for row in rows_of(found[1:])]


@pytest.mark.parametrize("case", ["nothing", "unfinished", "baseline", "no checkpoint", "other data", "no batches"])
def test_a_run_that_cannot_be_diagnosed_is_refused_with_one_message(case, make, data, tmp_path, capsys):
    folder, extra = tmp_path / "run", []
    if case != "nothing":
        model = "popularity" if case == "baseline" else "mf"
        augrec.train(str(data), model=model, epochs=None if case == "baseline" else 1, out=folder, callbacks=[])
    if case == "unfinished":
        (folder / "result.json").unlink()
    if case == "no checkpoint":
        for path in (folder / "checkpoints").rglob("*"):
            if path.is_file():
                path.unlink()
        for path in (folder / "checkpoints").iterdir():
            path.rmdir()
    if case == "other data":
        config = json.loads((folder / "config.json").read_text())
        smaller = tmp_path / "smaller.csv"
        smaller.write_text("\n".join(data.read_text().splitlines()[:-3]) + "\n")
        (folder / "config.json").write_text(json.dumps({**config, "data": str(smaller)}))
    if case == "no batches":
        extra = ["--batches", "0"]
    with pytest.raises(SystemExit) as left:
        main(["diagnose", str(folder), "--no-plots", *extra])
    assert left.value.code == 2
    said = capsys.readouterr().err
    words = {
        "nothing": "no such file", "unfinished": "no such file", "baseline": "closed form",
        "no checkpoint": "no checkpoint", "other data": "not what the run was made on", "no batches": "--batches",
    }  # fmt: skip
    assert words[case] in said
    assert said.count("\n") == 1
    assert not (folder / "diagnose").exists()


def test_weights_that_do_not_fit_are_refused(make, tmp_path, data):
    folder = tmp_path / "run"
    augrec.train(str(data), model="mf", epochs=1, out=folder, callbacks=[])
    config = json.loads((folder / "config.json").read_text())
    config["parts"]["mf"]["dim"] = 8
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="do not fit"):
        diagnose(folder)


def test_a_missing_extra_is_named_before_any_work(make, monkeypatch):
    folder = make("mf", **RUNS["mf"])
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr(module, "diagnose", lambda *a, **k: pytest.fail("worked before it looked"))
    with pytest.raises(UsageError, match=r'pip install "augrec\[report\]"'):
        command(folder)
