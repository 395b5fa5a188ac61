"""Lookups that share a gradient against `F.embedding`, one gradient a lookup."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from augrec.backbones.lookups import Lookups
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
    assert tables.lookups is not None
    ids = torch.tensor([1, 2, 2])
    assert torch.equal(tables.items(ids), F.embedding(ids, tables.item))
    with torch.no_grad():
        assert backbone.tables().lookups is None
    leaf = torch.randn(log.n_items, 8, requires_grad=True)
    assert torch.equal(replace(tables, item=leaf).items(ids), leaf[ids]), "another table is looked up itself"
