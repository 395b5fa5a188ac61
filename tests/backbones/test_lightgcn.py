"""LightGCN against a dense adjacency in float64 and torch's own gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch.nn import functional as F

from augrec.backbones import graph
from augrec.backbones.graph import cut_items, normalised_adjacency, product
from augrec.backbones.lightgcn import LightGCN, LightGCNConfig
from augrec.testing import log_of, tiny_log
from augrec.testing.strategies import logs


def sparse_to_dense(log):
    starts, column, value = (part.numpy() for part in normalised_adjacency(log))
    out = np.zeros((len(starts) - 1,) * 2)
    for row in range(len(starts) - 1):
        for place in range(starts[row], starts[row + 1]):
            out[row, column[place]] += value[place]
    return out


def slow_adjacency(log):
    """D^-1/2 A D^-1/2 entry by entry."""
    pairs = set(zip(log.user.tolist(), log.item.tolist(), strict=True))
    users = {u: sum(a == u for a, _ in pairs) for u in range(log.n_users)}
    items = {i: sum(b == i for _, b in pairs) for i in range(log.n_items)}
    out = np.zeros((log.n_users + log.n_items,) * 2)
    for user, item in pairs:
        value = 1 / (users[user] * items[item]) ** 0.5
        out[user, log.n_users + item] = out[log.n_users + item, user] = value
    return out


def make(log, layers):
    generator = torch.Generator().manual_seed(0)
    config = LightGCNConfig(dim=5, layers=layers)
    return LightGCN(config, n_users=log.n_users, n_items=log.n_items, train=log, generator=generator)


LOGS = {
    "tiny": tiny_log(),
    "repeats": log_of([[0, 0, 1, 0], [1, 1], [], [2, 0, 2]], n_items=5),
    "no events": log_of([[], []], n_items=3),
    "one edge": log_of([[0]], n_items=1),
}


@given(log=logs())
@settings(max_examples=60)
def test_adjacency_equals_the_slow_formula(log) -> None:
    found = sparse_to_dense(log)
    np.testing.assert_allclose(found, slow_adjacency(log), atol=1e-7)
    np.testing.assert_array_equal(found, found.T)
    assert not np.diag(found).any()


@given(log=logs())
@settings(max_examples=40)
def test_adjacency_identities(log) -> None:
    """sqrt(degree) is a fixed point, rows of isolated nodes are empty, no eigenvalue leaves [-1, 1]."""
    adjacency = sparse_to_dense(log)
    degree = (adjacency > 0).sum(1)
    np.testing.assert_allclose(adjacency @ np.sqrt(degree), np.sqrt(degree), atol=1e-5)
    assert not adjacency[degree == 0].any()
    assert np.abs(np.linalg.eigvalsh(adjacency)).max() <= 1 + 1e-5


@pytest.mark.parametrize("layers", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("name", LOGS)
def test_forward_and_gradient_equal_the_dense_mean_of_hops(name, layers) -> None:
    log = LOGS[name]
    model = make(log, layers)
    adjacency = torch.from_numpy(slow_adjacency(log))
    nodes = model.nodes.detach().double().requires_grad_()
    hop, total = nodes, nodes
    hops = [nodes]
    for _ in range(layers):
        hop = adjacency @ hop
        hops.append(hop)
        total = total + hop
    wanted = total / (layers + 1)
    weight = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    (wanted * weight.double()).tanh().sum().backward()
    for with_hops in (False, True):
        model.zero_grad()
        tables = model.tables(hops=with_hops)
        found = torch.cat([tables.user, tables.item])
        assert torch.allclose(found.double(), wanted, atol=1e-6)
        (found * weight).tanh().sum().backward()
        assert torch.allclose(model.nodes.grad.double(), nodes.grad, atol=1e-6)
        assert (tables.hops is not None) is with_hops
    for found, slow in zip(tables.hops, hops, strict=True):
        assert torch.allclose(found.double(), slow, atol=1e-6)


def test_gradient_through_single_hops() -> None:
    """A plug-in that scores with one hop alone gets that hop's gradient."""
    log = LOGS["tiny"]
    model = make(log, 2)
    model.tables(hops=True).hops[2].square().sum().backward()
    nodes = model.nodes.detach().double().requires_grad_()
    adjacency = torch.from_numpy(slow_adjacency(log))
    (adjacency @ (adjacency @ nodes)).square().sum().backward()
    assert torch.allclose(model.nodes.grad.double(), nodes.grad, atol=1e-5)


def test_layer_zero_rows_are_the_parameters() -> None:
    log = LOGS["tiny"]
    model = make(log, 3)
    tables = model.tables()
    assert torch.equal(torch.cat([tables.user0, tables.item0]), model.nodes)


def test_the_graph_is_not_saved_with_the_weights() -> None:
    assert set(make(LOGS["tiny"], 2).state_dict()) == {"nodes"}


@pytest.mark.parametrize("used", [("hops",), ("pooled",), ("hops", "pooled"), ("hops", "dense", "pooled")])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_sparse_lookups_of_hops_have_the_dense_gradient(layers, used) -> None:
    """Rows of every hop, repeated ones too, looked up with sparse gradients, beside dense uses of the same tables."""
    log = LOGS["tiny"]
    model = make(log, layers)
    tables = model.tables(hops=True)
    assert tables.sparse_hops
    nodes = model.nodes.detach().double().requires_grad_()
    adjacency = torch.from_numpy(slow_adjacency(log))
    hops = [nodes]
    for _ in range(layers):
        hops.append(adjacency @ hops[-1])
    ids = torch.tensor([[3, 3], [0, 30], [17, 3]])
    loss, wanted = torch.zeros(()), torch.zeros(()).double()
    for number, (fast, slow) in enumerate(zip(tables.hops, hops, strict=True)):
        if "hops" in used:
            loss = loss + (number + 1) * F.embedding(ids, fast, sparse=True).tanh().sum()
            wanted = wanted + (number + 1) * slow[ids].tanh().sum()
        if "dense" in used:
            loss, wanted = loss + fast.square().sum(), wanted + slow.square().sum()
    if "pooled" in used:
        loss = loss + torch.cat([tables.user, tables.item]).tanh().sum()
        wanted = wanted + torch.stack(hops).mean(0).tanh().sum()
    for _ in range(2):  # nothing is used up: phases share one encoding
        model.zero_grad()
        loss.backward(retain_graph=True)
        assert model.nodes.grad.layout == torch.strided
    wanted.backward()
    assert torch.allclose(model.nodes.grad.double(), nodes.grad, atol=1e-5)


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """Blocks of two users for tables of width 5, however few entries they have."""
    monkeypatch.setattr(graph, "_BLOCK", 10)
    monkeypatch.setattr(graph, "_WORTH", 0)


@given(log=logs())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_matrix_is_the_same_matrix(log, small_blocks) -> None:
    whole = normalised_adjacency(log)
    *parts, cut = cut_items(*whole, n_users=log.n_users, dim=5)
    assert (cut is None) == (log.n_users <= 4)
    assert sorted(zip(parts[1].tolist(), parts[2].tolist(), strict=True)) == sorted(
        zip(whole[1].tolist(), whole[2].tolist(), strict=True)
    )
    nodes = torch.randn(log.n_users + log.n_items, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(product(nodes, *parts, cut), product(nodes, *whole), rtol=1e-5, atol=1e-6)


def test_a_matrix_is_cut_where_the_users_table_leaves_the_cache_and_blocks_are_full() -> None:
    events = [[0, 1]] * (2 * graph._BLOCK // 64 + 1)
    for n_items, is_cut in ((2, True), (len(events), False)):
        log = log_of(events, n_items=n_items)
        assert (cut_items(*normalised_adjacency(log), n_users=log.n_users, dim=64)[3] is not None) == is_cut
    log = log_of(events[1:], n_items=2)
    assert cut_items(*normalised_adjacency(log), n_users=log.n_users, dim=64)[3] is None


@pytest.mark.parametrize("hops", [False, True])
def test_a_model_whose_graph_is_cut_trains_as_one_whose_is_not(hops, monkeypatch, small_blocks) -> None:
    log = log_of([[user % 3, (user + 1) % 4] for user in range(9)], n_items=5)

    def run(model):
        tables = model.tables(hops=hops)
        found = [tables.user, tables.item, *(tables.hops or ())]
        weights = torch.Generator().manual_seed(1)
        sum((one * torch.randn(one.shape, generator=weights)).sum() for one in found).backward()
        return [*found, model.nodes.grad]

    cut = make(log, 3)
    monkeypatch.setattr(graph, "_WORTH", 1 << 30)
    whole = make(log, 3)
    assert cut.cut is not None
    assert whole.cut is None
    for one, other in zip(run(cut), run(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
