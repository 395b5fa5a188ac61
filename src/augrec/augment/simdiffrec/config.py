"""SimDiffRec's settings and presets."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from augrec.augment.views import AnchorPlace
from augrec.errors import ConfigError
from augrec.typed import Config


class SimDiffRecConfig(Config):
    """Settings of SimDiffRec."""

    weight: float = Field(default=0.04, ge=0)
    """Alpha of equation 18, the weight of the contrast; 0 switches the whole augmentation off. The best of six trials
    on Beauty's validation with SASRec-softmax, as is `reconstruction_weight` (docs/simdiffrec.md)."""
    reconstruction_weight: float = Field(default=0.02, ge=0)
    """Beta of equation 18, the weight of the denoiser's loss; at 0 the denoiser is never trained."""
    temperature: float = Field(default=0.05, gt=0)
    """Divides every cosine of the contrast; the paper gives none, the public code this one."""
    anchor: AnchorPlace = "last"
    """Contrast at the last place of a row (`last`) or at a uniform one (`random`); the denoiser then sees the row up to
    there."""

    noise: Literal["dot", "cosine", "gaussian"] = "dot"
    """What a sequence is mixed with: the mean vector of each item's most similar items by inner product (equations 6
    and 7) or by cosine, or N(0, I)."""
    neighbours: int = Field(default=30, ge=1)
    """k_noise, similar items averaged; best at 25 to 50 on Beauty and Toys, 1 to 5 on Sports in the paper."""
    refresh_every: int = Field(default=100, ge=1)
    """Training steps between two searches for everyone's similar items; 1 searches at each step, for the items of the
    batch only."""
    steps: int = Field(default=1000, ge=2)
    """T of the noise schedule: linear betas 1e-4..0.02, shifted so that no signal is left at T."""

    denoiser: Literal["separate", "shared"] = "separate"
    """A transformer of its own (the paper), or the encoder's own layers with every token seeing its whole row (the
    public code)."""
    layers: int = Field(default=1, ge=1)
    """Layers of the separate denoiser."""
    heads: int = Field(default=2, ge=1)
    """Attention heads of the separate denoiser."""
    inner: int = Field(default=256, ge=1)
    """Feed-forward width of the separate denoiser."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout on the denoiser's input, and within the separate one."""
    positions: int = Field(default=200, ge=1)
    """Rows of the denoiser's position table, counted from the newest event; older events share the last one."""

    reconstruction: Literal["nll", "mse+nll"] = "nll"
    """Loss of the denoiser: cross-entropy against the original items (the public code), with the mean squared error of
    equation 13 beside it (the paper)."""
    loss_time: Literal["random", "full"] = "random"
    """Step of the sequences the denoiser is trained on: one uniform in 1..T for each row, or always T."""
    pick_time: Literal["loss", "full"] = "loss"
    """Step that confidence and items come from: that of the loss, in the same pass (the public code), or T (the paper:
    "after restoring the fully noised sequence")."""
    restore_steps: int = Field(default=1, ge=1)
    """Denoiser passes behind confidence and items: 1 predicts the clean sequence at once, more take deterministic DDIM
    steps towards it."""

    replace: Literal["ratio", "fixed", "random"] = "ratio"
    """Which places of a row are replaced: its most confident ones, as a share of its real events or as a fixed number
    (the public code), or random ones (the paper's ablation), as a share."""
    ratio: float = Field(default=0.2, gt=0, le=1)
    """Share of a row's events that is replaced, at least one."""
    places: int = Field(default=10, ge=1)
    """Number of places replaced by `fixed`; shorter rows are replaced whole."""
    items: Literal["denoiser", "random"] = "denoiser"
    """Where replacing items come from; `random` is what the committed public code does, as it overwrites the denoiser's
    scores with random numbers."""
    positive: Literal["best", "sample"] = "best"
    """The positive view takes the likeliest item, or one of the `top_k` likeliest at random."""
    top_k: int = Field(default=10, ge=1)
    """Likeliest items that `sample` draws from."""
    exclude_original: bool = True
    """Never replace an item by itself; without this a trained denoiser mostly gives the original back."""
    hard_negative_rank: int | None = Field(default=5, ge=2)
    """k_sample, the rank of the item that makes the negative view; None leaves the negative view out."""

    candidates: int | None = Field(default=None, ge=64)
    """Items that neighbours, losses and picks are sought among: all, or a uniform sample drawn anew for each batch, for
    catalogues too large to score."""
    chunk: int | None = Field(default=None, ge=1)
    """Rows of the reconstruction's logits in memory at a time; None picks by the catalogue."""


_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "default": {},
        "paper": {
            "weight": 0.4, "reconstruction_weight": 0.4, "noise": "dot", "neighbours": 30, "denoiser": "separate",
            "layers": 1, "heads": 2, "reconstruction": "mse+nll", "loss_time": "random", "pick_time": "full",
            "restore_steps": 10, "replace": "ratio", "items": "denoiser", "positive": "best",
            "exclude_original": False, "hard_negative_rank": 2, "anchor": "last", "candidates": None,
        },
        "published-code": {
            "weight": 0.4, "reconstruction_weight": 0.4, "noise": "dot", "neighbours": 30, "refresh_every": 1,
            "denoiser": "shared", "dropout": 0.5, "reconstruction": "nll", "loss_time": "random", "pick_time": "loss",
            "restore_steps": 1, "replace": "fixed", "places": 10, "items": "random", "positive": "best",
            "exclude_original": False, "hard_negative_rank": 5, "anchor": "last", "candidates": None,
        },
    }
)  # fmt: skip


def preset(name: str) -> Mapping[str, Any]:
    """The fields a preset sets.

    - `paper`: the text, with its best weights on Beauty; its reverse chain of T steps is strided to 10.
    - `published-code`: the committed code, random items included. Its settings were never published: weights, places
      and neighbours are the paper's or the base configuration's.

    Raises:
        ConfigError: an unknown preset.
    """
    if name not in _PRESETS:
        raise ConfigError(f"simdiffrec: unknown preset '{name}'; choose one of {', '.join(_PRESETS)}")
    return _PRESETS[name]
