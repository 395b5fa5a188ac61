"""CL4SRec (Xie et al., "Contrastive Learning for Sequential Recommendation", ICDE 2022): crop, mask, reorder.

Two copies of a sequence, each changed by another operator, are each other's positives; the other copies of the batch
are the negatives. The operators work on packed rows, all at once, and never on their input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field

from augrec.augment.views import AnchorPlace, Anchors, pick_anchors, row_ranks, subrows
from augrec.errors import ConfigError
from augrec.losses.infonce import nt_xent
from augrec.seams import Needs, Plugin, Seam, View
from augrec.typed import Config

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.backbones.base import Kind
    from augrec.backbones.tables import Tables
    from augrec.batches.batch import Batch, Tokens
    from augrec.seams import Encoded

CROP, MASK, REORDER = 0, 1, 2


def crop(tokens: Tokens, fraction: float, *, rows: Tensor | None = None, generator: Any = None) -> Tokens:
    """A uniform contiguous part of floor(fraction * length) tokens of each row (Xie et al., eq. 4).

    Args:
        tokens: B packed rows, left as they are.
        fraction: share that is kept (eta).
        rows: (B,) bool, the rows it acts on; None is all.
        generator: a `torch.Generator`; None is torch's own. B numbers are drawn.

    Returns:
        New rows; one whose part would be empty comes back whole.
    """
    lengths = tokens.lengths
    kept = _part(lengths, fraction)
    kept = torch.where(_acts(kept >= 1, rows), kept, lengths)
    start = tokens.offsets[:-1] + (_uniform(lengths, generator) * (lengths - kept + 1)).long()
    return subrows(tokens, start, kept)


def mask(tokens: Tokens, fraction: float, token: int, *, rows: Tensor | None = None, generator: Any = None) -> Tokens:
    """floor(fraction * length) uniform tokens of each row become the mask token `token` (eq. 5); otherwise as `crop`,
    with N numbers drawn."""
    count = _part(tokens.lengths, fraction)
    count = torch.where(_acts(count >= 1, rows), count, 0)
    hidden = row_ranks(tokens, generator=generator) < count[tokens.rows]
    return replace(tokens, ids=tokens.ids.masked_fill(hidden, token), masked=True)


def reorder(tokens: Tokens, fraction: float, *, rows: Tensor | None = None, generator: Any = None) -> Tokens:
    """A uniform contiguous part of floor(fraction * length) tokens of each row is shuffled (eq. 6); a part of one token
    is no part. Otherwise as `crop`, with B + N numbers drawn."""
    lengths, row, place = tokens.lengths, tokens.rows, tokens.positions
    width = _part(lengths, fraction)
    width = torch.where(_acts(width >= 2, rows), width, 0)
    start = (_uniform(lengths, generator) * (lengths - width + 1)).long()
    inside = (place >= start[row]) & (place < (start + width)[row])
    drawn = torch.rand(row.shape[0], generator=generator).to(row.device).double()
    # Keys inside a part fill exactly the places of that part, so that one sort of the whole batch stays within them.
    key = torch.where(inside, start[row] + drawn * width[row], place.double()) + tokens.offsets[row]
    return replace(tokens, ids=tokens.ids[torch.argsort(key, stable=True)])


def two_views(
    tokens: Tokens, *, crop_kept: float, masked: float, reordered: float, mask_token: int, generator: Any = None
) -> tuple[Tokens, Tokens]:
    """Two copies of each row, changed by two different operators drawn without replacement; ids only.

    Args:
        tokens: B packed rows, left as they are; `vectors` are not read.
        crop_kept: share that the crop keeps (eta).
        masked: share that is masked (gamma).
        reordered: share that is shuffled (beta).
        mask_token: the id that masks, `n_items`.
        generator: a `torch.Generator`; None is torch's own.
    """
    first = torch.randint(3, (tokens.offsets.shape[0] - 1,), generator=generator).to(tokens.offsets.device)
    step = torch.randint(1, 3, first.shape, generator=generator).to(first.device)
    made = []
    for operator in (first, (first + step) % 3):
        found = reorder(tokens, reordered, rows=operator == REORDER, generator=generator)
        found = mask(found, masked, mask_token, rows=operator == MASK, generator=generator)
        made.append(crop(found, crop_kept, rows=operator == CROP, generator=generator))
    return made[0], made[1]


def _part(lengths: Tensor, fraction: float) -> Tensor:
    """(B,) floor(fraction * length), in float64 as Python has it."""
    return (lengths.double() * fraction).long()


def _acts(possible: Tensor, rows: Tensor | None) -> Tensor:
    return possible if rows is None else possible & rows


def _uniform(like: Tensor, generator: Any) -> Tensor:
    """(B,) float64 in [0, 1)."""
    return torch.rand(like.shape[0], generator=generator, dtype=torch.float64).to(like.device)


class CL4SRecConfig(Config):
    """Settings of CL4SRec."""

    weight: float = Field(default=0.03, ge=0)
    """Weight of the contrast (lambda); 0.1 in `paper`. The default is the best of six trials on Beauty's validation."""
    crop: float = Field(default=0.6, gt=0, le=1)
    """Share of a sequence that the crop keeps (eta)."""
    mask: float = Field(default=0.3, ge=0, le=1)
    """Share of the items that are masked (gamma)."""
    reorder: float = Field(default=0.6, ge=0, le=1)
    """Share of a sequence that is shuffled (beta)."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides every similarity."""
    similarity: Literal["dot", "cosine"] = "dot"
    """Similarity of two states."""
    anchor: AnchorPlace = "last"
    """Contrast the whole row (`last`) or a prefix of uniform length (`random`)."""
    mask_false_negatives: bool = False
    """Leave rows with the same next item out of each other's negatives."""


_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "default": {},
        "paper": {
            "weight": 0.1, "crop": 0.6, "mask": 0.3, "reorder": 0.6, "temperature": 1.0, "similarity": "dot",
            "anchor": "last", "mask_false_negatives": False,
        },
    }
)  # fmt: skip


class CL4SRec(Plugin):
    """weight * NT-Xent between the last states of two changed copies of each row, beside any objective."""

    name: ClassVar[str] = "cl4srec"
    Config = CL4SRecConfig
    acts: ClassVar[frozenset[Seam]] = frozenset({"views", "losses"})
    needs = Needs(mask_token=True, kinds=frozenset({"sequences"}))

    def __init__(self, config: CL4SRecConfig, *, kind: Kind, dim: int, n_items: int) -> None:
        super().__init__(config, kind=kind, dim=dim, n_items=n_items)
        self.settings = config
        self._anchors: Anchors | None = None

    @classmethod
    def preset(cls, name: str, *, kind: Kind) -> Mapping[str, Any]:
        """`paper` has the values of the reference implementation most tables were made with (see
        docs/sequence_views.md)."""
        if name not in _PRESETS:
            raise ConfigError(f"cl4srec: there is no preset '{name}'; choose one of {', '.join(_PRESETS)}")
        return _PRESETS[name]

    @property
    def active(self) -> bool:
        return self.settings.weight > 0

    def inputs(self, batch: Batch, tables: Tables) -> tuple[View, ...]:
        config = self.settings
        self._anchors = pick_anchors(batch, config.anchor)
        first, second = two_views(
            self._anchors.prefix,
            crop_kept=config.crop,
            masked=config.mask,
            reordered=config.reorder,
            mask_token=self.n_items,
        )
        return View(name="cl4srec/first", tokens=first), View(name="cl4srec/second", tokens=second)

    def losses(self, batch: Batch, encoded: Encoded) -> Mapping[str, Tensor]:
        assert self._anchors is not None
        config = self.settings
        term = nt_xent(
            encoded.views["cl4srec/first"].last,
            encoded.views["cl4srec/second"].last,
            similarity=config.similarity,
            temperature=config.temperature,
            group=self._anchors.target if config.mask_false_negatives else None,
        )
        return {"contrast": config.weight * term}
