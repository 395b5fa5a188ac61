"""Random streams: whoever draws inside leaves no trace outside, and no owner hears of another."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch

import augrec
from augrec.errors import NumericalError, UsageError
from augrec.experiment import build
from augrec.experiment.config import resolve
from augrec.train import threads
from augrec.train.callbacks import Callback
from augrec.train.streams import Streams, seed_of, stream


def draws(streams: Streams, owner: str, count: int = 3) -> list[float]:
    with streams.use(owner):
        return torch.rand(count).tolist()


def test_seeds_are_the_hash_of_seed_and_owner():
    digest = hashlib.sha256(b"7/dropout").digest()
    assert seed_of(7, "dropout") == int.from_bytes(digest[:8], "big") // 2 < 2**63
    expected = torch.rand(4, generator=torch.Generator().manual_seed(seed_of(7, "dropout"))).tolist()
    assert draws(Streams(7), "dropout", 4) == expected == torch.rand(4, generator=stream(7, "dropout")).tolist()
    assert len({seed_of(seed, owner) for seed in range(30) for owner in ("a", "b", "plugin/a")}) == 90


def test_the_outside_generator_is_untouched():
    streams, before = Streams(1), torch.get_rng_state()
    for owner in ("a", "b", "a"):
        draws(streams, owner)
    with streams.use("a"):
        outer = torch.rand(1)
        with streams.use("b"):
            torch.rand(5)
        after = torch.rand(1)
    assert torch.equal(torch.get_rng_state(), before)
    fresh = Streams(1)
    draws(fresh, "a"), draws(fresh, "a")
    with fresh.use("a"):
        assert [outer, after] == [torch.rand(1), torch.rand(1)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_outside_generator_is_untouched_by_an_error(error):
    streams, before = Streams(1), torch.get_rng_state()

    def fail() -> None:
        with streams.use("a"), streams.use("b"):
            torch.rand(2)
            raise error

    with pytest.raises(error):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_owners_are_independent():
    alone, mixed = Streams(3), Streams(3)
    wanted = [draws(alone, "a"), draws(alone, "a")]
    first = draws(mixed, "a")
    for owner in ("b", "c", "b"):
        draws(mixed, owner, 100)
    assert [first, draws(mixed, "a")] == wanted
    assert draws(Streams(3), "b") != draws(Streams(3), "a") != draws(Streams(4), "a")


def test_state_round_trip():
    streams = Streams(3)
    draws(streams, "a"), draws(streams, "b")
    saved = streams.state()
    wanted = {owner: draws(streams, owner) for owner in ("a", "b", "new")}
    other = Streams(3)
    draws(other, "c")
    other.load(saved)
    assert {owner: draws(other, owner) for owner in ("a", "b", "new")} == wanted
    assert torch.equal(other.state_of("never"), stream(3, "never").get_state())
    saved["a"].zero_()  # what was handed over is nobody's to change
    other.load(streams.state())
    other.state()["a"].zero_()
    assert other.state_of("a").any()


def everywhere() -> tuple:
    state = np.random.get_state()
    return random.getstate(), state[1].tobytes(), state[2:], torch.get_rng_state().numpy().tobytes()


class Stop(Callback):
    def on_step(self, epoch: int, batch: int, loss: float) -> None:
        raise NumericalError("stop here")


@pytest.mark.parametrize(
    ("model", "augment"), [("mf", ["adar"]), ("sasrec", []), ("gru4rec", ["adar-gaussian"]), ("popularity", [])]
)
def test_training_touches_no_global_generator(model, augment, log, tmp_path):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before, cores = everywhere(), torch.get_num_threads()
    options = {"model": model, "augment": augment, "overrides": settings(model)}
    augrec.train(log, out=tmp_path / "run", callbacks=[], **options)
    assert everywhere() == before
    with pytest.raises(UsageError):
        augrec.train(log, out=tmp_path / "run", **options)
    if model != "popularity":
        with pytest.raises(NumericalError):
            augrec.train(log, out=tmp_path / "b", callbacks=[Stop()], **options)
    assert everywhere() == before
    assert torch.get_num_threads() == cores


def settings(model: str) -> dict:
    return {} if model == "popularity" else {model: {"dim": 4}, "train": {"epochs": 1, "batch_size": 300, "threads": 1}}


@pytest.mark.parametrize("model", ["mf", "sasrec", "gru4rec", "popularity"])
def test_recommending_touches_no_global_generator(model, log, tmp_path):
    run = augrec.train(log, model=model, out=tmp_path / "run", overrides=settings(model), callbacks=[])
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before = everywhere()
    assert len(run.recommend(["u001", "u002"], k=3)) == 6
    assert everywhere() == before


@pytest.mark.parametrize(("model", "augment"), [("lightgcn", ["adar"]), ("gru4rec", [])])
def test_measuring_threads_leaves_everything_as_found(model, augment, log, monkeypatch):
    parts = build.build(resolve(model=model, augment=augment, overrides=settings(model)), log, seed=0)
    before = everywhere(), {name: value.clone() for name, value in parts.step.state_dict().items()}
    cores = torch.get_num_threads()
    monkeypatch.setattr(build, "fastest_threads", lambda trial: [trial(), trial(), 1][-1])
    assert build.choose_threads(parts) == 1
    assert everywhere() == before[0]
    assert all(torch.equal(value, before[1][name]) for name, value in parts.step.state_dict().items())
    assert parts.step.streams.state() == {}
    assert all(parameter.grad is None for parameter in parts.step.parameters())
    assert torch.get_num_threads() == cores


def test_the_fastest_thread_count_wins_by_a_tenth(monkeypatch):
    clock, before = [0.0], torch.get_num_threads()
    cost = {1: 1.0, 2: 0.95, 4: 0.5}
    monkeypatch.setattr(threads, "cores", lambda: 4)
    monkeypatch.setattr(threads.time, "perf_counter", lambda: clock[0])
    set_ = []
    monkeypatch.setattr(torch, "set_num_threads", set_.append)

    def trial() -> None:
        clock[0] += cost[set_[-1]]

    assert threads.fastest_threads(trial) == 4
    cost[4] = 0.91
    assert threads.fastest_threads(trial) == 1
    assert set_[-1] == before
