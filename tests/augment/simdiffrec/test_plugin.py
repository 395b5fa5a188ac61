"""The plug-in as a whole: views, losses, gradients, the neighbour table, on causal and other backbones."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from augrec.augment.simdiffrec import SimDiffRec, SimDiffRecConfig
from augrec.augment.simdiffrec.plugin import ANCHOR, NEGATIVE, POSITIVE
from augrec.augment.views import pick_anchors
from augrec.backbones.gru4rec import GRU4Rec, GRU4RecConfig
from augrec.backbones.sasrec import SASRec, SASRecConfig
from augrec.testing import tiny_log
from augrec.testing.assemble import assemble, fit
from augrec.testing.sequence_checks import tokens_of

LOG = tiny_log()
N = LOG.n_items
QUIET = {"dropout": 0.0, "neighbours": 4}


def make(model="sasrec", **fields):
    """A trial without dropout, on weights large enough for the vectors to differ."""

    def backbone(log):
        if model == "gru4rec":
            made = GRU4Rec(GRU4RecConfig(dim=8, hidden=12, dropout=0.0), n_users=log.n_users, n_items=N)
        else:
            config = SASRecConfig(dim=8, inner=12, dropout=0.0, attention_dropout=0.0, initializer_range=0.5)
            made = SASRec(config, n_users=log.n_users, n_items=N)
        return made

    torch.manual_seed(0)
    plugin = SimDiffRec(SimDiffRecConfig(**{**QUIET, **fields}), kind="sequences", dim=8, n_items=N)
    trial = assemble(backbone, "softmax", [plugin], LOG, batch_size=200)
    trial.step.train()
    return trial, plugin


def encoded_of(trial):
    batch = trial.first_batch()
    return batch, trial.step.encode(batch)


def rows_of(tokens):
    return [row.tolist() for row in tokens.ids.split(tokens.lengths.tolist())]


VARIANTS = [
    {}, {"anchor": "random"}, {"noise": "cosine"}, {"noise": "gaussian"}, {"refresh_every": 1}, {"denoiser": "shared"},
    {"reconstruction": "mse+nll"}, {"loss_time": "full"}, {"pick_time": "full"}, {"restore_steps": 3},
    {"replace": "fixed", "places": 2}, {"replace": "random"}, {"items": "random"}, {"positive": "sample", "top_k": 3},
    {"exclude_original": False}, {"hard_negative_rank": None}, {"reconstruction_weight": 0.0},
    {"anchor": "random", "pick_time": "full", "restore_steps": 2, "positive": "sample"},
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        pytest.param(model, fields, id=f"{model}-{fields}")
        for model in ("sasrec", "gru4rec")
        for fields in VARIANTS
        if model == "sasrec" or "denoiser" not in fields
    ],
)
def test_views_differ_from_the_row_at_the_replaced_places_only(model, fields) -> None:
    trial, plugin = make(model, **fields)
    config = plugin.settings
    batch, encoded = encoded_of(trial)
    before = batch.tokens.ids.clone()
    anchors = plugin._made[0]
    originals = rows_of(anchors.prefix)
    wanted = {POSITIVE} | ({NEGATIVE} if config.hard_negative_rank else set())
    assert set(encoded.views) == wanted
    places = []
    for name in wanted:
        tokens = encoded.views[name].tokens
        assert tokens.max_length == anchors.prefix.max_length
        found = []
        for row, original in zip(rows_of(tokens), originals, strict=True):
            assert len(row) == len(original)
            assert all(0 <= item < N for item in row)
            allowed = min(config.places, len(row)) if config.replace == "fixed" else max(1, int(0.2 * len(row) + 1e-9))
            changed = [new != old for new, old in zip(row, original, strict=True)]
            assert sum(changed) == allowed if config.exclude_original else sum(changed) <= allowed
            found.append(changed)
        places.append(found)
    if config.exclude_original and len(places) == 2:
        assert places[0] == places[1]
        assert not torch.equal(encoded.views[POSITIVE].tokens.ids, encoded.views[NEGATIVE].tokens.ids)
    terms = plugin.losses(batch, encoded)
    assert set(terms) == {"contrast"} | ({"reconstruction"} if config.reconstruction_weight else set())
    sum(terms.values()).backward()
    assert torch.isfinite(sum(terms.values()))
    assert torch.equal(batch.tokens.ids, before)
    used = [p for p in plugin.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert bool(used) == bool(config.reconstruction_weight)


def test_prefixes_end_at_their_anchors() -> None:
    trial, plugin = make(anchor="random")
    batch, encoded = encoded_of(trial)
    anchors = plugin._made[0]
    rows = [row[: len(part)] for row, part in zip(rows_of(batch.tokens), rows_of(anchors.prefix), strict=True)]
    assert rows == rows_of(anchors.prefix)
    assert ANCHOR not in encoded.views
    lengths = batch.tokens.lengths
    assert (anchors.prefix.lengths < lengths).any()
    assert (anchors.token == batch.tokens.offsets[:-1] + anchors.prefix.lengths - 1).all()


@pytest.mark.parametrize("fields", [{}, {"hard_negative_rank": None}, {"anchor": "random", "temperature": 0.7}])
def test_the_contrast_equals_a_slow_formula(fields) -> None:
    trial, plugin = make(**fields)
    batch, encoded = encoded_of(trial)
    anchors, config = plugin._made[0], plugin.settings
    states = encoded.anchor.states.detach().double()
    a = states[anchors.token]
    p = encoded.views[POSITIVE].last.detach().double()
    pool = [p]
    if config.hard_negative_rank:
        pool.append(encoded.views[NEGATIVE].last.detach().double())
    total = 0.0
    for u in range(len(a)):
        scores = [
            float(a[u] @ other[v] / (a[u].norm() * other[v].norm())) / config.temperature
            for other in pool
            for v in range(len(a))
        ]
        total += float(torch.logsumexp(torch.tensor(scores, dtype=torch.float64), 0)) - scores[u]
    found = plugin.losses(batch, encoded)["contrast"].item()
    assert found == pytest.approx(config.weight * total / len(a), rel=1e-4)


@pytest.mark.parametrize("reconstruction", ["nll", "mse+nll"])
def test_loss_and_picks_equal_a_dense_pass(reconstruction) -> None:
    """Everything from the noise to the picked items, one row at a time over all items, fully noised."""
    trial, plugin = make(reconstruction=reconstruction, loss_time="full", ratio=0.4)
    batch, encoded = encoded_of(trial)
    item = encoded.tables.item.detach().double()
    net = copy.deepcopy(plugin.denoiser).double()
    tokens, losses, start = batch.tokens, [], 0
    errors = []
    for row in rows_of(tokens):
        noise = []
        for i in row:
            scores = item @ item[i]
            scores[i] = -torch.inf
            noise.append(item[scores.topk(4).indices].mean(0))
        # At T nothing of the row is left but its similar items.
        found = net(torch.stack(noise), torch.tensor([1000]), tokens_of([row])).detach()
        logits = found @ item.T
        ids = torch.tensor(row)
        losses += F.cross_entropy(logits, ids, reduction="none").tolist()
        errors += (found - item[ids]).square().flatten().tolist()
        count = max(1, int(0.4 * len(row) + 1e-9))
        places = logits.softmax(1).amax(1).topk(count).indices.tolist()
        ranked = logits.scatter(1, ids[:, None], -torch.inf).argsort(1, descending=True)
        for name, rank in ((POSITIVE, 0), (NEGATIVE, 4)):
            wanted = [int(ranked[j, rank]) if j in places else i for j, i in enumerate(row)]
            assert encoded.views[name].tokens.ids[start : start + len(row)].tolist() == wanted
        start += len(row)
    wanted = sum(losses) / len(losses)
    if reconstruction == "mse+nll":
        wanted += sum(errors) / len(errors)
    found = plugin.losses(batch, encoded)["reconstruction"].item()
    assert found == pytest.approx(plugin.settings.reconstruction_weight * wanted, rel=1e-4)


def test_gradient_reaches_similar_items_and_no_pick() -> None:
    """Of the reconstruction alone: by MSE at T, exactly the items of the batch and those similar to them."""
    trial, plugin = make(loss_time="full", reconstruction="mse+nll")
    batch, encoded = encoded_of(trial)
    item = encoded.tables.item
    ids = batch.tokens.ids
    noise = plugin.noise(ids[:3], item)
    (gradient,) = torch.autograd.grad(noise.sum(), item)
    near = plugin.table[ids[:3]].long()
    wanted = torch.zeros(N).index_add_(0, near.flatten(), torch.full((near.numel(),), 1 / near.shape[1]))
    assert torch.allclose(gradient[:, 0], wanted)
    restored = plugin._made[1]
    assert not restored.query.requires_grad
    assert not restored.confidence.requires_grad
    assert restored.loss.requires_grad
    picks = plugin.picks(restored, batch.tokens, item, torch.tensor([0, 2]))
    assert not any(one.requires_grad for one in picks)


def test_the_table_is_refreshed_by_training_steps_only() -> None:
    trial, plugin = make(refresh_every=3)
    batch = trial.first_batch()
    trial.step.eval()
    trial.step.encode(batch)
    assert int(plugin.age) == 0
    trial.step.train()
    trial.step.encode(batch)
    first = plugin.table.clone()
    for step in range(2, 5):
        with torch.no_grad():
            trial.backbone.item.normal_(generator=torch.Generator().manual_seed(step))
        trial.step.encode(batch)
        assert torch.equal(plugin.table, first) == (step < 4)
    trial.step.eval()
    trial.step.encode(batch)
    assert int(plugin.age) == 4


def test_seeking_for_the_batch_alone_equals_a_fresh_table() -> None:
    _, table = make()
    trial, batchwise = make(refresh_every=1)
    item = trial.backbone.item.detach()
    ids = torch.tensor([3, 3, 0, 9])
    table.train().refresh(item)
    assert batchwise.table.shape[0] == 0
    assert torch.allclose(table.noise(ids, item), batchwise.noise(ids, item), atol=1e-7)


def test_future_items_change_no_past_state() -> None:
    """Two histories that differ in their last item only: the batch's own states agree before it, views or none."""
    trial, _ = make()
    batch, encoded = encoded_of(trial)
    last = batch.tokens.last
    changed = batch.tokens.ids.clone()
    changed[last] = (changed[last] + 1) % N
    object.__setattr__(batch.tokens, "ids", changed)
    again = trial.step.encode(batch)
    past = torch.ones(len(changed), dtype=torch.bool)
    past[last] = False
    assert torch.allclose(again.anchor.states[past], encoded.anchor.states[past], atol=1e-5)
    assert not torch.allclose(again.anchor.states[last], encoded.anchor.states[last], atol=1e-2)


def test_a_random_prefix_is_read_no_further_than_its_anchor() -> None:
    trial, plugin = make(anchor="random")
    batch = trial.first_batch()
    tables = trial.backbone.tables()

    def views():
        torch.manual_seed(4)
        return plugin.inputs(batch, tables)

    first = views()
    lengths = plugin._made[0].prefix.lengths
    beyond = batch.tokens.positions >= lengths[batch.tokens.rows]
    assert beyond.any()
    changed = torch.where(beyond, (batch.tokens.ids + 1) % N, batch.tokens.ids)
    object.__setattr__(batch.tokens, "ids", changed)
    for one, other in zip(first, views(), strict=True):
        assert torch.equal(one.tokens.ids, other.tokens.ids)


@pytest.mark.parametrize("fields", [{}, {"items": "random"}, {"positive": "sample"}, {"anchor": "random"}])
def test_a_sampled_catalogue_trains(fields) -> None:
    log = tiny_log(n_users=120, n_items=150)
    torch.manual_seed(0)
    plugin = SimDiffRec(SimDiffRecConfig(candidates=64, **fields), kind="sequences", dim=8, n_items=150)
    assert plugin.table.shape[0] == 0

    def backbone(train):
        return SASRec(SASRecConfig(dim=8, inner=12, dropout=0.1), n_users=train.n_users, n_items=150)

    losses = fit(assemble(backbone, "sampled-softmax", [plugin], log, epochs=6)).losses
    assert all(torch.isfinite(torch.tensor(losses)))
    assert torch.tensor(losses[-10:]).mean() < 0.9 * torch.tensor(losses[:10]).mean()


def test_the_denoiser_learns_to_restore() -> None:
    trial, plugin = make(loss_time="full", weight=1e-6, reconstruction_weight=1.0)
    batch = trial.first_batch()
    adam = torch.optim.Adam(plugin.parameters(), lr=1e-2)
    found = []
    for _ in range(150):
        encoded = trial.step.encode(batch)
        loss = plugin.losses(batch, encoded)["reconstruction"]
        found.append(loss.item())
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert found[-1] < 0.2 * found[0]
    log = plugin.epoch_log()
    assert log["original_kept"] == 0.0
    assert 0.1 < log["replaced"] < 1
    assert plugin.epoch_log() == {}


def test_anchor_draws_are_the_plugins_own() -> None:
    trial, plugin = make(anchor="random")
    batch = trial.first_batch()
    torch.manual_seed(7)
    wanted = pick_anchors(batch, "random").token
    torch.manual_seed(7)
    plugin.inputs(batch, trial.backbone.tables())
    assert torch.equal(plugin._made[0].token, wanted)
