"""Pair batches against the log itself."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from augrec.batches.batch import shared_tensor
from augrec.batches.pairs import PairBatches
from augrec.testing import log_of
from augrec.testing.strategies import logs


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def flat(batch):
    return [batch.user.tolist(), batch.target.tolist(), batch.event.tolist(), batch.target_row.tolist()]


@given(log=logs(), size=st.integers(1, 12), seed=st.integers(0, 5))
@settings(max_examples=80)
def test_every_pair_once_the_last_batch_kept(log, size, seed) -> None:
    batches = PairBatches(log, batch_size=size)
    epoch = list(batches.epoch(generator=seeded(seed)))
    assert len(epoch) == len(batches)
    assert [len(batch.target) for batch in epoch[:-1]] == [size] * (len(epoch) - 1)
    assert Counter(event for batch in epoch for event in batch.event.tolist()) == Counter(range(len(log)))
    for batch in epoch:
        assert batch.user.tolist() == log.user[batch.event.numpy()].tolist() == batch.target_user.tolist()
        assert batch.target.tolist() == log.item[batch.event.numpy()].tolist()
        assert batch.target_row.tolist() == list(range(len(batch.target)))
        assert batch.tokens is None
        assert {batch.user.dtype, batch.target.dtype, batch.event.dtype} == {torch.int64}


@given(log=logs(min_length=1), size=st.integers(1, 9), seed=st.integers(0, 5))
@settings(max_examples=30)
def test_resuming_inside_an_epoch_gives_its_tail(log, size, seed) -> None:
    batches = PairBatches(log, batch_size=size)
    whole = [flat(batch) for batch in batches.epoch(generator=seeded(seed))]
    for start in range(len(whole) + 1):
        assert [flat(batch) for batch in batches.epoch(generator=seeded(seed), start=start)] == whole[start:]


def test_the_order_is_drawn_when_the_epoch_is_opened() -> None:
    """Streams are swapped in around the call, not around the iteration."""
    batches = PairBatches(log_of([list(range(9))], n_items=9), batch_size=2)
    generator = seeded(0)
    before = generator.get_state()
    epoch = batches.epoch(generator=generator)
    drawn = generator.get_state()
    assert not torch.equal(before, drawn)
    list(epoch)
    assert torch.equal(generator.get_state(), drawn)


def test_shared_tensors_copy_nothing_and_stay_quiet(recwarn) -> None:
    log = log_of([[0, 1, 2]], n_items=3)
    tensor = shared_tensor(log.item)
    assert tensor.data_ptr() == log.item.ctypes.data
    assert not recwarn.list
