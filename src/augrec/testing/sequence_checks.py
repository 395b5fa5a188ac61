"""Conformance checks of backbones that read a history."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from augrec.batches.batch import Tokens
from augrec.batches.sequences import SequenceBatches
from augrec.testing.asserting import close, finite, reaches, require
from augrec.testing.logs import all_users, log_of, tiny_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from augrec.backbones.base import SequenceBackbone
    from augrec.backbones.tables import Tables
    from augrec.testing.backbone_case import BackboneCase

ROWS = ([3, 1, 4, 1, 5], [2], [7, 1, 8, 2, 8, 1, 8, 4], [2, 8], [6, 6, 6])


def tokens_of(rows: tuple[list[int], ...]) -> Tokens:
    """Rows of item ids, packed."""
    lengths = [len(row) for row in rows]
    return Tokens(
        ids=torch.tensor([item for row in rows for item in row], dtype=torch.int64),
        offsets=torch.tensor(np.cumsum([0, *lengths])),
        max_length=max(lengths, default=0),
    )


def _ready(case: BackboneCase, **options: bool) -> tuple[SequenceBackbone, tuple[list[int], ...]]:
    """A backbone in evaluation mode, and rows it may read."""
    backbone = case.sequence(tiny_log(), **options)
    return backbone, tuple(row[: backbone.max_length] for row in ROWS)


def _states(backbone: SequenceBackbone, tokens: Tokens) -> Tensor:
    with torch.no_grad():
        return backbone.encode(tokens, backbone.tables())


def _mixed(states: Tensor) -> Tensor:
    """A fixed random mix of states: a plain sum or square is constant behind a layer norm and has no gradient."""
    return (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(0))).sum()


def check_packed_rows_equal_rows_alone(case: BackboneCase) -> None:
    """A row's states do not depend on the rows packed with it, nor on the longest of them."""
    backbone, rows = _ready(case)
    together = _states(backbone, tokens_of(rows))
    alone = torch.cat([_states(backbone, tokens_of((row,))) for row in rows])
    close(alone, together, "rows encoded alone and packed differ")
    equal = tuple((row * 2)[: min(2, backbone.max_length)] for row in rows)
    alone = torch.cat([_states(backbone, tokens_of((row,))) for row in equal])
    close(alone, _states(backbone, tokens_of(equal)), "rows of one length encoded alone and packed differ")


def check_states_are_causal(case: BackboneCase) -> None:
    """Other later tokens never change an earlier state; one that says `causal = False` sees them, and hides items."""
    backbone, rows = _ready(case)
    longest = max(rows, key=len)
    states = _states(backbone, tokens_of((longest,)))
    if not backbone.causal:
        require(backbone.masking is not None, "causal is False, so `masking` must say how items are hidden in training")
        changed = [*longest[:-1], (longest[-1] + 5) % backbone.n_items]
        moved = (_states(backbone, tokens_of((changed,)))[0] - states[0]).abs().max().item()
        require(moved > 0, "causal is False, but another last token leaves the first state as it is")
        return
    for cut in range(1, len(longest)):
        changed = longest[:cut] + [(item + 5) % backbone.n_items for item in longest[cut:]]
        found = _states(backbone, tokens_of((changed,)))
        close(found[:cut], states[:cut], f"changing the tokens after position {cut} changed the states before it")


def check_states_read_the_history(case: BackboneCase) -> None:
    """Another item at any of the last three places changes the last state: the history is read, in order."""
    backbone, rows = _ready(case)
    longest = max(rows, key=len)
    last = _states(backbone, tokens_of((longest,)))[-1]
    for place in range(max(0, len(longest) - 3), len(longest)):
        changed = list(longest)
        changed[place] = (changed[place] + 5) % backbone.n_items
        moved = (_states(backbone, tokens_of((changed,)))[-1] - last).abs().max().item()
        require(moved > 0, f"the last state ignores the item at position {place} of {len(longest)}")


def check_hidden_items_are_hidden(case: BackboneCase) -> None:
    """A bidirectional backbone's training batch holds the mask token where its targets were, and no other change."""
    backbone, _ = _ready(case)
    if backbone.causal:
        return
    log = tiny_log()
    for batch in SequenceBatches(log, batch_size=40, max_length=backbone.max_length).epoch():
        hidden = backbone.training_batch(batch)
        require(hidden.unmasked is batch, "a training batch with hidden items must keep the batch as `unmasked`")
        tokens, place = hidden.tokens, hidden.target_token
        assert tokens is not None and place is not None
        require(bool((tokens.ids[place] == backbone.n_items).all()), "a target stands in the input it is asked from")
        require(int((tokens.ids == backbone.n_items).sum()) == len(place), "a hidden item is no target")
        require(bool((torch.from_numpy(log.item[hidden.event.numpy()]) == hidden.target).all()), "`event` is another's")
        require(len(torch.unique(hidden.target_row)) == len(batch.user), "a row without a hidden item")
        require(int(tokens.lengths.max()) <= backbone.max_length, "a row with hidden items is longer than max_length")


def check_no_rows(case: BackboneCase) -> None:
    """No rows, and only empty rows: (0, D) states."""
    backbone, _ = _ready(case)
    empty: tuple[tuple[list[int], ...], ...] = ((), ([], []))
    for rows in empty:
        states = _states(backbone, tokens_of(rows))
        wanted = (0, backbone.dim)
        require(tuple(states.shape) == wanted, f"{len(rows)} empty rows give states {tuple(states.shape)}")


def check_empty_rows_between(case: BackboneCase) -> None:
    """An empty row takes part in a batch without disturbing it."""
    backbone, rows = _ready(case)
    states = _states(backbone, tokens_of((*rows[:2], [], *rows[2:])))
    close(states, _states(backbone, tokens_of(rows)), "an empty row changes the states of the others")


def check_vectors_stand_in_for_ids(case: BackboneCase) -> None:
    """Tokens given as vectors are encoded as the ids they were looked up from."""
    backbone, rows = _ready(case)
    tokens, tables = tokens_of(rows), backbone.tables()
    with torch.no_grad():
        given = replace(tokens, ids=torch.zeros_like(tokens.ids), vectors=backbone.embed(tokens, tables))
    close(_states(backbone, given), _states(backbone, tokens), "tokens given as vectors encode differently")


def check_detached_items_take_no_gradient(case: BackboneCase) -> None:
    """With `detach_items`, encoding sends no gradient into the item vectors; without, it does."""
    backbone, rows = _ready(case)
    for detach in (True, False):
        leaf = backbone.tables().item.detach().requires_grad_()
        tables = replace(backbone.tables(), item=leaf)
        states = backbone.encode(replace(tokens_of(rows), detach_items=detach), tables)
        reached = reaches(torch.autograd.grad(_mixed(states), leaf, allow_unused=True))
        require(reached is not detach, f"detach_items={detach}: gradient into the items is {reached}")


def check_mask_token(case: BackboneCase) -> None:
    """A backbone made with a mask token reads it from `tables.special`, at id n_items, and trains it."""
    backbone, rows = _ready(case, mask_token=True)
    require(backbone.tables().special is not None, "made with mask_token=True, tables().special is None")
    longest = max(rows, key=len)
    place = len(longest) // 2
    masked = replace(tokens_of(([*longest[:place], backbone.n_items, *longest[place + 1 :]],)), masked=True)
    tables = backbone.tables()
    assert tables.special is not None
    found = backbone.embed(masked, tables)
    close(found[place], tables.special[0], "the mask token's input is not tables.special")
    (gradient,) = torch.autograd.grad(_mixed(backbone.encode(masked, tables)), tables.special)
    require(bool(gradient.abs().max() > 0), "no gradient reaches the mask token")
    plain = replace(tokens_of((longest,)), masked=True)
    close(_states(backbone, plain), _states(backbone, tokens_of((longest,))), "masked=True without masks differs")


def check_longer_than_max_length(case: BackboneCase) -> None:
    """Only the last `max_length` events are read, when scoring as in training."""
    log = case.long_log(extra=3)
    backbone = case.sequence(log)
    read: list[int] = []
    encode = backbone.encode

    def recording(tokens: Tokens, tables: Tables) -> Tensor:
        read.append(int(tokens.lengths.max()))
        return encode(tokens, tables)

    rows = [log.item[start:stop].tolist() for start, stop in zip(log.offsets[:-1], log.offsets[1:], strict=True)]
    short = log_of([row[-backbone.max_length :] for row in rows], n_items=log.n_items)
    backbone.encode = recording  # type: ignore[method-assign]
    scores = [case.scores(backbone, all_users(log), history) for history in (log, short)]
    require(max(read) <= backbone.max_length, f"scoring reads {max(read)} events, max_length is {backbone.max_length}")
    finite(scores[0], "scores of histories longer than max_length")
    close(scores[0], scores[1], "events before the last max_length change the scores")
    trial = case.trial(log)
    batch = trial.first_batch()
    assert batch.tokens is not None
    longest = int(batch.tokens.lengths.max())
    require(longest <= backbone.max_length, f"a training window holds {longest} tokens, max_length is the limit")
    trial.loss(batch).backward()


def check_users_without_history(case: BackboneCase) -> None:
    """No events known: all items tie at zero, whoever else is scored."""
    log = log_of([[1, 2, 3], [], [4, 0], []], n_items=6)
    backbone = case.sequence(log)
    scores = case.scores(backbone, torch.tensor([1, 0, 3]), log)
    require(bool((scores[[0, 2]] == 0).all()), "users without events must score 0 on every item")
    close(scores[1], case.scores(backbone, torch.tensor([0]), log)[0], "a user without events changes another's scores")
    finite(case.scores(backbone, torch.tensor([1, 3]), log), "scores where nobody has events")


def check_trained_query_is_served_query(case: BackboneCase) -> None:
    """The state that predicts a user's last train event is the query served when all but that event is known."""
    log = tiny_log()
    backbone = case.sequence(log)
    if backbone.masking is not None:
        backbone.masking = replace(backbone.masking, last_share=1.0)
    last = np.zeros(len(log), dtype=bool)
    last[log.offsets[1:][log.degrees() > 0] - 1] = True
    history, tables = log.part(~last), backbone.tables()
    checked = 0
    for batch in SequenceBatches(log, batch_size=40, max_length=backbone.max_length).epoch():
        batch = backbone.training_batch(batch)
        trained = backbone.queries(batch, tables)
        rows = torch.from_numpy(last)[batch.event]
        served = backbone.query_users(batch.target_user[rows], history, tables)
        close(trained[rows], served, "queries() in training and query_users() differ")
        checked += int(rows.sum())
    wanted = int((log.degrees() >= 2).sum())
    require(checked == wanted, f"an epoch held {checked} last events, expected {wanted}")


def check_blocks_of_users(case: BackboneCase) -> None:
    """Scoring in small blocks of tokens equals scoring in one."""
    log = tiny_log()
    backbone = case.sequence(log)
    with torch.no_grad():
        tables = backbone.tables()
        whole = backbone.query_users(all_users(log), log, tables)
        pieces = backbone.query_users(all_users(log), log, tables, tokens_at_once=7)
    close(pieces, whole, "queries made in blocks of 7 tokens differ")


EVERY: tuple[Callable[[BackboneCase], None], ...] = (
    check_packed_rows_equal_rows_alone, check_states_are_causal, check_hidden_items_are_hidden,
    check_states_read_the_history, check_no_rows,
    check_empty_rows_between, check_vectors_stand_in_for_ids, check_detached_items_take_no_gradient, check_mask_token,
    check_longer_than_max_length, check_users_without_history, check_blocks_of_users,
)  # fmt: skip
