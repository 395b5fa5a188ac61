"""What a check says when it fails: what differs, by how much, and why that matters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor


def require(truth: object, message: str) -> None:
    """Raises AssertionError; unlike `assert`, also under `python -O`."""
    if not truth:
        raise AssertionError(message)


def same_bytes(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Every tensor equal bit by bit."""
    require(set(found) == set(wanted), f"{what}: the names differ: {sorted(set(found) ^ set(wanted))}")
    for name, one in found.items():
        other = wanted[name]
        same = one.shape == other.shape and one.dtype == other.dtype
        require(same, f"{what}: '{name}' is {one.dtype} {tuple(one.shape)}, not {other.dtype} {tuple(other.shape)}")
        equal = torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8))
        require(equal, f"{what}: '{name}' differs{_apart(one, other)}")


def close(found: Tensor, wanted: Tensor, what: str, *, relative: float = 1e-5, absolute: float = 1e-6) -> None:
    """Equal to rounding."""
    require(found.shape == wanted.shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(wanted.shape)}")
    near = torch.allclose(found.double(), wanted.double(), rtol=relative, atol=absolute)
    require(near, f"{what}{_apart(found, wanted)}")


def finite(value: Tensor, what: str) -> None:
    """No NaN, no infinity."""
    bad = int((~torch.isfinite(value)).sum())
    require(bad == 0, f"{what}: {bad} of {value.numel()} values are not finite")


def reaches(gradients: Iterable[Tensor | None]) -> bool:
    """Whether any of some gradients is there and not zero everywhere."""
    return any(one is not None and one.abs().max().item() > 0 for one in gradients)


def _apart(one: Tensor, other: Tensor) -> str:
    if not one.numel():
        return ""
    return f" by up to {(one.double() - other.double()).abs().max().item():.3g}"
