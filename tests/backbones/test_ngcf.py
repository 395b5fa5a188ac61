"""NGCF against a dense float64 reference with torch's own gradient, both adjacencies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from augrec.backbones.base import InnerProductScorer
from augrec.backbones.graph import random_walk_adjacency
from augrec.backbones.ngcf import NGCF, NGCFConfig
from augrec.experiment.build import build
from augrec.experiment.config import resolve
from augrec.testing import log_of, tiny_log
from augrec.testing.logs import all_users
from augrec.testing.strategies import logs
from augrec.train.streams import Streams

LOGS = {
    "tiny": tiny_log(),
    "repeats": log_of([[0, 0, 1, 0], [1, 1], [], [2, 0, 2]], n_items=5),
    "no events": log_of([[], []], n_items=3),
    "one edge": log_of([[0]], n_items=1),
}
DIM = 5


def slow_adjacency(log, kind):
    """Dense, from the definition."""
    nodes = log.n_users + log.n_items
    plain = np.zeros((nodes, nodes))
    for user, item in zip(log.user.tolist(), log.item.tolist(), strict=True):
        plain[user, log.n_users + item] = plain[log.n_users + item, user] = 1
    if kind == "random_walk":
        plain += np.eye(nodes)
        return torch.from_numpy(plain / plain.sum(1, keepdims=True))
    degree = plain.sum(1)
    scale = np.divide(1, np.sqrt(degree), out=np.zeros(nodes), where=degree > 0)
    return torch.from_numpy(scale[:, None] * plain * scale)


def make(log, *, layers=3, **fields):
    config = NGCFConfig(dim=DIM, layers=layers, **fields)
    generator = torch.Generator().manual_seed(0)
    return NGCF(config, n_users=log.n_users, n_items=log.n_items, train=log, generator=generator)


def slow_hops(model, log, kind):
    """Hops by the published formula, and the leaves the gradient is taken to, in float64."""
    leaves = {name: value.detach().double().requires_grad_() for name, value in model.named_parameters()}
    adjacency, nodes = slow_adjacency(log, kind), leaves["nodes"]
    hops = [nodes]
    for number in range(len(model.layers)):
        own = {name.split(".")[-1]: leaf for name, leaf in leaves.items() if name.startswith(f"layers.{number}.")}
        side = adjacency @ nodes
        z = side @ own["sum_weight"] + own["sum_bias"]
        z = z + (nodes * side) @ own["product_weight"] + own["product_bias"]
        nodes = torch.where(z > 0, z, 0.2 * z)
        hops.append(nodes / (nodes * nodes).sum(1, keepdim=True).sqrt())
    return hops, leaves


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("kind", ["symmetric", "random_walk"])
@pytest.mark.parametrize("name", LOGS)
def test_forward_and_gradient_equal_the_dense_formula(name, kind, layers) -> None:
    log = LOGS[name]
    model = make(log, layers=layers, adjacency=kind)
    hops, leaves = slow_hops(model, log, kind)
    wanted = torch.cat(hops, 1)
    weight = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    (wanted * weight.double()).tanh().sum().backward()
    for with_hops in (False, True):
        model.zero_grad()
        tables = model.tables(hops=with_hops)
        found = torch.cat([tables.user, tables.item])
        assert found.shape == (log.n_users + log.n_items, model.dim)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
        (found * weight).tanh().sum().backward()
        for parameter, value in model.named_parameters():
            torch.testing.assert_close(value.grad.double(), leaves[parameter].grad, rtol=1e-4, atol=1e-5)
    assert tables.pool == "concat"
    for found_hop, slow in zip(tables.hops, hops, strict=True):
        torch.testing.assert_close(found_hop.double(), slow, rtol=1e-5, atol=1e-6)


@given(log=logs())
@settings(max_examples=60)
def test_random_walk_equals_the_slow_formula_and_so_does_its_transpose(log) -> None:
    starts, column, value, transposed = (part.numpy() for part in random_walk_adjacency(log))
    found = [np.zeros((len(starts) - 1,) * 2) for _ in range(2)]
    for row in range(len(starts) - 1):
        for place in range(starts[row], starts[row + 1]):
            found[0][row, column[place]] += value[place]
            found[1][row, column[place]] += transposed[place]
    np.testing.assert_allclose(found[0], slow_adjacency(log, "random_walk").numpy(), atol=1e-7)
    np.testing.assert_array_equal(found[1], found[0].T)
    np.testing.assert_allclose(found[0].sum(1), 1, atol=1e-6)


def test_the_adjacencies_differ() -> None:
    log = LOGS["tiny"]
    tables = [make(log, adjacency=kind).tables().item for kind in ("symmetric", "random_walk")]
    assert not torch.allclose(*tables, atol=1e-3)


def test_message_dropout_draws_in_training_only() -> None:
    log = LOGS["tiny"]
    dropped, plain = make(log, dropout=0.4), make(log)
    with Streams(3).use("dropout"):
        noisy = dropped.train().tables()
    assert not torch.allclose(noisy.item, plain.tables().item)
    assert torch.equal(noisy.item0, plain.tables().item0)
    before = torch.get_rng_state()
    assert torch.equal(dropped.eval().tables().item, plain.tables().item)
    scores = [InnerProductScorer(one).score(all_users(log), log) for one in (dropped.train(), plain)]
    assert torch.equal(*scores)
    assert torch.equal(torch.get_rng_state(), before)


def test_message_dropout_keeps_the_mean_of_the_first_layer() -> None:
    """Before normalisation a kept coordinate is divided by the share that is kept."""
    log = LOGS["tiny"]
    model = make(log, layers=1, dropout=0.25)
    seen = []
    model.dropout.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].detach(), output.detach())))
    with Streams(3).use("dropout"):
        for _ in range(2000):
            model.tables()
    mean = torch.stack([output for _, output in seen]).mean(0)
    torch.testing.assert_close(mean, seen[0][0], rtol=0.1, atol=5e-3)


def test_a_run_with_dropout_draws_from_its_stream_and_is_reproducible() -> None:
    """The step swaps the stream "dropout" in while tables are made."""
    run = resolve(model="ngcf", overrides={"ngcf": {"dim": 8, "dropout": 0.3}, "train": {"batch_size": 32}})
    losses = []
    for _ in range(2):
        parts = build(run, LOGS["tiny"], seed=4)
        before = torch.get_rng_state()
        with parts.step.streams.use("batches"):
            batch = next(iter(parts.batches.epoch()))
        parts.step.train()
        losses.append([float(parts.step(parts.step.begin(batch), 0)["bpr"].detach()) for _ in range(3)])
        assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3


@pytest.mark.parametrize(("dim", "layers", "width"), [(64, 3, 256), (8, 0, 8), (16, 2, 48)])
def test_plugins_are_built_for_the_width_of_the_scoring_vectors(dim, layers, width) -> None:
    overrides = {"ngcf": {"dim": dim, "layers": layers}, "train": {"batch_size": 32}}
    run = resolve(model="ngcf", augment=["adar"], overrides=overrides)
    parts = build(run, LOGS["tiny"], seed=0)
    assert parts.step.backbone.dim == parts.step.plugins[0].dim == NGCF.width(run.part("ngcf")) == width
    assert parts.step.backbone.nodes.shape[1] == dim
    with parts.step.streams.use("batches"):
        batch = parts.step.begin(next(iter(parts.batches.epoch())))
    terms = [parts.step(batch, phase) for phase in range(2)]
    assert set(terms[0]) == {"adar"}
    assert all(torch.isfinite(value) for one in terms for value in one.values())


def test_the_graph_is_not_saved_with_the_weights() -> None:
    names = ("sum_weight", "sum_bias", "product_weight", "product_bias")
    wanted = {"nodes", *(f"layers.{number}.{name}" for number in range(2) for name in names)}
    assert set(make(LOGS["tiny"], layers=2).state_dict()) == wanted
