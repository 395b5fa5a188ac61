"""Figures of a diagnosis against sets, loops, autograd and closed forms."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch

from augrec.batches.negatives import NegativeSampler
from augrec.data.interactions import Interactions, Vocabulary
from augrec.experiment import figures as f

N_USERS, N_ITEMS = 24, 30


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def log(pairs, n_users=N_USERS, n_items=N_ITEMS):
    users, items = Vocabulary.of(range(n_users)), Vocabulary.of(range(n_items))
    return Interactions.from_columns(
        user=[u for u, _ in pairs], item=[i for _, i in pairs], users=users, items=items, name="t"
    )


def pairs_of(seed, each=5):
    rng = np.random.default_rng(seed)
    return [(u, int(i)) for u in range(N_USERS) for i in rng.choice(N_ITEMS, each, replace=False)]


def test_item_sets_hold_what_python_sets_hold():
    pairs = pairs_of(0) + pairs_of(1)
    sets = f.ItemSets(log(pairs))
    slow = {u: {i for v, i in pairs if v == u} for u in range(N_USERS)}
    user = torch.randint(N_USERS, (200,), generator=gen())
    item = torch.randint(N_ITEMS, (200, 3), generator=gen(1))
    wanted = [[int(i) in slow[int(u)] for i in row] for u, row in zip(user, item, strict=True)]
    assert sets.hold(user, item).tolist() == wanted
    assert sets.hold(user, item[:, 0]).tolist() == [row[0] for row in wanted]
    assert sets.sizes.tolist() == [len(slow[u]) for u in range(N_USERS)]
    other = pairs_of(2)
    taken = {u: {i for v, i in other if v == u} for u in range(N_USERS)}
    assert sets.sizes_without(f.ItemSets(log(other))).tolist() == [len(slow[u] - taken[u]) for u in range(N_USERS)]
    assert not f.ItemSets(log([])).hold(user, item).any()


def test_expected_rate_is_what_uniform_draws_give():
    train, test = pairs_of(3), pairs_of(4)
    train += [(0, i) for i in range(N_ITEMS)]  # has everything: draws from the whole catalogue
    user = torch.tensor([0, 1, 1, 5, 7])
    terms = []
    for u in user.tolist():
        had, sought = {i for v, i in train if v == u}, {i for v, i in test if v == u}
        pool = [i for i in range(N_ITEMS) if i not in had] or list(range(N_ITEMS))
        terms.append(sum(i in sought for i in pool) / len(pool))
    sets = f.ItemSets(log(train)), f.ItemSets(log(test))
    assert f.expected_rate(user, sets[1], sets[0]) == pytest.approx(statistics.fmean(terms))
    drawn = NegativeSampler(log(train), allow_full=True).sample(user, 40_000, generator=gen())
    found = f.rate(int(sets[1].hold(user, drawn).sum()), drawn.numel())
    assert found["low"] < f.expected_rate(user, sets[1], sets[0]) < found["high"]


def test_spread_and_rate():
    values = [3.0, 1.0, 2.0, 10.0]
    found = f.spread(torch.tensor(values))
    assert found["mean"] == 4.0
    assert found["std"] == pytest.approx(statistics.pstdev(values))
    assert found["q50"] == 2.5
    assert set(f.spread(np.empty(0)).values()) == {None}
    # Wilson's interval holds the p for which |p - share| = z sqrt(p (1 - p) / n).
    found = f.rate(7, 50)
    for p in (found["low"], found["high"]):
        assert abs(p - 0.14) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / 50))
    assert f.rate(0, 9)["low"] == 0.0
    assert f.rate(9, 9)["high"] == 1.0
    assert f.rate(0, 0)["rate"] is None


def test_offset_weights_are_the_slopes_of_the_loss():
    margin = torch.randn(40, 1, dtype=torch.float64, generator=gen()) * 2
    shift = torch.randn(40, dtype=torch.float64, generator=gen(1))
    leaf = margin.clone().requires_grad_()
    torch.nn.functional.softplus(-leaf).sum().backward()
    without, with_ = f.offset_weights(margin, shift)
    torch.testing.assert_close(without, -leaf.grad)
    leaf.grad = None
    torch.nn.functional.softplus(shift[:, None] - leaf).sum().backward()
    torch.testing.assert_close(with_, -leaf.grad)


def test_ridge_terms_and_their_prediction_for_noise():
    rows, dim, weight, s = 200_000, 16, 0.5, 0.3
    query = torch.randn(rows, dim, dtype=torch.float64, generator=gen())
    margin = torch.randn(rows, dtype=torch.float64, generator=gen(1))
    shift = weight * (query * s * torch.randn(rows, dim, dtype=torch.float64, generator=gen(2))).sum(1)
    found = f.ridge(margin, shift, query.square().sum(1), torch.tensor(weight**2 * s**2))
    slow = [0.0, 0.0, 0.0]
    for m, d in zip(margin[:500].tolist(), shift[:500].tolist(), strict=True):
        up = 1 / (1 + math.exp(-m))
        slow[0] += (math.log1p(math.exp(d - m)) - math.log1p(math.exp(-m))) / 500
        slow[1] += d * (1 - up) / 500
        slow[2] += 0.5 * d * d * up * (1 - up) / 500
    part = f.ridge(margin[:500], shift[:500], query[:500].square().sum(1), torch.tensor(0.0))
    assert [part["measured"], part["first_order"], part["second_order"]] == pytest.approx(slow)
    assert part["predicted"] == 0.0
    # For noise the ridge explains the whole effect, up to sampling and fourth order.
    assert found["measured"] == pytest.approx(found["predicted"], rel=0.06)
    assert found["second_order"] == pytest.approx(found["predicted"], rel=0.02)
    assert abs(found["first_order"]) < 4 * found["standard_error"]


@pytest.mark.parametrize("cosine", [False, True])
def test_nearest_items_equals_a_loop(cosine, monkeypatch):
    monkeypatch.setattr(f, "_SCORES_AT_ONCE", 70)  # several chunks
    vectors, item = torch.randn(23, 5, generator=gen()), torch.randn(N_ITEMS, 5, generator=gen(1))
    item[3] = item[8]  # a tie
    positive = torch.randint(N_ITEMS, (23,), generator=gen(2))
    first, rank = f.nearest_items(vectors, item, positive, cosine=cosine)
    for m in range(23):
        score = [float(vectors[m] @ row) / (float(row.norm()) if cosine else 1) for row in item]
        assert score[first[m]] == pytest.approx(max(score), abs=1e-6)
        mine = score[positive[m]]
        assert int(rank[m]) == 1 + sum(other > mine + 1e-6 for other in score)


def test_neighbourhood_counts_nearest_items():
    pairs = pairs_of(5)
    item = torch.eye(N_ITEMS)
    user, positive = torch.arange(N_USERS), torch.tensor([i for _, i in pairs[::5]])
    sets = {"train": f.ItemSets(log(pairs))}
    noise = item[torch.zeros(N_USERS, dtype=torch.int64)]
    found = f.neighbourhood(item[positive], item, user, positive, sets, noise=noise, cosine=True)
    assert found["train"]["rate"] == found["positive"]["rate"] == 1.0
    assert found["positive_rank"]["q99"] == 1.0
    assert found["train"]["expected"] == pytest.approx(5 / N_ITEMS)
    assert found["train"]["noise"] == pytest.approx(sum((u, 0) in pairs for u in range(N_USERS)) / N_USERS)
    assert found["distinct_items"] == len(set(positive.tolist()))
    assert found["distinct_items_noise"] == 1


def test_uniformity_alignment_and_rank():
    vectors = torch.randn(40, 6, generator=gen())
    unit = [(row / row.norm()).double() for row in vectors]
    terms = [math.exp(-2 * float((x - y).square().sum())) for a, x in enumerate(unit) for y in unit[:a]]
    assert f.uniformity(vectors) == pytest.approx(math.log(statistics.fmean(terms)))
    assert f.uniformity(torch.ones(9, 3)) == pytest.approx(0.0, abs=1e-9)
    assert f.uniformity(vectors[:1]) is None
    for dim in (1, 2, 3, 64):
        random = torch.randn(3000, dim, generator=gen(dim))
        assert f.uniform_bound(dim) == pytest.approx(f.uniformity(random), abs=0.02)
    other = torch.randn(40, 6, generator=gen(1))
    apart = [float((x - y / y.norm()).square().sum()) for x, y in zip(unit, other, strict=True)]
    cosine = torch.nn.functional.cosine_similarity(vectors, other, dim=1)
    assert f.alignment(cosine) == pytest.approx(statistics.fmean(apart), rel=1e-5)
    share = np.linalg.svd(vectors.double().numpy(), compute_uv=False)
    share /= share.sum()
    assert f.effective_rank(vectors) == pytest.approx(math.exp(-(share * np.log(share)).sum()))
    assert f.effective_rank(torch.eye(7)) == pytest.approx(7.0)
    assert f.effective_rank(torch.zeros(4, 3)) is None


def test_cohesion_is_the_mean_cosine_of_pairs_within_sequences():
    rng = np.random.default_rng(3)
    item = rng.normal(size=(30, 5))
    sequences = [[0, 1, 2], [4, 9], [7], [3, 11, 20, 29]]
    slow = []
    for own in sequences:
        pairs = [
            item[a] @ item[b] / np.linalg.norm(item[a]) / np.linalg.norm(item[b])
            for n, a in enumerate(own)
            for b in own[n + 1 :]
        ]
        slow += [np.mean(pairs)] if pairs else []
    owner = torch.tensor([user for user, own in enumerate(sequences) for _ in own])
    own = torch.tensor([i for each in sequences for i in each])
    assert f.cohesion(torch.from_numpy(item), owner, own) == pytest.approx(np.mean(slow), rel=1e-12)
    assert f.cohesion(torch.from_numpy(item), owner[:0], own[:0]) is None
    assert f.cohesion(torch.from_numpy(item), owner[5:6] * 0, own[5:6]) is None
