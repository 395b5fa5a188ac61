"""A mixed log with a target domain: what is split, trained on, sampled and ranked, against rules in plain Python."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F

import augrec
from augrec.backbones.tables import Tables
from augrec.batches.negatives import NegativeSampler
from augrec.batches.pairs import PairBatches
from augrec.batches.sequences import SequenceBatches
from augrec.data import Interactions, read_interactions
from augrec.errors import DataError, UnsupportedCombinationError
from augrec.evaluate.sampled import sampled_candidates
from augrec.objectives.softmax import SampledSoftmax, Softmax
from augrec.seams import Additions, Encoded, Negatives
from augrec.splits import make_split

SOURCE = 1000


def make_log(seed=0, users=30, days=4):
    """Items below 1,000 are of domain 0, the others of domain 1; many events share a day."""
    rng, rows = np.random.default_rng(seed), []
    for user in range(users):
        for n in range(int(rng.integers(4, 16))):
            domain = int(rng.random() < 0.5)
            rows.append((user, int(rng.integers(140)) + SOURCE * domain, n // days, n, domain))
    columns = ["user", "item", "timestamp", "position", "domain"]
    return read_interactions(pl.DataFrame(rows, schema=columns, orient="row"))


@pytest.fixture(scope="module", params=[0, 1])
def split(request):
    return make_split(make_log(), {"kind": "leave-one-out", "target_domain": request.param})


def domain_of(split):
    return split.options["target_domain"]


def rows_of(log, user):
    own = slice(log.offsets[user], log.offsets[user + 1])
    return log.items.take(log.item[own]).to_list()


def test_the_split_by_the_plain_rule(split) -> None:
    log, domain, measured, lost = make_log(), domain_of(split), 0, 0
    for user in range(log.n_users):
        items = rows_of(log, user)
        own = [n for n, item in enumerate(items) if (item >= SOURCE) == domain]
        parts = [rows_of(part, user) for part in (split.train, split.valid, split.between, split.test)]
        if len(own) < 3:
            assert parts == [items, [], [], []]
            continue
        valid, test = own[-2:]
        assert parts == [items[:valid], [items[valid]], items[valid + 1 : test], [items[test]]]
        assert rows_of(split.history("test"), user) == items[:test]
        measured, lost = measured + 1, lost + len(items) - 1 - test
    assert len(split.test) == len(split.valid) == measured > 15
    assert split.options["rows_after_test"] == lost > 0
    assert len(split.between) > 0
    seen = {item for user in range(log.n_users) for item in rows_of(log, user) if (item >= SOURCE) == domain}
    assert set(log.items.take(np.flatnonzero(split.train.candidates)).to_list()) == seen


def test_the_hash_tells_domains_apart_and_plain_splits_stay_as_they_were(split) -> None:
    plain = make_split(make_log(), "leave-one-out")
    other = make_split(make_log(), {"kind": "leave-one-out", "target_domain": 1 - domain_of(split)})
    assert len({plain.sha256, split.sha256, other.sha256}) == 3
    assert plain.between is None
    assert plain.train.candidates is None
    assert "target_domain" not in plain.options


@pytest.mark.parametrize("max_length", [3, 50])
def test_every_transition_to_the_domain_is_a_target_once(split, max_length) -> None:
    train, seen = split.train, []
    batches = SequenceBatches(train, batch_size=20, max_length=max_length)
    found = list(batches.epoch())
    assert len(found) == len(batches) == len(list(batches.epoch()))
    for batch in found:
        assert len(batch.target) <= 20 or len(batch.user) == 1
        assert train.candidates[batch.target.numpy()].all()
        assert (train.item[batch.event.numpy()] == batch.target.numpy()).all()
        # The token that predicts a target is the event before it, of whatever domain.
        before = batch.tokens.ids[batch.target_token]
        assert (train.item[batch.event.numpy() - 1] == before.numpy()).all()
        assert (train.user[batch.event.numpy()] == batch.target_user.numpy()).all()
        assert torch.equal(batch.tokens.rows[batch.target_token], batch.target_row)
        seen += batch.event.tolist()
    first = train.offsets[train.user]
    wanted = np.flatnonzero(train.in_candidates() & (np.arange(len(train)) > first))
    assert sorted(seen) == wanted.tolist()
    assert batches.targets == len(wanted)
    pairs = torch.cat([batch.event for batch in PairBatches(train, batch_size=7).epoch()])
    assert sorted(pairs.tolist()) == np.flatnonzero(train.in_candidates()).tolist()


def test_negatives_are_uniform_over_unseen_items_of_the_domain(split) -> None:
    train = split.train
    users = torch.arange(train.n_users)
    drawn = NegativeSampler(train).sample(users, 3000, generator=torch.Generator().manual_seed(0))
    for user in range(train.n_users):
        own = set(train.item[train.offsets[user] : train.offsets[user + 1]].tolist())
        free = sorted(set(np.flatnonzero(train.candidates).tolist()) - own)
        count = torch.bincount(drawn[user], minlength=train.n_items)
        assert set(count.nonzero()[:, 0].tolist()) <= set(free)
        assert (count[free].double() / 3000 * len(free)).std() < 0.35


def test_the_softmax_runs_over_the_domain(split) -> None:
    train, generator = split.train, torch.Generator().manual_seed(1)
    items, query = torch.randn(train.n_items, 4, generator=generator), torch.randn(6, 4, generator=generator)
    inside = torch.from_numpy(train.candidates.copy())
    batch = next(PairBatches(train, batch_size=6).epoch())
    target = batch.target
    encoded = Encoded(tables=Tables(item=items, item0=items), query=query)
    found = Softmax(Softmax.Config(), train=train)(batch, encoded, Additions())
    logits = (query @ items.T).masked_fill(~inside, -torch.inf)
    assert found.item() == pytest.approx(F.cross_entropy(logits, target).item(), rel=1e-5)
    encoded = replace(encoded, target=target)
    for sampler in ("uniform", "popularity"):
        sampled = SampledSoftmax(SampledSoftmax.Config(sampler=sampler, negatives=400), train=train)
        ids = sampled.draw(batch).ids
        assert inside[ids].all()
        assert torch.isfinite(sampled(batch, replace(encoded, negatives=Negatives(ids=ids)), Additions()))


def test_sampled_candidates_are_of_the_domain_and_unseen(split) -> None:
    users = np.flatnonzero(split.test.degrees())
    known = (split.train, split.valid, split.test)
    found = sampled_candidates(users, split.test, known, n=20, seed=3)
    assert (found.target == split.test.item).all()
    for user, row in zip(found.user, found.negatives, strict=True):
        own = {i for part in known for i in part.item[part.offsets[user] : part.offsets[user + 1]].tolist()}
        assert len(set(row.tolist())) == 20
        assert split.train.candidates[row].all()
        assert not own & set(row.tolist())


SMALL = {
    "sasrec": {"dim": 8, "inner": 8, "heads": 1, "layers": 1}, "t-diffrec": {"hidden": 8}, "mf": {"dim": 8},
    "preference": {"hidden": 8, "epochs": 2},
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "augment", "objective"),
    [("sasrec", ["pdrec"], "bce"), ("sasrec", ["hbr", "dpa"], "softmax"), ("sasrec", ["cl4srec"], "softmax"),
     ("t-diffrec", [], None), ("popularity", [], None)],
)  # fmt: skip
def test_whole_runs_rank_the_domain_alone(tmp_path, monkeypatch, model, augment, objective) -> None:
    monkeypatch.setenv("AUGREC_CACHE", str(tmp_path / "cache"))
    used = {model, *(["preference"] if {"pdrec", "hbr"} & {*augment} else [])}
    overrides = {name: SMALL[name] for name in used if name in SMALL}
    overrides |= {"split": {"target_domain": 1}} | (
        {} if model == "popularity" else {"train": {"epochs": 2, "threads": 1}}
    )
    run = augrec.train(
        make_log(), model=model, augment=augment, objective=objective, split="leave-one-out", out=tmp_path / "run",
        overrides=overrides, callbacks=[],
    )  # fmt: skip
    assert run.result["split"]["target_domain"] == 1
    assert run.result["protocol"]["candidates"].startswith("items of domain 1 only (")
    lists = run.recommend(k=10)
    assert (lists["item"] >= SOURCE).all()
    assert (run.recommend([0], k=5, allow=[SOURCE + 1, SOURCE + 2, 3])["item"] >= SOURCE).all()
    with pytest.raises(DataError, match="target domain"):
        run.recommend([0], k=5, allow=[3])


def test_what_cannot_be_is_explained(tmp_path) -> None:
    log = make_log()
    with pytest.raises(UnsupportedCombinationError, match="bert4rec learns hidden items of whole rows"):
        augrec.train(log, model="bert4rec", out=tmp_path / "run", overrides={"split": {"target_domain": 1}})
    with pytest.raises(DataError, match=r"no row has domain 5; split\.target_domain can be 0, 1"):
        make_split(log, {"kind": "leave-one-out", "target_domain": 5})
    bare = Interactions.from_columns(user=[0, 0, 0], item=[0, 1, 2], name="bare")
    with pytest.raises(DataError, match=r"bare: split\.target_domain = 0, but the log has no domain column"):
        make_split(bare, {"kind": "leave-one-out", "target_domain": 0})
    with pytest.raises(DataError, match="candidates must be bool"):
        Interactions(**{**bare.__dict__, "candidates": np.ones(2, dtype=bool)})
