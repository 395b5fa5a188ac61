"""The rows as data: everything registered has one, goals fit their arms, peers have what they are asked for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from augrec.bench import peers
from augrec.bench.environments import PEERS
from augrec.bench.rows import OURS, PROGRAMS, module_of, rows, select
from augrec.bench.rows_ours import GROWTH, MILLION, OVERHEADS, STEPS
from augrec.errors import UsageError
from augrec.experiment.config import resolve
from augrec.experiment.registry import entries

ROWS = rows()
RUNS = ("data", "model", "objective", "augment", "preset", "split", "overrides")
TASKS = {
    "train",
    "evaluate",
    "sample",
    "prepare",
    "command",
    "quality",
    *(f"growth-{one}" for one in {*GROWTH, *MILLION}),
}


@pytest.mark.parametrize("family", ["backbone", "augmentation"])
def test_everything_registered_has_a_row(family):
    own = [one.name for one in entries().values() if one.family == family and one.target.startswith("augrec.")]
    covered = {name for row in ROWS for name in row.covers}
    missing = sorted(set(own) - covered)
    assert not missing, f"give {missing} a row: an entry in STEPS or OVERHEADS of augrec/bench/rows_ours.py"


def test_every_objective_is_timed_with_some_backbone():
    own = {one.name for one in entries().values() if one.family == "objective" and one.target.startswith("augrec.")}
    assert own == {objective for objectives in STEPS.values() for objective in objectives}


def test_names_are_unique_and_say_their_family():
    assert len({row.name for row in ROWS}) == len(ROWS)
    families = {"epoch", "evaluate", "step", "augment", "sampling", "prepare", "start", "growth", "million", "quality"}
    assert {row.family for row in ROWS} == families


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_is_whole(row):
    names = [arm.name for arm in row.arms]
    assert len(set(names)) == len(names)
    assert row.arms[0].program == OURS
    assert row.equal
    assert row.about
    assert row.floor or row.family not in ("epoch", "evaluate", "step", "augment", "prepare")
    if len({arm.program for arm in row.arms}) > 1:
        assert row.unequal, "another program never does quite the same"
    for goal in row.goals:
        assert goal.wanted > 0
        assert goal.kind in ("slope", "seconds", "memory") or goal.against in {*names, *row.recorded, "recbole"}
        if goal.aim is not None:
            assert goal.aim > goal.wanted
    for arm in row.arms:
        assert arm.task in TASKS
        assert arm.program == OURS or arm.program in PEERS
        if arm.program == OURS and arm.task in ("train", "evaluate", "sample", "prepare"):
            resolve(**{name: arm.settings[name] for name in RUNS if name in arm.settings})


def test_arms_of_one_row_run_the_same_model():
    for name in OVERHEADS:
        (row,) = select([f"augment/{name}"], ROWS)
        plain = next(arm for arm in row.arms if arm.name == "plain")
        for arm in row.arms:
            assert {key: arm.settings[key] for key in plain.settings} == plain.settings


def test_peers_know_what_they_are_asked_for():
    folder = Path(peers.__path__[0])
    known = {}
    for program, module in PROGRAMS.items():
        tree = ast.parse((folder / f"{module}.py").read_text(encoding="utf-8"))
        known[program] = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        imported = {
            alias.name.split(".")[0] for node in tree.body if isinstance(node, ast.Import) for alias in node.names
        }  # fmt: skip
        assert "augrec" not in imported
    for row in ROWS:
        for arm in row.arms:
            if arm.program != OURS and arm.task != "command":
                assert arm.task in known[arm.program]
                assert arm.settings.get("model", arm.task) in known[arm.program]
                assert module_of(arm) == PROGRAMS[arm.program]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["sampling"], ["sampling/uniform"]),
        (["step/mf-*"], ["step/mf-bpr", "step/mf-bce"]),
        (["step/mf-bce", "sampling/uniform"], ["sampling/uniform", "step/mf-bce"]),
        ([], [row.name for row in ROWS]),
    ],
)
def test_rows_are_chosen_by_pattern_or_family(patterns, names):
    assert [row.name for row in select(patterns, ROWS)] == names


def test_a_pattern_that_fits_nothing_is_refused():
    with pytest.raises(UsageError, match=r"--rows spet: no row is called so; .* families: epoch, evaluate"):
        select(["spet"], ROWS)
