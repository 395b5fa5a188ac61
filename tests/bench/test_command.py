"""`augrec bench` as a command: its list, its messages, and a cheap row from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import augrec
from augrec.bench import run as run_module
from augrec.bench.environments import Environments, Pins
from augrec.bench.markdown import markdown
from augrec.bench.ours import OUTSIDE, Profiled
from augrec.bench.record import Record
from augrec.bench.rows import Arm, Row, faster, select
from augrec.bench.run import Options, bench
from augrec.cli import main
from augrec.errors import UsageError


def call(capfd, *arguments):
    with pytest.raises(SystemExit) as done:
        main(["bench", *map(str, arguments)])
    out, err = capfd.readouterr()
    return done.value.code, out, err


def test_the_list_names_rows_and_runs_nothing(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capfd, "--list", "--json", "--rows", "epoch,sampling/*")
    assert code == 0
    found = {one["row"]: one["arms"] for one in json.loads(out)}
    assert found["epoch/lightgcn-bpr"] == ["augrec", "recbole"]
    assert "cadirec's code" in found["epoch/cadirec"]
    assert "sampling/uniform" in found
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "nothing-like-it"], "no row is called so"),
        (["--threads", "two"], "--threads two: whole numbers from 1 to 1024"),
        (["--threads", "0"], "--threads 0"),
        (["--peer-python", "recbole"], "write it as NAME=PATH, NAME one of recbole, rectools, implicit"),
        (["--peer-python", "surprise=/bin/sh"], "--peer-python surprise=/bin/sh"),
    ],
)
def test_wrong_usage_is_one_message_before_any_work(capfd, arguments, words):
    code, _, err = call(capfd, *arguments)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1


def test_importing_the_command_line_imports_no_benchmark():
    code = "import sys, augrec.cli; print([m for m in sys.modules if m.startswith('augrec.bench') or m == 'torch'])"
    variables = {"PYTHONPATH": str(Path(augrec.__file__).parents[1]), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_quick_run_of_cheap_rows_from_end_to_end(capfd, tmp_path):
    """Sampling with RecBole's arm told of a Python that is not there: ours and the naive one run, and it says why."""
    out = tmp_path / "out"
    code, printed, err = call(
        capfd, "--rows", "sampling,quality/lightgcn", "--quick", "--threads", "1", "--out", out, "--json",
        "--peer-python", "recbole=/no/such/python",
    )  # fmt: skip
    assert code == 0, err
    found = Record.model_validate_json((out / "bench.json").read_text(encoding="utf-8"))
    assert Record.model_validate_json(printed) == found
    assert found.quick
    assert found.machine.rates["1"]["gemm_rate"] > 0
    sampling, quality = found.rows
    states = {arm.name: arm.state for arm in sampling.arms}
    assert states == {"augrec": "run", "naive": "run", "recbole": "not run"}
    assert "no such program" in sampling.arms[2].reason
    assert sampling.arms[0].peak_rss_mb > 50
    assert sampling.arms[1].ratio.median > 0
    assert "--curves" in quality.reason
    text = (out / "bench.md").read_text(encoding="utf-8")
    assert "recbole not run: --peer-python recbole=/no/such/python: no such program" in text
    assert "sampling/uniform (1 of 2), 1 thread" in err


def test_a_row_with_a_floor_says_what_its_time_is_spent_on(monkeypatch):
    rates = {"memory_bandwidth": 1e10, "cache_bandwidth": 1e11, "gemm_rate": 1e11}
    monkeypatch.setattr(run_module, "_rates", lambda threads, quick: rates)
    found = bench(select(["step/mf-bpr"]), Environments(Path("unused")), Options(threads=(1,), quick=True))
    (row,) = found.rows
    assert row.floor is not None
    assert len(row.where) == 7
    assert 0 < sum(row.where.values()) <= 1.001
    assert min(row.where.values()) >= 0
    assert "mf-bpr (1): ours spends" in markdown(found)
    # Going on with the run: the machine's best rates count, and floors of earlier rows are taken by them.
    better = rates | {"memory_bandwidth": 4e10, "cache_bandwidth": 2e11, "gemm_rate": 1e10}
    monkeypatch.setattr(run_module, "_rates", lambda threads, quick: better)
    again = bench([], Environments(Path("unused")), Options(threads=(1,), quick=True, earlier=found))
    assert again.machine.rates["1"] == better | {"gemm_rate": 1e11}
    bandwidth = {"cache": 2.0, "memory": 4.0}[row.floor.bound]
    assert again.rows[0].floor.seconds == pytest.approx(row.floor.seconds / bandwidth)
    assert again.rows[0].floor.ratio == pytest.approx(row.floor.ratio * bandwidth)
    assert again.rows[0].arms == row.arms


def test_time_is_ascribed_to_the_operator_that_took_it():
    class Product(Profiled):
        def ready(self):
            time.sleep(0.01)

        def unit(self):
            torch.rand(700, 700) @ torch.rand(700, 700)
            deadline = time.perf_counter() + 0.2
            while time.perf_counter() < deadline:
                pass

    found = Product().where()
    assert max(found, key=found.get) == OUTSIDE
    operators = {name: share for name, share in found.items() if name != OUTSIDE}
    assert {"aten::mm", "aten::uniform_"} <= operators.keys()


def test_growth_runs_at_every_size(monkeypatch):
    from augrec.bench import growth

    monkeypatch.setattr(growth, "QUICK", {"growth": tuple(map(growth.growing, (400, 800)))})
    monkeypatch.setattr(growth, "_SECONDS", 0.0)
    monkeypatch.setattr(run_module, "_rates", lambda threads, quick: {})
    (found,) = bench(select(["growth/mf"]), Environments(Path("unused")), Options(threads=(1,), quick=True)).rows
    assert [point.interactions for point in found.growth.points] == [400, 800]
    assert all(point.seconds > 0 and point.peak_rss_mb > 50 for point in found.growth.points), found
    assert found.growth.slope is not None
    assert found.goals[0].found == found.growth.slope
    assert found.goals[0].met is None, "a quick run judges nothing"


def test_a_million_is_asked_for_by_name_and_goes_through_the_command_line(monkeypatch):
    from augrec.bench import growth

    monkeypatch.setattr(growth, "QUICK", {"million": (growth.Size(interactions=900, users=90, items=70),)})
    monkeypatch.setattr(growth, "_SECONDS", 0.0)
    monkeypatch.setattr(run_module, "_rates", lambda threads, quick: {})
    nowhere, chosen = Environments(Path("unused")), select(["million/recommend"])
    (found,) = bench(chosen, nowhere, Options(threads=(1,), quick=True)).rows
    (point,) = found.growth.points
    assert (point.interactions, point.users, point.items) == (900, 90, 70)
    assert point.seconds > 0, point.reason
    assert point.nanoseconds_each == pytest.approx(1e9 * point.seconds / (90 * 70))
    assert found.goals[0].found is None, "the limit is that of the large log"
    (unasked,) = bench(chosen, nowhere, Options(threads=(1,))).rows
    assert unasked.reason == "only with --large"
    assert unasked.goals[0].met is None


def _cheap(name, code="pass", goals=()):
    arms = (Arm(name="augrec", task="command", settings={"arguments": ["-c", code]}),)
    return Row(name=f"start/{name}", about="", unit="process", equal="all", arms=arms, goals=goals)


def test_a_run_goes_on_where_it_stopped(monkeypatch, tmp_path):
    """One row is whole, one failed, one was not reached; the first is not measured again."""
    monkeypatch.setattr(run_module, "_rates", lambda threads, quick: {"gemm_rate": 1e9})
    flag = tmp_path / "mended"
    fails = f"import pathlib, sys; sys.exit(not pathlib.Path({str(flag)!r}).exists())"
    rows, nowhere = [_cheap("whole"), _cheap("failed", fails), _cheap("later")], Environments(Path("unused"))
    first = bench(rows[:2], nowhere, Options(threads=(1,), quick=True))
    assert [row.arms[0].state for row in first.rows] == ["run", "not run"]
    flag.touch()
    said, kept = [], []
    options = Options(threads=(1,), quick=True, earlier=first, say=said.append, keep=kept.append)
    again = bench(rows, nowhere, options)
    assert [line.split()[0] for line in said] == ["start/failed", "start/later"]
    assert [row.name for row in again.rows] == ["start/whole", "start/failed", "start/later"]
    assert again.rows[0] == first.rows[0]
    assert again.rows[1].arms[0].state == "run"
    assert again.started == first.started
    assert len(kept[0].rows) == 2, "what is not reached yet stays as it was"
    assert again.machine.rates == {"1": {"gemm_rate": 1e9}}


def test_a_log_that_is_missing_is_measured_when_a_run_goes_on(monkeypatch):
    """First without the large log, then with it."""
    from augrec.bench import growth

    small, big = map(growth.growing, (400, 800))
    monkeypatch.setattr(growth, "SIZES", {"growth": (small,)})
    monkeypatch.setattr(growth, "LARGE", {"growth": (big,)})
    monkeypatch.setattr(growth, "_SECONDS", 0.0)
    monkeypatch.setattr(run_module, "_rates", lambda threads, quick: {})
    rows, nowhere, said = select(["growth/mf"]), Environments(Path("unused")), []
    first = bench(rows, nowhere, Options(threads=(1,)))
    assert len(first.rows[0].growth.points) == 1
    again = bench(rows, nowhere, Options(threads=(1,), large=True, earlier=first))
    assert [one.interactions for one in again.rows[0].growth.points] == [400, 800]
    bench(rows, nowhere, Options(threads=(1,), large=True, earlier=again, say=said.append))
    assert not said


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"quick": False}, "another quick"),
        ({"augrec": "0.0.1"}, "another augrec"),
        ({"effort": {"rounds": 99.0}}, "another effort"),
    ],
)
def test_figures_of_another_kind_are_not_gone_on_with(change, named):
    first = bench([_cheap("one")], Environments(Path("unused")), Options(threads=(1,), quick=True))
    with pytest.raises(UsageError, match=named):
        bench([], Environments(Path("unused")), Options(quick=True, earlier=first.model_copy(update=change)))
    slower = first.machine.model_copy(update={"processor": "another"})
    with pytest.raises(UsageError, match="another processor"):
        bench(
            [], Environments(Path("unused")), Options(quick=True, earlier=first.model_copy(update={"machine": slower}))
        )


def test_a_folder_with_a_run_is_not_written_over(capfd, tmp_path):
    path = tmp_path / "bench.json"
    path.write_text("{}", encoding="utf-8")
    code, _, err = call(capfd, "--rows", "sampling", "--quick", "--out", tmp_path)
    assert code == 2
    assert "holds a run already; go on with it (--resume), or name another folder" in err
    code, _, err = call(capfd, "--rows", "sampling", "--quick", "--out", tmp_path, "--resume")
    assert code == 2
    assert "bench.json is not a run of this command" in err
    assert path.read_text(encoding="utf-8") == "{}"


def test_a_peer_that_fails_stops_no_other_row(monkeypatch, tmp_path):
    """Rows of three arms: one that cannot be installed, one whose command fails, and ours."""
    rows = [
        Row(
            name=f"start/{name}", about="", unit="process", equal="all", unequal="much", goals=(faster("broken", 2),),
            arms=(
                Arm(name="augrec", task="command", settings={"arguments": ["-c", "pass"]}),
                Arm(name="broken", task="command", settings={"arguments": ["-c", "raise SystemExit('no licence')"]}),
                Arm(name="missing", program="peer", task="command", settings={"arguments": ["-c", "pass"]}),
            ),
        )
        for name in ("one", "two")
    ]  # fmt: skip
    monkeypatch.setattr(run_module, "_rates", lambda threads, quick: {})
    monkeypatch.setattr(run_module, "_log_file", lambda folder: folder)
    kept = []
    pins = {"peer": Pins(packages=("peer==1",), python=(2, 6))}
    options = Options(threads=(1,), quick=True, keep=kept.append)
    found = bench(rows, Environments(tmp_path, peers=pins), options)
    assert len(kept) == 2
    assert kept[-1] == found
    for row in found.rows:
        ours, broken, missing = row.arms
        assert ours.state == "run"
        assert "no licence" in broken.reason
        assert "needs Python 2.6" in missing.reason
        assert row.goals[0].met is None
