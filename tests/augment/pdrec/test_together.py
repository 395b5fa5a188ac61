"""The three parts in one step."""

from __future__ import annotations

import pytest
import torch

from augrec.augment.pdrec import DPA, HBR, NNS, Preference
from augrec.backbones.sasrec import SASRec, SASRecConfig
from augrec.testing import tiny_log
from augrec.testing.assemble import assemble
from augrec.train import step as step_module


@pytest.mark.parametrize("objective", ["bce", "bpr"])
def test_one_lookup_for_all_additions_changes_no_loss_and_no_gradient(monkeypatch, objective) -> None:
    log, generator = tiny_log(), torch.Generator().manual_seed(2)
    preference = Preference(
        user=torch.randn(log.n_users, 4, generator=generator), item=torch.randn(log.n_items, 4, generator=generator)
    )
    parts = [kind(kind.Config(), kind="sequences", dim=8, n_items=log.n_items) for kind in (HBR, DPA, NNS)]
    for part in parts:
        part.use(preference, log)
    config = SASRecConfig(dim=8, inner=8, dropout=0.0, attention_dropout=0.0)

    def run():
        trial = assemble(lambda log: SASRec(config, n_users=log.n_users, n_items=log.n_items), objective, parts, log)
        loss = trial.loss(trial.first_batch())
        loss.backward()
        return loss.item(), trial.backbone.item.grad

    loss, gradient = run()
    monkeypatch.setattr(step_module, "looked_up", lambda additions, tables: additions)
    apart, other = run()
    assert loss == pytest.approx(apart, rel=1e-6)
    assert torch.allclose(gradient, other, atol=1e-6)
    assert gradient.abs().max() > 0
