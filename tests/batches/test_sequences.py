"""Sequence batches against a plain walk over the log."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from augrec.batches.sequences import SequenceBatches
from augrec.testing import log_of
from augrec.testing.strategies import logs

SIZES = st.integers(1, 12)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def flat(batch):
    return [
        batch.user.tolist(), batch.target.tolist(), batch.event.tolist(), batch.target_row.tolist(),
        batch.tokens.ids.tolist(), batch.tokens.offsets.tolist(), batch.tokens.max_length, batch.target_token.tolist(),
    ]  # fmt: skip


@given(log=logs(), size=SIZES, length=st.integers(1, 6), seed=st.integers(0, 5))
@settings(max_examples=120)
def test_every_transition_once_with_its_own_users_past(log, size, length, seed) -> None:
    batches = SequenceBatches(log, batch_size=size, max_length=length)
    seen = Counter()
    count = 0
    for batch in batches.epoch(generator=seeded(seed)):
        count += 1
        tokens = batch.tokens
        lengths = tokens.lengths.tolist()
        assert len(batch.target) <= size or len(lengths) == 1
        assert max(lengths) == tokens.max_length <= length
        assert torch.equal(batch.target_token, torch.arange(len(tokens.ids)))
        assert torch.equal(batch.target_row, tokens.rows)
        for b, user in enumerate(batch.user.tolist()):
            first, last = tokens.offsets[b].item(), tokens.offsets[b + 1].item()
            events = batch.event[first:last].tolist()
            assert events == list(range(events[0], events[0] + last - first))
            assert log.offsets[user] < events[0]
            assert events[-1] < log.offsets[user + 1]
            assert tokens.ids[first:last].tolist() == log.item[events[0] - 1 : events[-1]].tolist()
            assert batch.target[first:last].tolist() == log.item[events[0] : events[-1] + 1].tolist()
            seen.update(events)
    firsts = set(log.offsets[:-1].tolist())
    assert seen == Counter(row for row in range(len(log)) if row not in firsts)
    assert count == len(batches)
    assert batches.targets == seen.total()


@given(log=logs(min_length=2), size=SIZES, seed=st.integers(0, 5))
@settings(max_examples=40)
def test_resuming_inside_an_epoch_gives_its_tail(log, size, seed) -> None:
    batches = SequenceBatches(log, batch_size=size, max_length=4)
    whole = [flat(batch) for batch in batches.epoch(generator=seeded(seed))]
    for start in range(len(whole) + 1):
        generator = seeded(seed)
        assert [flat(batch) for batch in batches.epoch(generator=generator, start=start)] == whole[start:]
        after = seeded(seed)
        list(batches.epoch(generator=after))
        assert torch.equal(generator.get_state(), after.get_state())


def test_long_histories_are_cut_from_the_newest_end() -> None:
    batches = SequenceBatches(log_of([list(range(8))], n_items=8), batch_size=100, max_length=3)
    windows = {}
    for batch in batches.epoch(generator=seeded(0)):
        for b in range(len(batch.user)):
            row = slice(batch.tokens.offsets[b], batch.tokens.offsets[b + 1])
            windows[tuple(batch.tokens.ids[row].tolist())] = batch.target[row].tolist()
    assert windows == {(4, 5, 6): [5, 6, 7], (1, 2, 3): [2, 3, 4], (0,): [1]}


def test_epochs_differ_and_rows_of_a_batch_are_of_like_length() -> None:
    log = log_of([[0] * (2 + n % 7) for n in range(80)], n_items=1)
    batches = SequenceBatches(log, batch_size=24, max_length=50)
    generator = seeded(0)
    epochs = [list(batches.epoch(generator=generator)) for _ in range(2)]
    assert [flat(b) for b in epochs[0]] != [flat(b) for b in epochs[1]]
    padded = sum(len(b.user) * b.tokens.max_length for b in epochs[0])
    assert padded <= 1.1 * batches.targets
    starts = [b.tokens.max_length for b in epochs[0]]
    assert starts != sorted(starts), "batches must come in random order, not shortest first"


def test_a_log_without_transitions_has_no_batches() -> None:
    batches = SequenceBatches(log_of([[1], [], [0]], n_items=2), batch_size=4, max_length=5)
    assert len(batches) == 0
    assert batches.targets == 0
    assert list(batches.epoch()) == []


@given(log=logs(), size=SIZES, length=st.integers(1, 6), dense=st.booleans())
@settings(max_examples=60)
def test_a_row_for_every_event_with_a_past(log, size, length, dense) -> None:
    batches = SequenceBatches(log, batch_size=size, max_length=length, rows="prefix-dense" if dense else "prefix")
    found = {}
    for batch in batches.epoch(generator=seeded(0)):
        assert len(batch.target) <= size or len(batch.user) == 1
        assert batch.target.tolist() == [log.item[event] for event in batch.event.tolist()]
        for row, user in enumerate(batch.user.tolist()):
            mine = batch.target_row == row
            ids = batch.tokens.ids[batch.tokens.offsets[row] : batch.tokens.offsets[row + 1]].tolist()
            places = (batch.target_token[mine] - batch.tokens.offsets[row]).tolist()
            events = batch.event[mine].tolist()
            assert places == (list(range(len(ids))) if dense else [len(ids) - 1])
            assert events == list(range(events[-1] - len(events) + 1, events[-1] + 1))
            assert events[-1] not in found
            found[events[-1]] = user, ids
    wanted = {}
    for user, (first, last) in enumerate(zip(log.offsets[:-1].tolist(), log.offsets[1:].tolist(), strict=True)):
        for event in range(first + 1, last):
            wanted[event] = user, log.item[max(first, event - length) : event].tolist()
    assert found == wanted
    assert batches.targets == sum(len(ids) if dense else 1 for _, ids in wanted.values())
