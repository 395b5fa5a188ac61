"""One training step against the same step written out by hand in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from augrec.seams import Additions, Negatives, Offset, Plugin, SoftPositives
from augrec.typed import Config


class ToyConfig(Config):
    """Nothing to set."""


class Asked(Plugin):
    """Adds what its function says."""

    name = "asked"
    acts = frozenset({"weights"})

    def __init__(self, ask, *, acts=None, name=None, **sizes):
        super().__init__(ToyConfig(), **sizes)
        self.ask = ask
        if acts is not None:
            self.acts = frozenset(acts)
        if name is not None:
            self.name = name

    def targets(self, batch, encoded):
        return self.ask(batch, encoded)


def first_batch(made):
    with made.step.streams.use("batches"):
        batch = next(iter(made.loop.batches.epoch()))
    made.step.train()
    return made.step.begin(batch)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def scale_up(made, factor: float = 8.0) -> None:
    """Larger vectors, so that no sigmoid sits at one half."""
    with torch.no_grad():
        made.step.backbone.nodes.mul_(factor)


@pytest.mark.parametrize("preset", ["default", "robust"])
def test_a_bpr_step_with_adar_by_hand(preset, make):
    from augrec.augment.adar.config import preset as adar_preset
    from augrec.augment.adar.plugin import ADAR

    settings = adar_preset(preset, weight=0.4)
    made = make(plugins=lambda **sizes: [ADAR(settings, **sizes)], parts={"mf": {"l2": 0.03, "dim": 6}})
    scale_up(made)
    step, adar = made.step, made.step.plugins[0]
    batch = first_batch(made)
    adar.start_epoch(1)
    terms = step(batch, 1)
    assert terms.keys() == {"bpr", "l2"}
    torch.stack(list(terms.values())).sum().backward()

    nodes = step.backbone.nodes.detach().double().numpy()
    users, items = nodes[: step.backbone.n_users], nodes[step.backbone.n_users :]
    negative = step._shared[1].negatives.ids[:, 0].numpy()
    made_up = adar._made.vectors.double().numpy()
    assert adar._made.weight == 0.4
    assert np.linalg.norm(made_up) > 0
    owned = {(int(u), int(i)) for u, i in zip(made.log.user, made.log.item, strict=True)}
    gradient, ranking, squares = np.zeros_like(nodes), 0.0, 0.0
    rows = len(batch.user)
    for m in range(rows):
        u, i, j = int(batch.user[m]), int(batch.target[m]), int(negative[m])
        assert (u, i) in owned
        assert (u, j) not in owned
        e_u, e_i, e_j, e_d = users[u], items[i], items[j], made_up[m]
        margin = e_u @ e_i - (e_u @ e_j + 0.4 * (e_u @ e_d))
        ranking += softplus(-margin) / rows
        slope = -sigmoid(-margin) / rows
        gradient[u] += slope * (e_i - e_j - 0.4 * e_d)
        gradient[step.backbone.n_users + i] += slope * e_u
        gradient[step.backbone.n_users + j] -= slope * e_u
        for row in (u, step.backbone.n_users + i, step.backbone.n_users + j):
            squares += nodes[row] @ nodes[row]
            gradient[row] += 0.03 / rows * nodes[row]
    assert terms["bpr"].item() == pytest.approx(ranking, abs=1e-6)
    assert terms["l2"].item() == pytest.approx(0.5 * 0.03 / rows * squares, abs=1e-6)
    np.testing.assert_allclose(step.backbone.nodes.grad.double().numpy(), gradient, atol=1e-6)
    assert all(parameter.grad is None for parameter in adar.parameters())


def test_the_denoiser_phase_never_reaches_the_encoder(make):
    from augrec.augment.adar.config import AdarConfig
    from augrec.augment.adar.plugin import ADAR

    made = make(plugins=lambda **sizes: [ADAR(AdarConfig(), **sizes)])
    batch = first_batch(made)
    loss = made.step(batch, 0)
    assert list(loss) == ["adar"]
    loss["adar"].backward()
    assert made.step.backbone.nodes.grad is None
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in made.step.plugins[0].parameters())


def batch_scores(made, batch):
    """u . i of the targets, u . j of the base negatives, users and items, in float64."""
    nodes = made.step.backbone.nodes.detach().double().numpy()
    users, items = nodes[: made.step.backbone.n_users], nodes[made.step.backbone.n_users :]
    query = users[batch.user.numpy()]
    base = made.step._shared[1].negatives.ids.numpy()
    return (query * items[batch.target.numpy()]).sum(1), np.einsum("md,mkd->mk", query, items[base]), query, items


def bpr(positive, negatives, weight=1.0):
    return float(np.mean(weight * np.log1p(np.exp(negatives - positive[:, None]).sum(1))))


def bce(positive, sources, weight=1.0):
    return float(np.mean(weight * softplus(-positive)) + np.mean([softplus(one).mean() for one in sources]))


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(9)
    return lambda *shape, high=60: torch.randint(high, shape, generator=generator)


OBJECTIVES = [("bpr", 1), ("bpr", 3), ("bce", 1), ("bce", 2)]


@pytest.mark.parametrize(("objective", "k"), OBJECTIVES)
def test_weights(objective, k, make):
    seen = []

    def ask(batch, encoded):
        seen.append(torch.rand(len(batch.target)) * 2)
        return Additions(weights=seen[-1])

    # Two plug-ins that weigh: their weights multiply.
    made = make(
        plugins=lambda **s: [Asked(ask, name="a", **s), Asked(ask, name="b", **s)],
        objective=objective, parts={objective: {"negatives": k}},
    )  # fmt: skip
    scale_up(made)
    batch = first_batch(made)
    term = made.step(batch, 0)[objective].item()
    positive, negatives, _, _ = batch_scores(made, batch)
    weight = (seen[0].double() * seen[1].double()).numpy()
    assert negatives.shape == (len(positive), k)
    wanted = bpr(positive, negatives, weight) if objective == "bpr" else bce(positive, [negatives], weight)
    assert term == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("objective", "k"), OBJECTIVES)
def test_appended_negatives_average_their_sources(objective, k, make, drawn):
    ids, vectors = drawn(250, 4), torch.randn(250, 2, 6, generator=torch.Generator().manual_seed(1))

    def ask(batch, encoded):
        return Additions(
            appended=(Negatives(ids=ids, mode="append"), Negatives(vectors=vectors, mode="append")),
        )

    made = make(plugins=lambda **s: [Asked(ask, **s)], objective=objective, parts={objective: {"negatives": k}})
    scale_up(made)
    batch = first_batch(made)
    terms = made.step(batch, 0)
    positive, base, query, items = batch_scores(made, batch)
    sources = [
        base,
        np.einsum("md,mkd->mk", query, items[ids.numpy()]),
        np.einsum("md,mkd->mk", query, vectors.double().numpy()),
    ]
    by_bpr = np.mean([bpr(positive, one) for one in sources])
    assert terms[objective].item() == pytest.approx(by_bpr if objective == "bpr" else bce(positive, sources), abs=1e-6)


@pytest.mark.parametrize(("objective", "k"), OBJECTIVES)
@pytest.mark.parametrize("given", ["ids", "vectors", "layer0"])
@pytest.mark.parametrize("order", ["replace first", "replace last"])
def test_replaced_negatives_and_a_shift_of_the_margin(objective, k, given, order, make, drawn):
    ids = drawn(250, 2)
    noise = torch.randn(250, 2, 6, generator=torch.Generator().manual_seed(2))
    read = []

    def replacing(batch, encoded):
        assert encoded.negatives.ids.shape == (250, k)
        assert torch.equal(encoded.negatives.rows(encoded.tables), encoded.tables.item[encoded.negatives.ids])
        if given == "ids":
            return Additions(replaced=Negatives(ids=ids))
        return Additions(replaced=Negatives(vectors=noise, layer0=2 * noise if given == "layer0" else None))

    def shifting(batch, encoded):
        read.append(encoded.negatives.rows(encoded.tables))
        return Additions(
            offsets=(Offset(score=encoded.query.sum(1), weight=0.3), Offset(score=encoded.query[:, 0], weight=2))
        )

    plugins = lambda **s: [  # noqa: E731
        Asked(replacing, name="replacing", acts={"replace"}, **s),
        Asked(shifting, name="shifting", acts={"offset"}, **s),
    ][:: 1 if order == "replace first" else -1]
    made = make(plugins=plugins, objective=objective, parts={objective: {"negatives": k}, "mf": {"l2": 0.02, "dim": 6}})
    scale_up(made)
    batch = first_batch(made)
    terms = made.step(batch, 0)
    positive, _, query, items = batch_scores(made, batch)
    vectors = items[ids.numpy()] if given == "ids" else noise.double().numpy()
    # Whatever the order on the command line: the shifting plug-in reads the negatives that are trained on.
    np.testing.assert_allclose(read[0].detach().double().numpy(), vectors, atol=1e-7)
    scores = np.einsum("md,mkd->mk", query, vectors)
    first, second = query.sum(1), query[:, 0]
    if objective == "bpr":
        wanted = bpr(positive, scores + (0.3 * first + 2 * second)[:, None])
    else:
        wanted = bce(positive, [scores]) + 0.3 * softplus(first).mean() + 2 * softplus(second).mean()
    assert terms[objective].item() == pytest.approx(wanted, abs=1e-6)
    rows = {"ids": vectors, "vectors": np.zeros(1), "layer0": 2 * vectors}[given]
    squares = np.square(query).sum() + np.square(items[batch.target.numpy()]).sum() + np.square(rows).sum()
    assert terms["l2"].item() == pytest.approx(0.5 * 0.02 / 250 * squares, rel=1e-5)


@pytest.mark.parametrize("objective", ["bpr", "softmax"])
def test_soft_positives_are_a_term_of_their_own(objective, make, drawn):
    ids, model = drawn(7, 3), "mf" if objective == "bpr" else "gru4rec"

    def ask(batch, encoded):
        return Additions(
            positives=(
                SoftPositives(query=encoded.query[:7], ids=ids, weight=0.2, scale=3.0),
                SoftPositives(query=encoded.query[:0], ids=ids[:0], weight=0.2),
            )
        )

    made = make(plugins=lambda **s: [Asked(ask, **s)], model=model, objective=objective)
    plain = make(model=model, objective=objective, name="plain")
    batch = first_batch(made)
    terms = made.step(batch, 0)
    other = plain.step(first_batch(plain), 0)
    assert terms[objective].item() == other[objective].item()  # nothing else is changed
    encoded = made.step._shared[1]
    query, items = encoded.query[:7].detach().double().numpy(), encoded.tables.item.detach().double().numpy()
    scores = 3.0 * np.einsum("md,mkd->mk", query, items[ids.numpy()])
    assert terms["positives/0"].item() == pytest.approx(0.2 * softplus(-scores).mean(), abs=1e-6)
    assert terms["positives/1"].item() == 0.0


def test_full_softmax_by_hand_with_weights_and_a_shift(make):
    seen = {}

    def ask(batch, encoded):
        seen["w"] = torch.rand(len(batch.target))
        return Additions(weights=seen["w"], offsets=(Offset(score=encoded.query[:, 1], weight=0.7),))

    made = make(plugins=lambda **s: [Asked(ask, **s)], model="gru4rec")
    batch = first_batch(made)
    term = made.step(batch, 0)["softmax"].item()
    encoded = made.step._shared[1]
    query, items = encoded.query.detach().double().numpy(), encoded.tables.item.detach().double().numpy()
    rows, target = np.arange(len(query)), batch.target.numpy()
    logits = query @ items.T
    logits[rows, target] -= 0.7 * query[:, 1]
    loss = np.log(np.exp(logits).sum(1)) - logits[rows, target]
    assert term == pytest.approx(float((seen["w"].double().numpy() * loss).mean()), abs=1e-6)


def test_a_plugin_that_adds_nothing_changes_nothing(make):
    parts = {"sasrec": {"dim": 6}}
    made = make(plugins=lambda **s: [Asked(lambda batch, encoded: Additions(), **s)], model="sasrec", parts=parts)
    plain = make(model="sasrec", parts=parts, name="plain")
    made.loop.run(), plain.loop.run()
    assert all(torch.equal(a, b) for a, b in zip(*(x.step.backbone.parameters() for x in (made, plain)), strict=True))
    assert nn.utils.parameters_to_vector(plain.step.backbone.parameters()).isfinite().all()
