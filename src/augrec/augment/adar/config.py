"""ADAR's settings: fields, presets and the named arms it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from augrec.augment.adar.generator import Recon, Scale
from augrec.diffusion.process import Sampler
from augrec.errors import ConfigError
from augrec.typed import Config

Kind = Literal["pairs", "sequences"]
Source = Literal["off", "diffusion", "gaussian", "ridge", "analytic", "forward"]
SelectorName = Literal["eq11", "theorem", "fixed", "random", "mixed"]
ScoreMode = Literal["raw", "cosine", "sigmoid", "standardised"]
Rounding = Literal["floor", "round", "ceil", "lerp"]
Preset = Literal["default", "paper", "robust"]

STEPS: Mapping[str, int] = MappingProxyType({"pairs": 50, "sequences": 20})
"""The paper's T for collaborative filtering and for sequential recommendation."""


class AdarConfig(Config):
    """Settings of ADAR; the field defaults are the preset `paper`."""

    weight: float = Field(default=0.5, ge=0, le=1)
    """Lambda of eq. 12, the share of the generated negative in the margin; the paper searches [0, 1]."""
    warmup_epochs: int = Field(default=0, ge=0)
    """Epochs that train the denoiser only, before generated negatives enter the ranking loss; 0 in the paper."""
    diffusion_steps: int = Field(default=1, ge=1)
    """Denoiser updates per batch; 1 in the paper's Algorithm 1."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate of the denoiser's own Adam."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of the denoiser's own Adam."""

    source: Source = "diffusion"
    """Where e_d comes from. diffusion: the reverse chain; gaussian: N(0, I), the chain at t* = T; ridge: no e_d but the
    penalty it amounts to; analytic: the exact marginal of a per-user Gaussian, no network; forward: the positive
    itself, noised to t*; off: nothing."""
    selector: SelectorName = "eq11"
    """How t* is chosen: eq11 (of the positive's score), theorem (of both scores, Theorem 1), fixed, random, or mixed
    (DMNS's four fixed steps, averaged)."""

    steps: int | None = Field(default=None, ge=1)
    """T; None is 50 on pairs and 20 on sequences."""
    schedule: Literal["linear", "scaled_linear", "cosine", "sigmoid"] = "linear"
    """Noise schedule."""
    beta_start: float = Field(default=1e-4, gt=0, lt=1)
    """First beta of the schedules linear, scaled_linear (before its factor 1000/T) and sigmoid."""
    beta_end: float = Field(default=0.02, gt=0, lt=1)
    """Last beta of the same schedules."""
    sampler: Sampler = "mean"
    """Reverse step: mean (eq. 10 literally), ddpm (adds the posterior's noise) or ddim."""
    arch: Literal["film", "dmns"] = "film"
    """Denoiser: film (eq. 7, two MLPs with an exact start) or dmns (the network of DMNS)."""
    hidden: int | None = Field(default=None, ge=1)
    """Hidden width of each MLP of `film`; None is twice the vectors' width."""
    recon: Recon = "one_step"
    """Second term of eq. 8: one_step estimate of x_0, a full chain with gradient (T times the cost), or none."""
    recon_clip: float | None = Field(default=5.0, gt=0)
    """Upper bound of the one-step term's factor 1/SNR; None leaves it unbounded. Inactive on the paper's schedule."""
    scale: Scale = "none"
    """rms: diffuse vectors divided by the running root mean square of item coordinates."""
    scale_momentum: float = Field(default=0.99, ge=0, lt=1)
    """Momentum of the running scale and of the analytic arm's running variance."""

    omega: float = Field(default=1.0, gt=0)
    """Omega of eq. 11: sets t*/T = sigmoid(omega) at score 0."""
    k: float = Field(default=1.0, gt=0)
    """k of eq. 11: how fast t* nears T as the score grows."""
    score: ScoreMode = "raw"
    """Score read by eq. 11: raw inner product, cosine, sigmoid of the product, or standardised by running moments."""
    score_momentum: float = Field(default=0.99, ge=0, lt=1)
    """Momentum of the running moments of `standardised`."""
    rounding: Rounding = "floor"
    """How t* becomes a step; lerp interpolates the two neighbouring states."""
    allow_T: bool = False
    """Let t* = T, which uses no learned step; otherwise t* <= T - 1."""
    rho: float | None = Field(default=None, ge=0, le=1)
    """Constant ratio of negative to positive score for `theorem`; None takes the sampled negative's score."""
    fixed_fraction: float = Field(default=0.75, ge=0, le=1)
    """t*/T of `fixed`."""

    def resolve_steps(self, kind: Kind) -> int:
        """T on a backbone of this kind."""
        return STEPS[kind] if self.steps is None else self.steps


_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "default": {},
        "paper": {},
        "robust": {
            "schedule": "scaled_linear",
            "sampler": "ddpm",
            "score": "cosine",
            "scale": "rms",
            "recon_clip": 5.0,
        },
    }
)

ARMS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "off": {"source": "off"},
        "eq11": {"source": "diffusion", "selector": "eq11"},
        "theorem": {"source": "diffusion", "selector": "theorem"},
        "random": {"source": "diffusion", "selector": "random"},
        "mixed": {"source": "diffusion", "selector": "mixed"},
        "fixed-0.5": {"source": "diffusion", "selector": "fixed", "fixed_fraction": 0.5},
        "fixed-0.75": {"source": "diffusion", "selector": "fixed", "fixed_fraction": 0.75},
        "fixed-0.9": {"source": "diffusion", "selector": "fixed", "fixed_fraction": 0.9},
        "gaussian": {"source": "gaussian"},
        "ridge": {"source": "ridge"},
        "analytic": {"source": "analytic"},
        "forward": {"source": "forward"},
    }
)
"""Fields each named arm changes in a configuration."""


def preset(name: str = "default", **overrides: Any) -> AdarConfig:
    """Settings by preset name, with single fields replaced.

    - `paper`: the text, literally: linear betas 1e-4..0.02, the mean-only chain, raw scores, no scaling.
    - `robust`: a schedule that ends in noise, DDPM noise, cosine scores, vectors scaled to unit root mean square.
    - `default`: the same as `paper`, the better of the two on validation (docs/adar.md); that it helps over the base is
      not shown.

    Raises:
        ConfigError: an unknown preset.
    """
    if name not in _PRESETS:
        raise ConfigError(f"adar: unknown preset {name!r}; choose one of {', '.join(_PRESETS)}")
    return AdarConfig(**{**_PRESETS[name], **overrides})


def with_arm(config: AdarConfig, arm: str) -> AdarConfig:
    """`config` as one of the named `ARMS`, all other settings kept.

    Raises:
        ConfigError: an unknown arm.
    """
    if arm not in ARMS:
        raise ConfigError(f"adar: unknown arm {arm!r}; choose one of {', '.join(ARMS)}")
    return config.model_copy(update=dict(ARMS[arm]))
