"""CaDiRec's settings and presets."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from augrec.augment.views import AnchorPlace
from augrec.errors import ConfigError
from augrec.typed import Config


class CaDiRecConfig(Config):
    """Settings of CaDiRec; the field defaults are those of its public code for Beauty."""

    weight: float = Field(default=0.03, ge=0)
    """Alpha, the weight of the contrast; 0 switches the whole augmentation off. 0.1 in the public code; the default is
    the best of six trials on Beauty's validation."""
    reconstruction_weight: float = Field(default=0.2, ge=0)
    """Beta, the weight of the cross-entropy of the generated places; 0.1 on ML-1M. At 0 and with `mse_weight` 0 the
    denoiser is never trained."""
    mse_weight: float = Field(default=0.0, ge=0)
    """Gamma, the weight of the mean squared error of the generated places; 0 in every published configuration."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides every inner product of the contrast."""
    similarity: Literal["dot", "cosine"] = "dot"
    """Similarity of two states."""
    anchor: AnchorPlace = "last"
    """Contrast whole rows (`last`) or rows up to a uniform place (`random`)."""

    ratio: float = Field(default=0.1, gt=0, le=1)
    """Rho, the chance of each event to be noised and replaced."""
    at_least_one: bool = False
    """Replace a random event in rows where chance chose none; published rows stay whole, and their two views differ by
    dropout alone."""
    top_k: int = Field(default=10, ge=1)
    """Likeliest items that each view draws from."""
    exclude_original: bool = False
    """Never draw the original item; the published method may give it back."""
    items: Literal["denoiser", "random"] = "denoiser"
    """Where replacing items come from; `random` is a control without the method's claim."""

    steps: int = Field(default=1000, ge=2)
    """T of the schedule, alpha_bar proportional to 1 - sqrt(t / T)."""
    jitter: bool = True
    """Add the first step's noise to every event, the clean context too, as the public code does."""
    layers: int = Field(default=2, ge=1)
    """Layers of the denoiser; 1 on ML-1M."""
    heads: int = Field(default=2, ge=1)
    """Attention heads of the denoiser."""
    inner: int = Field(default=128, ge=1)
    """Feed-forward width of the denoiser."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout within the denoiser."""
    input_dropout: float = Field(default=0.5, ge=0, lt=1)
    """Dropout on the denoiser's input; the public code shares the encoder's, 0.5 on Amazon and 0.1 on ML-1M."""
    max_distance: int = Field(default=50, ge=1)
    """Largest distance between two events that has a relative position of its own."""

    candidates: int | None = Field(default=None, ge=64)
    """Items that losses and picks are sought among: all, or a uniform sample drawn anew for each batch."""
    chunk: int | None = Field(default=None, ge=1)
    """Rows of the cross-entropy's logits in memory at a time; None picks by the catalogue."""


_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "default": {},
        "published-code": {
            "weight": 0.1, "reconstruction_weight": 0.2, "mse_weight": 0.0, "temperature": 1.0, "similarity": "dot",
            "anchor": "last", "ratio": 0.1, "at_least_one": False, "top_k": 10, "exclude_original": False,
            "items": "denoiser", "jitter": True, "layers": 2, "heads": 2, "inner": 128, "dropout": 0.2,
            "input_dropout": 0.5, "candidates": None,
        },
    }
)  # fmt: skip


def preset(name: str) -> Mapping[str, Any]:
    """The fields a preset sets: `default`, `published-code` (the released configuration for Beauty), and `paper`, which
    is the same, as the released code is the authors' statement of their settings.

    Raises:
        ConfigError: an unknown preset.
    """
    known = "published-code" if name == "paper" else name
    if known not in _PRESETS:
        raise ConfigError(f"cadirec: unknown preset '{name}'; choose one of {', '.join(_PRESETS)}, paper")
    return _PRESETS[known]
