"""Hypothesis strategies: interaction logs of every awkward shape. Needs hypothesis, a development dependency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from augrec.testing.logs import log_of

if TYPE_CHECKING:
    from augrec.data.interactions import Interactions


@st.composite
def logs(
    draw: st.DrawFn,
    *,
    max_users: int = 8,
    max_items: int = 9,
    max_length: int = 12,
    repeats: bool = True,
    min_length: int = 0,
) -> Interactions:
    """Logs of up to `max_users` histories of `min_length` to `max_length` events over a catalogue of 1 to `max_items`
    items; users without events and items nobody met occur. `repeats` lets an item come again within a history."""
    n_items = draw(st.integers(max(1, 0 if repeats else min_length), max_items))
    item = st.integers(0, n_items - 1)
    longest = max_length if repeats else min(max_length, n_items)
    history = st.lists(item, min_size=min_length, max_size=longest, unique=not repeats)
    return log_of(draw(st.lists(history, min_size=1, max_size=max_users)), n_items=n_items)
