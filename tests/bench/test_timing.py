"""Turns by hand-made clocks: order, what is counted, ratios by round, foreign load, failures."""

from __future__ import annotations

import numpy as np
import pytest

from augrec.bench.timing import ArmFailed, Effort, Measured, Turn, by_round, interleave, quantile, spread


class World:
    """A machine with a clock, a busy counter and this program's processor time, all moved by hand."""

    def __init__(self):
        self.now, self.busy, self.mine, self.log = 0.0, 0.0, 0.0, []


class Scripted:
    """An arm whose units cost what is written down, with others busy beside it."""

    def __init__(self, world, name, cost, *, foreign=0.0, fails_at=None):
        self.world, self.name, self.cost, self.foreign, self.fails_at = world, name, cost, foreign, fails_at
        self.turns = 0

    def turn(self, *, units, warm):
        self.turns += 1
        if self.fails_at == self.turns:
            raise ArmFailed(f"{self.name} died")
        cost = self.cost(self.turns) if callable(self.cost) else self.cost
        self.world.log.append((self.name, units, warm))
        took = cost * (units + warm)
        self.world.now += took
        # The arm keeps one processor busy, others so many more, and the parent a hundredth.
        self.world.busy += took * (1 + self.foreign) + 0.01 * took
        self.world.mine += 0.01 * took
        return Turn(seconds=(cost,) * units, processor=(cost,) * units, spent=took)


def measure(world, arms, effort):
    return interleave(
        {arm.name: arm for arm in arms}, effort, clock=lambda: world.now, busy=lambda: world.busy,
        own=lambda: world.mine,
    )  # fmt: skip


def test_turns_alternate_and_warm_units_are_not_counted():
    world = World()
    arms = [Scripted(world, "a", 0.5), Scripted(world, "b", 4.0)]
    found = measure(world, arms, Effort(rounds=3, seconds=2.0, most=40, warm=2))
    # Two trials of the fast arm, one of the slow one; then A B A B A B: four units a turn of the one, one of the other
    # without a warm-up, as it alone is longer than a turn should be.
    assert world.log == [("a", 1, 0), ("a", 1, 0), ("b", 1, 0), *[("a", 4, 2), ("b", 1, 0)] * 3]
    assert found["a"].seconds == [[0.5] * 4] * 3
    assert found["b"].seconds == [[4.0]] * 3


def test_a_turn_has_no_more_units_than_allowed():
    world = World()
    measure(world, [Scripted(world, "a", 1e-6)], Effort(rounds=1, seconds=2.0, most=7, warm=1))
    assert world.log[-1] == ("a", 7, 1)


@pytest.mark.parametrize(("slow", "rounds", "units"), [(0.09, 8, (10, 5)), (1.9, 8, (10, 1)), (2.1, 2, (40, 1))])
def test_short_units_take_four_times_as_many_turns_of_a_quarter_if_no_arm_is_long(slow, rounds, units):
    world = World()
    found = measure(world, [Scripted(world, "a", 0.05), Scripted(world, "b", slow)], Effort(rounds=2, seconds=2.0))
    assert len(found["a"].seconds) == len(found["b"].seconds) == rounds
    assert tuple(count for _, count, _ in world.log[-2:]) == units


def test_ratios_within_rounds_cancel_a_drift_that_ratios_of_medians_keep():
    world = World()

    def drifting(turn):
        # The trials come first: two of them, then the machine slows down by half in every round.
        return 0.1 * 1.5 ** max(turn - 3, 0)

    arms = [Scripted(world, "a", drifting), Scripted(world, "b", lambda turn: 3 * drifting(turn))]
    found = measure(world, arms, Effort(rounds=4, seconds=0.01))
    assert [b / a for a, b in by_round(found["a"], found["b"])] == pytest.approx([3.0] * 4)


@pytest.mark.parametrize("foreign", [0.0, 0.7])
def test_foreign_load_is_what_neither_the_arm_nor_we_kept_busy(foreign):
    world = World()
    found = measure(world, [Scripted(world, "a", 0.2, foreign=foreign)], Effort(rounds=2))
    assert found["a"].foreign == pytest.approx([foreign, foreign], abs=1e-9)


def test_without_a_busy_counter_nothing_is_said_of_foreign_load():
    world = World()
    found = interleave({"a": Scripted(world, "a", 0.2)}, Effort(rounds=1), clock=lambda: world.now, busy=lambda: None)
    assert found["a"].foreign == []


@pytest.mark.parametrize(("dies", "rounds_left"), [(1, 0), (2, 0), (4, 1)])
def test_an_arm_that_dies_leaves_what_it_had_and_the_others_go_on(dies, rounds_left):
    world = World()
    arms = [Scripted(world, "a", 0.5), Scripted(world, "b", 0.5, fails_at=dies), Scripted(world, "c", 0.5)]
    found = measure(world, arms, Effort(rounds=3))
    assert found["b"].failure == "b died"
    assert len(found["b"].seconds) == rounds_left
    assert len(found["a"].seconds) == len(found["c"].seconds) == 3
    assert not found["a"].failure
    assert arms[1].turns == dies, "it is not asked again"


def test_spread_is_numpys():
    values = np.random.default_rng(0).normal(size=37).tolist()
    found = spread(values)
    assert found is not None
    for name, share in (("p10", 0.1), ("median", 0.5), ("p90", 0.9)):
        assert found[name] == pytest.approx(np.quantile(values, share), rel=1e-12)
    assert quantile([5.0], 0.9) == 5.0
    assert spread([]) is None


def test_rounds_that_one_arm_did_not_finish_have_no_ratio():
    a, b = Measured(seconds=[[1.0, 3.0], [2.0]]), Measured(seconds=[[8.0]])
    assert by_round(a, b) == [(2.0, 8.0)]
