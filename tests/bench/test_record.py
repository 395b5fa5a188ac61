"""From turns to a record, its JSON, its Markdown and its plot; floors and slopes by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from pydantic import ValidationError

from augrec.bench import floors
from augrec.bench.floors import Cost
from augrec.bench.growth import growing, make_log, slope
from augrec.bench.judge import goal_record, row_record
from augrec.bench.markdown import markdown
from augrec.bench.quality import quality_record, reach, read_curve
from augrec.bench.record import ArmRecord, GrowthRecord, MachineRecord, PointRecord, Record, RowRecord, Spread
from augrec.bench.rows import Arm, Goal, Row, faster
from augrec.bench.timing import Measured
from augrec.data import load

RATES = {"memory_bandwidth": 2e10, "cache_bandwidth": 8e10, "gemm_rate": 1e11}


def turns(*rounds, foreign=0.02, failure=""):
    seconds = [list(one) for one in rounds]
    return Measured(seconds=seconds, processor=seconds, foreign=[foreign] * len(seconds), failure=failure)


def row(**fields):
    arms = (Arm(name="augrec"), Arm(name="plain"), Arm(name="recbole", program="recbole"))
    given = {"name": "epoch/toy", "about": "a toy", "arms": arms, "equal": "all", "unequal": "padding", **fields}
    return Row(**given)


def made(**fields):
    """Ours takes 2 s, the plain arm half of it, the peer 3 s for a tenth of an epoch."""
    return row_record(
        row(**fields), 2,
        {"augrec": turns([2.0, 2.0], [2.2]), "plain": turns([1.0], [1.1]), "recbole": turns([3.0], [3.3], foreign=0.9)},
        {"augrec": {"scale": 1.0}, "recbole": {"scale": 10.0, "extrapolated": True}},
        {"augrec": 500, "recbole": 2400}, {}, RATES,
    )  # fmt: skip


def record(*rows, quick=False):
    machine = MachineRecord(
        processor="a processor", cores=2, memory_mb=8192, system="a system", python="3.11.7", torch="2.13.0",
        rates={"2": RATES},
    )  # fmt: skip
    return Record(
        augrec="0.1.0", started="2026-01-01T00:00:00+00:00", quick=quick, effort={"rounds": 5.0}, machine=machine,
        rows=list(rows),
    )  # fmt: skip


def test_a_ratio_is_the_scaled_peer_over_ours_by_round():
    ours, plain, peer = made().arms
    assert ours.ratio is None
    assert ours.seconds.median == 2.0
    assert ours.units == 3
    # 30 / 2 and 33 / 2.2.
    assert list(peer.ratio.model_dump().values()) == pytest.approx([15.0] * 3)
    assert peer.seconds.median == pytest.approx(31.5)
    assert peer.extrapolated
    assert not ours.extrapolated
    assert (ours.peak_rss_mb, peer.peak_rss_mb, plain.peak_rss_mb) == (500, 2400, None)
    assert plain.added_ms.median == pytest.approx((1000 + 1100) / 2)


@pytest.mark.parametrize(
    ("goal", "found", "met"),
    [
        (faster("recbole", 15, 20), 15.0, True), (faster("recbole", 15.1), 15.0, False),
        (Goal(kind="ratio", wanted=2.0, against="plain"), 2.0, True),
        (Goal(kind="ratio", wanted=1.9, against="plain"), 2.0, False),
        (Goal(kind="added", wanted=1049, against="plain"), 1050.0, False),
        (Goal(kind="seconds", wanted=3), 2.0, True), (Goal(kind="memory", wanted=499), 500.0, False),
        (faster("nobody", 1), None, None),
    ],
)  # fmt: skip
def test_goals_are_judged_by_medians(goal, found, met):
    (judged,) = made(goals=(goal,)).goals
    assert judged.met is met
    assert judged.found == (None if found is None else pytest.approx(found))


def test_an_arm_that_did_not_run_says_why_and_leaves_the_goal_open():
    found = row_record(
        row(goals=(faster("recbole", 4),)), 1, {"augrec": turns([1.0])}, {}, {}, {"recbole": "pip could not"}, {}
    )  # fmt: skip
    assert [one.state for one in found.arms] == ["run", "not run", "not run"]
    assert found.arms[2].reason == "pip could not"
    assert found.goals[0].met is None
    assert "recbole not run: pip could not" in markdown(record(found))


def test_an_arm_that_died_in_the_middle_keeps_its_rounds_and_its_reason():
    measured = {"augrec": turns([1.0], [1.0]), "recbole": turns([5.0], failure="left with exit code 3")}
    peer = row_record(row(), 1, measured, {}, {}, {}, {}).arms[2]
    assert (peer.state, peer.ratio.median, peer.reason) == ("run", 5.0, "left with exit code 3")


def test_a_recorded_peer_is_labelled_and_never_called_run():
    given = {"its code": {"seconds": 277.0, "peak_rss_mb": 6600, "source": "measured before"}}
    found = made(recorded=given, goals=(faster("its code", 15),))
    assert found.arms[-1].state == "recorded"
    assert found.goals[0].found == pytest.approx(277 / 2)
    assert "its code is not run but recorded: measured before" in markdown(record(found))


def test_the_record_is_its_json_and_nothing_else():
    whole = record(made(goals=(faster("recbole", 4, 6),)), quick=True)
    again = Record.model_validate(json.loads(json.dumps(whole.model_dump(mode="json"))))
    assert again == whole
    with pytest.raises(ValidationError, match="speed"):
        Record.model_validate(whole.model_dump(mode="json") | {"speed": 3})
    fields = Record.model_json_schema()["$defs"]["ArmRecord"]["properties"]
    assert {"name", "state", "reason", "seconds", "ratio", "peak_rss_mb", "foreign", "extrapolated"} <= set(fields)


def test_markdown_has_a_line_an_arm_and_says_what_is_wanted():
    text = markdown(record(made(goals=(faster("recbole", 18, 25),))))
    lines = [line for line in text.partition("###")[2].splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert all(line.count("|") == 9 for line in lines)
    assert "| toy | 2 | augrec | 2.00 s (2.00 s to 2.16 s) |" in text
    assert "| recbole | 31.50 s* (30.30 s to 32.70 s) (!) | 15 | at least 18x, aim 25x: 15, NOT met |" in text
    assert "- epoch/toy: equal: all. not equal: padding." in text
    assert "20.0 GB/s from memory" in text
    assert "quick run" not in text
    assert "None of its figures is a measurement" in markdown(record(quick=True))


def test_a_floor_is_the_slower_of_moving_and_computing(monkeypatch):
    monkeypatch.setattr(floors, "cache_bytes", lambda: 1000)
    moving = floors.seconds(Cost(moved=4e10, operations=1e11, held=1001), RATES)
    assert (moving["seconds"], moving["bound"]) == (2.0, "memory")
    cached = floors.seconds(Cost(moved=4e10, operations=0, held=1000), RATES)
    assert (cached["seconds"], cached["bound"]) == (0.5, "cache")
    computing = floors.seconds(Cost(moved=4e10, operations=3e11, held=1001), RATES)
    assert (computing["seconds"], computing["bound"]) == (3.0, "operations")


def test_floors_count_by_hand():
    pairs = {"model": "mf", "objective": "bpr", "dim": 8, "batch_targets": 10, "users": 30, "items": 20,
             "interactions": 100, "batches": 10, "layers": 2}  # fmt: skip
    table = 50 * 8 * 4
    one = floors.cost("step", pairs)
    assert one.moved == 8 * table + 2 * 3 * 10 * 8 * 4
    assert floors.cost("epoch", pairs).moved == 10 * one.moved
    graph = floors.cost("step", pairs | {"model": "lightgcn"})
    assert graph.moved - one.moved == 2 * 2 * (2 * table + 200 * 8)
    assert floors.cost("step", pairs | {"model": "ngcf"}).operations > graph.operations
    sequence = pairs | {"model": "sasrec", "objective": "softmax", "parameters": 900}
    assert floors.cost("step", sequence).operations == 6 * 10 * 20 * 8 + 6 * 12 * 64 * 2 * 10
    assert floors.cost("step", sequence | {"objective": "bce"}) is None
    made = sequence | {"objective": "bce", "products": 7e6}
    assert floors.cost("step", made) == Cost(moved=8 * 900 * 4, operations=7e6, held=4 * 900 * 4)
    assert floors.cost("step", sequence | {"products": 7e6}).operations == 6 * 10 * 20 * 8 + 6 * 12 * 64 * 2 * 10
    assert floors.cost("step", sequence | {"products": 7e6, "augment": ["simdiffrec"]}).operations == 7e6
    # An augmentation on a graph: the graph's own, its network's parameters and products on top.
    more = pairs | {"model": "lightgcn", "products": 7e6, "augment": ["adar"], "parameters": 50 * 8 + 100}
    added = floors.cost("step", more)
    assert added.moved == graph.moved + 8 * 100 * 4
    assert added.operations == graph.operations + 7e6
    assert floors.cost("prepare", {"products": 5.0}).operations == 5
    ranking = floors.cost("evaluate", {"evaluated": 30, "items": 20, "width": 8})
    assert (ranking.operations, ranking.moved) == (2 * 30 * 20 * 8, table)


def test_slopes_are_those_of_a_line_through_logarithms():
    assert slope([(10**n, 3 * (10**n) ** 1.2) for n in (5, 6, 7)]) == pytest.approx(1.2)
    points = [(1e5, 2.0), (1e6, 13.0), (1e7, 250.0)]
    wanted = np.polyfit(*(np.log(np.array(one)) for one in zip(*points, strict=True)), 1)[0]
    assert slope(points) == pytest.approx(wanted)
    assert slope([(1e5, 1.0)]) is None
    assert goal_record(Goal(kind="slope", wanted=1.05), [], slope=1.06).met is False


def test_synthetic_logs_have_the_sizes_they_say(tmp_path):
    sizes = [(5000, 10**4), (500_000, 10**5), (5_000_000, 10**6)]
    assert [(one.users, one.items) for one in map(growing, (10**5, 10**7, 10**8))] == sizes
    make_log(tmp_path / "log.parquet", interactions=4000, users=200, items=500)
    log = load(tmp_path / "log.parquet")
    assert len(log) == 4000
    assert log.n_users == 200
    assert log.degrees().min() >= 2
    counts = np.sort(np.bincount(log.item, minlength=500))[::-1]
    assert counts[:50].sum() / 4000 == pytest.approx(0.1 ** (1 / 3), abs=0.05)


def test_a_growth_row_in_markdown():
    points = [
        PointRecord(interactions=n, users=n // 20, items=10**4, seconds=n / 1e5, nanoseconds_each=1e4, peak_rss_mb=900)
        for n in (10**5, 10**6)
    ] + [PointRecord(interactions=10**7, users=1, items=1, reason="stopped by SIGKILL")]  # fmt: skip
    found = RowRecord(
        name="growth/mf", about="", unit="run", threads=1, growth=GrowthRecord(points=points, slope=1.0),
        goals=[goal_record(Goal(kind="slope", wanted=1.05), [], slope=1.0)],
    )  # fmt: skip
    text = markdown(record(found))
    assert "| mf | 1 | 100,000 | 5,000 | 10,000 | 1.00 s | 1e+04 | 900 | 1.00 slope at most 1.05: 1, met |" in text
    assert "10,000,000 events not run: stopped by SIGKILL" in text


def test_the_page_begins_with_every_goal_and_what_was_found():
    slow = made(name="epoch/slow", goals=(faster("recbole", 18), Goal(kind="memory", wanted=10)))
    fine = made(name="epoch/fine", goals=(faster("recbole", 2), faster("nobody", 2)))
    text = markdown(record(slow, slow.model_copy(update={"threads": 1}), fine))
    assert "**Goals**: 1 of 5 are met." in text
    assert "| row | beside | wanted | 2 threads | 1 thread |" in text
    assert "| epoch/slow | recbole | at least 18x | 15, **NOT met** | 15, **NOT met** |" in text
    assert "| epoch/slow | - | at most 10 MB | 500, **NOT met** | 500, **NOT met** |" in text
    assert "| epoch/fine | recbole | at least 2x | 15 | - |" in text
    assert "nobody" not in text.split("###")[0]
    assert "Goals" not in markdown(record(made()))


def test_time_to_a_quality_is_epochs_and_validations_at_this_runs_cost(tmp_path):
    def curve(name, values, every=1):
        lines = [{"kind": "run"}, *({"epoch": every * (n + 1), "valid": {"ndcg@10": v}} for n, v in enumerate(values))]
        (tmp_path / name).write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")

    curve("ours.jsonl", [0.1, 0.3, 0.6, 0.9])
    curve("theirs.jsonl", [0.2, 0.5, 0.98, 1.0], every=2)
    assert read_curve(tmp_path / "theirs.jsonl") == {2: 0.2, 4: 0.5, 6: 0.98, 8: 1.0}
    assert reach({2: 0.1, 4: 0.5}, 0.5) == (4, 2)
    assert reach({2: 0.1}, 0.5) is None
    settings = {"ours": "ours.jsonl", "theirs": "theirs.jsonl", "epoch": "epoch/toy", "evaluate": "evaluate/toy",
                "judge": "recbole-tuned"}  # fmt: skip
    asked = Row(
        name="quality/toy", about="", equal="", arms=(Arm(name="augrec", task="quality", settings=settings),),
        goals=(faster("recbole", 4),),
    )  # fmt: skip

    def costs(name, **seconds):
        arms = [
            ArmRecord(name=arm, program=arm, state="run", seconds=Spread(median=one, p10=one, p90=one))
            for arm, one in seconds.items()
        ]  # fmt: skip
        return RowRecord(name=name, about="", unit="", threads=2, arms=arms)

    known = [costs("epoch/toy", augrec=2.0, recbole=30.0)]
    known.append(costs("evaluate/toy", augrec=1.0, **{"recbole-tuned": 10.0}))
    # 95 % of their best is .95: never reached by ours.
    assert "never reaches" in quality_record(asked, 2, known, tmp_path).reason
    curve("ours.jsonl", [0.1, 0.3, 0.6, 0.96])
    found = quality_record(asked, 2, known, tmp_path)
    ours, theirs = found.arms
    assert ours.seconds.median == 4 * 2 + 4 * 1
    assert theirs.seconds.median == 6 * 30 + 3 * 10
    assert found.goals[0].found == pytest.approx(210 / 12)
    assert "run these rows with it" in quality_record(asked, 1, known, tmp_path).reason
    assert "--curves" in quality_record(asked, 2, known, None).reason
    assert "no such curve" in quality_record(asked, 2, known, tmp_path / "nowhere").reason


def test_the_plot_shows_what_there_is_and_nothing_for_nothing(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    from augrec.report.bars import write_bars

    overhead = made(name="augment/toy", goals=(Goal(kind="ratio", wanted=3.0, against="plain"),))
    growth = RowRecord(
        name="growth/mf", about="", unit="run", threads=2,
        growth=GrowthRecord(
            points=[
                PointRecord(
                    interactions=n, users=1, items=1, seconds=n / 1e6, nanoseconds_each=1000.0, peak_rss_mb=n // 1000
                ) for n in (10**5, 10**6)
            ] + [PointRecord(interactions=10**7, users=1, items=1, reason="no memory")],
            slope=1.0,
        ),
    )  # fmt: skip
    whole = record(made(goals=(faster("recbole", 18, 25),)), overhead, growth).model_dump(mode="json")
    path = tmp_path / "bench.png"
    assert write_bars(whole, path)
    image = imread(path)
    assert min(image.shape[:2]) > 400
    assert image[..., :3].std() > 0.01
    assert not write_bars(record().model_dump(mode="json"), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    assert math.isfinite(image.sum())
