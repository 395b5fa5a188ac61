"""Paired statistics, Holm over all of them, and words that fit the seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from augrec.errors import AugrecError
from augrec.experiment.paired import PerUser, by_activity, compare_cells, conclusion, finding, read_per_user, standing


def cell(*values: list[float], users: str = "abcdefgh") -> PerUser:
    arrays = {seed: {"m": np.asarray(one, dtype=np.float64)} for seed, one in enumerate(values)}
    return PerUser(users=pl.Series("user", list(users)), train_events=np.arange(len(users)), values=arrays)


def test_users_of_other_cells_and_seeds_are_never_paired(tmp_path: Path) -> None:
    values = [0.0] * 8
    with pytest.raises(AugrecError, match="different users"):
        compare_cells({"a": cell(values), "b": cell(values, users="abcdefgx")}, [("a", "b")], ["m"])
    for seed, users in enumerate(["abc", "acb"]):
        frame = pl.DataFrame({"user": list(users), "train_events": [1, 2, 3], "m": [0.0, 1.0, 0.5]})
        frame.write_parquet(tmp_path / f"{seed}.parquet")
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


def test_groups_by_activity_hold_every_user_once_and_average_to_the_whole() -> None:
    rng = np.random.default_rng(4)
    events = np.array([3, 3, 3, 3, 3, 4, 5, 5, 9, 40])
    cells = {
        name: PerUser(
            users=pl.Series("user", range(10)), train_events=events, values={s: {"m": rng.random(10)} for s in range(2)}
        )
        for name in ("base", "a")
    }
    rows = by_activity(cells, "m")
    assert [row["train_events"] for row in rows] == [[3, 3], [4, 5], [9, 40]], "equal counts must stay together"
    assert [row["users"] for row in rows] == [5, 3, 2]
    for name, one in cells.items():
        whole = np.mean([values["m"].mean() for values in one.values.values()])
        assert sum(row["mean"][name] * row["users"] for row in rows) / 10 == pytest.approx(whole)
    assert rows[2]["mean"]["a"] == pytest.approx(np.mean([cells["a"].values[s]["m"][8:].mean() for s in range(2)]))


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
    who = {"users": pl.Series("user", users), "train_events": np.arange(len(users))}
    cells = {"a": PerUser(**who, values={s: {"m": high[s]} for s in range(seeds)})}
    cells["base"] = PerUser(**who, values={s: {"m": low[s]} for s in range(seeds)})
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
