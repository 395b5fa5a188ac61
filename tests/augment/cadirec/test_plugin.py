"""CaDiRec as a whole: noising, views, losses and what gradients reach."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

from augrec.augment.cadirec import CaDiRec, CaDiRecConfig
from augrec.augment.cadirec.plugin import FIRST, SECOND
from augrec.backbones.gru4rec import GRU4Rec, GRU4RecConfig
from augrec.backbones.sasrec import SASRec, SASRecConfig
from augrec.errors import ConfigError
from augrec.testing import augmentation_checks, tiny_log
from augrec.testing.assemble import assemble, fit
from augrec.testing.sequence_checks import tokens_of

LOG = tiny_log()
N = LOG.n_items
QUIET = {"dropout": 0.0, "input_dropout": 0.0, "ratio": 0.3}


def make(model="sasrec", **fields):
    """A trial without dropout, on weights large enough for the vectors to differ."""

    def backbone(log):
        if model == "gru4rec":
            return GRU4Rec(GRU4RecConfig(dim=8, hidden=12, dropout=0.0), n_users=log.n_users, n_items=N)
        config = SASRecConfig(dim=8, inner=12, dropout=0.0, attention_dropout=0.0, initializer_range=0.5)
        return SASRec(config, n_users=log.n_users, n_items=N)

    torch.manual_seed(0)
    plugin = CaDiRec(CaDiRecConfig(**{**QUIET, **fields}), kind="sequences", dim=8, n_items=N)
    trial = assemble(backbone, "softmax", [plugin], LOG, batch_size=200)
    trial.step.train()
    return trial, plugin


def watch(plugin):
    """The places, the input and the steps of each denoiser call."""
    seen = []
    forward, hidden = plugin.denoiser.forward, plugin.hidden

    def note(x, t, tokens):
        seen.append((x.detach(), t))
        return forward(x, t, tokens)

    def places(tokens):
        seen.append(hidden(tokens))
        return seen[-1]

    plugin.denoiser.forward, plugin.hidden = note, places
    return seen


VARIANTS = [
    {}, {"anchor": "random"}, {"at_least_one": True}, {"exclude_original": True}, {"items": "random"},
    {"items": "random", "exclude_original": True}, {"jitter": False}, {"mse_weight": 0.3}, {"ratio": 0.01},
    {"reconstruction_weight": 0.0, "mse_weight": 0.1}, {"top_k": 1}, {"candidates": 64},
]  # fmt: skip


@pytest.mark.parametrize("model", ["sasrec", "gru4rec"])
@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_views_differ_from_the_row_at_noised_places_only(fields, model) -> None:
    trial, plugin = make(model, **fields)
    seen = watch(plugin)
    batch = trial.first_batch()
    before = batch.tokens.ids.clone()
    encoded = trial.step.encode(batch)
    place = set(seen[0].tolist())
    first, second = (encoded.views[name].tokens for name in (FIRST, SECOND))
    lengths = first.lengths.tolist()
    starts = batch.tokens.offsets[:-1].tolist()
    original = torch.cat([before[s : s + n] for s, n in zip(starts, lengths, strict=True)])
    for tokens in (first, second):
        assert tokens.detach_items
        assert ((tokens.ids >= 0) & (tokens.ids < N)).all()
        changed = set((tokens.ids != original).nonzero().flatten().tolist())
        assert changed == place if fields.get("exclude_original") else changed <= place
    if fields.get("at_least_one"):
        assert {int(first.rows[p]) for p in place} == set(range(len(lengths)))
    terms = plugin.losses(batch, encoded)
    wanted = {"contrast"} | ({"mse"} if fields.get("mse_weight") else set())
    assert set(terms) == wanted | (set() if fields.get("reconstruction_weight") == 0 else {"reconstruction"})
    assert all(torch.isfinite(term) for term in terms.values())
    sum(terms.values()).backward()
    assert torch.equal(batch.tokens.ids, before)


def test_only_hidden_places_are_noised_and_the_rest_is_clean() -> None:
    trial, plugin = make(jitter=False)
    seen = watch(plugin)
    batch = trial.first_batch()
    encoded = trial.step.encode(batch)
    place, (x, t) = seen
    clean = encoded.tables.item[batch.tokens.ids]
    stays = torch.ones(len(x), dtype=torch.bool)
    stays[place] = False
    assert torch.equal(x[stays], clean[stays])
    assert (x[place] != clean[place]).all()
    assert ((t >= 1) & (t <= 1000)).all()
    assert len(t.unique()) > 1


def test_noise_levels_are_those_of_the_sqrt_schedule() -> None:
    _, plugin = make(jitter=False)
    clean = torch.full((40000, 1), 2.0)
    place = torch.arange(40000)

    def level(u):
        return 1 - math.sqrt(u + 1e-4)

    for step in (1, 101, 501, 901):
        torch.manual_seed(0)
        found = plugin.noised(clean, place, torch.full((40000,), step))
        signal = level(step / 1000) / level(0)
        assert found.mean().item() == pytest.approx(2 * math.sqrt(signal), abs=0.02)
        assert found.std().item() == pytest.approx(math.sqrt(1 - signal), rel=0.02)


def test_jitter_has_the_first_steps_deviation() -> None:
    trial, plugin = make(ratio=1e-9)
    seen = watch(plugin)
    deviations = []
    for _ in range(30):
        batch = trial.first_batch()
        encoded = trial.step.encode(batch)
        deviations.append(seen[-1][0] - encoded.tables.item[batch.tokens.ids])
    wanted = math.sqrt(1 - (1 - math.sqrt(1e-3 + 1e-4)) / (1 - math.sqrt(1e-4)))
    assert wanted == pytest.approx(0.153, abs=5e-4)
    assert torch.cat(deviations).std().item() == pytest.approx(wanted, rel=0.03)


def test_losses_equal_a_loop_over_rows() -> None:
    trial, plugin = make(mse_weight=0.7, jitter=False)
    seen = watch(plugin)
    batch = trial.first_batch()
    encoded = trial.step.encode(batch)
    place, (x, t) = seen
    item = encoded.tables.item.detach().double()
    net = copy.deepcopy(plugin.denoiser).double()
    del net.forward
    rows, losses, errors, start = batch.tokens.ids.split(batch.tokens.lengths.tolist()), [], [], 0
    for row, step in zip(rows, t, strict=True):
        found = net(x[start : start + len(row)].double(), step[None], tokens_of([row.tolist()])).detach()
        inside = [int(p) - start for p in place if start <= p < start + len(row)]
        own = [F.cross_entropy(found[p] @ item.T, row[p]).item() for p in inside]
        losses.append(sum(own) / len(own) if own else 0.0)
        errors += [e for p in inside for e in (found[p] - item[row[p]]).square().tolist()]
        start += len(row)
    assert 0.0 in losses
    terms = plugin.losses(batch, encoded)
    assert terms["reconstruction"].item() == pytest.approx(0.2 * sum(losses) / len(losses), rel=1e-4)
    assert terms["mse"].item() == pytest.approx(0.7 * sum(errors) / len(errors), rel=1e-4)


def test_the_contrast_equals_a_slow_formula() -> None:
    trial, plugin = make(temperature=0.6, weight=0.1)
    batch = trial.first_batch()
    encoded = trial.step.encode(batch)
    states = torch.cat([encoded.views[name].last.detach().double() for name in (FIRST, SECOND)])
    n, total = len(states) // 2, 0.0
    for u in range(2 * n):
        scores = {v: float(states[u] @ states[v]) / 0.6 for v in range(2 * n) if v != u}
        total += math.log(sum(map(math.exp, scores.values()))) - scores[(u + n) % (2 * n)]
    assert plugin.losses(batch, encoded)["contrast"].item() == pytest.approx(0.1 * total / (2 * n), rel=1e-4)


def test_the_contrast_spares_the_item_table_and_the_denoiser() -> None:
    trial, plugin = make()
    batch = trial.first_batch()
    encoded = trial.step.encode(batch)
    terms = plugin.losses(batch, encoded)
    denoiser = list(plugin.parameters())
    found = torch.autograd.grad(terms["contrast"], [trial.backbone.item, *denoiser], allow_unused=True)
    assert all(one is None or not one.any() for one in found)
    again = plugin.losses(batch, trial.step.encode(batch))
    layers = torch.autograd.grad(again["contrast"], list(trial.backbone.layers.parameters()))
    assert sum(one.abs().sum() for one in layers) > 0
    (item,) = torch.autograd.grad(again["reconstruction"], trial.backbone.item)
    assert item.any()


def test_draws_are_uniform_among_the_likeliest_and_independent_between_views() -> None:
    _, plugin = make(top_k=4)
    item = torch.randn(N, 8, generator=torch.Generator().manual_seed(0))
    query = torch.randn(1, 8, generator=torch.Generator().manual_seed(1)).expand(8000, 8)
    own = torch.full((8000,), 3)
    torch.manual_seed(0)
    drawn = plugin.picks(query, item, own)
    likeliest = (query[0] @ item.T).topk(4).indices.tolist()
    rank = torch.tensor([likeliest.index(i) for i in drawn.flatten().tolist()]).view(8000, 2)
    assert chisquare(torch.bincount(rank[:, 0] * 4 + rank[:, 1], minlength=16).numpy()).pvalue > 1e-3


def test_it_learns_to_fill_in_from_context() -> None:
    trial, plugin = make(reconstruction_weight=1.0, ratio=0.3, jitter=False)
    batch = trial.first_batch()
    adam = torch.optim.Adam([*plugin.parameters(), trial.backbone.item], lr=1e-2)
    found = []
    for _ in range(120):
        loss = plugin.losses(batch, trial.step.encode(batch))["reconstruction"]
        found.append(loss.item())
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert sum(found[-10:]) < 0.65 * sum(found[:10])
    log = plugin.epoch_log()
    assert 0.2 < log["replaced"] < 0.4
    assert 0 < log["original_kept"] < 1
    assert plugin.epoch_log() == {}


def test_a_sampled_catalogue_trains() -> None:
    log = tiny_log(n_users=120, n_items=150)
    torch.manual_seed(0)
    plugin = CaDiRec(CaDiRecConfig(candidates=64), kind="sequences", dim=8, n_items=150)

    def backbone(train):
        return SASRec(SASRecConfig(dim=8, inner=12, dropout=0.1), n_users=train.n_users, n_items=150)

    losses = fit(assemble(backbone, "sampled-softmax", [plugin], log, epochs=6)).losses
    assert all(torch.isfinite(torch.tensor(losses)))
    assert torch.tensor(losses[-10:]).mean() < 0.9 * torch.tensor(losses[:10]).mean()


def test_presets_and_refusals() -> None:
    published = CaDiRecConfig(**CaDiRec.preset("published-code", kind="sequences"))
    assert published == CaDiRecConfig(weight=0.1), "the default differs in the weight alone"
    assert CaDiRecConfig(**CaDiRec.preset("paper", kind="sequences")) == published
    with pytest.raises(ConfigError, match="nonsense"):
        CaDiRec.preset("nonsense", kind="sequences")
    with pytest.raises(ConfigError, match=r"width 8 is not a multiple of cadirec\.heads = 3"):
        CaDiRec(CaDiRecConfig(heads=3), kind="sequences", dim=8, n_items=N)


@pytest.mark.parametrize("name", ["resume", "live_zero", "inputs_are_kept", "train_only"])
def test_the_kit_holds_with_other_settings(name) -> None:
    config = CaDiRecConfig(anchor="random", at_least_one=True, exclude_original=True, mse_weight=0.1)
    dict(augmentation_checks(CaDiRec, config, backbone=SASRec))[name]()
