"""One pass over the preferences of all users for all items, shared by everybody who wants something of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from augrec.augment.pdrec.preference import Preference, observed_cells

if TYPE_CHECKING:
    from augrec.data.interactions import Interactions
    from augrec.seams import Prepared


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Preferences of some users; items that are no candidates have -inf."""

    users: Tensor
    """(B,) int64."""
    scores: Tensor
    """(B, I) float32, not to be written to."""
    row: Tensor
    """(n,) place in `users` of each train event of theirs."""
    item: Tensor
    """(n,) item of each of these events."""


class Reader:
    """Takes what it wants of every block; each method does nothing unless overridden."""

    def start(self, train: Interactions) -> None:
        """Told once before the first block."""

    def every(self, block: Block) -> None:
        """A block with the preferences for all candidates."""

    def unobserved(self, block: Block) -> None:
        """The same block with -inf at each user's train items."""


Wanted = TypeVar("Wanted", bound=Reader)


class Scan:
    """The pass: `ask` for as much as is wanted, then `run` once. No users x items matrix, a block at a time."""

    def __init__(self, preference: Preference, train: Interactions) -> None:
        self.preference, self.train = preference, train
        self._open: list[Reader] = []

    @classmethod
    def of(cls, prepared: Prepared, train: Interactions) -> Scan:
        """The pass that all who were prepared together share."""
        found = prepared.shared.get("scan")
        if not isinstance(found, Scan) or found.train is not train:
            found = prepared.shared["scan"] = cls(Preference(**prepared.tensors), train)
        return found

    def ask(self, reader: Wanted) -> Wanted:
        """`reader` takes part in the next pass."""
        self._open.append(reader)
        return reader

    @torch.no_grad()
    def run(self) -> None:
        """The pass for all who have asked since the last; nothing where nobody has."""
        readers, self._open = self._open, []
        if not readers:
            return
        train = self.train
        outside = None if train.candidates is None else torch.from_numpy(~train.candidates)
        for reader in readers:
            reader.start(train)
        for users, scores in self.preference.blocks(torch.arange(train.n_users)):
            if outside is not None:
                scores[:, outside] = -torch.inf
            row, item = observed_cells(train, users)
            block = Block(users=users, scores=scores, row=row, item=item)
            for reader in readers:
                reader.every(block)
            scores[row, item] = -torch.inf
            for reader in readers:
                reader.unobserved(block)
