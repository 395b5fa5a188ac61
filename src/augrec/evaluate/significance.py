"""Is one recommender better than another? Paired tests on per-user differences of seed means, and a t-test over seeds.

The two answer different questions: the tests over users ask whether the difference would hold for other users (with
these trained models), the test over seeds whether it would hold for other random states (with these users). One seed
answers only the first.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from augrec.errors import NumericalError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

# Random numbers drawn at once in resampling: 4 M, about 32 MB.
_DRAWS = 1 << 22


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """Two recommenders on the same users: means, the difference a - b with its interval, and two-sided p-values."""

    mean_a: float
    mean_b: float
    difference: float
    low: float
    """Lower end of the bootstrap interval of the difference."""
    high: float
    """Upper end of the bootstrap interval of the difference."""
    p_t: float
    """Paired t-test."""
    p_wilcoxon: float
    """Wilcoxon's signed-rank test (zero differences dropped)."""
    p_permutation: float
    """Sign-flip permutation test of the mean difference."""
    users: int
    seeds_a: int
    seeds_b: int


def compare_users(
    a: ArrayLike,
    b: ArrayLike,
    *,
    rng: np.random.Generator | int = 0,
    permutations: int = 9999,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> PairedComparison:
    """Compare per-user values `a` and `b`, (n,) of one seed or (S, n) of S seeds, of the same n >= 2 users in order.

    Seeds are averaged first, so a user counts once however many seeds there are. Equal inputs give p = 1. Raises
    UsageError for shapes that do not pair and NumericalError for values that are not finite.
    """
    first, second = _seed_means(a, "a"), _seed_means(b, "b")
    if first[0].shape != second[0].shape:
        raise UsageError(
            f"a holds {len(first[0])} users and b {len(second[0])}: paired tests need the same users in the same order."
        )
    difference = first[0] - second[0]
    generator = np.random.default_rng(rng)
    low, high = bootstrap_interval(difference, rng=generator, resamples=resamples, confidence=confidence)
    return PairedComparison(
        mean_a=float(first[0].mean()),
        mean_b=float(second[0].mean()),
        difference=float(difference.mean()),
        low=low,
        high=high,
        p_t=t_test(difference),
        p_wilcoxon=wilcoxon(difference),
        p_permutation=sign_flip(difference, rng=generator, permutations=permutations),
        users=len(difference),
        seeds_a=first[1],
        seeds_b=second[1],
    )


def t_test(difference: NDArray[np.float64]) -> float:
    """Two-sided p-value of the t-test of `difference` (n,) against 0 (the paired t-test); 1 when all are zero."""
    if not difference.any():
        return 1.0
    return _p_value(stats.ttest_1samp, difference, 0.0)


def wilcoxon(difference: NDArray[np.float64]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test of `difference` (n,), zeros dropped; 1 when all are zero."""
    return _p_value(stats.wilcoxon, difference) if difference.any() else 1.0


def sign_flip(difference: NDArray[np.float64], *, rng: np.random.Generator, permutations: int = 9999) -> float:
    """Two-sided p-value of the mean of `difference` (n,) among `permutations` random flips of signs.

    (b + 1) / (m + 1) with b the flips at least as extreme (Phipson & Smyth 2010), so never 0. Zero differences cannot
    matter and are left out, which makes the test fast on hit rates.
    """
    nonzero = difference[difference != 0.0]
    if not len(nonzero):
        return 1.0
    total = nonzero.sum()
    # Sums of the same numbers in another order differ by rounding; without the margin such ties would be lost.
    bound = abs(total) * (1.0 - 1e-12)
    extreme, done = 0, 0
    while done < permutations:
        rows = min(permutations - done, max(1, _DRAWS // len(nonzero)))
        bits = np.frombuffer(rng.bytes(rows * len(nonzero)), dtype=np.uint8).reshape(rows, len(nonzero)) & 1
        flipped = 2.0 * (bits.astype(np.float64) @ nonzero) - total
        extreme += int(np.count_nonzero(np.abs(flipped) >= bound))
        done += rows
    return (extreme + 1) / (permutations + 1)


def bootstrap_interval(
    difference: NDArray[np.float64], *, rng: np.random.Generator, resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `difference` (n,) over users."""
    if np.ptp(difference) == 0.0:
        return float(difference[0]), float(difference[0])
    result = stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _DRAWS // len(difference)),
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        random_state=rng,  # `rng` from scipy 1.15 on, which takes the older name too
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def seed_t_test(a: ArrayLike, b: ArrayLike, *, paired: bool = True) -> float:
    """Two-sided p-value of a t-test over seeds, from one mean per seed: `a` (S,) and `b` (S',), at least two each.

    `paired` when entry s of both used seed s (then S = S'), otherwise Welch's test. 1 when the means are equal
    throughout.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or second.ndim != 1 or min(len(first), len(second)) < 2:
        raise UsageError(
            "A t-test over seeds needs one mean per seed and two or more seeds on each side; run more seeds."
        )
    _finite(first, "a")
    _finite(second, "b")
    if not paired:
        if np.ptp(np.concatenate([first, second])) == 0.0:
            return 1.0
        return _p_value(stats.ttest_ind, first, second, equal_var=False)
    if len(first) != len(second):
        raise UsageError(f"a has {len(first)} seeds and b {len(second)}: pair equal seeds or pass paired=False.")
    return t_test(first - second)


def holm(p_values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's step-down adjusted p-values (m,) in the given order; rejecting p <= alpha bounds the family error."""
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or np.isnan(p).any() or (p < 0).any() or (p > 1).any():
        raise UsageError("p-values must be a list of numbers from 0 to 1.")
    order = np.argsort(p, kind="stable")
    factor = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factor), 1.0)
    return adjusted


def _p_value(test: Any, *args: Any, **options: Any) -> float:
    with warnings.catch_warnings():
        # A constant difference has no spread: scipy warns and rightly returns 0.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(test(*args, **options).pvalue)


def _seed_means(values: ArrayLike, name: str) -> tuple[NDArray[np.float64], int]:
    array = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 2:
        raise UsageError(
            f"{name} must be (users,) or (seeds, users) with at least two users, but has shape {np.shape(values)}."
        )
    _finite(array, name)
    return array.mean(axis=0), array.shape[0]


def _finite(values: NDArray[np.float64], name: str) -> None:
    if not np.isfinite(values).all():
        raise NumericalError(
            f"{name} holds values that are not finite, so it cannot be tested; evaluate the runs again."
        )
