"""Hard negatives against brute force in float64, with fixed candidates and mixing coefficients."""

from __future__ import annotations

import math

import pytest
import torch

from augrec.augment.ahns import ahns_select
from augrec.augment.candidates import Hops, score_candidates
from augrec.augment.curriculum import curriculum_size
from augrec.augment.dins import dins
from augrec.augment.dns import dns_select
from augrec.augment.mixgcf import mixgcf

M, K, C, D, USERS, ITEMS, LAYERS = 9, 2, 6, 5, 7, 23, 3


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


CANDIDATES, TARGET, USER = whole(ITEMS, M, K, C, seed=1), whole(ITEMS, M, seed=2), whole(USERS, M, seed=3)
SHARE = torch.rand(M, K, LAYERS + 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def setting(pool, layers=LAYERS):
    """Hops of both sides with gradient, and the pooled query."""
    hops = [draw(USERS + ITEMS, D, seed=10 + number).requires_grad_() for number in range(layers + 1)]
    own = [hop[USER] for hop in hops]
    query = torch.cat(own, 1) if pool == "concat" else torch.stack(own).mean(0)
    return hops, query, Hops(tables=tuple(hops), shift=USERS, pool=pool)


def pooled(vectors, pool):
    return torch.cat(vectors) if pool == "concat" else torch.stack(vectors).mean(0)


def own_query(hops, query, pool, row, number):
    """What hop `number` is scored with: the pooled query, or under concat the user's vector in that hop."""
    return hops[number][USER[row]] if pool == "concat" else query[row]


def naive_mixgcf(hops, query, pool, candidates, share):
    """As published: every candidate is mixed with the positive in every hop, and each hop keeps the hardest mixture."""
    vectors, layer0 = [], []
    for row in range(M):
        for one in range(candidates.shape[1]):
            kept = []
            for number, hop in enumerate(hops):
                a = share[row, one, number]
                mixed = [
                    a * hop[USERS + TARGET[row]] + (1 - a) * hop[USERS + item] for item in candidates[row, one].tolist()
                ]
                asked = own_query(hops, query, pool, row, number)
                scores = [float((asked @ vector).detach()) for vector in mixed]
                kept.append(mixed[scores.index(max(scores))])
            vectors.append(pooled(kept, pool))
            layer0.append(kept[0])
    return torch.stack(vectors).view(M, -1, len(vectors[0])), torch.stack(layer0).view(M, -1, D)


def naive_dins(hops, query, pool, alpha):
    vectors, layer0 = [], []
    for row in range(M):
        for one in range(K):
            kept = []
            for number, hop in enumerate(hops):
                asked, positive = own_query(hops, query, pool, row, number), hop[USERS + TARGET[row]]
                scores = [float(asked.detach() @ hop.detach()[USERS + item]) for item in CANDIDATES[row, one].tolist()]
                hardest = hop[USERS + CANDIDATES[row, one, scores.index(max(scores))]]
                high, low = torch.exp(asked * hardest), alpha * torch.exp(asked * positive)
                kept.append(high / (high + low) * hardest + low / (high + low) * positive)
            vectors.append(pooled(kept, pool))
            layer0.append(kept[0])
    return torch.stack(vectors).view(M, K, -1), torch.stack(layer0).view(M, K, D)


def same_with_gradient(found, wanted, hops):
    """Equal values, and equal gradients into every hop of a loss that weighs all coordinates differently."""
    gradients = []
    for made in (found, wanted):
        for one, other in zip(made, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        loss = sum((part * draw(*part.shape, seed=30)).tanh().sum() for part in made)
        gradients.append(torch.autograd.grad(loss, hops, retain_graph=True))
    for one, other in zip(*gradients, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layers", [0, 1, LAYERS])
@pytest.mark.parametrize("pool", ["mean", "concat"])
def test_mixing_the_winners_equals_mixing_everything(pool, layers) -> None:
    hops, query, view = setting(pool, layers)
    share = SHARE[:, :, : layers + 1]
    found = mixgcf(view, TARGET, view.hardest(query, CANDIDATES), share)
    assert found[0].shape == (M, K, D * (layers + 1) if pool == "concat" else D)
    same_with_gradient(found, naive_mixgcf(hops, query, pool, CANDIDATES, share), hops)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 7.0])
@pytest.mark.parametrize("pool", ["mean", "concat"])
def test_dins_equals_brute_force_with_the_gradient_through_its_weights(pool, alpha) -> None:
    hops, query, view = setting(pool)
    found = dins(view, query, TARGET, view.hardest(query, CANDIDATES), alpha=alpha)
    same_with_gradient(found, naive_dins(hops, query, pool, alpha), hops)


def test_dins_survives_large_scores() -> None:
    hops, query, view = setting("mean")
    view = Hops(tables=tuple(hop * 1e4 for hop in hops), shift=USERS, pool="mean")
    vectors, _ = dins(view, query * 1e4, TARGET, view.hardest(query, CANDIDATES), alpha=2.0)
    assert torch.isfinite(vectors).all()
    assert all(torch.isfinite(one).all() for one in torch.autograd.grad(vectors.sum(), hops))


def naive_order(query, table, row, one):
    scores = [float(query[row] @ table[item]) for item in CANDIDATES[row, one].tolist()]
    return [int(CANDIDATES[row, one, place]) for place in sorted(range(C), key=lambda place: -scores[place])]


def test_dns_takes_the_highest() -> None:
    query, table = draw(M, D, seed=5), draw(ITEMS, D, seed=6)
    found = dns_select(query, table, CANDIDATES)
    assert found.tolist() == [[naive_order(query, table, row, one)[0] for one in range(K)] for row in range(M)]


def test_dns_is_mixgcf_without_mixing_and_without_layers() -> None:
    hops, query, view = setting("mean", 0)
    vectors, layer0 = mixgcf(view, TARGET, view.hardest(query, CANDIDATES), torch.zeros(M, K, 1).double())
    item = hops[0][USERS:]
    assert torch.equal(vectors, item[dns_select(query, item, CANDIDATES)])
    assert torch.equal(layer0, vectors)


@pytest.mark.parametrize("top", [1, 2, 4, C])
def test_dns_of_the_top_is_uniform_among_them(top) -> None:
    """6,000 draws from each set, one chi-square over all sets, about three standard deviations allowed."""
    query, table = draw(M, D, seed=5), draw(ITEMS, D, seed=6)
    # Distinct candidates, so that a rank can be read back from the item.
    distinct = torch.stack([torch.randperm(ITEMS, generator=torch.Generator().manual_seed(n))[:C] for n in range(M)])
    count, draws = torch.zeros(M, C), 6000
    order = distinct.gather(1, (table[distinct] @ query[:, :, None]).squeeze(2).argsort(1, descending=True))
    generator = torch.Generator().manual_seed(7)
    many = distinct[:, None].expand(M, draws, C)
    chosen = dns_select(query, table, many, top=top, generator=generator)
    for rank in range(C):
        count[:, rank] = (chosen == order[:, rank, None]).sum(1)
    assert (count[:, top:] == 0).all()
    expected = draws / top
    statistic = float(((count[:, :top] - expected) ** 2 / expected).sum())
    freedom = M * (top - 1)
    assert statistic <= freedom + 3.1 * math.sqrt(2 * freedom) + 1e-9


GUARDED = {
    "sports": {"alpha": 0.5, "beta": 0.1, "p": -2.0},
    "ml-1m": {"alpha": 0.1, "beta": 0.4, "p": -2.0},
    "broken power": {"alpha": 0.3, "beta": 0.7, "p": -1.5},
    "harder with the score": {"alpha": 0.3, "beta": 0.7, "p": 0.0},
}


@pytest.mark.parametrize("name", GUARDED)
def test_ahns_equals_brute_force_where_the_guard_works_too(name) -> None:
    given = GUARDED[name]
    positive = torch.cat([draw(M - 3, seed=8), -torch.tensor([given["alpha"], 0.9, 50.0]).double()])
    scores = draw(M, K, C, seed=9)
    found = ahns_select(positive, scores, **given)
    for row in range(M):
        base = max(float(positive[row]) + given["alpha"], 1e-6)
        wanted = given["beta"] * base ** (given["p"] + 1)
        for one in range(K):
            apart = [abs(float(score) - wanted) for score in scores[row, one]]
            assert int(found[row, one]) == apart.index(min(apart))
    assert len(set(found.flatten().tolist())) > 2


def test_ahns_guarded_takes_the_hardest_and_unguarded_the_easiest_just_below_the_pole() -> None:
    """At s_p + alpha just below 0 the published formula asks for a very low score; guarded it asks for a very high one,
    which float32 scores in the thousands still tell apart."""
    scores = draw(M, K, C, seed=9).float()
    positive = torch.full((M,), -0.5 - 1e-5)
    given = {"alpha": 0.5, "beta": 0.1, "p": -2.0}
    assert torch.equal(ahns_select(positive, scores, **given), scores.argmax(2))
    assert torch.equal(ahns_select(positive, scores, **given, guard=None), scores.argmin(2))
    close = scores * 1e-4
    assert torch.equal(ahns_select(positive, close, **given), close.argmax(2))


def test_the_curriculum_falls_from_all_candidates_to_one() -> None:
    for candidates, epochs in ((32, 100), (5, 3), (1, 10), (64, 7)):
        sizes = [curriculum_size(epoch, epochs, candidates) for epoch in range(1, 3 * epochs)]
        assert sizes[0] == candidates
        assert sizes[epochs:] == [1] * len(sizes[epochs:])
        assert sizes == sorted(sizes, reverse=True)
        for epoch in range(1, epochs + 1):
            exact = (epochs - epoch + 1) * candidates / epochs
            assert sizes[epoch - 1] == max(1, math.floor(exact + 1e-9))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (50, 33), (50, 2, 8), (50, 3, 40), (1, 1)])
def test_scores_of_candidates_are_inner_products(shape, dtype) -> None:
    """Repeated and unsorted ids, more candidates than items (the last but one), and tables that are slices."""
    query, table = draw(shape[0], 2 * D, seed=1).to(dtype)[:, D:], draw(USERS + ITEMS, 8, seed=2).to(dtype)[USERS:, :D]
    ids = whole(ITEMS, *shape, seed=3)
    found = score_candidates(query.requires_grad_(), table, ids)
    wanted = torch.einsum("md,m...d->m...", query.detach().double(), table.double()[ids])
    assert found.shape == shape
    assert not found.requires_grad
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.1}[dtype]
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)
