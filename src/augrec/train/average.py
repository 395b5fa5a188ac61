"""A running average of the encoder's weights (Polyak and Juditsky, 1992), judged and kept in place of the last ones."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from augrec.train.lazy_adam import parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn


class Average:
    """Exponential average with decay min(`decay`, (1 + t) / (10 + t)) at update t, so that the start is forgotten.

    A parameter with sparse gradients is averaged row by row: while a row is not touched its weights w stand still, and
    n updates with decays d_1 .. d_n are one, mean <- w + d_1 ... d_n (mean - w), made when it is next touched or read.
    (What `LazyAdam` moves a row by while it is not touched counts as moved at once.)
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self._own = dict(module.named_parameters())
        self._mean = {name: parameter.detach().clone() for name, parameter in self._own.items()}
        self._updates = 0
        self._kept = 0.0
        """Log of the product of all decays so far."""
        self._kept_at: dict[str, Tensor] = {}
        """By parameter with sparse gradients, (rows,) float64: `_kept` at the last update in each row's mean."""

    @torch.no_grad()
    def prepare(self) -> None:
        """Told before an optimiser's step, with its gradients there: rows that it moves take in what they were."""
        for name, parameter in self._own.items():
            grad = parameter.grad
            if grad is None or not (grad.is_sparse or name in self._kept_at):
                continue
            mean = self._mean[name]
            at = self._kept_at.setdefault(name, torch.full((len(mean),), self._kept, dtype=torch.float64))
            if not grad.is_sparse:
                mean.copy_(self._current(name))
                at.fill_(self._kept)
                continue
            for rows, _ in parts(grad):
                mean.index_copy_(0, rows, self._current(name, rows))
            at.index_fill_(0, grad.indices()[0], self._kept)

    def _current(self, name: str, rows: Tensor | None = None) -> Tensor:
        """The mean of a parameter's rows, all of them by default, after all updates so far."""
        found = [self._own[name].detach(), self._mean[name], self._kept_at.get(name)]
        own, mean, at = (one if rows is None or one is None else one.index_select(0, rows) for one in found)
        assert own is not None and mean is not None
        if at is None:
            return mean
        return torch.lerp(own, mean, (self._kept - at).exp_().to(own.dtype)[:, None])

    @torch.no_grad()
    def update(self) -> None:
        """Takes the current weights in."""
        self._updates += 1
        keep = min(self.decay, (1 + self._updates) / (10 + self._updates))
        self._kept += math.log(keep)
        dense = [name for name in self._own if name not in self._kept_at]
        torch._foreach_lerp_([self._mean[name] for name in dense], [self._own[name] for name in dense], 1 - keep)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module holds the average inside, and its own weights again afterwards."""
        before = {name: parameter.detach().clone() for name, parameter in self._own.items()}
        self.put()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._own.items():
                    parameter.copy_(before[name])

    @torch.no_grad()
    def put(self) -> None:
        """Gives the module the average for good."""
        for name, parameter in self._own.items():
            parameter.copy_(self._current(name))

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint saves."""
        found = {"updates": torch.tensor(self._updates), "kept": torch.tensor(self._kept, dtype=torch.float64)}
        found |= {f"mean/{name}": value for name, value in self._mean.items()}
        return found | {f"kept_at/{name}": value for name, value in self._kept_at.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Puts a saved state back. Raises `KeyError` where it is of another module."""
        self._updates, self._kept = int(state["updates"]), float(state["kept"])
        self._kept_at = {
            name: state[f"kept_at/{name}"].clone() for name in self._own if f"kept_at/{name}" in state
        }  # fmt: skip
        for name, mean in self._mean.items():
            mean.copy_(state[f"mean/{name}"])
