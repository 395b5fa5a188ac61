"""The network that restores a noised sequence, and the deterministic way back through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from augrec.backbones.dropout import Dropout
from augrec.backbones.transformer import TransformerStack, normal_weights
from augrec.diffusion.process import noise_from_x0, q_sample

if TYPE_CHECKING:
    from augrec.batches.batch import Tokens
    from augrec.diffusion.schedules import Schedule

Mix = Callable[[Tensor, "Tokens"], Tensor]


class SequenceDenoiser(nn.Module):
    """f(z_t, t): noised vectors plus learned time and position, LayerNorm, dropout, then layers that see both ways.

    Args:
        dim: width of the vectors.
        steps: T; steps are 1..T.
        positions: rows of the position table, counted from the newest event.
        dropout: on the input.
        stack: layers of its own, or None where `forward` is given the encoder's.
    """

    def __init__(
        self, *, dim: int, steps: int, positions: int, dropout: float, stack: TransformerStack | None = None
    ) -> None:
        super().__init__()
        self.time = nn.Parameter(torch.empty(steps, dim))
        self.position = nn.Parameter(torch.empty(positions, dim))
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = Dropout(dropout)
        self.stack = stack
        normal_weights(self, 0.02)

    def forward(self, x: Tensor, t: Tensor, tokens: Tokens, mix: Mix | None = None) -> Tensor:
        """(N, D) the clean vectors as predicted from the noised ones.

        Args:
            x: (N, D).
            t: (B,) int64 step of each row, 1..T.
            tokens: the rows; only their shape is read.
            mix: the encoder's layers, where this has none.
        """
        rows = tokens.rows
        place = (tokens.lengths[rows] - 1 - tokens.positions).clamp(max=self.position.shape[0] - 1)
        x = x + F.embedding((t - 1)[rows], self.time) + F.embedding(place, self.position)
        hidden: Tensor = self.dropout(self.norm(x))
        if self.stack is not None:
            out: Tensor = self.stack(hidden, tokens, causal=False)
            return out
        assert mix is not None
        return mix(hidden, tokens)


def restore(
    schedule: Schedule, predict: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, rows: Tensor, steps: int
) -> Tensor:
    """(N, D) the clean vectors reached from step t in `steps` deterministic DDIM steps (Song et al. 2021, eta = 0).

    The steps of a row are ceil(t k / steps), k = steps..1: each predicts x_0 and noises it again, less, along the noise
    that the prediction implies. One step is `predict(x, t)` itself. At zero terminal SNR that noise is x_T.

    Args:
        schedule: levels of noise.
        predict: (x (N, D), t (B,)) to the predicted x_0 (N, D).
        x: (N, D) noised vectors.
        t: (B,) int64 step of each row.
        rows: (N,) the row of each vector.
        steps: calls of `predict`.
    """
    clean = x
    for left in range(steps, 0, -1):
        now = (t * left + steps - 1).div(steps, rounding_mode="floor")
        clean = predict(x, now)
        if left > 1:
            then = (t * (left - 1) + steps - 1).div(steps, rounding_mode="floor")
            x = q_sample(schedule, clean, then[rows], noise_from_x0(schedule, x, now[rows], clean))
    return clean
