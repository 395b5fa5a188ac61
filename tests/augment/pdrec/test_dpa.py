"""DPA: coarse lists against a sort, the choice of the encoder against a loop, and gradients that stay finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from augrec.augment.pdrec import DPA, DPAConfig, Preference, Scan, coarse_lists
from augrec.backbones.gru4rec import GRU4Rec, GRU4RecConfig
from augrec.data.interactions import Interactions
from augrec.objectives.common import soft_positive_loss
from augrec.testing import log_of, tiny_log
from augrec.testing.assemble import assemble


def preference_of(log, seed=4, width=5):
    generator = torch.Generator().manual_seed(seed)
    return Preference(
        user=torch.randn(log.n_users, width, generator=generator),
        item=torch.randn(log.n_items, width, generator=generator),
    )


@pytest.mark.parametrize("observed", [True, False])
@pytest.mark.parametrize("mixed", [True, False])
def test_lists_equal_a_sort_of_the_dense_matrix(observed, mixed) -> None:
    log = tiny_log()
    if mixed:
        log = Interactions(**{**log.__dict__, "candidates": np.arange(log.n_items) % 3 > 0})
    preference = preference_of(log)
    lists = coarse_lists(preference, log, 12, exclude_observed=observed)
    matrix = preference.user @ preference.item.T
    for user in range(log.n_users):
        own = set(log.item[log.offsets[user] : log.offsets[user + 1]].tolist()) if observed else set()
        free = [i for i in range(log.n_items) if i not in own and (log.candidates is None or log.candidates[i])]
        wanted = sorted(free, key=lambda i: -matrix[user, i].item())[:12]
        assert lists[user].tolist() == wanted + [-1] * (12 - len(wanted))


def test_blocks_of_users_equal_the_whole(monkeypatch) -> None:
    log = tiny_log()
    preference = preference_of(log)
    whole = coarse_lists(preference, log, 6)
    monkeypatch.setattr("augrec.augment.pdrec.preference._CELLS", 5 * log.n_items)
    assert len(list(preference.blocks(torch.arange(log.n_users)))) == 5
    assert torch.equal(coarse_lists(preference, log, 6), whole)


def trial_of(log, temperature=None, max_length=4, **fields):
    plugin = DPA(DPAConfig(**fields), kind="sequences", dim=6, n_items=log.n_items)
    plugin.use(Scan(preference_of(log), log))
    plugin.settle()
    config = GRU4RecConfig(dim=6, hidden=6, dropout=0.0, max_length=max_length, temperature=temperature)

    def backbone(log):
        return GRU4Rec(config, n_users=log.n_users, n_items=log.n_items)

    return assemble(backbone, "bce", [plugin], log, batch_size=30), plugin


@pytest.mark.parametrize("score", ["backbone", "cosine"])
@pytest.mark.parametrize("temperature", [None, 3.0])
@pytest.mark.parametrize("query", ["target", "last"])
def test_the_term_by_a_loop_over_users(score, temperature, query) -> None:
    log = tiny_log(longest=9)
    trial, plugin = trial_of(log, temperature, weight=0.3, coarse=15, fine=3, score=score, query=query)
    backbone, users = trial.backbone.eval(), []
    for batch in trial.batches.epoch():
        encoded = trial.step.encode(batch)
        terms = trial.step.main(batch, encoded)
        total, count = 0.0, 0
        tables = backbone.tables()
        for user in sorted(set(batch.user.tolist())):
            end = int(log.offsets[user + 1])
            if end - 1 not in batch.event.tolist():
                continue  # an older window of a long history
            known = log.item[log.offsets[user] : end - (query == "target")][-4:].tolist()
            vector = backbone.query_users(torch.tensor([0]), log_of([known], n_items=log.n_items), tables)[0]
            chosen = [i for i in plugin.lists[user].tolist() if i >= 0]
            score_of = tables.item[chosen] @ vector
            if score == "cosine":
                score_of = 5.0 * F.cosine_similarity(tables.item[chosen], vector[None])
            best = score_of.sort(descending=True).values[:3]
            total, count = total + F.softplus(-best).sum(), count + len(best)
            users.append(user)
        found = terms["positives/0"]
        if count:
            assert found.item() == pytest.approx(0.3 * (total / count).item(), rel=1e-4)
        else:
            assert found.item() == 0
    assert sorted(users) == np.flatnonzero(log.degrees() >= 2).tolist()


def test_short_histories_give_finite_gradients_under_cosine() -> None:
    """A zero or near-zero query once gave a gradient of 1e11: users without a target take no part."""
    log = log_of([[0, 1], [2], [], [3, 4, 5]], n_items=8)
    trial, _ = trial_of(log, 5.0, score="cosine", query="last")
    for batch in trial.batches.epoch():
        assert set(batch.user.tolist()) <= {0, 3}
        loss = trial.loss(batch)
        loss.backward()
    assert torch.isfinite(loss)
    assert max(p.grad.abs().max().item() for p in trial.backbone.parameters()) < 1e3


def test_gradient_reaches_query_and_items_but_the_lists_bound_which() -> None:
    log = tiny_log()
    trial, plugin = trial_of(log, coarse=4, fine=2, weight=1.0)
    batch = trial.first_batch()
    encoded = trial.step.encode(batch)
    (one,) = plugin.targets(batch, encoded).positives
    grads = torch.autograd.grad(soft_positive_loss(one, encoded.tables), list(trial.backbone.parameters()))
    names = [name for name, _ in trial.backbone.named_parameters()]
    table = dict(zip(names, grads, strict=True))["item"]
    assert set(one.ids.view(-1).tolist()) <= set(plugin.lists[batch.user].view(-1).tolist())
    assert table[one.ids.view(-1)].abs().sum(1).min() > 0
    assert dict(zip(names, grads, strict=True))["out.weight"].abs().max() > 0
