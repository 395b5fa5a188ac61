"""Streamed neighbours, likeliest items and confidence against dense float64 ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

from augrec.augment.catalogue import likeliest, likeliest_among, nearest_items, sample_items
from augrec.losses.softmax import full_softmax, full_softmax_and_confidence

ITEMS, WIDTH, PLACES = 43, 6, 17


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def table():
    return torch.randn(ITEMS, WIDTH, dtype=torch.float64, generator=generator(1))


def queries(scale=1.5):
    return torch.randn(PLACES, WIDTH, dtype=torch.float64, generator=generator(2)) * scale


def own():
    return torch.randint(ITEMS, (PLACES,), generator=generator(3))


def brute_neighbours(items, k, metric, ids, pool):
    rows = []
    for i in ids:
        scores = []
        for j in pool:
            score = float(items[i] @ items[j])
            if metric == "cosine":
                score /= float(items[i].norm() * items[j].norm())
            if i != j:
                scores.append((-score, j))
        rows.append([j for _, j in sorted(scores)[:k]])
    return rows


@pytest.mark.parametrize("metric", ["dot", "cosine"])
@pytest.mark.parametrize("chunk", [1, 7, ITEMS, None])
def test_neighbours_equal_brute_force_at_any_chunk(metric, chunk) -> None:
    items = table()
    wanted = brute_neighbours(items, 5, metric, range(ITEMS), range(ITEMS))
    assert nearest_items(items, 5, metric=metric, chunk=chunk).tolist() == wanted
    assert nearest_items(items.float(), 5, metric=metric, chunk=chunk).tolist() == wanted
    some, pool = [3, 40, 3, 0], [0, 2, 3, 5, 8, 13, 21, 34, 40]
    found = nearest_items(items, 4, metric=metric, chunk=chunk, of=torch.tensor(some), among=torch.tensor(pool))
    assert found.tolist() == brute_neighbours(items, 4, metric, some, pool)


def test_neighbours_of_small_catalogues() -> None:
    assert nearest_items(table()[:3], 10).shape == (3, 2)
    assert nearest_items(table()[:1], 10).tolist() == [[0]]
    assert nearest_items(table()[:2], 1).tolist() == [[1], [0]]


def test_dot_favours_long_vectors_and_cosine_does_not() -> None:
    items = F.normalize(torch.rand(ITEMS, WIDTH, generator=generator()), dim=1)
    items[7] *= 50
    others = torch.arange(ITEMS) != 7
    assert (nearest_items(items, 1, metric="dot")[others] == 7).all()
    assert (nearest_items(items, 1, metric="cosine")[others] == 7).float().mean() < 0.5


@pytest.mark.parametrize("chunk", [1, 5, 9, ITEMS, None])
@pytest.mark.parametrize("scale", [1e-3, 1.5, 60.0])
def test_streamed_confidence_and_top_k_equal_a_dense_softmax(chunk, scale) -> None:
    query, items = queries(scale), table()
    probability = (query @ items.T).softmax(1)
    found = likeliest(query, items, 6, chunk=chunk)
    assert torch.allclose(found.confidence, probability.amax(1), rtol=1e-10)
    assert torch.equal(found.ids, (query @ items.T).topk(6).indices)
    single = likeliest(query.float(), items.float(), 0, chunk=chunk)
    assert torch.allclose(single.confidence.double(), probability.amax(1), rtol=1e-4)
    assert single.ids.shape == (PLACES, 0)


@pytest.mark.parametrize("chunk", [1, 5, ITEMS])
def test_the_excluded_item_is_never_given_but_counts_in_the_confidence(chunk) -> None:
    items = F.normalize(table(), dim=1)
    query = items[own()] * 9
    scores = query @ items.T
    # Where it matters: the excluded item is the likeliest one of many places.
    assert (scores.argmax(1) == own()).sum() > PLACES / 2
    found = likeliest(query, items, 4, exclude=own(), chunk=chunk)
    assert torch.allclose(found.confidence, scores.softmax(1).amax(1))
    assert torch.equal(found.ids, scores.scatter(1, own()[:, None], -torch.inf).topk(4).indices)
    assert not (found.ids == own()[:, None]).any()
    assert likeliest(query, items[:3], 9).ids.shape[1] == 3
    assert likeliest(query, items[:3], 9, exclude=own() % 3).ids.shape[1] == 2


def test_no_scores_of_all_items_are_held_at_once() -> None:
    from augrec.testing.augmentation_case import Largest

    items, query = torch.randn(5000, 4, generator=generator()), torch.randn(300, 4, generator=generator())
    with Largest() as largest:
        likeliest(query, items, 3)
        nearest_items(items, 3)
    assert largest.bytes <= 2**21 * 2
    assert 5000 * 300 * 4 > 2**21 * 2


def test_the_fused_softmax_knows_the_confidence() -> None:
    query, items, target = queries(), table(), own()
    query.requires_grad_()
    for chunk in (1, 5, None):
        loss, confidence = full_softmax_and_confidence(query, items, target, chunk=chunk)
        assert torch.equal(loss, full_softmax(query, items, target, chunk=chunk))
        assert torch.allclose(confidence, (query @ items.T).softmax(1).amax(1).detach())
        assert not confidence.requires_grad
    (gradient,) = torch.autograd.grad(loss, query)
    (wanted,) = torch.autograd.grad(F.cross_entropy(query @ items.T, target), query)
    assert torch.allclose(gradient, wanted)


@pytest.mark.parametrize("exclude", [False, True])
def test_a_sample_of_everything_else_is_exact(exclude) -> None:
    """With all other items in the sample the estimate is the softmax itself."""
    items, query, ids = table(), queries(), torch.full((PLACES,), 11)
    among = torch.tensor([i for i in range(ITEMS) if i != 11])
    found = likeliest_among(query, items, ids, among, 5, exclude_own=exclude)
    scores = query @ items.T
    assert torch.allclose(found.confidence, scores.softmax(1).amax(1))
    if exclude:
        scores[:, 11] = -torch.inf
    assert torch.equal(found.ids, scores.topk(5).indices)


def test_a_sampled_confidence_is_near_the_true_one() -> None:
    items = F.normalize(torch.randn(4000, 24, dtype=torch.float64, generator=generator(5)), dim=1)
    ids = torch.randint(4000, (PLACES,), generator=generator(6))
    query = items[ids] * 13
    true = (query @ items.T).softmax(1).gather(1, ids[:, None]).squeeze(1)
    torch.manual_seed(0)
    found = likeliest_among(query, items, ids, sample_items(4000, 1500), 1).confidence
    sure = true > 0.5
    assert sure.sum() > 3
    assert torch.allclose(found[sure], true[sure], rtol=0.3)


def test_samples_are_distinct_and_uniform() -> None:
    torch.manual_seed(0)
    drawn = [sample_items(20, 30) for _ in range(400)]
    assert all(len(one.unique()) == len(one) <= 20 for one in drawn)
    assert chisquare(torch.bincount(torch.cat(drawn), minlength=20).numpy()).pvalue > 1e-3
