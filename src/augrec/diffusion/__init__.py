"""Noise schedules, the diffusion process and denoising networks, on plain tensors.

The only layer that knows about noise. A schedule knows nothing of networks, a network nothing of schedules.
"""

from __future__ import annotations

from augrec.diffusion.denoisers import Denoiser, DMNSDenoiser, FiLMDenoiser, sinusoid_table
from augrec.diffusion.importance import StepSampler, snr_difference
from augrec.diffusion.process import (
    Coefficients,
    Sampler,
    noise_from_x0,
    posterior_coefficients,
    posterior_mean,
    posterior_variance,
    q_sample,
    reverse_coefficients,
    reverse_step,
    x0_from_noise,
)
from augrec.diffusion.schedules import (
    Schedule,
    cosine,
    linear,
    linear_var,
    rescale_zero_terminal_snr,
    scaled_linear,
    sigmoid,
    sqrt,
)

__all__ = [
    "Coefficients",
    "DMNSDenoiser",
    "Denoiser",
    "FiLMDenoiser",
    "Sampler",
    "Schedule",
    "StepSampler",
    "cosine",
    "linear",
    "linear_var",
    "noise_from_x0",
    "posterior_coefficients",
    "posterior_mean",
    "posterior_variance",
    "q_sample",
    "rescale_zero_terminal_snr",
    "reverse_coefficients",
    "reverse_step",
    "scaled_linear",
    "sigmoid",
    "sinusoid_table",
    "snr_difference",
    "sqrt",
    "x0_from_noise",
]
