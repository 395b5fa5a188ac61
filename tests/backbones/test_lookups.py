"""Lookups that share a gradient against `F.embedding`, one gradient a lookup."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from augrec.backbones.lightgcn import LightGCN, LightGCNConfig
from augrec.backbones.lookups import Lookups, sum_rows, sum_touched_rows
from augrec.backbones.mf import MF, MFConfig
from augrec.backbones.ngcf import NGCF, NGCFConfig
from augrec.backbones.sasrec import SASRec, SASRecConfig
from augrec.testing import tiny_log


def losses(look, table):
    ids = torch.tensor([[0, 3, 3], [4, 0, 1]])
    first, second = look(ids), look(torch.tensor([3, 3, 3, 6]))
    none = look(torch.zeros(0, dtype=torch.int64))
    return (first.square().sum() * 0.5 + second.sin().prod(0).sum() + none.sum(), (table[2] * first[0, 0]).sum())


def test_gradients_equal_one_table_for_each_lookup() -> None:
    table = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    wanted = torch.autograd.grad(sum(losses(lambda ids: F.embedding(ids, table), table)), table)[0]
    found = torch.autograd.grad(sum(losses(Lookups(table), table)), table)[0]
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("columns", [0, 1, 3, 12])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("part", [0, 2])
def test_products_are_those_of_looked_up_rows_with_their_gradients(columns, known, part) -> None:
    random = torch.Generator().manual_seed(columns)
    table = torch.randn(8, 5, dtype=torch.float64, generator=random).requires_grad_()
    query = torch.randn(4, 5, dtype=torch.float64, generator=random).requires_grad_()
    ids = torch.randint(6, (4, columns), generator=random)
    rows = F.embedding(ids + part, table)
    exact = (rows * query[:, None]).sum(2)
    look = Lookups(table).part(table[part:], part)
    found = look.products(query, ids, exact.detach() if known else None)
    assert torch.allclose(found, exact)
    one = torch.autograd.grad(found.sin().sum() + look(ids[:, :1]).square().sum(), (table, query))
    other = torch.autograd.grad(exact.sin().sum() + rows[:, :1].square().sum(), (table, query))
    for mine, theirs in zip(one, other, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_a_graph_that_is_kept_gives_each_gradient_once() -> None:
    """Phases share an encoding: losses of one graph are differentiated one after another, some not at all."""
    table = torch.randn(8, 5, dtype=torch.float64).requires_grad_()
    other = torch.ones(5, dtype=torch.float64, requires_grad=True)
    look = Lookups(table)
    loss, more = losses(look, table)
    # Only `other` is asked for: no lookup is differentiated, so none may be noted.
    (to_other,) = torch.autograd.grad((look(torch.tensor([1, 2])) @ other).sum(), other, retain_graph=True)
    assert torch.allclose(to_other, table[1:3].sum(0))
    for one, place in ((loss, 0), (more, 1), (loss, 0)):
        (found,) = torch.autograd.grad(one, table, retain_graph=True)
        fresh = losses(lambda ids: F.embedding(ids, table), table)[place]
        assert torch.allclose(found, torch.autograd.grad(fresh, table)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature", [None, 5.0])
def test_a_backbones_tables_look_up_together_under_gradient_only(temperature) -> None:
    log = tiny_log()
    config = SASRecConfig(dim=8, inner=8, temperature=temperature)
    backbone = SASRec(config, n_users=log.n_users, n_items=log.n_items)
    tables = backbone.tables()
    assert len(tables.lookups) == 1
    ids = torch.tensor([1, 2, 2])
    assert torch.equal(tables.items(ids), F.embedding(ids, tables.item))
    with torch.no_grad():
        assert backbone.tables().lookups == ()
    leaf = torch.randn(log.n_items, 8, requires_grad=True)
    assert torch.equal(replace(tables, item=leaf).items(ids), leaf[ids]), "another table is looked up itself"


def test_parts_of_a_table_share_its_one_gradient() -> None:
    table = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    high, low = torch.tensor([[0, 2], [3, 3]]), torch.tensor([4, 0, 1, 1])

    def loss(first, second):
        return (first.square().sum((1, 2)) @ torch.tensor([1.0, 2.0], dtype=torch.float64)) + second.exp().sum()

    (wanted,) = torch.autograd.grad(loss(table[5:][high], table[:5][low]), table)
    whole = Lookups(table)
    upper, lower = whole.part(table[5:], 5), whole.part(table[:5], 0)
    assert torch.equal(upper(high), table[5:][high])
    found = loss(upper(high), lower(low))
    noted = len(whole._waiting)
    (gradient,) = torch.autograd.grad(found, table)
    assert torch.allclose(gradient, wanted, rtol=1e-12, atol=1e-12)
    assert noted == len(whole._waiting) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda sizes, log: MF(MFConfig(dim=6), **sizes),
        lambda sizes, log: LightGCN(LightGCNConfig(dim=6, layers=2), train=log, **sizes),
        lambda sizes, log: NGCF(NGCFConfig(dim=6, layers=2), train=log, **sizes),
    ],
    ids=["mf", "lightgcn", "ngcf"],
)
def test_a_pair_backbones_gradient_is_that_of_plain_lookups(make) -> None:
    """Scores and layer-0 rows, in float64, with lookups and without."""
    log = tiny_log()
    backbone = make({"n_users": log.n_users, "n_items": log.n_items}, log).double()
    for name, value in backbone.named_buffers():
        if value.is_floating_point():
            backbone.get_buffer(name).data = value.double()
    users, items = torch.tensor([0, 1, 1, 4]), torch.tensor([2, 2, 0, 3])

    def gradient(tables):
        scores = (tables.users(users) * tables.items(items)).sum(1)
        layer0 = tables.users0(users).square().sum() + tables.items0(items).square().sum()
        (found,) = torch.autograd.grad(scores.sin().sum() + 0.3 * layer0, backbone.nodes)
        return found

    tables = backbone.tables()
    assert tables.lookups
    assert torch.allclose(gradient(tables), gradient(replace(backbone.tables(), lookups=())), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("count", [1, 12, 400])
@pytest.mark.parametrize("rows", [0, 1, 700, 40_000])
def test_sums_by_row_equal_a_loop_on_any_number_of_threads(rows, count) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = (count * torch.rand(rows, generator=generator) ** 2).long()
    values = torch.randn(rows, 3, dtype=torch.float64, generator=generator)
    wanted = torch.zeros(count, 3, dtype=torch.float64)
    for number, value in zip(ids.tolist(), values, strict=True):
        wanted[number] += value
    assert torch.allclose(sum_rows(values, ids, count), wanted, rtol=1e-12, atol=1e-10)
    touched = sum_touched_rows(values, ids, count)
    assert torch.allclose(touched.to_dense(), wanted, rtol=1e-12, atol=1e-10)
    assert touched.indices()[0].tolist() == sorted(set(ids.tolist()))
    single, before = values.float(), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found += [sum_rows(single, ids, count), sum_touched_rows(single, ids, count).to_dense()]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, found[0]) for one in found), "the same bits"


def test_a_sparse_gradient_is_the_dense_one() -> None:
    parameter = torch.nn.Parameter(torch.randn(8, 5, dtype=torch.float64))
    for place in (0, 1):  # the second loss also reads the table itself
        wanted = torch.autograd.grad(losses(Lookups(parameter), parameter)[place], parameter)[0]
        found = torch.autograd.grad(losses(Lookups(parameter, sparse=True), parameter)[place], parameter)[0]
        assert found.is_sparse == (place == 0)
        assert torch.allclose(found.to_dense() if found.is_sparse else found, wanted, rtol=1e-12, atol=1e-12)


def test_the_same_ids_are_looked_up_once_with_and_without_gradient() -> None:
    table = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    whole, ids = Lookups(table), torch.tensor([5, 6, 6])
    with torch.no_grad():
        assert not whole(ids).requires_grad
    first = whole(ids)
    assert first.requires_grad
    assert whole(ids) is first
    part = whole.part(table[5:], 5)
    low = torch.tensor([0, 1, 1])
    assert torch.equal(part(low), first)
    (gradient,) = torch.autograd.grad((first.sum() + whole(ids).square().sum() + part(low).sum()), table)
    plain = F.embedding(ids, table)
    assert torch.allclose(gradient, torch.autograd.grad(2 * plain.sum() + plain.square().sum(), table)[0])
