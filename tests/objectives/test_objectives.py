"""Every objective with every kind of addition, against its formula written out in float64, value and gradient."""

from __future__ import annotations

import math

import pytest
import torch

from augrec.backbones.tables import Tables
from augrec.batches.batch import Batch
from augrec.objectives.common import soft_positive_loss
from augrec.objectives.pairwise import BPR
from augrec.objectives.pointwise import BCE
from augrec.objectives.softmax import SampledSoftmax, SampledSoftmaxConfig, Softmax, SoftmaxConfig
from augrec.seams import Additions, Encoded, Negatives, Offset, SoftPositives
from augrec.testing import tiny_log

LOG = tiny_log()
M, K, D, S = 7, 3, 5, 11
BATCH = Batch(
    user=torch.arange(M),
    target=torch.tensor([3, 0, 5, 5, 1, 16, 2]),
    event=torch.arange(M),
    target_row=torch.arange(M),
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


QUERY, ITEM = draw(M, D, seed=1), draw(LOG.n_items, D, seed=2)
BASE = torch.randint(LOG.n_items, (M, K), generator=torch.Generator().manual_seed(3))
# Met items only: the popularity sampler never draws another.
MET = torch.from_numpy(LOG.item_counts()).nonzero()[:, 0]
SHARED = MET[torch.randint(len(MET), (S,), generator=torch.Generator().manual_seed(4))]
WEIGHTS = draw(M, seed=5).exp()
REPLACED = Negatives(vectors=draw(M, 2, D, seed=6))
MORE = (
    Negatives(ids=torch.randint(LOG.n_items, (M, 4), generator=torch.Generator().manual_seed(7)), mode="append"),
    Negatives(vectors=draw(M, 1, D, seed=8), mode="append"),
)
OFFSETS = (Offset(score=draw(M, seed=9), weight=0.7), Offset(score=draw(M, seed=10), weight=0.2))
ADDED = {
    "nothing": {},
    "weights": {"weights": WEIGHTS},
    "offset": {"offsets": OFFSETS[:1]},
    "two offsets": {"offsets": OFFSETS},
    "weights, offset": {"weights": WEIGHTS, "offsets": OFFSETS[:1]},
}
NEGATIVES = {
    "replaced": {"replaced": REPLACED},
    "replaced by ids": {"replaced": Negatives(ids=BASE.flip(0))},
    "appended": {"appended": MORE[:1]},
    "two appended": {"appended": MORE},
    "everything": {"weights": WEIGHTS, "replaced": REPLACED, "appended": MORE, "offsets": OFFSETS},
}


def encoded(query, item, shared=False):
    negatives = Negatives(ids=SHARED if shared else BASE)
    tables = Tables(item=item, item0=item)
    return Encoded(tables=tables, query=query, target=BATCH.target, negatives=negatives)


def softplus(x):
    """log(1 + e^x), written so that it does not overflow."""
    return torch.clamp(x, min=0) + torch.log1p(torch.exp(-x.abs()))


def parts(query, item, added):
    """Float64 (s_i, [s_j of each source], shift, weights)."""
    positive = torch.stack([query[m] @ item[BATCH.target[m]] for m in range(M)])
    first = added.get("replaced", Negatives(ids=BASE))
    sources = []
    for source in (first, *added.get("appended", ())):
        vectors = item[source.ids] if source.vectors is None else source.vectors.double()
        sources.append(torch.stack([torch.stack([query[m] @ v for v in vectors[m]]) for m in range(M)]))
    shift = sum((o.weight * o.score.double() for o in added.get("offsets", ())), torch.zeros(M, dtype=torch.float64))
    weights = added.get("weights")
    return positive, sources, shift, torch.ones(M).double() if weights is None else weights.double()


def slow_bpr(query, item, added):
    """Mean over sources of mean_m w_m log(1 + sum_k exp(s_mk + shift_m - s_m))."""
    positive, sources, shift, weights = parts(query, item, added)
    terms = []
    for scores in sources:
        total = sum(torch.exp(scores[:, k] + shift - positive) for k in range(scores.shape[1]))
        terms.append((weights * torch.log(1 + total)).sum() / M)
    return sum(terms) / len(terms)


def slow_bce(query, item, added):
    """Mean w softplus(-s_i) + mean over sources of mean softplus(s_j) + sum of lambda * mean softplus(s_d)."""
    positive, sources, _, weights = parts(query, item, added)
    loss = (weights * softplus(-positive)).sum() / M
    loss = loss + sum(softplus(scores).sum() / scores.numel() for scores in sources) / len(sources)
    for offset in added.get("offsets", ()):
        loss = loss + offset.weight * softplus(offset.score.double()).sum() / M
    return loss


def slow_softmax(query, item, added):
    """Mean w_m -log of the target's share, its logit lowered by the shift, in the normaliser too."""
    _, _, shift, weights = parts(query, item, added)
    loss = 0.0
    for m in range(M):
        logits = [query[m] @ item[i] - (shift[m] if i == BATCH.target[m] else 0.0) for i in range(LOG.n_items)]
        total = torch.stack(logits).exp().sum()
        loss = loss - weights[m] * (logits[BATCH.target[m]] - total.log())
    return loss / M


def slow_sampled(log_q):
    """As the softmax over the target and the shared sample, every logit less log q, hits on the target left out."""

    def loss_of(query, item, added):
        _, _, shift, weights = parts(query, item, added)
        loss = 0.0
        for m in range(M):
            target = int(BATCH.target[m])
            first = query[m] @ item[target] - shift[m] - log_q[target]
            others = [query[m] @ item[i] - log_q[i] for i in SHARED.tolist() if i != target]
            loss = loss - weights[m] * (first - torch.stack([first, *others]).exp().sum().log())
        return loss / M

    return loss_of


COUNTS = torch.from_numpy(LOG.item_counts()).double()
POPULAR = (COUNTS**0.5).log() - (COUNTS**0.5).sum().log()
MAKERS = {
    "bpr": (BPR(BPR.Config(negatives=K), train=LOG), slow_bpr),
    "bce": (BCE(BCE.Config(negatives=K), train=LOG), slow_bce),
    "softmax": (Softmax(SoftmaxConfig(), train=LOG), slow_softmax),
    "softmax chunked": (Softmax(SoftmaxConfig(chunk=2), train=LOG), slow_softmax),
    "sampled uniform": (
        SampledSoftmax(SampledSoftmaxConfig(), train=LOG),
        slow_sampled([-math.log(LOG.n_items)] * LOG.n_items),
    ),
    "sampled popularity": (
        SampledSoftmax(SampledSoftmaxConfig(sampler="popularity", alpha=0.5), train=LOG),
        slow_sampled(POPULAR.tolist()),
    ),
}
CASES = [(name, kind) for name in MAKERS for kind in ADDED]
CASES += [(name, kind) for name in ("bpr", "bce") for kind in NEGATIVES]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_value_and_gradient_equal_the_written_out_formula(name, kind) -> None:
    objective, slow = MAKERS[name]
    added = {**ADDED, **NEGATIVES}[kind]
    query, item = QUERY.clone().requires_grad_(), ITEM.clone().requires_grad_()
    found = objective(BATCH, encoded(query, item, shared=name.startswith("sampled")), Additions(**added))
    assert found.dim() == 0
    found.backward()
    query64, item64 = QUERY.double().requires_grad_(), ITEM.double().requires_grad_()
    wanted = slow(query64, item64, added)
    wanted.backward()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert torch.allclose(query.grad.double(), query64.grad, atol=1e-6)
    assert torch.allclose(item.grad.double(), item64.grad, atol=1e-6)


@pytest.mark.parametrize("name", MAKERS)
def test_the_offset_carries_its_gradient(name) -> None:
    """d loss / d s_d = lambda * d loss / d shift > 0: a higher generated score is punished on every row."""
    objective, slow = MAKERS[name]
    score = OFFSETS[0].score.clone().requires_grad_()
    added = Additions(offsets=(Offset(score=score, weight=0.7),))
    objective(BATCH, encoded(QUERY, ITEM, shared=name.startswith("sampled")), added).backward()
    score64 = OFFSETS[0].score.double().requires_grad_()
    slow(QUERY.double(), ITEM.double(), {"offsets": (Offset(score=score64, weight=0.7),)}).backward()
    assert torch.allclose(score.grad.double(), score64.grad, atol=1e-6)
    assert (score.grad > 0).all()


def test_equation_12() -> None:
    """One negative: -log sigmoid(s_i - s_j - lambda s_d), as ADAR writes it."""
    objective = BPR(BPR.Config(), train=LOG)
    one = Encoded(
        tables=Tables(item=ITEM, item0=ITEM), query=QUERY, target=BATCH.target,
        negatives=Negatives(ids=BASE[:, :1]),
    )  # fmt: skip
    margin = (QUERY * ITEM[BATCH.target]).sum(1) - (QUERY * ITEM[BASE[:, 0]]).sum(1) - 0.7 * OFFSETS[0].score
    wanted = -torch.sigmoid(margin.double()).log().mean()
    assert objective(BATCH, one, Additions(offsets=OFFSETS[:1])).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_extra_positives_are_a_binary_cross_entropy_of_their_own() -> None:
    query, ids = draw(3, D, seed=20), torch.tensor([[1, 2], [0, 5], [7, 7]])
    tables = Tables(item=ITEM, item0=ITEM)
    found = soft_positive_loss(SoftPositives(query=query, ids=ids, weight=0.3, scale=2.0), tables)
    terms = [-math.log(1 / (1 + math.exp(-2.0 * float(query[q] @ ITEM[i])))) for q in range(3) for i in ids[q].tolist()]
    assert found.item() == pytest.approx(0.3 * sum(terms) / 6, rel=1e-5)
    empty = SoftPositives(query=query[:0].requires_grad_(), ids=ids[:0], weight=0.3)
    assert soft_positive_loss(empty, tables).item() == 0.0


def test_draws_have_the_shapes_the_seams_promise() -> None:
    assert MAKERS["bpr"][0].draw(BATCH).ids.shape == (M, K)
    assert MAKERS["bce"][0].draw(BATCH).ids.shape == (M, K)
    assert MAKERS["softmax"][0].draw(BATCH).ids is None
    assert MAKERS["sampled uniform"][0].draw(BATCH).ids.shape == (256,)
    train = set(zip(LOG.user.tolist(), LOG.item.tolist(), strict=True))
    for name in ("bpr", "bce"):
        objective = MAKERS[name][0]
        assert objective.samples
        for user, items in zip(BATCH.user.tolist(), objective.draw(BATCH).ids.tolist(), strict=True):
            assert not {(user, item) for item in items} & train
    assert all(MAKERS[name][0].inputs(BATCH) is BATCH for name in MAKERS)
    assert not MAKERS["softmax"][0].samples
    assert not MAKERS["sampled uniform"][0].samples


def test_what_refuses_what() -> None:
    """The table of the design: a softmax over every item has no use for other negatives."""
    for name, (objective, _) in MAKERS.items():
        softmax = "softmax" in name or "sampled" in name
        assert objective.refuses == (frozenset({"replace", "append"}) if softmax else frozenset())


@pytest.mark.parametrize("scale", [0.0, 1e4])
@pytest.mark.parametrize("name", MAKERS)
def test_extreme_scores_stay_finite(name, scale) -> None:
    objective, _ = MAKERS[name]
    query = (QUERY * scale).requires_grad_()
    added = Additions(weights=WEIGHTS, offsets=OFFSETS)
    loss = objective(BATCH, encoded(query, ITEM, shared=name.startswith("sampled")), added)
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(query.grad).all()
    if scale == 0.0 and name == "bpr":
        plain = objective(BATCH, encoded(query, ITEM), Additions())
        assert plain.item() == pytest.approx(math.log(1 + K))
