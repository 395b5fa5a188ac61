"""CL4SRec's operators against loops over rows, their laws by chi-square, and the plug-in's term by hand."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from augrec.augment.cl4srec import CL4SRec, CL4SRecConfig, crop, mask, reorder, two_views
from augrec.errors import ConfigError
from augrec.seams import Encoded, EncodedView
from augrec.testing.sequence_checks import tokens_of

MASK = 100
# Distinct items: where a token came from is seen.
ROWS = tuple([100 * 0 + start + n for n in range(length)] for start, length in ((0, 5), (10, 1), (20, 9), (40, 2)))
ROW_LISTS = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=12, unique=True), min_size=1, max_size=8)
FRACTIONS = st.sampled_from([0.0, 0.1, 0.3, 1 / 3, 0.5, 0.6, 0.7, 0.9, 1.0])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows_of(tokens):
    return [row.tolist() for row in tokens.ids.split(tokens.lengths.tolist())]


def is_crop(row, found, fraction):
    length = math.floor(fraction * len(row)) or len(row)
    return len(found) == length and any(found == row[a : a + length] for a in range(len(row) - length + 1))


def is_mask(row, found, fraction):
    hidden = [n for n, item in enumerate(found) if item == MASK]
    kept = all(a == b for n, (a, b) in enumerate(zip(row, found, strict=True)) if n not in hidden)
    return kept and len(hidden) == math.floor(fraction * len(row))


def is_reorder(row, found, fraction):
    width = math.floor(fraction * len(row))
    if width < 2:
        return found == row
    moved = [n for n, (a, b) in enumerate(zip(row, found, strict=True)) if a != b]
    return sorted(found) == sorted(row) and (not moved or moved[-1] - moved[0] < width)


OPERATORS = {
    "crop": (crop, is_crop),
    "mask": (lambda t, f, **o: mask(t, f, MASK, **o), is_mask),
    "reorder": (reorder, is_reorder),
}


@pytest.mark.parametrize("name", OPERATORS)
@given(rows=ROW_LISTS, fraction=FRACTIONS, seed=st.integers(0, 99))
@settings(max_examples=80)
def test_every_row_is_what_the_paper_says(name, rows, fraction, seed) -> None:
    operator, allowed = OPERATORS[name]
    tokens = tokens_of(tuple(rows))
    found = operator(tokens, fraction, generator=generator(seed))
    for row, got in zip(rows, rows_of(found), strict=True):
        assert allowed(row, got, fraction), (row, got)
    assert found.max_length >= max(map(len, rows_of(found)))
    assert rows_of(tokens) == rows, "the input was changed"


@pytest.mark.parametrize("name", OPERATORS)
def test_only_the_rows_asked_for_are_changed(name) -> None:
    operator, _ = OPERATORS[name]
    tokens, rows = tokens_of(ROWS), torch.tensor([False, True, True, False])
    changed = Counter()
    for seed in range(30):
        found = rows_of(operator(tokens, 0.6, rows=rows, generator=generator(seed)))
        for n, (row, got) in enumerate(zip(ROWS, found, strict=True)):
            changed[n] += row != got
    assert changed[0] == changed[3] == 0
    assert changed[2] > 20


def test_crops_start_uniformly() -> None:
    tokens, draws = tokens_of((list(range(7)),)), generator(1)
    starts = Counter(rows_of(crop(tokens, 0.5, generator=draws))[0][0] for _ in range(1000))
    assert set(starts) == {0, 1, 2, 3, 4}
    assert chisquare(list(starts.values())).pvalue > 1e-4


def test_every_set_of_places_is_masked_equally_often() -> None:
    tokens, draws, seen = tokens_of((list(range(5)), [50, 51])), generator(2), Counter()
    for _ in range(1000):
        hidden = rows_of(mask(tokens, 0.4, MASK, generator=draws))[0]
        seen[tuple(n for n, item in enumerate(hidden) if item == MASK)] += 1
    assert len(seen) == 10
    assert chisquare(list(seen.values())).pvalue > 1e-4


def test_every_order_of_every_part_is_equally_likely() -> None:
    """Length 4, parts of 3: two places to start, six orders each; the untouched order belongs to both."""
    tokens, draws, seen = tokens_of(([0, 1, 2, 3], [9, 8])), generator(3), Counter()
    for _ in range(2400):
        seen[tuple(rows_of(reorder(tokens, 0.75, generator=draws))[0])] += 1
    # Orders that only the part from 0 (or from 1) makes, and those that move 1 and 2 alone: both parts make them.
    both = {(0, 1, 2, 3), (0, 2, 1, 3)}
    assert len(seen) == 10
    expected = [400 if order in both else 200 for order in seen]
    assert chisquare(list(seen.values()), expected).pvalue > 1e-4


@given(rows=ROW_LISTS, seed=st.integers(0, 999))
@settings(max_examples=60)
def test_two_views_are_two_different_operators(rows, seed) -> None:
    tokens = tokens_of(tuple(rows))
    before = tokens.ids.clone()
    settings_ = {"crop_kept": 0.6, "masked": 0.3, "reordered": 0.6, "mask_token": MASK}
    first, second = (rows_of(view) for view in two_views(tokens, **settings_, generator=generator(seed)))
    assert torch.equal(tokens.ids, before)
    for row, a, b in zip(rows, first, second, strict=True):
        fits = [
            {n for n, (check, f) in enumerate(((is_crop, 0.6), (is_mask, 0.3), (is_reorder, 0.6)))
             if (len(got) == len(row) or n == 0) and check(row, got, f)}
            for got in (a, b)
        ]  # fmt: skip
        assert fits[0]
        assert fits[1]
        assert any(x != y for x in fits[0] for y in fits[1]), (row, a, b)
        if len(row) == 1:
            assert a == b == row


def test_all_six_pairs_of_operators_are_equally_likely() -> None:
    row = list(range(10))
    tokens, draws, seen = tokens_of((row,) * 50), generator(4), Counter()

    def name(got):
        return "crop" if len(got) == 6 else "mask" if MASK in got else "reorder"

    for _ in range(20):
        views = two_views(
            tokens, crop_kept=0.6, masked=0.3, reordered=0.9, mask_token=MASK, generator=draws
        )  # fmt: skip
        seen.update(zip(*(map(name, rows_of(view)) for view in views), strict=True))
    assert len(seen) == 6
    assert all(a != b for a, b in seen)
    assert chisquare(list(seen.values())).pvalue > 1e-4


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_term_is_the_formula(similarity, masked) -> None:
    """-log exp(s(a, b) / t) / sum over the other 2B - 1, averaged over both directions, in float64."""
    config = CL4SRecConfig(weight=0.3, temperature=0.5, similarity=similarity, mask_false_negatives=masked)
    plugin = CL4SRec(config, kind="sequences", dim=4, n_items=MASK)
    tokens = tokens_of(ROWS)
    target = torch.tensor([7, 3, 7, 5])
    states = {name: torch.randn(17, 4, generator=generator(n)) for n, name in enumerate(("first", "second"))}
    views = {f"cl4srec/{name}": EncodedView(tokens=tokens, states=value) for name, value in states.items()}
    plugin._anchors = replace_anchor(target)
    found = plugin.losses(None, Encoded(tables=None, query=None, views=views))["contrast"]
    last = torch.cat([states[n][tokens.last] for n in ("first", "second")]).double()
    last = last / last.norm(dim=1, keepdim=True) if similarity == "cosine" else last
    total = 0.0
    for n in range(8):
        partner, same = (n + 4) % 8, target[n % 4]
        others = [m for m in range(8) if m != n and (m == partner or not masked or target[m % 4] != same)]
        assert len(others) == (5 if masked and same == 7 else 7)
        scores = torch.stack([last[n] @ last[m] / 0.5 for m in others])
        total -= (last[n] @ last[partner] / 0.5 - scores.logsumexp(0)) / 8
    assert found.item() == pytest.approx(0.3 * total.item(), rel=1e-5)


def replace_anchor(target):
    from augrec.augment.views import Anchors

    return Anchors(token=None, target=target, event=None, prefix=None)


def test_presets() -> None:
    paper = CL4SRecConfig(**CL4SRec.preset("paper", kind="sequences"))
    wanted = {"crop": 0.6, "mask": 0.3, "reorder": 0.6, "weight": 0.1, "temperature": 1.0, "similarity": "dot"}
    assert {key: getattr(paper, key) for key in wanted} == wanted
    with pytest.raises(ConfigError, match="cl4srec: there is no preset 'published-code'; choose one of default, paper"):
        CL4SRec.preset("published-code", kind="sequences")


def test_masks_on_masked_rows_keep_the_flag() -> None:
    tokens = replace(tokens_of(ROWS), masked=True)
    assert crop(tokens, 0.5).masked
    assert reorder(tokens, 0.5).masked
