"""Matrix factorisation against its formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from augrec.backbones.base import InnerProductScorer
from augrec.backbones.gru4rec import GRU4RecConfig
from augrec.backbones.lightgcn import LightGCN, LightGCNConfig
from augrec.backbones.mf import MF, MFConfig
from augrec.backbones.sasrec import SASRec, SASRecConfig
from augrec.batches.batch import Batch
from augrec.errors import ConfigError
from augrec.testing import tiny_log

LOG = tiny_log()


def make(**fields):
    generator = torch.Generator().manual_seed(0)
    return MF(MFConfig(dim=6, **fields), n_users=LOG.n_users, n_items=LOG.n_items, generator=generator)


def test_scores_are_inner_products() -> None:
    model = make()
    users = torch.tensor([3, 0, 23])
    nodes = model.nodes.detach().double()
    wanted = nodes[users] @ nodes[LOG.n_users :].T
    assert torch.allclose(InnerProductScorer(model).score(users, LOG).double(), wanted, atol=1e-6)


def test_the_penalty_is_half_the_squared_norm_of_the_rows_over_the_targets() -> None:
    model = make(l2=0.3)
    user, target = torch.tensor([1, 1, 4]), torch.tensor([2, 0, 2])
    batch = Batch(user=user, target=target, event=torch.arange(3), target_row=torch.arange(3))
    negative = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(1))
    nodes = model.nodes.detach().double().numpy()
    squares = sum(
        np.square(nodes[u]).sum() + np.square(nodes[LOG.n_users + i]).sum()
        for u, i in zip(user.tolist(), target.tolist(), strict=True)
    )
    squares += np.square(negative.double().numpy()).sum()
    found = model.penalty(batch, model.tables(), negative)
    assert found.item() == pytest.approx(0.3 / (2 * 3) * squares, rel=1e-6)
    assert make(l2=0.0).penalty(batch, model.tables(), negative) is None


def test_users_and_items_start_as_two_xavier_tables() -> None:
    model = MF(MFConfig(dim=32), n_users=500, n_items=100, generator=torch.Generator().manual_seed(0))
    for rows, count in ((model.nodes[:500], 500), (model.nodes[500:], 100)):
        bound = (6 / (count + 32)) ** 0.5
        assert rows.abs().max() <= bound
        assert rows.abs().max() > 0.98 * bound
        assert rows.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_lightgcn_without_layers_is_matrix_factorisation() -> None:
    generator = torch.Generator().manual_seed(0)
    config = LightGCNConfig(dim=6, layers=0)
    graph = LightGCN(config, n_users=LOG.n_users, n_items=LOG.n_items, train=LOG, generator=generator)
    plain = make()
    for name in ("user", "item"):
        assert torch.equal(getattr(graph.tables(), name), getattr(plain.tables(), name))
    for model in (graph, plain):
        tables = model.tables()
        (tables.item.sum() + tables.user.square().sum()).backward()
    assert torch.equal(graph.nodes.grad, plain.nodes.grad)


@pytest.mark.parametrize("config", [MFConfig, LightGCNConfig, SASRecConfig, GRU4RecConfig])
def test_settings_out_of_range_are_refused(config) -> None:
    for field in {"dim", "hidden", "inner", "heads", "max_length"} & set(config.model_fields):
        with pytest.raises(ValidationError, match=field):
            config(**{field: 0})
    for field in {"dropout", "l2", "layers"} & set(config.model_fields):
        with pytest.raises(ValidationError, match=field):
            config(**{field: -1})


def test_a_width_the_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"width 10 is not a multiple of sasrec\.heads = 4"):
        SASRec(SASRecConfig(dim=10, heads=4), n_users=2, n_items=3)
