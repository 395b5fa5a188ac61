"""DuoRec (Qiu et al., "Contrastive Learning for Representation Degeneration Problem in Sequential Recommendation", WSDM
2022): a second dropout pass, and another sequence that leads to the same item, as positives."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from augrec.augment.views import AnchorPlace, Anchors, anchor_states, anchor_views, pick_anchors
from augrec.batches.batch import shared_tensor
from augrec.batches.sequences import pack
from augrec.errors import ConfigError
from augrec.losses.infonce import nt_xent
from augrec.seams import Needs, Plugin, Seam, View
from augrec.typed import Config

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.backbones.base import Kind
    from augrec.backbones.tables import Tables
    from augrec.batches.batch import Batch, Tokens
    from augrec.data.interactions import Interactions
    from augrec.seams import Encoded, Prepared


class SameTarget:
    """Which train events lead to the same item, as compressed rows: one sort of the log, O(N) memory, O(1) a draw.

    An event counts where something stands before it in its user's history; that is its prefix. A prefix of the same
    user (the item met twice) is taken like any other.
    """

    def __init__(self, train: Interactions) -> None:
        event = np.flatnonzero(np.arange(len(train)) > train.offsets[train.user])
        order = event[np.argsort(train.item[event], kind="stable")]
        place = np.full(len(train), -1, dtype=np.int64)
        place[order] = np.arange(len(order))
        counts = np.bincount(train.item[order], minlength=train.n_items)
        self.event = torch.from_numpy(order)
        """(transitions,) rows of the train log, by item."""
        self.place = torch.from_numpy(place)
        """(N,) where a row of the log stands in `event`; -1 for the first event of a user."""
        self.offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
        """(I + 1,) range of each item in `event`."""
        self.items, self.user = shared_tensor(train.item), shared_tensor(train.user)
        self.starts = shared_tensor(train.offsets)

    def draw(self, event: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """(B,) for each event another one with the same item, uniform; itself where there is no other. One number is
        drawn a row."""
        place = self.place[event]
        item = self.items[event].long()
        first, others = self.offsets[item], self.offsets[item + 1] - self.offsets[item] - 1
        drawn = torch.rand(event.shape[0], generator=generator, dtype=torch.float64)
        step = (drawn * others).long()
        # Uniform over the others: places from one's own on move up by one; without others nothing moves.
        chosen = first + step + ((first + step >= place) & (others > 0))
        return self.event[chosen]

    def prefixes(self, event: Tensor, *, max_length: int) -> Tokens:
        """What stood before each event (B,) in its user's history, the last `max_length` items of it."""
        start = torch.maximum(self.starts[self.user[event].long()], event - max_length)
        length = event - start
        return pack(self.items, start, length, int(length.max()) if length.numel() else 0)[0]


class DuoRecConfig(Config):
    """Settings of DuoRec."""

    weight: float = Field(default=0.03, ge=0)
    """Weight of the contrast: of the dropout view in `un` and `us`, of the same-target view in `su`, of the contrast
    between the two in `us_x`. 0.1 in `paper`; the default is the best of six trials on Beauty's validation."""
    weight_same_target: float = Field(default=0.1, ge=0)
    """Weight of the same-target term in `us`."""
    mode: Literal["us_x", "us", "un", "su"] = "us_x"
    """`un`: the row against its dropout view; `su`: against a row with the same next item; `us`: both terms; `us_x`:
    the dropout view against the same-target view (the paper's final form)."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides every similarity."""
    similarity: Literal["dot", "cosine"] = "dot"
    """Similarity of two states."""
    anchor: AnchorPlace = "last"
    """Contrast at the last place of a row (`last`) or at a uniform one (`random`); it is that place's next item which
    the other sequence shares."""
    mask_false_negatives: bool = False
    """Leave rows with the same next item out of each other's negatives; the published method keeps them in."""


_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "default": {},
        "paper": {
            "weight": 0.1, "weight_same_target": 0.1, "mode": "us_x", "temperature": 1.0, "similarity": "dot",
            "anchor": "last", "mask_false_negatives": False,
        },
    }
)  # fmt: skip


class DuoRec(Plugin):
    """Contrasts of a row with a second dropout pass of it and with a train prefix that leads to the same item.

    Published with one row a prefix; here a row is a window with several targets, so one place a row is taken
    (`anchor`). The state of the row itself comes from the ranking loss's own pass.
    """

    name: ClassVar[str] = "duorec"
    Config = DuoRecConfig
    acts: ClassVar[frozenset[Seam]] = frozenset({"views", "losses"})
    needs = Needs(kinds=frozenset({"sequences"}))

    def __init__(self, config: DuoRecConfig, *, kind: Kind, dim: int, n_items: int) -> None:
        super().__init__(config, kind=kind, dim=dim, n_items=n_items)
        self.settings = config
        self._anchors: Anchors | None = None
        self._index: SameTarget | None = None

    @classmethod
    def preset(cls, name: str, *, kind: Kind) -> Mapping[str, Any]:
        """`paper` has the paper's settings and its released code's, which agree."""
        if name not in _PRESETS:
            raise ConfigError(f"duorec: there is no preset '{name}'; choose one of {', '.join(_PRESETS)}")
        return _PRESETS[name]

    @property
    def active(self) -> bool:
        return self.settings.weight > 0 or (self.settings.mode == "us" and self.settings.weight_same_target > 0)

    def load_prepared(self, prepared: Prepared, train: Interactions) -> None:
        """Sorts the train log by item; nothing is saved, as the log makes it again."""
        self._index = SameTarget(train) if self.settings.mode != "un" else None

    def inputs(self, batch: Batch, tables: Tables) -> tuple[View, ...]:
        anchors = self._anchors = pick_anchors(batch, self.settings.anchor)
        mode = self.settings.mode
        views: list[View] = []
        if mode != "us_x":
            views.extend(anchor_views(batch, anchors, "duorec/anchor"))
        if mode != "su":
            views.append(View(name="duorec/dropout", tokens=anchors.prefix))
        if self._index is not None:
            other = self._index.draw(anchors.event)
            same = self._index.prefixes(other, max_length=batch.max_length)
            views.append(View(name="duorec/same-target", tokens=same))
        return tuple(views)

    def losses(self, batch: Batch, encoded: Encoded) -> Mapping[str, Tensor]:
        config, anchors = self.settings, self._anchors
        assert anchors is not None
        group = anchors.target if config.mask_false_negatives else None

        def contrast(first: Tensor, second: str) -> Tensor:
            other = encoded.views[f"duorec/{second}"].last
            return nt_xent(first, other, similarity=config.similarity, temperature=config.temperature, group=group)

        if config.mode == "us_x":
            return {"contrast": config.weight * contrast(encoded.views["duorec/dropout"].last, "same-target")}
        own, terms = anchor_states(encoded, anchors, "duorec/anchor"), {}
        if config.mode != "su":
            terms["dropout"] = config.weight * contrast(own, "dropout")
        if config.mode != "un":
            weight = config.weight if config.mode == "su" else config.weight_same_target
            terms["same-target"] = weight * contrast(own, "same-target")
        return terms
