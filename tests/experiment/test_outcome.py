"""Verdicts on constructed tests, and published rows held against the identities."""

from __future__ import annotations

import pytest

from augrec.errors import ConfigError
from augrec.experiment.outcome import flags, judge
from augrec.experiment.paired import compare_cells
from augrec.experiment.recipes import find_paper, paper_names
from augrec.experiment.recipes.base import Arm, RecipeCell, Table


def row(b: str, finding: str, *, seeds: int = 3, metric: str = "recall@20", relative: float = 0.1) -> dict:
    sign = -1 if finding == "lower" else 1
    return {
        "a": "adar", "b": b, "metric": metric, "seeds": list(range(seeds)), "finding": finding,
        "relative": sign * relative, "difference": sign * 0.01,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("base", "noise", "ours", "published", "verdict", "parts"),
    [
        ("higher", "higher", 0.10, 0.12, "reproduced", ["above base (+10.0%) and above noise (+10.0%)"]),
        # Both hold: the gain is there, and the reader is told that the base needed none.
        ("higher", "higher", 0.13, 0.12, "reproduced", ["plain base, 0.1300, is at or above the published", "0.1200"]),
        ("higher", "none", 0.10, 0.12, "no gain", ["above base", "but not shown to differ from noise"]),
        ("higher", "lower", 0.10, 0.12, "no gain", ["but below noise (-10.0%)"]),
        ("higher", "users only", 0.10, 0.12, "no gain", ["not beyond the luck of seeds"]),
        ("higher", "none", 0.12, 0.12, "base already better", ["at or above", "but not shown to differ from noise"]),
        ("none", "higher", 0.10, 0.12, "no gain", ["not shown to differ from base"]),
        ("none", "higher", 0.1201, 0.12, "base already better", ["adar is not shown to differ from base"]),
        ("lower", "lower", 0.10, 0.12, "no gain", ["below base (-10.0%)"]),
        ("lower", "higher", 0.15, 0.12, "base already better", ["below base"]),
        ("users only", "higher", 0.10, None, "no gain", ["above base (+10.0%) for these trained models"]),
        # Nothing comparable is published: the base cannot be better than it.
        ("lower", "higher", 0.99, None, "no gain", ["below base"]),
    ],
)
def test_verdicts(base, noise, ours, published, verdict, parts) -> None:
    rows = [row("base", base), row("noise", noise), row("base", "higher", metric="ndcg@10")]
    found = judge("adar", ["noise"], rows, metric="recall@20", base=ours, published=published)
    assert found.verdict == verdict
    for part in parts:
        assert part in found.detail
    assert found.standing == "three seeds: a measurement"


@pytest.mark.parametrize("finding", ["higher", "none", "lower"])
def test_one_seed_is_an_indication_only(finding: str) -> None:
    for seeds, said in ((1, "one seed: indication only"), (2, "two seeds: a measurement takes three; not a claim"),
                        (5, "five seeds: a claim")):  # fmt: skip
        rows = [row("base", finding, seeds=5), row("noise", finding, seeds=seeds)]
        assert judge("adar", ["noise"], rows, metric="recall@20", base=0.1, published=0.2).standing == said


def test_without_a_test_nothing_is_said_and_without_noise_it_is_said() -> None:
    found = judge("adar", ["noise"], [row("base", "higher")], metric="recall@20", base=0.1, published=0.2)
    assert (found.verdict, found.detail) == ("not run", "no test of adar against noise yet")
    assert judge("adar", [], [], metric="recall@20", base=0.1, published=0.2).verdict == "not run"
    found = judge("adar", [], [row("base", "higher")], metric="recall@20", base=0.1, published=0.2)
    assert found.verdict == "reproduced"
    assert "no noise arm is known" in found.detail


def test_the_findings_judged_are_those_the_tests_give() -> None:
    """The words a verdict reads are the words `compare_cells` writes."""
    import numpy as np
    import polars as pl

    from augrec.experiment.paired import PerUser

    rng = np.random.default_rng(0)
    noise = {seed: rng.random(400) for seed in range(3)}
    values = {
        "base": noise,
        "noise": {seed: one + 1e-3 * rng.standard_normal(400) for seed, one in noise.items()},
        "adar": {seed: one + 0.1 + 0.01 * rng.standard_normal(400) for seed, one in noise.items()},
    }
    who = {"users": pl.Series("user", range(400)), "train_events": np.arange(400)}
    cells = {
        name: PerUser(**who, values={seed: {"recall@20": one} for seed, one in by_seed.items()})
        for name, by_seed in values.items()
    }
    rows = compare_cells(cells, [("adar", "base"), ("adar", "noise"), ("noise", "base")], ["recall@20"])
    assert judge("adar", ["noise"], rows, metric="recall@20", base=0.5, published=None).verdict == "reproduced"
    assert judge("noise", [], rows, metric="recall@20", base=0.5, published=None).verdict == "no gain"


def flagged(paper: str, table: str) -> set[tuple[str, str]]:
    (found,) = [one for one in find_paper(paper).tables if one.name == table]
    return {(cell.name, name) for cell in found.cells for name in flags(found, cell)}


def test_published_rows_that_break_an_identity_are_flagged() -> None:
    assert flagged("simdiffrec", "table2") == {
        ("sports:simdiffrec", "simdiffrec"), ("yelp:mclrec", "mclrec"), ("toys:bert4rec", "base"),
        ("sports:bert4rec", "base"), ("ml1m:bert4rec", "base"),
    }  # fmt: skip
    # 0.46 points of NDCG for 2.31 of recall between ranks 11 and 20: less than 1 / log2(21) each.
    assert flagged("adar", "table3") == {("beauty:gru4rec", "adar-random")}
    assert flagged("adar", "table2") == set()
    assert flagged("pdrec", "table1") == set()


def test_flags_allow_for_rounding_and_need_one_target() -> None:
    metrics = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
    for ratio, single, wrong in ((0.25, True, False), (0.2277, True, False), (0.2, True, True), (0.2, False, False)):
        published = {"recall@10": 0.1, "recall@20": 0.15, "ndcg@10": 0.05, "ndcg@20": 0.05 + 0.05 * ratio}
        cell = RecipeCell(
            name="x", data="toy", model="mf", primary="recall@20", published=published, single_target=single
        )
        table = Table(name="t", title="", place="", metrics=metrics, cells=(cell,))
        assert bool(flags(table, cell)) == wrong, ratio


def test_a_recipe_is_judged_on_a_metric_it_reports() -> None:
    cell = RecipeCell(name="x", data="toy", model="mf", primary="recall@5")
    with pytest.raises(ConfigError, match="not among those"):
        Table(name="t", title="", place="", metrics=("recall@20",), cells=(cell,))


@pytest.mark.parametrize("name", paper_names())
def test_recipes_hold_together(name: str) -> None:
    paper = find_paper(name)
    keys = {f"{table.name}/{cell.name}" for table in paper.tables for cell in table.cells}
    assert len(keys) == sum(len(table.cells) for table in paper.tables)
    for table in paper.tables:
        for cell in table.cells:
            names = [arm.name for arm in cell.arms]
            assert len(set(names)) == len(names)
            assert "base" not in names
            assert sum(arm.claim for arm in cell.arms) <= 1
            for figures in (cell.published, *(arm.published for arm in cell.arms)):
                assert set(figures) <= set(table.metrics)
                assert all(0 < value < 1 for value in figures.values())
            if cell.tune is not None:
                (chosen_on,) = [c for t in paper.tables for c in t.cells if f"{t.name}/{c.name}" == cell.tune.cell]
                assert not chosen_on.base
                assert any(arm.claim for arm in chosen_on.arms)


def test_figures_stand_where_the_papers_print_them() -> None:
    def cell(paper: str, key: str) -> tuple[RecipeCell, dict[str, Arm]]:
        table, _, name = key.partition("/")
        (found,) = [c for t in find_paper(paper).tables if t.name == table for c in t.cells if c.name == name]
        return found, {arm.name: arm for arm in found.arms}

    found, arms = cell("adar", "table2/sports:ahns")
    assert found.published == {"recall@10": 0.0669, "recall@20": 0.097, "ndcg@10": 0.0439}
    assert arms["adar"].published["recall@20"] == 0.0985
    assert (found.model, found.base, found.comparable) == ("lightgcn", ("ahns",), True)
    assert not cell("adar", "table2/toys:cl4srec")[0].comparable
    assert cell("adar", "table3/beauty:ngcf")[1]["adar-mixed"].published["ndcg@20"] == 0.063
    found, arms = cell("simdiffrec", "table2/beauty:cadirec")
    assert (found.published["hr@10"], arms["cadirec"].published["ndcg@10"]) == (0.0557, 0.0411)
    assert cell("simdiffrec", "table3/toys:simdiffrec")[1]["without confidence"].published == {
        "hr@5": 0.0537, "ndcg@5": 0.0273, "hr@10": 0.0882, "ndcg@10": 0.0388,
    }  # fmt: skip
    found, arms = cell("pdrec", "table1/toy:sasrec")
    assert (found.published["ndcg@10"], arms["pdrec"].published["hr@10"]) == (0.2020, 0.3568)
    assert cell("pdrec", "table3/toy-game:sasrec")[1]["hbr+nns"].published["auc"] == 0.8138
