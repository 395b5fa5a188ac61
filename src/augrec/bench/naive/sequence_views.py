"""CL4SRec and DuoRec row by row: operators on lists of items, and each draw of a row with the same next item by
comparing the target with every event of the log."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch

from augrec.augment.cl4srec import CROP, MASK, REORDER, CL4SRec
from augrec.augment.duorec import SameTarget
from augrec.augment.views import pick_anchors
from augrec.batches.batch import Tokens
from augrec.seams import View

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.backbones.tables import Tables
    from augrec.batches.batch import Batch


def packed(rows: list[list[int]]) -> Tokens:
    """Rows of ids laid end to end."""
    offsets = torch.tensor([0, *accumulate(len(row) for row in rows)])
    ids = torch.tensor([one for row in rows for one in row], dtype=torch.int64)
    return Tokens(ids=ids, offsets=offsets, max_length=max((len(row) for row in rows), default=0))


def row_lists(tokens: Tokens) -> list[list[int]]:
    """The ids of each row."""
    return [part.tolist() for part in tokens.ids.split(tokens.lengths.tolist())]


class NaiveCL4SRec(CL4SRec):
    """Each row copied as a list and changed by its operator."""

    def inputs(self, batch: Batch, tables: Tables) -> tuple[View, ...]:
        self._anchors = pick_anchors(batch, self.settings.anchor)
        tokens = self._anchors.prefix
        rows = row_lists(tokens)
        first = torch.randint(3, (len(rows),)).tolist()
        step = torch.randint(1, 3, (len(rows),)).tolist()
        second = [(one + more) % 3 for one, more in zip(first, step, strict=True)]
        names = "cl4srec/first", "cl4srec/second"
        return tuple(
            View(name=name, tokens=self._changed(rows, tokens, operators))
            for name, operators in zip(names, (first, second), strict=True)
        )

    def _changed(self, rows: list[list[int]], tokens: Tokens, operators: list[int]) -> Tokens:
        count, events, config = len(rows), tokens.ids.shape[0], self.settings
        where = torch.rand(count, dtype=torch.float64).tolist()
        order, hide = torch.rand(events).tolist(), torch.rand(events).tolist()
        cut = torch.rand(count, dtype=torch.float64).tolist()
        made, start = [], 0
        for row, (ids, operator) in enumerate(zip(rows, operators, strict=True)):
            own, length = list(ids), len(ids)
            stop = start + length
            if operator == REORDER:
                width = math.floor(length * config.reorder)
                begin = int(where[row] * (length - width + 1))
                if width >= 2:
                    inside = range(begin, begin + width)
                    own[begin : begin + width] = [ids[i] for i in sorted(inside, key=order[start:stop].__getitem__)]
            elif operator == MASK:
                hidden = sorted(range(length), key=hide[start:stop].__getitem__)
                for place in hidden[: math.floor(length * config.mask)]:
                    own[place] = self.n_items
            elif operator == CROP:
                kept = math.floor(length * config.crop) or length
                begin = int(cut[row] * (length - kept + 1))
                own = own[begin : begin + kept]
            made.append(own)
            start = stop
        return replace(packed(made), masked=True)


class NaiveSameTarget(SameTarget):
    """No index: every draw compares the item with all events, every prefix is sliced by itself."""

    def draw(self, event: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        item, leads = self.items.numpy(), self.place.numpy() >= 0
        drawn = torch.rand(event.shape[0], generator=generator, dtype=torch.float64).tolist()
        found = []
        for own, share in zip(event.tolist(), drawn, strict=True):
            others = np.flatnonzero((item == item[own]) & leads)
            others = others[others != own]
            found.append(int(others[int(share * len(others))]) if len(others) else own)
        return torch.tensor(found)

    def prefixes(self, event: Tensor, *, max_length: int) -> Tokens:
        found = []
        for one in event.tolist():
            begin = max(int(self.starts[int(self.user[one])]), one - max_length)
            found.append(self.items[begin:one].tolist())
        return packed(found)
