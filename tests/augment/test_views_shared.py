"""Anchors, prefixes and orders of packed rows against a loop over the rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from augrec.augment.views import anchor_states, anchor_views, pick_anchors, prefixes, row_ranks, subrows
from augrec.batches.sequences import SequenceBatches
from augrec.seams import Encoded, EncodedView
from augrec.testing import tiny_log
from augrec.testing.sequence_checks import tokens_of

ROWS = ([3, 1, 4, 1, 5], [2], [7, 1, 8, 2, 8, 1], [2, 8])
LOG = tiny_log()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows_of(tokens):
    return [row.tolist() for row in tokens.ids.split(tokens.lengths.tolist())]


def batch_of(size=40):
    return next(SequenceBatches(LOG, batch_size=size, max_length=5).epoch(generator=generator()))


def test_prefixes_equal_slices() -> None:
    tokens = replace(tokens_of(ROWS), vectors=torch.randn(14, 3, generator=generator()), masked=True)
    end = torch.tensor([2, 5, 6, 13])
    found = prefixes(tokens, end)
    assert rows_of(found) == [[3, 1, 4], [2], [7], [2, 8]]
    assert found.max_length == 3
    assert torch.equal(found.vectors, tokens.vectors[[0, 1, 2, 5, 6, 12, 13]])
    assert found.masked
    middle = subrows(tokens, torch.tensor([1, 5, 8, 12]), torch.tensor([2, 1, 4, 1]))
    assert rows_of(middle) == [[1, 4], [2], [8, 2, 8, 1], [2]]


def test_no_rows() -> None:
    tokens = tokens_of(())
    assert rows_of(prefixes(tokens, torch.zeros(0, dtype=torch.int64))) == []
    assert len(row_ranks(tokens)) == 0


def test_the_last_anchor_is_the_end_of_each_row() -> None:
    batch = batch_of()
    found = pick_anchors(batch, "last")
    for row, (start, end) in enumerate(zip(batch.tokens.offsets[:-1], batch.tokens.offsets[1:], strict=True)):
        assert found.token[row] == end - 1
        assert found.target[row] == batch.target[start:end][-1]
        assert LOG.item[found.event[row]] == found.target[row]
        assert LOG.user[found.event[row]] == batch.user[row]
    assert found.prefix is batch.tokens


@pytest.mark.parametrize("place", ["last", "random"])
def test_anchors_are_places_that_predict_something(place) -> None:
    """Rows of which the last token alone has a target, and rows of a mixed log, in which any token may lack one."""
    inside = np.arange(LOG.n_items) % 3 > 0
    mixed = replace(LOG, candidates=inside)
    for log, rows in ((LOG, "prefix"), (mixed, "whole"), (mixed, "prefix-dense")):
        for batch in SequenceBatches(log, batch_size=40, max_length=5, rows=rows).epoch(generator=generator()):
            found = pick_anchors(batch, place, generator=generator(1))
            for row in range(len(batch.user)):
                own = batch.target_row == row
                there = batch.target_token[own].tolist().index(int(found.token[row]))
                assert place == "random" or there == int(own.sum()) - 1
                assert found.event[row] == batch.event[own][there]
                assert found.target[row] == batch.target[own][there]
            start = batch.tokens.offsets[:-1]
            ids = [batch.tokens.ids[a : b + 1].tolist() for a, b in zip(start, found.token, strict=True)]
            assert rows_of(found.prefix) == ids


def test_a_random_anchor_is_uniform_and_its_prefix_ends_there() -> None:
    batch = batch_of()
    counts = [Counter() for _ in batch.user]
    draws = generator(3)
    for _ in range(400):
        found = pick_anchors(batch, "random", generator=draws)
        for row, cut in enumerate(rows_of(found.prefix)):
            whole = rows_of(batch.tokens)[row]
            assert cut == whole[: len(cut)]
            at = int(batch.tokens.offsets[row]) + len(cut) - 1
            assert found.token[row] == at
            assert found.target[row] == batch.target[at]
            assert found.event[row] == batch.event[at]
            counts[row][len(cut)] += 1
    lengths = batch.tokens.lengths.tolist()
    assert max(lengths) > 3
    for length, seen in zip(lengths, counts, strict=True):
        assert chisquare([seen[n + 1] for n in range(length)]).pvalue > 1e-4 if length > 1 else seen[1] == 400


def test_ranks_are_a_uniform_permutation_of_each_row() -> None:
    tokens, draws, seen = tokens_of(ROWS), generator(1), Counter()
    for _ in range(600):
        ranks = row_ranks(tokens, generator=draws)
        for row in ranks.split(tokens.lengths.tolist()):
            assert sorted(row.tolist()) == list(range(len(row)))
        seen[tuple(ranks[:3].tolist())] += 1
    # Ranks 0..4 in the first three of five places: 60 arrangements.
    assert len(seen) == 60
    assert chisquare(list(seen.values())).pvalue > 1e-4


@pytest.mark.parametrize("place", ["last", "random"])
def test_anchor_states_with_and_without_hidden_items(place) -> None:
    batch = batch_of()
    states = torch.randn(len(batch.tokens.ids), 4, generator=generator())
    encoded = Encoded(tables=None, query=states, anchor=EncodedView(tokens=batch.tokens, states=states))
    anchors = pick_anchors(batch, place, generator=generator(2))
    assert anchor_views(batch, anchors, "x") == ()
    assert torch.equal(anchor_states(encoded, anchors, "x"), states[anchors.token])
    hidden = replace(batch, unmasked=batch, target=batch.target[:2], event=batch.event[:2])
    again = pick_anchors(hidden, place, generator=generator(2))
    assert torch.equal(again.target, anchors.target)
    (view,) = anchor_views(hidden, again, "x")
    assert rows_of(view.tokens) == rows_of(anchors.prefix)
    made = torch.randn(len(view.tokens.ids), 4, generator=generator(5))
    encoded = replace(encoded, views={"x": EncodedView(tokens=view.tokens, states=made)})
    assert torch.equal(anchor_states(encoded, again, "x"), made[view.tokens.last])
