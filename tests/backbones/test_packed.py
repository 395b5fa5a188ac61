"""What every packed encoder shares: the mask token, stand-in vectors, users in blocks, padding that never leaks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from augrec.backbones.base import InnerProductScorer
from augrec.backbones.gru4rec import GRU4Rec, GRU4RecConfig
from augrec.backbones.sasrec import SASRec, SASRecConfig
from augrec.batches.batch import shared_tensor
from augrec.batches.sequences import last_windows
from augrec.testing import log_of
from augrec.testing.sequence_checks import tokens_of
from augrec.testing.strategies import logs

MAKERS = {
    "sasrec": lambda log, **o: SASRec(
        SASRecConfig(dim=8, inner=8, max_length=4), n_users=log.n_users, n_items=log.n_items, **o
    ),
    "gru4rec": lambda log, **o: GRU4Rec(
        GRU4RecConfig(dim=8, hidden=8, max_length=4), n_users=log.n_users, n_items=log.n_items, **o
    ),
}
LOG = log_of([[0, 1, 2], [3, 4]], n_items=9)


def seeded(name, log, **options):
    return MAKERS[name](log, generator=torch.Generator().manual_seed(0), **options).eval()


@pytest.mark.parametrize("name", MAKERS)
@given(log=logs(max_length=9))
@settings(max_examples=25)
def test_scores_equal_one_user_at_a_time_by_hand(name, log) -> None:
    """score(u) = state of the last of the last 4 events, times every item; zero without events."""
    model = seeded(name, log)
    users = torch.arange(log.n_users)
    found = InnerProductScorer(model).score(users, log)
    for user in users.tolist():
        row = log.item[log.offsets[user] : log.offsets[user + 1]].tolist()[-4:]
        wanted = torch.zeros(log.n_items)
        if row:
            with torch.no_grad():
                wanted = model.encode(tokens_of((row,)), model.tables())[-1] @ model.item.T
        assert torch.allclose(found[user], wanted, atol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_the_mask_token_has_a_vector_of_its_own(name) -> None:
    model = seeded(name, LOG, mask_token=True)
    tokens = replace(tokens_of(([1, 9, 2], [9])), masked=True)
    tables = model.tables()
    inputs = model.embed(tokens, tables)
    assert torch.equal(inputs[[1, 3]], tables.special.expand(2, -1))
    assert torch.equal(inputs[[0, 2]], model.item[[1, 2]])
    states = model.encode(tokens, tables)
    (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    assert model.special.grad.abs().sum() > 0
    assert not model.item.grad[[0, 3, 4, 5, 6, 7, 8]].any(), "a mask must not train the item its id is clamped to"
    assert model.item.grad[[1, 2]].abs().sum(1).gt(0).all()
    assert "special" not in dict(seeded(name, LOG).named_parameters())


@pytest.mark.parametrize("name", MAKERS)
def test_a_row_longer_on_paper_changes_nothing(name) -> None:
    """`max_length` of the tokens may exceed the longest row: padding never reaches a real token."""
    model = seeded(name, LOG)
    tokens = tokens_of(([1, 2], [3], [4, 5, 6]))
    with torch.no_grad():
        plain = model.encode(tokens, model.tables())
        longer = model.encode(replace(tokens, max_length=4), model.tables())
    assert torch.allclose(plain, longer, atol=1e-6)


@given(log=logs(), length=st.integers(1, 5))
@settings(max_examples=40)
def test_last_windows_are_the_tails_of_the_histories(log, length) -> None:
    users = torch.tensor([*range(log.n_users), 0])
    tokens = last_windows(log, users, shared_tensor(log.item), max_length=length)
    rows = [log.item[log.offsets[u] : log.offsets[u + 1]].tolist()[-length:] for u in users.tolist()]
    assert tokens.ids.tolist() == [item for row in rows for item in row]
    assert tokens.lengths.tolist() == [len(row) for row in rows]
    assert tokens.max_length == max(map(len, rows))
    assert tokens.rows.tolist() == [b for b, row in enumerate(rows) for _ in row]
    assert tokens.positions.tolist() == [place for row in rows for place in range(len(row))]
