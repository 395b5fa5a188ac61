"""DuoRec's same-target index against a loop over all events, and each mode's terms by hand."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from augrec.augment.duorec import DuoRec, DuoRecConfig, SameTarget
from augrec.batches.sequences import SequenceBatches
from augrec.errors import ConfigError
from augrec.losses.infonce import nt_xent
from augrec.seams import Encoded, EncodedView, Prepared
from augrec.testing import log_of, tiny_log
from augrec.testing.strategies import logs

HISTORIES = [[1, 2, 3, 4], [5, 2], [6, 7, 8, 2, 1], [9, 1, 2], [2], [], [0, 4, 4]]
LOG = log_of(HISTORIES, n_items=11)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def transitions(log):
    """item -> rows of the log at which it follows something, by a loop."""
    found = {}
    for row in range(len(log)):
        if row > log.offsets[log.user[row]]:
            found.setdefault(int(log.item[row]), []).append(row)
    return found


@given(log=logs(), seed=st.integers(0, 99), length=st.integers(1, 4))
@settings(max_examples=60)
def test_draws_share_the_item_and_are_another_event_where_there_is_one(log, seed, length) -> None:
    index, known = SameTarget(log), transitions(log)
    event = torch.tensor([row for rows in known.values() for row in rows], dtype=torch.int64)
    drawn = index.draw(event, generator=generator(seed))
    for own, other in zip(event.tolist(), drawn.tolist(), strict=True):
        same = known[int(log.item[own])]
        assert other in same
        assert (other == own) == (len(same) == 1)
    tokens = index.prefixes(drawn, max_length=length)
    rows = [row.tolist() for row in tokens.ids.split(tokens.lengths.tolist())]
    for other, row in zip(drawn.tolist(), rows, strict=True):
        start = max(int(log.offsets[log.user[other]]), other - length)
        assert row == log.item[start:other].tolist()
        assert row
    assert tokens.max_length == max(map(len, rows), default=0)


def test_draws_are_uniform_over_the_others() -> None:
    index, known = SameTarget(LOG), transitions(LOG)
    assert len(known[2]) == 4
    for own in known[2]:
        seen = Counter(index.draw(torch.full((900,), own), generator=generator(own)).tolist())
        assert set(seen) == set(known[2]) - {own}
        assert chisquare(list(seen.values())).pvalue > 1e-4


def test_the_index_takes_memory_in_proportion_to_the_log() -> None:
    """Every event leads to one item: pairs would be a million, the index holds no more than the log's rows."""
    log = log_of([[0, 1]] * 1000, n_items=3)
    index = SameTarget(log)
    held = sum(one.numel() for one in (index.event, index.place, index.offsets))
    assert held == 1000 + 2000 + 4
    assert index.draw(index.event, generator=generator()).ne(index.event).all()


def test_the_log_is_only_read() -> None:
    before = LOG.item.copy()
    index = SameTarget(LOG)
    index.prefixes(index.draw(index.event), max_length=3).ids.add_(1)
    assert (LOG.item == before).all()


WANTED = {
    "us_x": {"contrast": ("dropout", "same-target", 0.2)},
    "us": {"dropout": ("anchor", "dropout", 0.2), "same-target": ("anchor", "same-target", 0.7)},
    "un": {"dropout": ("anchor", "dropout", 0.2)},
    "su": {"same-target": ("anchor", "same-target", 0.2)},
}


@pytest.mark.parametrize("anchor", ["last", "random"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("mode", WANTED)
def test_views_and_terms_of_each_mode(mode, masked, anchor) -> None:
    log = tiny_log()
    config = DuoRecConfig(
        weight=0.2, weight_same_target=0.7, mode=mode, temperature=0.8, anchor=anchor, mask_false_negatives=masked
    )
    plugin = DuoRec(config, kind="sequences", dim=4, n_items=log.n_items)
    plugin.load_prepared(Prepared(), log)
    batch = next(SequenceBatches(log, batch_size=60, max_length=4).epoch(generator=generator()))
    views = plugin.inputs(batch, None)
    pairs = WANTED[mode].values()
    assert {view.name for view in views} == {f"duorec/{n}" for p in pairs for n in p[:2] if n != "anchor"}
    own = torch.randn(len(batch.tokens.ids), 4, generator=generator(9))
    states = {v.name: torch.randn(len(v.tokens.ids), 4, generator=generator(n)) for n, v in enumerate(views)}
    encoded = Encoded(
        tables=None,
        query=own,
        anchor=EncodedView(tokens=batch.tokens, states=own),
        views={view.name: EncodedView(tokens=view.tokens, states=states[view.name]) for view in views},
    )
    anchors = plugin._anchors
    items = log.item
    for view in views:
        if view.name == "duorec/dropout":
            assert torch.equal(view.tokens.ids, anchors.prefix.ids)
    if "same-target" in str(WANTED[mode]):
        same = next(view.tokens for view in views if view.name == "duorec/same-target")
        known = {}
        for row in range(len(log)):
            prefix = items[max(log.offsets[log.user[row]], row - 4) : row]
            known.setdefault(tuple(prefix.tolist()), set()).add(int(items[row]))
        for row, target in zip(same.ids.split(same.lengths.tolist()), anchors.target.tolist(), strict=True):
            assert target in known[tuple(row.tolist())]

    def last(name):
        if name == "anchor":
            return own[anchors.token]
        return encoded.views[f"duorec/{name}"].last

    terms = plugin.losses(batch, encoded)
    assert terms.keys() == WANTED[mode].keys()
    for name, (first, second, weight) in WANTED[mode].items():
        wanted = nt_xent(
            last(first), last(second), similarity="dot", temperature=0.8, group=anchors.target if masked else None
        )
        assert terms[name].item() == pytest.approx(weight * wanted.item(), rel=1e-6)


def test_false_negatives_are_masked_only_when_asked() -> None:
    """One target for all rows: nothing is left to contrast with, and the published form contrasts all the same."""
    log = log_of([[n, 9] for n in range(6)], n_items=10)
    batch = next(SequenceBatches(log, batch_size=60, max_length=4).epoch())
    found = {}
    for masked in (False, True):
        plugin = DuoRec(DuoRecConfig(mask_false_negatives=masked), kind="sequences", dim=4, n_items=10)
        plugin.load_prepared(Prepared(), log)
        views = plugin.inputs(batch, None)
        states = [torch.randn(6, 4, generator=generator(n)) for n in range(2)]
        encoded = Encoded(
            tables=None,
            query=None,
            views={v.name: EncodedView(tokens=v.tokens, states=s) for v, s in zip(views, states, strict=True)},
        )
        found[masked] = plugin.losses(batch, encoded)["contrast"].item()
    assert found[True] == 0.0
    assert found[False] > 0.05


def test_presets_and_when_it_is_off() -> None:
    assert DuoRecConfig(**DuoRec.preset("paper", kind="sequences")).mode == "us_x"
    with pytest.raises(ConfigError, match="duorec: there is no preset 'robust'"):
        DuoRec.preset("robust", kind="sequences")

    def active(**fields):
        return DuoRec(DuoRecConfig(**fields), kind="sequences", dim=4, n_items=3).active

    assert not active(weight=0.0)
    assert active(weight=0.0, mode="us")
    assert not active(weight=0.0, weight_same_target=0.0, mode="us")
