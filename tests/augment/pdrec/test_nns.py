"""NNS: bounds against a sort, draws uniform on exactly that pool, never a train item."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from augrec.augment.pdrec import NNS, BoundSampler, NNSConfig, Pools, PoolSampler, Preference, Scan, pool_bounds
from augrec.augment.pdrec.pools import _around, _ordered
from augrec.backbones.tables import Tables
from augrec.data.interactions import Interactions
from augrec.objectives.pointwise import BCE
from augrec.seams import Additions, Encoded, Negatives
from augrec.testing import log_of, tiny_log


def preference_of(log, seed=4, width=5):
    generator = torch.Generator().manual_seed(seed)
    return Preference(
        user=torch.randn(log.n_users, width, generator=generator),
        item=torch.randn(log.n_items, width, generator=generator),
    )


def sampler_of(kind, preference, log, **options):
    """By bits, or by bounds as where the bits would not fit into memory."""
    if kind == "bounds":
        return BoundSampler(preference, log, bounds=pool_bounds(preference, log, **options))
    scan = Scan(preference, log)
    pools = scan.ask(Pools(**options))
    scan.run()
    return PoolSampler(pools)


def slow_pool(log, matrix, user, skip, drop, cut):
    """Ranks and lists, as they are written down."""
    every = [i for i in range(log.n_items) if log.candidates is None or log.candidates[i]]
    every.sort(key=lambda i: -matrix[user, i].item())
    own = set(log.item[log.offsets[user] : log.offsets[user + 1]].tolist())
    if cut == "all":
        begin, end = math.floor(len(every) * skip), math.ceil(len(every) * (1 - drop))
        pool = [i for i in every[begin:] if i not in own][: end - begin]
        return set(pool)
    free = [i for i in every if i not in own]
    begin = min(math.floor(len(free) * skip), len(free) - 1)
    return set(free[begin : max(math.ceil(len(free) * (1 - drop)), begin + 1)])


@pytest.mark.parametrize(("skip", "drop", "cut"), [(0.5, 0.0, "unobserved"), (0.8, 0.0, "unobserved"), (0.0, 0.0,
                         "unobserved"), (0.3, 0.25, "unobserved"), (0.5, 0.1, "all"), (0.25, 0.3, "all")])  # fmt: skip
@pytest.mark.parametrize("mixed", [False, True])
def test_the_pools_equal_sorted_lists(skip, drop, cut, mixed) -> None:
    log = tiny_log(n_items=40)
    if mixed:
        log = Interactions(**{**log.__dict__, "candidates": np.arange(log.n_items) % 3 > 0})
    preference = preference_of(log)
    matrix = preference.user @ preference.item.T
    lower, upper = pool_bounds(preference, log, skip=skip, drop_lowest=drop, cut=cut)
    bits = sampler_of("bits", preference, log, skip=skip, drop_lowest=drop, cut=cut)
    items = np.arange(log.n_items) if log.candidates is None else np.flatnonzero(log.candidates)
    for user in range(log.n_users):
        own = set(log.item[log.offsets[user] : log.offsets[user + 1]].tolist())
        inside = (matrix[user] >= lower[user]) & (matrix[user] <= upper[user])
        if log.candidates is not None:
            inside &= torch.from_numpy(log.candidates.copy())
        found = set(inside.nonzero()[:, 0].tolist()) - own
        assert found == slow_pool(log, matrix, user, skip, drop, cut)
        row = np.unpackbits(bits.bits[user].numpy(), bitorder="little", count=len(items))
        assert set(items[row == 1].tolist()) == found
        assert bits.sizes[user] == len(found)


def test_a_repeated_train_item_counts_once() -> None:
    log = log_of([[3, 3, 3, 5, 3, 5], [0, 1]], n_items=20)
    preference = preference_of(log)
    matrix = preference.user @ preference.item.T
    for cut in ("unobserved", "all"):
        lower, upper = pool_bounds(preference, log, skip=0.5, cut=cut)
        inside = ((matrix[0] >= lower[0]) & (matrix[0] <= upper[0])).nonzero()[:, 0].tolist()
        assert set(inside) - {3, 5} == slow_pool(log, matrix, 0, 0.5, 0.0, cut)


@pytest.mark.parametrize("kind", ["normal", "ties", "masked"])
def test_values_at_a_place_are_exact_on_wide_rows(kind) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(9, 9000, generator=generator)
    if kind == "ties":
        scores = (scores * 3).round()
    if kind == "masked":
        scores[:, ::7] = -torch.inf
        scores[3] = torch.linspace(1, 0, 9000)
        scores[4, :] = -torch.inf
    ordered = scores.sort(dim=1, descending=True).values
    ordered = F.pad(F.pad(ordered, (1, 0), value=torch.inf), (0, 1), value=-torch.inf)
    places = [torch.full((9,), place) for place in (0, 1, 17, 4500, 7000, 7714, 8999, 9000)]
    for place in (*places, torch.randint(9001, (9,), generator=generator)):
        before, at = _around(_ordered(scores), place)
        assert torch.equal(before, ordered.gather(1, place[:, None])[:, 0])
        assert torch.equal(at, ordered.gather(1, place[:, None] + 1)[:, 0])


def test_blocks_of_users_equal_the_whole(monkeypatch) -> None:
    log = tiny_log(n_items=40)
    preference = preference_of(log)
    whole = pool_bounds(preference, log, skip=0.5, drop_lowest=0.1)
    monkeypatch.setattr("augrec.augment.pdrec.preference._CELLS", 5 * log.n_items)
    for found, wanted in zip(pool_bounds(preference, log, skip=0.5, drop_lowest=0.1), whole, strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("kind", ["bits", "bounds", "numbers"])
@pytest.mark.parametrize("skip", [0.5, 0.9])
def test_draws_are_uniform_on_the_pool_and_never_a_train_item(skip, kind, mixed, monkeypatch) -> None:
    log = tiny_log(n_items=40)
    if mixed:
        log = Interactions(**{**log.__dict__, "candidates": np.arange(log.n_items) % 3 > 0})
    preference = preference_of(log)
    matrix = preference.user @ preference.item.T
    sampler = sampler_of("bounds" if kind == "bounds" else "bits", preference, log, skip=skip)
    if kind == "numbers":
        # Every first round fails, and so do the further ones: all draws are by number.
        monkeypatch.setattr(sampler, "_round", lambda owner, *_: (torch.full_like(owner, -1), torch.arange(len(owner))))
    users = torch.tensor([0, 5, 11, 23])
    drawn = sampler.sample(users.repeat(500), 8, generator=torch.Generator().manual_seed(3))
    assert drawn.shape == (2000, 8)
    for place, user in enumerate(users.tolist()):
        pool = slow_pool(log, matrix, user, skip, 0.0, "unobserved")
        count = torch.bincount(drawn[place::4].reshape(-1), minlength=log.n_items)
        assert set(count.nonzero()[:, 0].tolist()) == pool
        if len(pool) > 1:
            assert stats.chisquare(count[sorted(pool)].numpy()).pvalue > 1e-3
        own = set(log.item[log.offsets[user] : log.offsets[user + 1]].tolist())
        assert not own & pool


@pytest.mark.parametrize("kind", ["bits", "bounds"])
def test_all_items_known_all_equal_and_nobody_asked(kind) -> None:
    log = log_of([[0, 1, 2], [1], []], n_items=3)
    flat = Preference(user=torch.ones(3, 2), item=torch.ones(3, 2))
    sampler = sampler_of(kind, flat, log, skip=0.5)
    drawn = sampler.sample(torch.tensor([0, 1, 2]), 60)
    assert set(drawn[0].tolist()) == {0, 1, 2}
    assert set(drawn[1].tolist()) == {0, 2}, "ties at the bound are all inside"
    assert sampler.sample(torch.zeros(0, dtype=torch.int64), 2).shape == (0, 2)


def test_pools_too_large_for_bits_are_known_by_their_bounds(monkeypatch) -> None:
    log = tiny_log(n_items=40)
    for limit, wanted in ((10**6, PoolSampler), (log.n_users * 5 - 1, BoundSampler)):
        monkeypatch.setattr("augrec.augment.pdrec.pools._BITS", limit)
        plugin = NNS(NNSConfig(), kind="sequences", dim=4, n_items=log.n_items)
        plugin.use(Scan(preference_of(log), log))
        plugin.start_epoch(1)
        assert isinstance(plugin.sampler, wanted)


def test_sources_are_averaged_by_their_weights() -> None:
    """Two sources of weight 1 and w: (bce(base) + w bce(nns)) / (1 + w); 1 is the published mean."""
    log = tiny_log()
    generator = torch.Generator().manual_seed(0)
    query, items = torch.randn(4, 3, generator=generator), torch.randn(log.n_items, 3, generator=generator)
    tables = Tables(item=items, item0=items)
    base, extra = torch.tensor([[1], [2], [3], [4]]), torch.tensor([[5], [6], [7], [8]])
    encoded = Encoded(tables=tables, query=query, target=torch.arange(4), negatives=Negatives(ids=base))

    def bce(ids):
        positive, negative = (query * items[:4]).sum(1), (query * items[ids[:, 0]]).sum(1)
        return (F.softplus(-positive) + F.softplus(negative)).mean()

    objective, batch = BCE(BCE.Config(), train=log), SimpleNamespace(target=torch.arange(4))
    for share in (1.0, 0.25):
        additions = Additions(appended=(Negatives(ids=extra, mode="append", share=share),))
        wanted = (bce(base) + share * bce(extra)) / (1 + share)
        assert objective(batch, encoded, additions).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_an_epoch_has_one_draw_an_event_and_a_resumed_one_the_same() -> None:
    log = tiny_log(n_items=40)
    preference = preference_of(log)

    def made():
        plugin = NNS(NNSConfig(negatives=2), kind="sequences", dim=4, n_items=log.n_items)
        plugin.use(Scan(preference, log))
        return plugin

    def drawn(plugin, events):
        batch = SimpleNamespace(event=events, target_user=torch.from_numpy(log.user[events.numpy()]).long())
        return plugin.targets(batch, None).appended[0].ids

    plugin, events = made(), torch.arange(len(log))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        plugin.start_epoch(1)
        first = drawn(plugin, events)
        assert torch.equal(drawn(plugin, events.flip(0)), first.flip(0)), "fixed within the epoch"
        again = made()
        again.load_state_dict(plugin.state_dict())
        again.start_epoch(1)
        assert torch.equal(drawn(again, events), first), "a checkpoint within the epoch goes on with its draws"
        plugin.start_epoch(2)
        assert not torch.equal(drawn(plugin, events), first)
        again.start_epoch(2)
        assert not torch.equal(drawn(again, events), first)
    matrix = preference.user @ preference.item.T
    for event, items in zip(events.tolist(), first.tolist(), strict=True):
        assert set(items) <= slow_pool(log, matrix, int(log.user[event]), 0.5, 0.0, "unobserved")


def test_a_loop_that_tells_of_no_epochs_draws_anew_every_time() -> None:
    log = tiny_log(n_items=40)
    plugin = NNS(NNSConfig(), kind="sequences", dim=4, n_items=log.n_items)
    plugin.use(Scan(preference_of(log), log))
    events = torch.arange(len(log))
    batch = SimpleNamespace(event=events, target_user=torch.from_numpy(log.user).long())
    ids = [plugin.targets(batch, None).appended[0].ids for _ in range(2)]
    assert not torch.equal(*ids)


def test_presets_set_the_switches() -> None:
    assert NNS.preset("published-code", kind="sequences") == {"skip": 0.9, "drop_lowest": 0.01, "cut": "all"}
    assert NNS.preset("paper", kind="sequences") == {"skip": 0.5}
    assert NNS.deviations(NNSConfig(cut="all")) == ("nns.cut=all",)
