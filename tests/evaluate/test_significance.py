"""Paired tests: false-positive rates on null simulations, scipy, enumeration, power and degenerate inputs."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from scipy import stats

from augrec.errors import NumericalError, UsageError
from augrec.evaluate.significance import (
    bootstrap_interval,
    compare_users,
    holm,
    seed_t_test,
    sign_flip,
    t_test,
    wilcoxon,
)

SIMULATIONS, USERS, ALPHA = 2000, 80, 0.05


@pytest.fixture(scope="module")
def null():
    """Differences of two equally good recommenders: per-user values that are noisy and often equal."""
    rng = np.random.default_rng(20)
    a, b = rng.random((2, SIMULATIONS, USERS)) * (rng.random((2, SIMULATIONS, USERS)) < 0.7)
    return a - b


def test_false_positive_rate_of_the_t_test(null):
    assert abs(np.mean([t_test(d) <= ALPHA for d in null]) - ALPHA) <= 0.015


def test_false_positive_rate_of_wilcoxon(null):
    assert abs(np.mean([wilcoxon(d) <= ALPHA for d in null]) - ALPHA) <= 0.015


def test_false_positive_rate_of_sign_flips(null):
    rng = np.random.default_rng(1)
    assert abs(np.mean([sign_flip(d, rng=rng, permutations=399) <= ALPHA for d in null]) - ALPHA) <= 0.015


def test_false_positive_rate_of_the_bootstrap_interval(null):
    rng = np.random.default_rng(2)
    intervals = [bootstrap_interval(d, rng=rng, resamples=400) for d in null]
    assert abs(np.mean([low > 0 or high < 0 for low, high in intervals]) - ALPHA) <= 0.015


@pytest.mark.parametrize("paired", [True, False])
def test_false_positive_rate_over_seeds(paired):
    rng = np.random.default_rng(3)
    p = [seed_t_test(*rng.normal(size=(2, 5)), paired=paired) for _ in range(SIMULATIONS)]
    assert abs(np.mean(np.array(p) <= ALPHA) - ALPHA) <= 0.015


def test_holm_bounds_the_family_error():
    rng = np.random.default_rng(4)
    p = rng.random((SIMULATIONS, 6))
    assert np.mean([(holm(row) <= ALPHA).any() for row in p]) <= ALPHA + 0.015
    assert np.mean((p <= ALPHA).any(axis=1)) > 0.2  # what would happen without it


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    assert holm([]).shape == (0,)
    for bad in ([0.1, float("nan")], [1.1], [-0.1]):
        with pytest.raises(UsageError, match="from 0 to 1"):
            holm(bad)


def test_tests_equal_scipy_on_pairs():
    rng = np.random.default_rng(5)
    a, b = rng.random((2, 60))
    got = compare_users(a, b)
    assert got.p_t == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert got.p_wilcoxon == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert got.difference == pytest.approx(got.mean_a - got.mean_b)
    assert got.low < got.difference < got.high
    assert seed_t_test(a[:5], b[:5]) == pytest.approx(stats.ttest_rel(a[:5], b[:5]).pvalue)
    assert seed_t_test(a[:5], b[:4], paired=False) == pytest.approx(
        stats.ttest_ind(a[:5], b[:4], equal_var=False).pvalue
    )


def test_sign_flips_approach_enumeration():
    difference = np.array([0.9, -0.2, 0.4, 0.0, 0.7, 0.3, -0.1, 0.5, 0.0, 0.6])
    sums = [np.dot(signs, difference) for signs in product((-1, 1), repeat=10)]
    exact = np.mean(np.abs(sums) >= abs(difference.sum()) - 1e-9)
    got = sign_flip(difference, rng=np.random.default_rng(0), permutations=200_000)
    assert got == pytest.approx(exact, abs=4 * np.sqrt(exact / 200_000))


def test_sign_flips_do_not_depend_on_zeros_or_scale():
    rng = np.random.default_rng(6)
    difference = rng.normal(0.2, 1, 50)
    p = [
        sign_flip(d, rng=np.random.default_rng(1), permutations=999)
        for d in (difference, np.concatenate([np.zeros(500), difference]), difference * 1e-6)
    ]
    assert p[0] == p[1] == p[2]


def test_power_grows_with_the_effect():
    rng = np.random.default_rng(7)
    noise = rng.normal(size=300)
    p = [compare_users(noise + effect, np.zeros(300)) for effect in (0.0 - noise.mean(), 0.1, 0.5)]
    for name in ("p_t", "p_wilcoxon", "p_permutation"):
        values = [getattr(x, name) for x in p]
        assert all(later < earlier for earlier, later in pairwise(values))
        assert values[-1] < 0.001
    assert p[-1].low > 0


def test_equal_inputs_give_one_not_nan():
    a = np.random.default_rng(0).random((3, 40))
    got = compare_users(a, a)
    assert (got.p_t, got.p_wilcoxon, got.p_permutation) == (1.0, 1.0, 1.0)
    assert (got.difference, got.low, got.high) == (0.0, 0.0, 0.0)
    assert seed_t_test([0.1, 0.2], [0.1, 0.2]) == 1.0
    assert seed_t_test([0.1, 0.1], [0.1, 0.1], paired=False) == 1.0


def test_constant_difference_has_an_answer():
    got = compare_users(np.full(40, 0.75), np.full(40, 0.5))
    assert got.p_t == 0.0
    assert got.p_permutation == pytest.approx(1 / 10_000)
    assert (got.low, got.high) == (0.25, 0.25)


def test_seeds_are_averaged_before_the_test():
    rng = np.random.default_rng(8)
    a, b = rng.random((5, 40)), rng.random((3, 40))
    many, one = compare_users(a, b), compare_users(a.mean(axis=0), b.mean(axis=0))
    assert (many.p_t, many.p_wilcoxon, many.p_permutation) == (one.p_t, one.p_wilcoxon, one.p_permutation)
    assert (many.seeds_a, many.seeds_b, many.users) == (5, 3, 40)


def test_same_seed_same_answer():
    rng = np.random.default_rng(9)
    a, b = rng.random((2, 200))
    assert compare_users(a, b, rng=4) == compare_users(a, b, rng=np.random.default_rng(4))
    assert compare_users(a, b, rng=4).low != compare_users(a, b, rng=5).low


def test_wrong_use_is_one_clear_message():
    with pytest.raises(UsageError, match="same users in the same order"):
        compare_users(np.zeros(4), np.zeros(5))
    with pytest.raises(UsageError, match="at least two users"):
        compare_users(np.zeros(1), np.zeros(1))
    with pytest.raises(NumericalError, match="b holds values"):
        compare_users(np.zeros(2), np.array([0.0, np.nan]))
    with pytest.raises(UsageError, match="two or more seeds"):
        seed_t_test([0.1], [0.2])
    with pytest.raises(UsageError, match="paired=False"):
        seed_t_test([0.1, 0.2], [0.1, 0.2, 0.3])
