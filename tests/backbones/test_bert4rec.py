"""BERT4Rec against torch's own padded TransformerEncoder in float64; its bias, its question, its training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from augrec.augment.compose import check_combination
from augrec.backbones.base import InnerProductScorer
from augrec.backbones.bert4rec import BERT4Rec, BERT4RecConfig
from augrec.batches.sequences import SequenceBatches
from augrec.errors import UnsupportedCombinationError
from augrec.objectives.common import scores, with_bias
from augrec.seams import Additions, Encoded, Negatives
from augrec.testing import log_of, tiny_log
from augrec.testing.assemble import assemble, fit, make_objective, train_on
from augrec.testing.sequence_checks import tokens_of

ROWS = ([3, 1, 9, 1, 5], [2], [7, 1, 8, 2, 8, 9], [2, 8], [9, 6, 6, 6, 6, 6])
N_ITEMS = 9
SHAPE = {"dim": 12, "heads": 3, "inner": 20, "max_length": 8, "initializer_range": 0.4}


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def made(**fields):
    config = BERT4RecConfig(**{**SHAPE, **fields})
    model = BERT4Rec(config, n_users=3, n_items=N_ITEMS, generator=draws()).eval().double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Biases and norms start at 0 and 1; a reference that forgot them must not pass.
            if "norm" in name or "bias" in name:
                parameter.add_(torch.randn(parameter.shape, generator=draws(1)) * 0.3)
    return model


def reference(model, rows):
    """(N, D) states from rows padded at the end, with torch's encoder and key-padding mask, then the head."""
    config = BERT4RecConfig(**SHAPE)
    layer = nn.TransformerEncoderLayer(
        config.dim, config.heads, config.inner, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
    )
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double()
    w = {name: value.detach() for name, value in model.state_dict().items()}
    names = {
        "self_attn.in_proj_": "qkv.", "self_attn.out_proj.": "out.", "linear1.": "wide.", "linear2.": "narrow.",
        "norm1.": "norm1.", "norm2.": "norm2.",
    }  # fmt: skip
    state = {
        f"layers.{n}.{theirs}{kind}": w[f"layers.{n}.{ours}{kind}"]
        for n in range(2) for theirs, ours in names.items() for kind in ("weight", "bias")
    }  # fmt: skip
    encoder.load_state_dict(state)
    length = max(map(len, rows))
    table = torch.cat([w["item"], w["special"]])
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    padding = torch.arange(length) >= torch.tensor([len(row) for row in rows])[:, None]
    x = table[ids] + w["position"][:length]
    x = F.layer_norm(x, (config.dim,), w["norm.weight"], w["norm.bias"], 1e-12)
    x = encoder(x, src_key_padding_mask=padding)
    x = F.gelu(x @ w["head.weight"].T + w["head.bias"])
    x = F.layer_norm(x, (config.dim,), w["head_norm.weight"], w["head_norm.bias"], 1e-12)
    return torch.cat([x[b, : len(row)] for b, row in enumerate(rows)])


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ([1, 9], [9, 4]), ([9],)], ids=["mixed", "one", "equal", "single"])
def test_packed_equals_torchs_padded_encoder(rows) -> None:
    model = made()
    with torch.no_grad():
        found = model.encode(replace(tokens_of(rows), masked=True), model.tables())
        wanted = reference(model, rows)
    assert torch.allclose(found, wanted, atol=1e-11)


def test_scores_are_the_state_of_a_mask_put_at_the_end_times_items_plus_bias() -> None:
    model = made(max_length=4)
    log = log_of([[0, 1, 2], [3, 4, 5, 6, 7, 8], [], [2]], n_items=N_ITEMS)
    found = InnerProductScorer(model).score(torch.arange(4), log)
    for user, read in enumerate([[0, 1, 2], [6, 7, 8], None, [2]]):
        wanted = torch.zeros(N_ITEMS).double()
        if read is not None:
            with torch.no_grad():
                state = model.encode(replace(tokens_of(([*read, N_ITEMS],)), masked=True), model.tables())[-1]
                wanted = model.item @ state
        assert torch.allclose(found[user].double(), wanted + model.item_bias.detach(), atol=1e-5)


def test_without_bias_there_is_none() -> None:
    model = made(item_bias=False)
    assert model.tables().bias is None
    assert "item_bias" not in model.state_dict()


def test_the_bias_is_a_coordinate_that_objectives_add() -> None:
    item, bias, query = torch.randn(6, 3, generator=draws()), torch.randn(6, generator=draws(1)), torch.randn(2, 3)
    ids, vectors = torch.tensor([[0, 5], [3, 3]]), torch.randn(2, 1, 3, generator=draws(3))
    model = made()
    tables = replace(model.tables(), item=item, item0=item, bias=bias)
    batch = next(SequenceBatches(log_of([[0, 1, 4]], n_items=6), batch_size=9, max_length=4).epoch())
    encoded = Encoded(tables=tables, query=query, target=batch.target, negatives=Negatives(ids=ids))
    wide_query, wide_items = with_bias(encoded)
    assert torch.allclose(wide_query @ wide_items.T, query @ item.T + bias)
    additions = Additions(
        replaced=Negatives(ids=ids, vectors=2 * item[ids]), appended=(Negatives(vectors=vectors), Negatives(ids=ids))
    )
    positive, (replaced, made_up, appended) = scores(batch, encoded, additions)
    assert torch.allclose(positive, (query * item[batch.target]).sum(1) + bias[batch.target])
    by_id = torch.einsum("md,mkd->mk", query, item[ids])
    assert torch.allclose(replaced, 2 * by_id + bias[ids])
    assert torch.allclose(made_up, torch.einsum("md,mkd->mk", query, vectors)), "vectors of no item have no bias"
    assert torch.allclose(appended, by_id + bias[ids])
    plain = replace(encoded, tables=replace(tables, bias=None))
    assert with_bias(plain) == (query, item)
    assert torch.allclose(scores(batch, plain, additions)[1][2], by_id)


@pytest.mark.parametrize("objective", ["bpr", "bce", "softmax", "sampled-softmax"])
def test_every_objective_trains_on_hidden_items_and_their_bias(objective) -> None:
    config = BERT4RecConfig(dim=8, inner=8, dropout=0.0, attention_dropout=0.0)
    log = tiny_log()
    trial = assemble(
        lambda log, **_: BERT4Rec(config, n_users=log.n_users, n_items=log.n_items), objective, (), log,
        learning_rate=1e-3,
    )  # fmt: skip
    batch = trial.first_batch()
    assert (batch.tokens.ids[batch.target_token] == log.n_items).all()
    before, bias = trial.ranking_loss(batch), trial.backbone.item_bias.clone()
    train_on(trial, batch, steps=30)
    assert trial.ranking_loss(batch) < 0.95 * before
    moved = (trial.backbone.item_bias != bias).nonzero()[:, 0]
    assert set(batch.target.tolist()) <= set(moved.tolist())


def test_ratio_and_last_share_reach_the_batches() -> None:
    log = tiny_log()
    for share, ratio in ((1.0, 0.2), (0.0, 0.6)):
        config = BERT4RecConfig(dim=8, inner=8, last_share=share, mask_ratio=ratio)
        model = BERT4Rec(config, n_users=log.n_users, n_items=log.n_items)
        batch = next(SequenceBatches(log, batch_size=60, max_length=50).epoch(generator=draws()))
        found = model.training_batch(batch)
        lengths = found.tokens.lengths
        if share:
            assert torch.equal(found.target_token, found.tokens.last)
        else:
            assert len(found.target) == sum(max(1, round(0.6 * n)) for n in lengths.tolist())


def test_it_learns_what_comes_next() -> None:
    """On a ring walk the next item is one or two steps on (a guess of two hits 2 times in 17); random places hidden in
    training are enough to learn it for the place after the last."""
    log = tiny_log(n_users=100, longest=9)
    config = BERT4RecConfig(dim=16, inner=32, dropout=0.0, attention_dropout=0.0, mask_ratio=0.3, last_share=0.0)
    trial = assemble(
        lambda log, **_: BERT4Rec(config, n_users=log.n_users, n_items=log.n_items), "softmax", (), log,
        learning_rate=5e-3, batch_size=128, epochs=30,
    )  # fmt: skip
    fit(trial)
    users = torch.arange(log.n_users - 1)
    known = torch.from_numpy(log.item[log.offsets[1:-1] - 1].astype("int64"))
    top = InnerProductScorer(trial.backbone).score(users, log).topk(2).indices
    ring = log.n_items - 1
    hit = ((top == ((known + 1) % ring)[:, None]) | (top == ((known + 2) % ring)[:, None])).any(1)
    assert hit.float().mean() > 0.4


def test_seeing_both_ways_without_hiding_anything_is_refused_by_name() -> None:
    model = made()
    check_combination(model, make_objective("bpr", tiny_log()), [])
    model.masking = None
    with pytest.raises(
        UnsupportedCombinationError, match=r"'bert4rec'.*both ways.*'bpr'.*set the backbone's `masking`"
    ):
        check_combination(model, make_objective("bpr", tiny_log()), [])
