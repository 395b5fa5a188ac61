"""Views inside a training step: what they may not change, what they must reach, what is encoded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from augrec.experiment.build import build
from augrec.experiment.config import resolve
from augrec.testing import tiny_log

LOG = tiny_log(shortest=5)
ARMS = ["cl4srec", "duorec"]
CAUSAL, BOTH_WAYS = ["sasrec", "gru4rec"], ["bert4rec"]


def still(model):
    """Settings without dropout, so that two passes are comparable."""
    fields = {"dim": 8, "dropout": 0.0}
    return {model: fields if model == "gru4rec" else fields | {"attention_dropout": 0.0, "inner": 8}}


def parts_of(model, arm, objective=None, **fields):
    names = arm if isinstance(arm, list) else [arm]
    overrides = {**still(model), "train": {"batch_size": 60}, **({arm: fields} if fields else {})}
    return build(resolve(model=model, augment=names, objective=objective, overrides=overrides), LOG, seed=0)


def first(parts):
    return next(parts.batches.epoch(generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("anchor", ["last", "random"])
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("model", CAUSAL)
def test_later_items_never_change_earlier_states_while_views_are_encoded(model, arm, anchor) -> None:
    parts = parts_of(model, arm, anchor=anchor)
    step, batch = parts.step, first(parts)
    offsets, lengths = batch.tokens.offsets, batch.tokens.lengths
    assert int(lengths.min()) >= 2 or len(set(lengths.tolist())) > 1
    with torch.no_grad():
        plain = step.encode(batch).anchor.states
        for cut in range(1, int(lengths.max())):
            later = batch.tokens.positions >= cut
            ids = torch.where(later, (batch.tokens.ids + 5) % LOG.n_items, batch.tokens.ids)
            found = step.encode(replace(batch, tokens=replace(batch.tokens, ids=ids))).anchor.states
            torch.testing.assert_close(found[~later], plain[~later], atol=1e-6, rtol=1e-5)
            assert (found[later] - plain[later]).abs().max() > 1e-6
    assert len(offsets) > 2


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("model", [*CAUSAL, *BOTH_WAYS])
def test_the_contrast_alone_trains_the_encoder_through_every_view(model, arm) -> None:
    parts = parts_of(model, arm)
    step = parts.step
    batch = step.begin(first(parts))
    term = step(batch, 0)[f"{arm}/contrast"]
    views = step._shared[1].views
    gradients = torch.autograd.grad(term, [view.states for view in views.values()], retain_graph=True)
    for view, gradient in zip(views.values(), gradients, strict=True):
        reached = gradient.abs().sum(1).nonzero()[:, 0]
        assert torch.equal(reached, view.tokens.last), "the contrast reads last states and nothing else"
    term.backward()
    missing = [
        name
        for name, parameter in step.backbone.named_parameters()
        if (parameter.grad is None or not parameter.grad.any()) and name not in ("item_bias", "special")
    ]
    assert not missing


@pytest.mark.parametrize("arm", ARMS)
def test_a_view_on_a_bidirectional_backbone_ends_in_the_mask(arm) -> None:
    parts = parts_of("bert4rec", arm)
    step = parts.step
    batch = step.begin(first(parts))
    assert batch.unmasked is not None
    encoded = step.encode(batch)
    for name, view in encoded.views.items():
        assert (view.tokens.ids[view.tokens.last] == LOG.n_items).all()
        rest = view.tokens.ids.clone()
        rest[view.tokens.last] = 0
        if arm == "duorec":
            assert (rest < LOG.n_items).all(), "views are cut from what was there before items were hidden"
        assert int(view.tokens.lengths.max()) <= step.backbone.max_length, name
    dropped = encoded.views.get("duorec/dropout")
    if dropped is not None:
        plain = batch.plain.tokens
        assert dropped.tokens.lengths.tolist() == (plain.lengths + 1).tolist()


@pytest.mark.parametrize("mode", ["un", "su", "us", "us_x"])
def test_duorec_on_hidden_items_contrasts_the_question_asked_at_the_anchor(mode) -> None:
    """The anchor's state is encoded from the visible prefix with a mask behind it, not read from the hidden row."""
    parts = parts_of("bert4rec", "duorec", mode=mode, anchor="random")
    step = parts.step
    batch = step.begin(first(parts))
    encoded = step.encode(batch)
    wanted = {"un": {"anchor", "dropout"}, "su": {"anchor", "same-target"}, "us": {"anchor", "dropout", "same-target"}}
    assert {name.split("/")[1] for name in encoded.views} == wanted.get(mode, {"dropout", "same-target"})
    if mode in ("un", "us"):
        # Without dropout both passes of the prefix agree.
        torch.testing.assert_close(encoded.views["duorec/anchor"].last, encoded.views["duorec/dropout"].last)


@pytest.mark.parametrize("objective", ["bpr", "bce", "softmax"])
@pytest.mark.parametrize("model", [*CAUSAL, *BOTH_WAYS])
def test_views_and_adar_stand_together(model, objective) -> None:
    parts = parts_of(model, ["adar", *ARMS], objective)
    step = parts.step
    batch = step.begin(first(parts))
    main = next(n for n, phase in enumerate(step.phases) if phase.loss is None)
    terms = step(batch, main)
    assert {objective, "cl4srec/contrast", "duorec/contrast"} <= terms.keys()
    assert torch.isfinite(torch.stack(list(terms.values()))).all()
    sum(terms.values()).backward()
