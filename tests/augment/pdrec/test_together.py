"""The three parts in one step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from augrec.augment.pdrec import DPA, HBR, NNS, Preference, Scan
from augrec.backbones import base as base_module
from augrec.backbones.sasrec import SASRec, SASRecConfig
from augrec.seams import Prepared
from augrec.testing import tiny_log
from augrec.testing.assemble import assemble


@pytest.mark.parametrize("objective", ["bce", "bpr"])
def test_one_gradient_for_all_lookups_changes_no_loss_and_no_gradient(monkeypatch, objective) -> None:
    log, generator = tiny_log(), torch.Generator().manual_seed(2)
    preference = Preference(
        user=torch.randn(log.n_users, 4, generator=generator), item=torch.randn(log.n_items, 4, generator=generator)
    )
    parts = [kind(kind.Config(), kind="sequences", dim=8, n_items=log.n_items) for kind in (HBR, DPA, NNS)]
    for part in parts:
        part.use(Scan(preference, log))
    config = SASRecConfig(dim=8, inner=8, dropout=0.0, attention_dropout=0.0)

    def run():
        trial = assemble(lambda log: SASRec(config, n_users=log.n_users, n_items=log.n_items), objective, parts, log)
        loss = trial.loss(trial.first_batch())
        loss.backward()
        return loss.item(), trial.backbone.item.grad

    loss, gradient = run()
    monkeypatch.setattr(base_module, "Lookups", lambda table, **_: SimpleNamespace(table=None))
    apart, other = run()
    assert loss == pytest.approx(apart, rel=1e-6)
    assert torch.allclose(gradient, other, atol=1e-6)
    assert gradient.abs().max() > 0


def test_parts_that_were_prepared_together_share_one_pass(monkeypatch) -> None:
    log, passes = tiny_log(), []
    original = Preference.blocks
    monkeypatch.setattr(Preference, "blocks", lambda self, users: passes.append(self) or original(self, users))
    prepared = Prepared(tensors={"user": torch.randn(log.n_users, 4), "item": torch.randn(log.n_items, 4)})
    parts = [kind(kind.Config(), kind="sequences", dim=8, n_items=log.n_items) for kind in (HBR, DPA, NNS)]
    for part in parts:
        part.load_prepared(prepared, log)
    assert not passes, "the parts load one after another"
    for epoch in (1, 2):
        for part in parts:
            part.start_epoch(epoch)
    assert len(passes) == 1
    alone = DPA(DPA.Config(), kind="sequences", dim=8, n_items=log.n_items)
    alone.load_prepared(Prepared(tensors=prepared.tensors), log)
    alone.start_epoch(1)
    assert len(passes) == 2
    assert torch.equal(alone.lists, parts[1].lists)
