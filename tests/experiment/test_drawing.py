"""What is read off one batch, against equation 12 and autograd."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from augrec.backbones.tables import Tables
from augrec.batches.batch import Batch
from augrec.batches.negatives import NegativeSampler
from augrec.data.interactions import Interactions, Vocabulary
from augrec.experiment import figures as f
from augrec.experiment.drawing import Listener, read
from augrec.objectives.pairwise import BPR
from augrec.objectives.pointwise import BCE
from augrec.seams import Additions, Encoded, Negatives, Offset

N_USERS, N_ITEMS = 24, 30


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def log(pairs, n_users=N_USERS, n_items=N_ITEMS):
    users, items = Vocabulary.of(range(n_users)), Vocabulary.of(range(n_items))
    return Interactions.from_columns(
        user=[u for u, _ in pairs], item=[i for _, i in pairs], users=users, items=items, name="t"
    )


def pairs_of(seed, each=5):
    rng = np.random.default_rng(seed)
    return [(u, int(i)) for u in range(N_USERS) for i in rng.choice(N_ITEMS, each, replace=False)]


def batch_of(objective, *, k=1, offset=True, replaced=None):
    """A batch with drawn vectors, as an objective would get it, and all that went in."""
    rows, dim = 12, 6
    item = torch.randn(N_ITEMS, dim, generator=gen(1))
    query = torch.randn(rows, dim, generator=gen(2)).requires_grad_()
    user, target = torch.arange(rows), torch.randint(N_ITEMS, (rows,), generator=gen(3))
    made = torch.randn(rows, dim, generator=gen(4))
    tables = Tables(item=item, item0=item)
    listener = Listener(objective)
    batch = Batch(user=user, target=target, event=user, target_row=user)
    ids = listener.draw(batch).ids
    offsets = (Offset(score=(query * made).sum(1), weight=0.3),) if offset else ()
    negatives = Negatives(ids=ids)
    encoded = Encoded(tables=tables, query=query, target=target, negatives=replaced or negatives)
    loss = listener(batch, encoded, Additions(offsets=offsets, replaced=replaced))
    found = read(listener, NegativeSampler(log(pairs_of(0))), gen())
    return SimpleNamespace(
        found=found, query=query, item=item, target=target, ids=ids, made=made, loss=loss, offsets=offsets
    )


def test_a_batch_is_read_as_equation_12_has_it():
    one = batch_of(BPR(BPR.Config(), train=log(pairs_of(0))))
    rows = one.found.rows
    query, positive, negative = one.query.detach(), one.item[one.target], one.item[one.ids[:, 0]]
    vectors, weight = one.found.generated["offset"]
    assert weight == 0.3
    torch.testing.assert_close(vectors, one.made)
    torch.testing.assert_close(rows["score/positive"], (query * positive).sum(1))
    torch.testing.assert_close(rows["score/negative"][:, 0], (query * negative).sum(1))
    torch.testing.assert_close(rows["shift"], 0.3 * (query * one.made).sum(1))
    torch.testing.assert_close(rows["strength"], 0.09 * one.made.square().mean(1))
    own, rest = 0.3 * one.made.norm(dim=1), (negative - positive).norm(dim=1)
    torch.testing.assert_close(rows["share/generated"], own / (own + rest))
    torch.testing.assert_close(one.found.ids["sampled"], one.ids)
    cosine = (one.made * positive).sum(1) / (one.made.norm(dim=1) * positive.norm(dim=1))
    torch.testing.assert_close(rows["cosine/offset/positive"], cosine)


def test_gradient_weights_of_a_batch_by_autograd():
    one = batch_of(BPR(BPR.Config(), train=log(pairs_of(0))))
    score = torch.zeros(12, requires_grad=True)
    rows = one.found.rows
    margin = rows["score/positive"] - rows["score/negative"][:, 0]
    objective = torch.nn.functional.softplus(0.3 * score - margin + rows["shift"]).mean()
    slope = torch.autograd.grad(objective, score)[0] * 12 / 0.3
    torch.testing.assert_close(f.offset_weights(margin[:, None], rows["shift"])[1][:, 0], slope)


def test_share_of_a_term_of_its_own():
    """In BCE the generated negative is softplus(s_d), not part of a margin."""
    one = batch_of(BCE(BCE.Config(negatives=2), train=log(pairs_of(0))))
    query, positive, negative = one.query.detach(), one.item[one.target], one.item[one.ids]
    slopes = [torch.sigmoid((query[:, None] * negative).sum(2))[:, :, None] * negative / 2]
    rest = slopes[0].sum(1) - torch.sigmoid(-(query * positive).sum(1))[:, None] * positive
    own = 0.3 * torch.sigmoid((query * one.made).sum(1))[:, None] * one.made
    wanted = own.norm(dim=1) / (own.norm(dim=1) + rest.norm(dim=1))
    torch.testing.assert_close(one.found.rows["share/generated"], wanted)


def test_replacing_negatives_by_ids_and_by_vectors():
    ids = torch.randint(N_ITEMS, (12, 2), generator=gen(7))
    item = torch.randn(N_ITEMS, 6, generator=gen(1))
    objective = BPR(BPR.Config(), train=log(pairs_of(0)))
    looked_up = batch_of(objective, offset=False, replaced=Negatives(ids=ids, vectors=item[ids]))
    assert looked_up.found.generated == {}
    assert torch.equal(looked_up.found.ids["replaced"], ids)
    assert looked_up.found.rows["score/negative"].shape == (12, 2)
    made = torch.randn(12, 2, 6, generator=gen(8))
    own = batch_of(objective, offset=False, replaced=Negatives(ids=ids, vectors=made))
    assert torch.equal(own.found.generated["replaced"][0], made[:, 0])
    assert own.found.generated["replaced"][1] is None
