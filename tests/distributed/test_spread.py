"""Runs made side by side leave what runs made in turn leave; a lost worker's run is resumed by the next call."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from augrec.data.catalog import load
from augrec.errors import AugrecError, Interrupted, UsageError
from augrec.experiment.config import resolve
from augrec.experiment.grid import Grid, Planned, round_robin
from augrec.experiment.spread import LocalWorkers, RayWorkers, Spread, job_of, make_spread, perform_all

pytestmark = pytest.mark.slow
TINY = {"train": {"epochs": 2, "threads": 1}, "mf": {"dim": 4}}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "toy.csv"
    rows = [f"u{user},i{(user * 7 + n * n) % 40},{1000 + n}" for user in range(60) for n in range(9)]
    path.write_text("\n".join(["user,item,timestamp", *rows]) + "\n")
    return path


@pytest.fixture(autouse=True)
def own_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2] / "src"))


def plan(file: Path) -> list[Planned]:
    def configs(**options: object) -> list:
        return [resolve(data=str(file), seed=seed, **options) for seed in (0, 1)]

    base = configs(model="mf", overrides=TINY)
    broken = configs(model="mf", overrides={**TINY, "train": {"epochs": 2, "threads": 1, "learning_rate": 1e30}})
    adar = configs(model="mf", augment=["adar"], overrides=TINY)
    return round_robin({"popular": configs(model="popularity")[:1], "base": base, "adar": adar, "broken": broken[:1],
                        "again": base[:1]})  # fmt: skip


@pytest.fixture(scope="module")
def serial(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Grid, dict[str, str]]:
    grid = Grid(tmp_path_factory.mktemp("serial"), callbacks=lambda planned: [])
    return grid, dict(grid.run(plan(file)).refused)


def comparable(grid: Grid) -> list[dict]:
    lines = [json.loads(line) for line in grid.ledger.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "threads")} for line in lines]


def check(spread: Spread, out: Path, file: Path, serial: tuple[Grid, dict[str, str]]) -> None:
    grid = Grid(out, spread=spread)
    done = grid.run(plan(file))
    assert dict(done.refused) == serial[1]
    assert done.refused.keys() == {"broken seed 0"}
    assert not done.left
    assert comparable(grid) == comparable(serial[0])
    for name, run in serial[0].finished.items():
        for path in ("bundle/manifest.json", "metrics.jsonl"):
            own, other = (one / path for one in (out / "runs" / name, run.directory))
            assert own.exists() == other.exists()
            if path.startswith("bundle"):
                assert own.read_bytes() == other.read_bytes()


def test_two_workers_leave_what_one_process_leaves(
    file: Path, serial: tuple[Grid, dict[str, str]], tmp_path: Path
) -> None:
    check(LocalWorkers(2), tmp_path / "two", file, serial)


def test_a_lost_worker_is_said_and_its_run_goes_on(
    file: Path, serial: tuple[Grid, dict[str, str]], tmp_path: Path
) -> None:
    long = {**TINY, "train": {"epochs": 100000, "threads": 1, "patience": 100000}}
    wanted = [Planned(cell="base", config=resolve(data=str(file), model="mf", overrides=long))]
    grid = Grid(tmp_path, spread=LocalWorkers(2))
    lines = grid.directory(wanted[0].config).metrics

    def end(number: int) -> None:
        known = lines.read_bytes().count(b"\n") if lines.exists() else 0
        while not lines.exists() or lines.read_bytes().count(b"\n") < known + 2:
            time.sleep(0.05)
        assert isinstance(grid.spread, LocalWorkers)
        if number == signal.SIGKILL:
            grid.spread._running[0].kill()
        else:
            os.kill(os.getpid(), number)

    threading.Thread(target=end, args=(signal.SIGKILL,)).start()
    with pytest.raises(AugrecError, match=r"a worker ended with code -9 while it made .*give the same command again"):
        grid.run(wanted)
    killed = lines.read_bytes().count(b"\n")
    threading.Thread(target=end, args=(signal.SIGINT,)).start()
    with pytest.raises(Interrupted, match="the state is saved, give the same command again"):
        grid.run(wanted)
    numbers = [json.loads(line)["epoch"] for line in lines.read_text().splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > killed


def test_a_spent_budget_begins_nothing(file: Path, tmp_path: Path) -> None:
    grid = Grid(tmp_path, spread=LocalWorkers(2), budget_minutes=1e-9)
    done = grid.run(plan(file))
    assert len(done.left) == len(plan(file))
    assert not (tmp_path / "runs").exists()


def test_what_workers_cannot_do_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="workers cannot see a log in memory"):
        Grid(tmp_path, spread=LocalWorkers(1), source=load(str(file)))
    with pytest.raises(UsageError, match="--workers: must be at least 1"):
        make_spread(workers=0, ray=None)
    assert make_spread(workers=None, ray=None) is None
    job = job_of(resolve(data="no-such-data", model="mf"), tmp_path / "run", data_dir=None, threads=1)
    failed = perform_all(LocalWorkers(1), [("x", lambda: job)], spent=lambda: False)
    assert isinstance(failed["x"], UsageError)
    assert "no-such-data" in str(failed["x"])


def test_ray_is_asked_for_by_name_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'augrec\[ray\]'"):
        make_spread(workers=None, ray="local")


def test_a_ray_cluster_of_two_workers_leaves_what_one_process_leaves(
    file: Path, serial: tuple[Grid, dict[str, str]], tmp_path: Path
) -> None:
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    try:
        check(RayWorkers("local", 2), tmp_path / "ray", file, serial)
    finally:
        ray.shutdown()
