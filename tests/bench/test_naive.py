"""Naive references give what the plug-ins give, on the same draws: a row compares two ways to one result."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from augrec.augment.pdrec import Preference, coarse_lists, history_weights, pool_bounds
from augrec.backbones.diffrec import TIDiffRec, TIDiffRecConfig
from augrec.bench.naive import NAMES, naive
from augrec.bench.naive.pdrec import prepare_user
from augrec.errors import UsageError
from augrec.experiment.build import build
from augrec.experiment.config import resolve
from augrec.testing import tiny_log

SETTINGS = {
    "adar": ("lightgcn", "bpr", {"steps": 6}), "dns": ("lightgcn", "bpr", {"candidates": 5, "top": 2}),
    "cns": ("ngcf", "bpr", {"candidates": 5}), "mixgcf": ("ngcf", "bpr", {"candidates": 5}),
    "ahns": ("lightgcn", "bce", {"candidates": 5}), "dins": ("lightgcn", "bpr", {"candidates": 5}),
    "simdiffrec": ("sasrec", "softmax", {"steps": 8, "neighbours": 4}),
    "cadirec": ("sasrec", "softmax", {"steps": 20, "top_k": 3, "ratio": 0.4}),
    "cl4srec": ("sasrec", "softmax", {"anchor": "random"}), "duorec": ("sasrec", "softmax", {}),
    "hbr": ("sasrec", "bce", {}), "nns": ("sasrec", "bce", {"skip": 0.5, "negatives": 3}),
    "dpa": ("sasrec", "bce", {"coarse": 6, "fine": 2, "weight": 0.5}),
}  # fmt: skip
PREFERENCE = {"preference": {"model": "t-diffrec", "hidden": 4, "epochs": 1, "select": "nothing"}}


def terms_and_gradients(name, as_naive, *, drawn=None):
    """`drawn`: the negatives of NNS, which draws for an epoch at once; the naive form tells its own as `plugin.ids`."""
    model, objective, fields = SETTINGS[name]
    overrides = {model: {"dim": 8}, name: fields, "train": {"batch_size": 40}}
    overrides |= PREFERENCE if name in ("hbr", "nns", "dpa") else {}
    run = resolve(model=model, objective=objective, augment=[name], overrides=overrides)
    parts = build(run, tiny_log(shortest=4), seed=3)
    step = parts.step.train()
    if as_naive:
        naive(step.plugins)
    for plugin in step.plugins:
        plugin.start_epoch(1)
    with step.streams.use("batches"):
        batch = step.begin(next(iter(parts.batches.epoch())))
    if drawn is not None:
        step.plugins[0].by_event = torch.zeros(len(step.plugins[0].user), drawn.shape[1], dtype=torch.int64)
        step.plugins[0].by_event[batch.event] = drawn
    phase = next(number for number, one in enumerate(step.phases) if one.loss is None)
    terms = step(batch, phase)
    torch.stack(list(terms.values())).sum().backward()
    moved = {key: value.grad for key, value in step.named_parameters() if value.grad is not None}
    return terms, moved, (batch, step.plugins[0])


@pytest.mark.parametrize("name", NAMES)
def test_terms_and_gradients_are_the_plugins(name):
    found, moved, (batch, plugin) = terms_and_gradients(name, True)
    wanted, expected, (_, ours) = terms_and_gradients(name, False, drawn=plugin.ids if name == "nns" else None)
    if name == "nns":  # and its draws are from our pools, all of which it can reach
        inside = np.unpackbits(ours.sampler.bits.numpy(), axis=1, bitorder="little")
        assert inside[batch.target_user[:, None], plugin.ids].all()
        for user in batch.user.tolist():
            order = plugin.rows.unobserved(user)
            assert set(order[len(order) // 2 :].tolist()) == set(inside[user].nonzero()[0].tolist())
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6, msg=key)
    for key, value in expected.items():
        if key in moved:
            torch.testing.assert_close(moved[key].to_dense(), value.to_dense(), rtol=1e-3, atol=1e-6, msg=key)
        else:
            assert not value.to_dense().any(), key


def test_a_plugin_without_a_naive_form_is_refused():
    with pytest.raises(UsageError, match="somebody's has no naive reference; it has one for adar"):
        naive([SimpleNamespace(name="somebody's")])


@torch.no_grad()
def test_one_user_at_a_time_prepares_what_all_at_once_do():
    log = tiny_log(shortest=4)
    rng = np.random.default_rng(0)
    stamps = np.sort(rng.integers(0, 10**6, len(log)))
    log = type(log)(**{**{name: getattr(log, name) for name in log.__dataclass_fields__}, "timestamp": stamps})
    config = TIDiffRecConfig(hidden=5)
    model = TIDiffRec(
        config, n_users=log.n_users, n_items=log.n_items, train=log, generator=torch.Generator().manual_seed(1)
    ).eval()  # fmt: skip
    tables = model.tables()
    preference = Preference(user=model.query_users(torch.arange(log.n_users), log, tables), item=tables.item)
    user, item = torch.from_numpy(log.user.copy()).long(), torch.from_numpy(log.item.copy()).long()
    target = torch.arange(len(log)) > torch.from_numpy(log.offsets.copy())[user]
    weights = history_weights(
        preference.scores(user[target], item[target]), user[target], log.n_users, rank_share=0.1, clip=3.0, rescale=2.0
    )  # fmt: skip
    lists = coarse_lists(preference, log, 4)
    lower, upper = pool_bounds(preference, log, skip=0.5)
    for one in range(log.n_users):
        found = prepare_user(model, log, one, coarse=4, skip=0.5)
        scores = preference.user[one] @ preference.item.T
        torch.testing.assert_close(found.preference, scores, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.weights, weights[user[target] == one], rtol=2e-3, atol=1e-4)
        assert found.coarse == [i for i in lists[one].tolist() if i >= 0]
        had = set(item[user == one].tolist())
        inside = {i for i in range(log.n_items) if lower[one] <= scores[i] <= upper[one] and i not in had}
        assert set(found.pool) == inside
