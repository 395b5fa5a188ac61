"""A running average of the encoder's weights (Polyak and Juditsky, 1992), judged and kept in place of the last ones."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn


class Average:
    """Exponential average with decay min(`decay`, (1 + t) / (10 + t)) at update t, so that the start is forgotten."""

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self._own = dict(module.named_parameters())
        self._mean = {name: parameter.detach().clone() for name, parameter in self._own.items()}
        self._updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Takes the current weights in."""
        self._updates += 1
        keep = min(self.decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(list(self._mean.values()), list(self._own.values()), 1 - keep)

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
            parameter.copy_(self._mean[name])

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint saves."""
        return {"updates": torch.tensor(self._updates), **{f"mean/{name}": value for name, value in self._mean.items()}}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Puts a saved state back. Raises `KeyError` where it is of another module."""
        self._updates = int(state["updates"])
        for name, mean in self._mean.items():
            mean.copy_(state[f"mean/{name}"])
