"""Nothing held out is learned from: windows, graphs, counts, negatives; runs under poison; a guarded test part."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from augrec.augment.compose import check_combination
from augrec.backbones.graph import normalised_adjacency
from augrec.backbones.popularity import Popularity
from augrec.batches.negatives import NegativeSampler
from augrec.batches.sequences import SequenceBatches
from augrec.data.interactions import Interactions
from augrec.errors import DataError, UnsupportedCombinationError
from augrec.experiment import build as build_module
from augrec.experiment import registry
from augrec.experiment import run as run_module
from augrec.experiment.config import resolve
from augrec.splits import make_split
from augrec.splits.base import Split
from augrec.testing import registered, tiny_log
from augrec.testing.assemble import make_objective
from augrec.testing.backbone_case import BackboneCase
from augrec.testing.registered import settings_of
from augrec.testing.strategies import logs
from augrec.train.state import Checkpoints

MODELS = [entry.name for entry in registered("backbone")]


def objective_for(model, arm):
    """The model's own objective, or bpr where the arm has no use for that one; None where the two cannot stand
    together."""
    case, known = BackboneCase.of(registry.entries()[model].load()), registry.entries()
    backbone = case.fresh()
    if arm and backbone.kind not in known[arm].load().needs.kinds:
        return None
    for objective in (case.objective, "bpr"):
        sizes = {"kind": backbone.kind, "dim": backbone.dim, "n_items": backbone.n_items}
        plugins = [known[arm].load()(settings_of(known[arm]), **sizes)] if arm else []
        try:
            check_combination(backbone, make_objective(objective, tiny_log()), plugins)
        except UnsupportedCombinationError:
            continue
        return objective
    return None


# Arms of one method (entries with fixed fields) share its code; the kit's own poison check covers each of them.
ARMS = [None, *(entry.name for entry in registered("augmentation") if not entry.fixed)]
RUNS = [(model, arm, goal) for model in MODELS for arm in ARMS if (goal := objective_for(model, arm))]


def timed_split(log, kind):
    try:
        return make_split(log, kind)
    except DataError:
        assume(False)


@given(log=logs(), kind=st.sampled_from(["leave-one-out", "temporal"]), length=st.integers(1, 6))
@settings(max_examples=80, suppress_health_check=[HealthCheck.filter_too_much])
def test_no_window_reaches_the_cut(log, kind, length) -> None:
    """Times are unique in these logs, so an event is known by its time."""
    split = timed_split(log, kind)
    held = {}
    for part in (split.valid, split.test):
        for user, time in zip(part.user.tolist(), part.timestamp.tolist(), strict=True):
            held[user] = min(time, held.get(user, time))
    for batch in SequenceBatches(split.train, batch_size=4, max_length=length).epoch():
        for users, rows in ((batch.target_user, batch.event), (batch.user[batch.tokens.rows], batch.event - 1)):
            assert torch.equal(torch.from_numpy(split.train.user[rows.numpy()]).long(), users)
            for user, time in zip(users.tolist(), split.train.timestamp[rows.numpy()].tolist(), strict=True):
                assert time < held.get(user, time + 1)
        assert (batch.tokens.ids.numpy() == split.train.item[batch.event.numpy() - 1]).all()


@given(log=logs(repeats=False, min_length=2), seed=st.integers(0, 3))
@settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
def test_graph_counts_and_negatives_come_from_train_alone(log, seed) -> None:
    try:
        split = make_split(log, {"kind": "ratio", "seed": seed})
    except DataError:
        assume(False)
    train, pairs = split.train, set(zip(split.train.user.tolist(), split.train.item.tolist(), strict=True))
    starts, column, _ = normalised_adjacency(train)
    row = np.repeat(np.arange(len(starts) - 1), np.diff(starts.numpy()))
    low = row < train.n_users
    edges = set(zip(row[low].tolist(), (column.numpy()[low] - train.n_users).tolist(), strict=True))
    assert edges == pairs
    counts = Popularity.fit(train).counts
    assert counts.tolist() == [sum(item == i for _, item in pairs) for i in range(train.n_items)]
    sampler = NegativeSampler(train, allow_full=True)
    users = torch.arange(train.n_users)
    drawn = sampler.sample(users, 20, generator=torch.Generator().manual_seed(seed))
    full = train.degrees() == train.n_items
    for user, items in zip(users.tolist(), drawn.tolist(), strict=True):
        assert full[user] or not {(user, item) for item in items} & pairs


def given_log(*, poison_valid=False, poison_test=False):
    """Parts given by a column: the last event of a user is test, the one before valid; poison replaces their items."""
    log = tiny_log(shortest=5)
    position = log.offsets[1:][log.user] - 1 - np.arange(len(log))
    parts = np.where(position == 0, 1, np.where(position == 1, 2, 0)).astype(np.int8)
    poison = (poison_test & (parts == 1)) | (poison_valid & (parts == 2))
    shift = np.random.default_rng(1).integers(1, log.n_items, len(log))
    item = np.where(poison, (log.item + shift) % log.n_items, log.item)
    return Interactions.from_columns(
        user=log.user, item=item, timestamp=log.timestamp, split=parts, users=log.users, items=log.items, name="given"
    )


def whole_run(folder, log, model, arm, objective):
    run = resolve(
        data="given", model=model, objective=objective, augment=[arm] if arm else [], split="given", epochs=2,
        overrides={"train": {"threads": 1, "batch_size": 32}, "evaluate": {"ks": [5, 10, 20]}},
    )  # fmt: skip
    run_module.run(run, folder, source=log, callbacks=())
    snapshot = Checkpoints(folder / "checkpoints").latest()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    bytes_ = {name: value.contiguous().view(-1).numpy().tobytes() for name, value in snapshot.tensors.items()}
    return bytes_, [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize(("model", "arm", "objective"), RUNS)
def test_a_whole_run_under_poison(tmp_path, model, arm, objective) -> None:
    plain, lines = whole_run(tmp_path / "a", given_log(), model, arm, objective)
    poison, poison_lines = whole_run(tmp_path / "b", given_log(poison_test=True), model, arm, objective)
    assert poison == plain
    assert poison_lines == lines
    both, both_lines = whole_run(tmp_path / "c", given_log(poison_valid=True, poison_test=True), model, arm, objective)
    trained = {name: value for name, value in plain.items() if not name.startswith("best/")}
    assert {name: value for name, value in both.items() if not name.startswith("best/")} == trained
    assert [line["loss"] for line in both_lines] == [line["loss"] for line in lines]
    assert [line["valid"] for line in both_lines] != [line["valid"] for line in lines]


class Guarded(Split):
    """A split whose test part cannot be touched before somebody opens it."""

    def __getattribute__(self, name):
        if name == "test" and not object.__getattribute__(self, "__dict__").get("opened"):
            raise AssertionError("the test part was read before training was over")
        return super().__getattribute__(name)


def guarded(split):
    made = object.__new__(Guarded)
    for field in dataclasses.fields(split):
        object.__setattr__(made, field.name, getattr(split, field.name))
    return made


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_selection_never_reads_test(tmp_path, monkeypatch, model, refit) -> None:
    split = guarded(make_split(given_log(), {"kind": "given"}))
    with pytest.raises(AssertionError, match="test part was read"):
        _ = split.test
    opened = []

    def finish(*arguments):
        opened.append(True)
        object.__setattr__(split, "opened", True)
        return original(*arguments)

    original = run_module._finish
    monkeypatch.setattr(run_module, "read_split", lambda *_: split)
    monkeypatch.setattr(run_module, "_finish", finish)
    run = resolve(
        data="given", model=model, split="given", epochs=40, refit=refit,
        overrides={"train": {"threads": 1, "patience": 1, "batch_size": 32, "learning_rate": 0.5}},
    )  # fmt: skip
    done = run_module.run(run, tmp_path / "run", callbacks=())
    assert opened == [True]
    assert done.result["epochs"]["run"] < 40, "early stopping must have fired for this test to mean anything"


def test_fit_for_prepare_sees_the_log_it_is_given_only() -> None:
    """`seams.Fit` trains on its argument: other events cannot change it."""
    log = tiny_log()

    def trained(part):
        run = resolve(model="mf", split="leave-one-out")
        backbone = build_module.build(run, log, seed=0).step.backbone
        return build_module.fit(backbone, objective="bpr", train=part, epochs=1, seed=0).nodes

    half = log.part(np.arange(len(log)) % 2 == 0)
    assert torch.equal(trained(half), trained(half))
    assert not torch.equal(trained(half), trained(log))
