"""Historical Behavior Reweighting: targets a user's own preferences doubt weigh less (PDRec, equation 2)."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from augrec.augment.pdrec.plugin import PreferencePlugin
from augrec.batches.batch import shared_tensor
from augrec.errors import ConfigError
from augrec.seams import Additions, Seam
from augrec.typed import Config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from augrec.augment.pdrec.scan import Scan
    from augrec.batches.batch import Batch
    from augrec.seams import Encoded


class HBRConfig(Config):
    """Settings of HBR; published values by data set in docs/pdrec.md."""

    weight: float = Field(default=0.3, ge=0, le=1)
    """Share of the reweighting: 1 is w (published), 0 switches it off, between them 1 - weight + weight * w."""
    source: Literal["preference", "random"] = "preference"
    """Where preferences come from; random is the control arm."""
    rank_share: float = Field(default=0.1, ge=0, le=1)
    """omega_r: share of the rank in the weight; the rest is the preference itself."""
    clip: float = Field(default=3.0, gt=0)
    """c_w: largest weight before rescaling."""
    rescale: float = Field(default=1.0, gt=0)
    """omega_f: factor on every weight; published: 2 on Toy and Music, 4 on Game and Book. Adam hides it where the whole
    row is weighted; under bce it shifts the balance of positives and negatives."""
    truncation: Literal["clamp", "scalar"] = "clamp"
    """clamp: each weight into [0, c_w], which the text describes and the code does; scalar: the printed formula, one
    number a user, min(max(c_w, min w), max w)."""
    minmax: Literal["observed", "padded", "zero"] = "zero"
    """observed: the worst target of a user gets 0, as equation 2 says; padded: the public code's minimum, which a
    padding token below all of them sets; zero: the same with 0 for the padding token's preference, near which it is, so
    that preferences above 0 are scaled by the largest alone and no model needs the token's column."""
    padded_length: int = Field(default=200, ge=1)
    """Histories with fewer targets than this are padded in the public code."""


def history_weights(
    preference: Tensor,
    row: Tensor,
    rows: int,
    *,
    rank_share: float,
    clip: float,
    rescale: float,
    truncation: Literal["clamp", "scalar"] = "clamp",
    padding: Tensor | None = None,
    padded_length: int = 200,
) -> Tensor:
    """(n,) float64 weights of n targets from the preferences for them (equation 2 and the text below it).

    With s the preferences of a user's k targets scaled to [0, 1] and r their ascending rank (best = k):
    (1 - omega_r) s k / sum(s) + omega_r r / k, truncated, times omega_f. Where all preferences of a user are equal, s
    is 1 (equation 2 is 0 / 0 there). Equal preferences of different targets rank in the order of their events.

    Args:
        preference: (n,) of the targets.
        row: (n,) int64 user of each target, 0..rows-1, in any order.
        padding: (rows,) preferences for the padding token: the public code's scaling, whose lower end is p = m / 2
            (m > 0) or 3 m / 2 with m the smaller of min o and the padding's, for users with fewer than
            `padded_length` targets.
    """
    value = preference.double()
    count = torch.bincount(row, minlength=rows)
    size = count[row].double()

    def over(values: Tensor, how: str, start: float) -> Tensor:
        return torch.full((rows,), start, dtype=torch.float64).scatter_reduce_(0, row, values, how)

    low, high = over(value, "amin", torch.inf), over(value, "amax", -torch.inf)
    if padding is not None:
        least = torch.minimum(low, padding.double())
        pad = torch.where(least > 0, 0.5 * least, 1.5 * least)
        low = torch.where(count < padded_length, pad, low)
    span = (high - low)[row]
    scaled = torch.where(span > 0, (value - low[row]) / span.masked_fill(span <= 0, 1.0), 1.0)
    order = torch.argsort(value, stable=True)
    order = order[torch.argsort(row[order], stable=True)]
    rank = torch.empty_like(value)
    rank[order] = (torch.arange(1, len(row) + 1) - (torch.cumsum(count, 0) - count)[row[order]]).double()
    total = over(scaled, "sum", 0.0)[row]
    weight = (1 - rank_share) * scaled * size / total + rank_share * rank / size
    if truncation == "scalar":
        least, most = over(weight, "amin", torch.inf)[row], over(weight, "amax", -torch.inf)[row]
        return torch.minimum(least.clamp(min=clip), most) * rescale
    return weight.clamp(0.0, clip) * rescale


class HBR(PreferencePlugin):
    """A weight for each train event that is a target, made once and gathered by `batch.event`."""

    name: ClassVar[str] = "hbr"
    Config = HBRConfig
    acts: ClassVar[frozenset[Seam]] = frozenset({"weights"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "paper": {"weight": 1.0, "rescale": 2.0, "minmax": "observed", "truncation": "scalar"},
            "published-code": {"weight": 1.0, "rescale": 4.0, "minmax": "padded", "clip": 1.0},
        }
    )

    def __init__(self, config: HBRConfig, **sizes: Any) -> None:
        super().__init__(config, **sizes)
        self.settings = config
        self.by_event = torch.zeros(0)

    @classmethod
    def deviations(cls, config: Any) -> tuple[str, ...]:
        return ("hbr.minmax=padded",) if config.minmax == "padded" else ()

    def take(self, scan: Scan, found: None) -> None:
        settings, preference, train = self.settings, scan.preference, scan.train
        padding = None
        if settings.minmax == "padded":
            if preference.padding is None and not self._random:
                raise ConfigError(
                    "hbr.minmax = padded reads the preference for the padding token; set "
                    "preference.padding_column=true and a diffusion model as preference.model"
                )
            padding = preference.padding
        if settings.minmax == "zero" or (padding is None and settings.minmax == "padded"):
            padding = torch.zeros(train.n_users)
        user, item = shared_tensor(train.user).long(), shared_tensor(train.item).long()
        later = torch.arange(len(train)) > shared_tensor(train.offsets)[user]
        target = (later & torch.from_numpy(train.in_candidates())).nonzero()[:, 0]
        made = history_weights(
            preference.scores(user[target], item[target]),
            user[target],
            train.n_users,
            rank_share=settings.rank_share,
            clip=settings.clip,
            rescale=settings.rescale,
            truncation=settings.truncation,
            padding=padding,
            padded_length=settings.padded_length,
        )
        self.by_event = torch.ones(len(train))
        self.by_event[target] = (1 - settings.weight + settings.weight * made).float()

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        self.settle()
        return Additions(weights=self.by_event.index_select(0, batch.event).to(encoded.query.device))
