"""Hidden items against a loop over the rows; shares by exact counts and chi-square."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from augrec.batches.masking import Masking, append_mask, hide_items
from augrec.batches.sequences import SequenceBatches
from augrec.testing import tiny_log
from augrec.testing.sequence_checks import tokens_of
from augrec.testing.strategies import logs

ROWS = ([3, 1, 4, 1, 5], [2], [7, 1, 8, 2, 8, 1], [2, 8])
MASK = 50


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def split(tokens, values=None):
    return [row.tolist() for row in (tokens.ids if values is None else values).split(tokens.lengths.tolist())]


def hidden_rows(batch):
    """{row: places} of the targets."""
    found = {}
    for row, token in zip(batch.target_row.tolist(), batch.target_token.tolist(), strict=True):
        found.setdefault(row, []).append(token - int(batch.tokens.offsets[row]))
    return found


@given(log=logs(), length=st.integers(2, 5), ratio=st.sampled_from([0.1, 0.2, 0.5, 0.9]), last=st.sampled_from([0, 1]))
@settings(max_examples=80)
def test_a_row_is_its_events_with_some_hidden(log, length, ratio, last) -> None:
    masking = Masking(ratio=ratio, last_share=last)
    for batch in SequenceBatches(log, batch_size=20, max_length=length).epoch(generator=generator()):
        before = (batch.tokens.ids.clone(), batch.target.clone())
        found = hide_items(batch, masking, mask_token=log.n_items, generator=generator(1))
        assert found.unmasked is batch
        assert found.plain is batch
        assert torch.equal(batch.tokens.ids, before[0])
        assert torch.equal(batch.target, before[1])
        assert found.tokens.masked
        assert found.tokens.max_length == max(found.tokens.lengths.tolist())
        places = hidden_rows(found)
        visible = found.tokens.ids.clone()
        visible[found.target_token] = found.target
        for row, (inputs, targets) in enumerate(
            zip(split(batch.tokens), split(batch.tokens, batch.target), strict=True)
        ):
            whole = [*inputs[:1], *targets][-length:]
            assert split(found.tokens, visible)[row] == whole
            wanted = [len(whole) - 1] if last else max(1, round(ratio * len(whole)))
            assert places[row] == wanted if last else len(places[row]) == wanted
        assert (log.item[found.event.numpy()] == found.target.numpy()).all()
        assert (log.user[found.event.numpy()] == found.target_user.numpy()).all()
        assert (found.tokens.ids == log.n_items).sum() == len(found.target)


def test_every_place_is_hidden_equally_often_and_last_items_in_their_share() -> None:
    batch = next(SequenceBatches(tiny_log(), batch_size=40, max_length=9).epoch(generator=generator()))
    row = int(batch.tokens.lengths.argmax())
    length = int(batch.tokens.lengths[row]) + 1
    draws, places, only_last = generator(7), Counter(), 0
    for _ in range(1200):
        found = hide_items(batch, Masking(ratio=0.3, last_share=0.25), mask_token=99, generator=draws)
        last = found.tokens.lengths - 1
        if len(found.target) == len(last) and all(
            p == [n] for p, n in zip(hidden_rows(found).values(), last, strict=True)
        ):
            only_last += 1
        else:
            places.update(hidden_rows(found)[row])
    assert length > 4
    assert set(places) == set(range(length))
    assert chisquare(list(places.values())).pvalue > 1e-4
    assert chisquare([only_last, 1200 - only_last], [300, 900]).pvalue > 1e-4


def test_the_same_draws_give_the_same_batch() -> None:
    batch = next(SequenceBatches(tiny_log(), batch_size=40, max_length=9).epoch(generator=generator()))
    one, two, other = (
        hide_items(batch, Masking(ratio=0.3), mask_token=99, generator=generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one.tokens.ids, two.tokens.ids)
    assert not torch.equal(one.tokens.ids, other.tokens.ids)


@pytest.mark.parametrize("limit", [2, 3, 6, 9])
@pytest.mark.parametrize("rows", [ROWS, (), ([1], []), ([], [])])
def test_the_mask_stands_at_the_end_and_the_oldest_goes(rows, limit) -> None:
    tokens = tokens_of(rows)
    found = append_mask(tokens, mask_token=MASK, max_length=limit)
    assert split(found) == [[*row[max(0, len(row) - limit + 1) :], MASK] for row in rows]
    assert found.masked
    assert found.max_length >= max(map(len, split(found)), default=0)
    assert found.max_length <= limit


def test_vectors_come_along() -> None:
    tokens = tokens_of(ROWS)
    given_ = replace(tokens, vectors=torch.randn(14, 3, generator=generator()), detach_items=True)
    mask = torch.full((1, 3), 9.0)
    found = append_mask(given_, mask_token=MASK, max_length=4, vector=mask)
    pieces = given_.vectors.split(tokens.lengths.tolist())
    assert torch.equal(found.vectors, torch.cat([torch.cat([one[-3:], mask]) for one in pieces]))
    assert found.detach_items
