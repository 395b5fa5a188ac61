"""Places and items against loops over rows and places."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare

from augrec.augment.simdiffrec import choose_ranks, highest_places, random_items, replaced_counts
from augrec.testing.sequence_checks import tokens_of

ROWS = ([3, 1, 4, 1, 5], [2], [7, 1, 8, 2, 8, 1], [2, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5])
TOKENS = tokens_of(ROWS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def loop_places(score, counts):
    chosen, start = [], 0
    for row, count in zip(ROWS, counts, strict=True):
        places = sorted(range(len(row)), key=lambda place: (-score[start + place], place))[:count]
        chosen += [place in places for place in range(len(row))]
        start += len(row)
    return chosen


@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.5, 1.0])
def test_places_by_ratio_equal_a_loop(ratio) -> None:
    score = torch.rand(len(TOKENS.ids), generator=generator())
    counts = replaced_counts(TOKENS.lengths, ratio=ratio)
    wanted = [max(1, int(round(ratio * 100) * len(row) // 100)) for row in ROWS]
    assert counts.tolist() == wanted
    assert highest_places(score, TOKENS, counts).tolist() == loop_places(score.tolist(), wanted)


@pytest.mark.parametrize("places", [1, 3, 10, 99])
def test_a_fixed_number_of_places_equals_a_loop(places) -> None:
    score = torch.rand(len(TOKENS.ids), generator=generator())
    counts = replaced_counts(TOKENS.lengths, ratio=None, places=places)
    wanted = [min(places, len(row)) for row in ROWS]
    assert counts.tolist() == wanted
    assert highest_places(score, TOKENS, counts).tolist() == loop_places(score.tolist(), wanted)


def test_ties_go_to_the_older_event() -> None:
    score = torch.ones(len(TOKENS.ids))
    counts = torch.tensor([2, 1, 3, 1, 4])
    assert highest_places(score, TOKENS, counts).tolist() == loop_places(score.tolist(), counts.tolist())


def test_ranks() -> None:
    ids = torch.arange(200 * 7).view(200, 7)
    first, negative = choose_ranks(ids, sample=None, negative_rank=5)
    assert torch.equal(first, ids[:, 0])
    assert torch.equal(negative, ids[:, 4])
    assert choose_ranks(ids, sample=None, negative_rank=None)[1] is None
    assert torch.equal(choose_ranks(ids, sample=None, negative_rank=50)[1], ids[:, 6])
    drawn = [choose_ranks(ids, sample=4, negative_rank=2, generator=generator(s))[0] % 7 for s in range(20)]
    counts = Counter(torch.cat(drawn).tolist())
    assert set(counts) == {0, 2, 3}
    assert chisquare(list(counts.values())).pvalue > 1e-3
    beyond = choose_ranks(ids, sample=3, negative_rank=6, generator=generator())
    assert set((beyond[0] % 7).tolist()) == {0, 1, 2}
    alone = choose_ranks(ids[:, :1], sample=4, negative_rank=2, generator=generator())
    assert torch.equal(alone[0], ids[:, 0])
    assert torch.equal(alone[1], ids[:, 0])


@pytest.mark.parametrize("exclude", [False, True])
def test_random_items_are_uniform_different_and_spare_the_original(exclude) -> None:
    own = torch.full((6000,), 3)
    first, second = random_items(own, 9, exclude_own=exclude, generator=generator(1))
    assert not (first == second).any()
    for drawn in (first, second):
        counts = torch.bincount(drawn, minlength=9)
        assert len(counts) == 9
        assert (counts[3] == 0) == exclude
        assert chisquare(counts[counts > 0].numpy()).pvalue > 1e-3


def test_random_items_of_tiny_catalogues_stay_inside() -> None:
    for n_items in (1, 2, 3):
        own = torch.arange(n_items)
        for exclude in (False, True):
            first, second = random_items(own, n_items, exclude_own=exclude, generator=generator())
            for drawn in (first, second):
                assert ((drawn >= 0) & (drawn < n_items)).all()
                assert n_items == 1 or not exclude or not (drawn == own).any()
