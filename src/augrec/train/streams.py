"""One random state per owner, so that switching one part on or off never changes what another draws."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor


def seed_of(seed: int, owner: str) -> int:
    """A 63-bit seed for `owner`: SHA-256 of both, the same on every machine and Python."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{owner}".encode()).digest()[:8], "big") >> 1


def stream(seed: int, owner: str) -> torch.Generator:
    """A fresh CPU generator for `owner`."""
    return torch.Generator().manual_seed(seed_of(seed, owner))


class Streams:
    """Random states by owner. `use(owner)` swaps one into torch's default generator and puts everything back.

    Owners: "initialisation", "batches", "negatives", "dropout", "masks", "objective", "phase/<name>" and
    "plugin/<name>". An accelerator's own generator is seeded from the owner's CPU state at every use.
    """

    def __init__(self, seed: int, *, device: torch.device | None = None) -> None:
        self.seed = seed
        self.device = device if device is not None and device.type != "cpu" else None
        self._states: dict[str, Tensor] = {}

    @contextmanager
    def use(self, owner: str) -> Iterator[None]:
        """Everything drawn from torch's default generator inside comes from `owner`'s state."""
        outside, state = torch.get_rng_state(), self._states.get(owner)
        torch.set_rng_state(self.state_of(owner) if state is None else state)
        try:
            with nullcontext() if self.device is None else torch.random.fork_rng(devices=[self.device]):
                if self.device is not None:
                    word = int(torch.randint(2**62, ()))
                    torch.get_device_module(self.device).manual_seed(word)
                try:
                    yield
                finally:
                    self._states[owner] = torch.get_rng_state()
        finally:
            torch.set_rng_state(outside)

    @contextmanager
    def aside(self, word: int, owner: str) -> Iterator[None]:
        """Draws inside come from a fresh state made of `word` and `owner`; no owner's state moves."""
        own = Streams(word, device=self.device)
        with own.use(owner):
            yield

    def state_of(self, owner: str) -> Tensor:
        """(5056,) uint8 state of one owner, its first one if it has not drawn yet."""
        state = self._states.get(owner)
        return stream(self.seed, owner).get_state() if state is None else state.clone()

    def state(self) -> dict[str, Tensor]:
        """(5056,) uint8 state of every owner used so far; what a checkpoint saves."""
        return {owner: state.clone() for owner, state in self._states.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Puts saved states back; owners not named start afresh."""
        self._states = {owner: value.clone() for owner, value in state.items()}
