"""Views are encoded in one pass with the batch, and as if alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from augrec.batches.batch import Tokens
from augrec.seams import Plugin, View
from augrec.typed import Config


class NoConfig(Config):
    """Nothing to set."""


class Views(Plugin):
    """Two more sets of sequences: reversed ones, and ones cut to half with made-up vectors."""

    name = "views"
    acts = frozenset({"views", "losses"})

    def inputs(self, batch, tables):
        tokens = batch.tokens
        start, end = tokens.offsets[:-1].tolist(), tokens.offsets[1:].tolist()
        reverse = torch.cat([tokens.ids[a:b].flip(0) for a, b in zip(start, end, strict=True)])
        half = [(b - a + 1) // 2 for a, b in zip(start, end, strict=True)]
        kept = torch.cat([tokens.ids[a : a + h] for a, h in zip(start, half, strict=True)])
        offsets = torch.tensor([0, *np.cumsum(half)])
        noise = torch.randn(len(kept), self.dim)
        return (
            View(name="reverse", tokens=Tokens(ids=reverse, offsets=tokens.offsets, max_length=tokens.max_length)),
            View(name="half", tokens=Tokens(ids=kept, offsets=offsets, max_length=max(half))),
            View(name="mixed", tokens=Tokens(ids=kept, offsets=offsets, max_length=max(half), vectors=noise)),
        )

    def losses(self, batch, encoded):
        return {name: view.last.square().mean() for name, view in encoded.views.items()}


@pytest.mark.parametrize("model", ["sasrec", "gru4rec"])
def test_views_encoded_together_equal_views_encoded_alone(model, make):
    parts = {model: {"dim": 6, "dropout": 0.0, **({"attention_dropout": 0.0} if model == "sasrec" else {})}}
    made = make(plugins=lambda **s: [Views(NoConfig(), **s)], model=model, parts=parts)
    plain = make(model=model, parts=parts, name="plain")
    batch = first_batch(made)
    terms = made.step(batch, 0)
    encoded, backbone = made.step._shared[1], made.step.backbone
    assert terms.keys() == {"softmax", "views/reverse", "views/half", "views/mixed"}
    assert len(set(batch.tokens.lengths.tolist())) > 1
    assert terms["softmax"].item() == pytest.approx(plain.step(first_batch(plain), 0)["softmax"].item(), abs=1e-6)
    for one in (encoded.anchor, *encoded.views.values()):
        alone = backbone.encode(one.tokens, encoded.tables)
        torch.testing.assert_close(one.states, alone, atol=1e-6, rtol=0)
        lengths = one.tokens.offsets.diff().tolist()
        for row, (start, length) in enumerate(zip(one.tokens.offsets.tolist(), lengths, strict=False)):
            assert torch.equal(one.last[row], one.states[start + length - 1])
    torch.testing.assert_close(encoded.query, encoded.anchor.states[batch.target_token])
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)


def first_batch(made):
    with made.step.streams.use("batches"):
        batch = next(iter(made.loop.batches.epoch()))
    made.step.train()
    return made.step.begin(batch)
