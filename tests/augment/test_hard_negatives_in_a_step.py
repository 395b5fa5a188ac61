"""Hard negatives in a training step: on every graph backbone, under BPR and BCE, for several negatives, below ADAR."""

from __future__ import annotations

import itertools

import pytest
import torch

from augrec.augment.mixgcf import MixGCF
from augrec.backbones.lightgcn import LightGCN
from augrec.backbones.mf import MF
from augrec.errors import ConfigError, UnsupportedCombinationError, UsageError
from augrec.experiment.build import build
from augrec.experiment.config import resolve
from augrec.experiment.registry import find
from augrec.seams import Additions
from augrec.testing import augmentation_checks, tiny_log

LOG = tiny_log()
TRAIN = set(zip(LOG.user.tolist(), LOG.item.tolist(), strict=True))
METHODS = ["dns", "cns", "mixgcf", "ahns", "dins"]
BACKBONES = ["mf", "lightgcn", "ngcf"]


def made(model, augment, objective="bpr", k=1, **overrides):
    """Step and first batch; `l2` is large so that its term can be told from rounding."""
    overrides = {objective: {"negatives": k}, model: {"dim": 6, "l2": 0.5}, "train": {"batch_size": 32}, **overrides}
    run = resolve(model=model, objective=objective, augment=augment, overrides=overrides)
    parts = build(run, LOG, seed=1)
    with parts.step.streams.use("batches"):
        batch = parts.step.begin(next(iter(parts.batches.epoch())))
    return parts.step.train(), batch


def spied(step, batch):
    """Terms of the main phase, its encoding, and what each plug-in was shown and gave, by name."""
    seen = {}
    for plugin in step.plugins:

        def watch(batch, encoded, *, name=plugin.name, inner=plugin.targets):
            seen[name] = (encoded, inner(batch, encoded))
            return seen[name][1]

        plugin.targets = watch
    encoded = step.encode(batch)
    return step.main(batch, encoded), encoded, seen


def replacing(seen, encoded):
    """(M, K, D) vectors and (M, K, D0) rows of whoever replaced."""
    found = next(given.replaced for _, given in seen.values() if given.replaced is not None)
    vectors = encoded.tables.item[found.ids] if found.vectors is None else found.vectors
    return vectors.double(), (encoded.tables.item0[found.ids] if found.layer0 is None else found.layer0).double()


def slow_loss(objective, encoded, target, vectors, shift):
    """BPR: mean log(1 + sum_k exp(s_k + shift - s_i)), equation 12 of ADAR for K negatives; BCE: its own terms."""
    query, positive = encoded.query.double(), encoded.tables.item[target].double()
    s_i = (query * positive).sum(1)
    total = 0.0
    for row in range(len(target)):
        s_k = [query[row] @ vectors[row, k] for k in range(vectors.shape[1])]
        if objective == "bpr":
            lift = 0.0 if shift is None else shift[0] * shift[1][row]
            total = total + torch.log(1 + sum(torch.exp(s + lift - s_i[row]) for s in s_k))
        else:
            total = (
                total + torch.log(1 + torch.exp(-s_i[row])) + sum(torch.log(1 + torch.exp(s)) for s in s_k) / len(s_k)
            )
            if shift is not None:
                total = total + shift[0] * torch.log(1 + torch.exp(shift[1][row]))
    return total / len(target)


@pytest.mark.parametrize("with_adar", [False, True])
@pytest.mark.parametrize(
    ("method", "model", "objective", "k"),
    [
        pytest.param(*one, id="-".join(map(str, one)))
        for one in itertools.product(METHODS, BACKBONES, ["bpr", "bce"], [1, 3])
    ],
)
def test_loss_and_penalty_are_those_of_the_replaced_negatives(method, model, objective, k, with_adar) -> None:
    # ADAR is named first: who replaces is asked first all the same.
    step, batch = made(model, ["adar", method] if with_adar else [method], objective, k)
    terms, encoded, seen = spied(step, batch)
    vectors, layer0 = replacing(seen, encoded)
    rows, width = len(batch.target), encoded.query.shape[1]
    assert vectors.shape == (rows, k, width)
    assert layer0.shape == (rows, k, 6)
    shift = None
    if with_adar:
        assert torch.equal(seen["adar"][0].negatives.rows(encoded.tables).double(), vectors)
        (offset,) = seen["adar"][1].offsets
        assert offset.weight > 0
        assert offset.score.abs().max() > 0
        shift = (offset.weight, offset.score.double())
    wanted = slow_loss(objective, encoded, batch.target, vectors, shift)
    torch.testing.assert_close(terms[objective].double(), wanted, rtol=1e-5, atol=1e-6)
    squares = layer0.square().sum() + sum(
        encoded.tables.user0[batch.user[row]].double().square().sum()
        + encoded.tables.item0[batch.target[row]].double().square().sum()
        for row in range(rows)
    )
    torch.testing.assert_close(terms["l2"].double(), 0.5 * 0.5 * squares / rows, rtol=1e-5, atol=1e-7)
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in step.backbone.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(("method", "model"), list(itertools.product(METHODS, BACKBONES)))
def test_candidates_lie_outside_the_train_items_and_sets_are_independent(method, model) -> None:
    step, batch = made(model, [method], k=3)
    plugin, encoded = step.plugins[0], step.encode(batch)
    candidates = plugin.draw(batch, encoded)
    assert candidates.shape == (len(batch.target), 3, 32)
    for user, items in zip(batch.user.tolist(), candidates.flatten(1).tolist(), strict=True):
        assert not {(user, item) for item in items} & TRAIN
    assert not torch.equal(candidates[:, 0], candidates[:, 1])
    assert not torch.equal(plugin.draw(batch, encoded), candidates)


@pytest.mark.parametrize("model", BACKBONES)
def test_harder_than_chance(model) -> None:
    """Mean score of what was picked: DNS above its top-M variant above uniform negatives."""
    means = []
    for fields in ({"candidates": 1}, {"top": 8}, {"top": 1}):
        step, batch = made(model, ["dns"], k=8, dns=fields)
        _, encoded, seen = spied(step, batch)
        vectors, _ = replacing(seen, encoded)
        means.append(torch.einsum("md,mkd->mk", encoded.query.double(), vectors).mean().item())
    assert means == sorted(means)
    assert len(set(means)) == 3


def test_the_curriculum_moves_with_the_epochs() -> None:
    step, batch = made("mf", ["cns"], cns={"epochs": 4, "candidates": 8})
    plugin = step.plugins[0]
    sampled = []
    inner = plugin._sampler.sample
    plugin._sampler.sample = lambda user, k: sampled.append(k) or inner(user, k)
    for epoch in (1, 2, 3, 4, 5, 50):
        plugin.start_epoch(epoch)
        plugin.targets(batch, step.encode(batch))
        assert plugin.epoch_log() == {"candidates": sampled[-1]}
    assert sampled == [8, 6, 4, 2, 1, 1]


@pytest.mark.parametrize("method", ["mixgcf", "ahns", "dins"])
@pytest.mark.parametrize("backbone", [MF, LightGCN], ids=["mf", "lightgcn"])
def test_conformance_on_the_other_backbones(method, backbone) -> None:
    """The suite over the registry takes one pair backbone, NGCF; here are the two whose hops are averaged."""
    for _, check in augmentation_checks(find(method, ("augmentation",), option="").load(), backbone=backbone):
        check()


@pytest.mark.parametrize("method", METHODS)
def test_without_the_train_log_it_says_what_to_call(method) -> None:
    step, batch = made("mf", [method])
    plugin = type(step.plugins[0])(step.plugins[0].config, kind="pairs", dim=6, n_items=LOG.n_items)
    with pytest.raises(UsageError, match=rf"{method}.*load_prepared\(Prepared\(\), train\)"):
        plugin.targets(batch, step.encode(batch))


@pytest.mark.parametrize("method", METHODS)
def test_none_of_them_stands_with_a_softmax_or_with_another(method) -> None:
    for objective in ("softmax", "sampled-softmax"):
        with pytest.raises(UnsupportedCombinationError, match=f"'{method}'.*'{objective}'"):
            build(resolve(model="mf", objective=objective, augment=[method]), LOG, seed=0)
    other = METHODS[METHODS.index(method) - 1]
    with pytest.raises(UnsupportedCombinationError, match=f"'{method}' and '{other}' both replace"):
        build(resolve(model="mf", augment=[method, other]), LOG, seed=0)


def test_ahns_is_for_pairs() -> None:
    with pytest.raises(UnsupportedCombinationError, match="'ahns' works on pairs backbones, 'sasrec'"):
        build(resolve(model="sasrec", objective="bpr", augment=["ahns"]), LOG, seed=0)


def test_more_of_the_top_than_candidates_is_refused() -> None:
    run = resolve(model="mf", augment=["dns"], overrides={"dns": {"candidates": 3, "top": 4}})
    with pytest.raises(ConfigError, match=r"dns\.top = 4 is more than dns\.candidates = 3; lower"):
        build(run, LOG, seed=0)


def test_no_candidates_is_off() -> None:
    run = resolve(model="mf", augment=["mixgcf"], overrides={"mixgcf": {"candidates": 0}})
    assert not build(run, LOG, seed=0).step.plugins


@pytest.mark.parametrize(("preset", "guard"), [("default", 1e-6), ("paper", None), ("published-code", None)])
def test_presets_of_ahns(preset, guard) -> None:
    assert resolve(model="mf", augment=["ahns"], preset=preset).part("ahns").guard == guard


def test_mixgcf_draws_its_shares_anew_and_uniformly() -> None:
    """With one candidate and one hop the share of the positive in the mixture can be read back."""
    step, batch = made("mf", ["mixgcf"], k=200, mixgcf={"candidates": 1})
    plugin, encoded = step.plugins[0], step.encode(batch)
    found = plugin.targets(batch, encoded)
    assert isinstance(found, Additions)
    assert isinstance(plugin, MixGCF)
    positive, chosen = encoded.positive[:, None], found.replaced.vectors
    # p - mixture = (1 - a) (p - n): its direction tells n, its length the share.
    item = encoded.tables.item
    away = positive - chosen
    unit = torch.nn.functional.normalize(away, dim=2)
    to_items = positive - item[None]
    place = torch.einsum("mkd,mid->mki", unit, torch.nn.functional.normalize(to_items, dim=2)).nan_to_num().argmax(2)
    length = to_items.norm(dim=2).gather(1, place)
    share = (1 - away.norm(dim=2) / length).detach()
    assert share.min() > -1e-3
    assert share.max() < 1 + 1e-3
    ordered = share.flatten().sort().values
    grid = torch.arange(1, len(ordered) + 1) / len(ordered)
    assert (ordered - grid).abs().max() < 1.95 / len(ordered) ** 0.5  # Kolmogorov's 0.1 % point
