from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from augrec.batches.negatives import NegativeSampler, PopularitySampler, Sampler, SharedSampler, UniformSampler
from augrec.errors import UsageError


@dataclass
class Log:
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    n_users: int
    n_items: int


def log(histories: list[list[int]], n_items: int) -> Log:
    user = [u for u, items in enumerate(histories) for _ in items]
    item = [i for items in histories for i in items]
    return Log(np.array(user, np.int32), np.array(item, np.int32), len(histories), n_items)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Empty; repeated and unsorted pairs; both ends; one item left in the middle; at the ends; then an empty last user.
HISTORIES = [
    [],
    [5, 2, 5, 5, 2],
    [0, 9],
    [0, 1, 2, 3, 4, 6, 7, 8, 9],
    list(range(1, 10)),
    list(range(9)),
    [4],
    [],
]


def test_draws_are_uniform_over_the_free_items_and_never_a_train_item() -> None:
    sampler = NegativeSampler(log(HISTORIES, 10))
    drawn = sampler.sample(torch.arange(8), 20_000, generator=generator())
    assert drawn.dtype == torch.int64
    for u, history in enumerate(HISTORIES):
        count = np.bincount(drawn[u].numpy(), minlength=10)
        free = [i for i in range(10) if i not in history]
        assert count[sorted(set(history))].sum() == 0
        assert count.size == 10
        if len(free) > 1:
            assert stats.chisquare(count[free]).pvalue > 1e-4


@settings(max_examples=60, deadline=None)
@given(
    n_items=st.integers(1, 12),
    data=st.data(),
)
def test_any_log_reaches_every_free_item_and_no_other(n_items: int, data: st.DataObject) -> None:
    items = st.lists(st.integers(0, n_items - 1), max_size=15)
    histories = [h for h in data.draw(st.lists(items, min_size=1, max_size=6)) if len(set(h)) < n_items] or [[]]
    sampler = NegativeSampler(log(histories, n_items))
    drawn = sampler.sample(torch.arange(len(histories)), 400, generator=generator(1))
    for u, history in enumerate(histories):
        assert set(drawn[u].tolist()) == set(range(n_items)) - set(history)


def test_uniform_on_a_large_sparse_log() -> None:
    rng = np.random.default_rng(0)
    n_users, n_items, rows = 300, 500, 20_000
    data = Log(
        rng.integers(n_users, size=rows).astype(np.int32), rng.integers(n_items, size=rows).astype(np.int32), 300, 500
    )
    sampler = NegativeSampler(data)
    user = torch.arange(n_users).repeat(100)
    drawn = sampler.sample(user, 20, generator=generator())
    seen = np.zeros((n_users, n_items), bool)
    seen[data.user, data.item] = True
    assert not seen[user.numpy()[:, None], drawn.numpy()].any()
    observed = np.bincount(drawn.flatten().numpy(), minlength=n_items)
    expected = (~seen / (~seen).sum(1, keepdims=True)).sum(0) * 2_000
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4


def test_row_order_and_repeats_of_the_log_do_not_matter() -> None:
    once = NegativeSampler(log([sorted(set(h)) for h in HISTORIES], 10))
    messy = NegativeSampler(log(HISTORIES, 10))
    user = torch.tensor([1, 1, 3, 0, 7])
    assert torch.equal(once.sample(user, 50, generator=generator(4)), messy.sample(user, 50, generator=generator(4)))


def test_reproducible_by_generator_and_the_default_one_left_alone() -> None:
    user = torch.arange(8)
    for sampler in (NegativeSampler(log(HISTORIES, 10)), UniformSampler(10), PopularitySampler(np.arange(10))):
        assert isinstance(sampler, Sampler)
        before = torch.get_rng_state()
        first = sampler.sample(user, 30, generator=generator(1))
        assert torch.equal(first, sampler.sample(user, 30, generator=generator(1)))
        assert not torch.equal(first[:3], sampler.sample(user, 30, generator=generator(2))[:3])
        assert torch.equal(torch.get_rng_state(), before)


def test_no_rows_and_no_draws() -> None:
    for sampler in (NegativeSampler(log(HISTORIES, 10)), UniformSampler(10), PopularitySampler([1.0, 2.0])):
        assert sampler.sample(torch.arange(8), 0).shape == (8, 0)
        assert sampler.sample(torch.zeros(0, dtype=torch.int64), 3).shape == (0, 3)


def test_a_log_without_rows_is_uniform_over_the_catalogue() -> None:
    drawn = NegativeSampler(log([[], []], 4)).sample(torch.tensor([0, 1]), 200, generator=generator())
    assert set(drawn.flatten().tolist()) == {0, 1, 2, 3}


def test_users_with_every_item_are_refused_or_draw_from_all() -> None:
    data = log([[0], [2, 1, 0, 1], [], [0, 1, 2]], 3)
    with pytest.raises(UsageError, match=r"2 of 4 users have all 3 items .*internal user 1"):
        NegativeSampler(data)
    sampler = NegativeSampler(data, allow_full=True)
    drawn = sampler.sample(torch.arange(4), 300, generator=generator())
    assert [set(row.tolist()) for row in drawn] == [{1, 2}, {0, 1, 2}, {0, 1, 2}, {0, 1, 2}]


def test_bad_requests_are_refused() -> None:
    sampler = NegativeSampler(log(HISTORIES, 10))
    with pytest.raises(UsageError, match=r"outside 0\.\.7"):
        sampler.sample(torch.tensor([0, 8]), 1)
    with pytest.raises(UsageError, match="k must be"):
        sampler.sample(torch.tensor([0]), -1)
    with pytest.raises(UsageError, match="int64 vector"):
        sampler.sample(torch.tensor([[0]]), 1)
    with pytest.raises(UsageError, match="catalogue is empty"):
        NegativeSampler(log([[]], 0))
    for counts in ([0.0, 0.0], [-1.0, 2.0], [math.nan, 1.0], [[1.0]]):
        with pytest.raises(UsageError, match="PopularitySampler"):
            PopularitySampler(counts)
    with pytest.raises(UsageError, match="alpha"):
        PopularitySampler([1.0], alpha=-1)


@pytest.mark.parametrize("alpha", [0.0, 0.75, 1.0])
def test_popularity_follows_its_log_q(alpha: float) -> None:
    counts = np.array([0, 5, 100, 0, 1, 17, 3, 0])
    sampler = PopularitySampler(counts, alpha)
    assert isinstance(sampler, SharedSampler)
    expected = np.where(counts > 0, counts.astype(float), 0.0) ** alpha
    expected /= expected.sum()
    log_q = sampler.log_q(torch.arange(8))
    assert log_q.dtype == torch.float32
    np.testing.assert_allclose(log_q.exp().numpy(), expected, rtol=1e-6)
    observed = np.bincount(sampler.shared(100_000, generator=generator()).numpy(), minlength=8)
    assert observed[expected == 0].sum() == 0
    assert stats.chisquare(observed[expected > 0], expected[expected > 0] * 100_000).pvalue > 1e-4


def test_uniform_log_q() -> None:
    sampler = UniformSampler(7)
    assert isinstance(sampler, SharedSampler)
    assert sampler.log_q(torch.zeros(2, 3, dtype=torch.int64)).exp().sum().item() == pytest.approx(6 / 7)
    observed = np.bincount(sampler.shared(70_000, generator=generator()).numpy(), minlength=7)
    assert stats.chisquare(observed).pvalue > 1e-4


def test_a_large_exponent_does_not_overflow() -> None:
    sampler = PopularitySampler([1e6, 1.0], alpha=100.0)
    assert sampler.shared(100, generator=generator()).max() == 0
