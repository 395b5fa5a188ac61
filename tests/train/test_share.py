"""A process keeps the optimiser's state of the numbers it moves, and a checkpoint has the state of all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import nn

from augrec.train.share import SMALL, Share


class One:
    """Process `rank` of two whose other process always says the same as this one."""

    world = 2

    def __init__(self, rank: int) -> None:
        self.rank, self.gathered = rank, 0

    def mine(self, cuts: Sequence[int]) -> tuple[int, int]:
        return cuts[self.rank], cuts[self.rank + 1]

    def sum_parts(self, flat: torch.Tensor, cuts: Sequence[int]) -> None:
        first, last = self.mine(cuts)
        flat[first:last] *= 2
        flat[:first] = flat[last:] = math.nan

    def share_parts(self, flat: torch.Tensor, cuts: Sequence[int]) -> None: ...

    def gather_parts(self, flat: torch.Tensor, cuts: Sequence[int]) -> None:
        self.gathered += 1

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.mul_(2)

    def total(self, values: Sequence[float]) -> list[float]:
        return [2 * value for value in values]


def tables() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(SMALL // 8 + 1, 8)), nn.Parameter(torch.zeros(5))]


def with_gradients(share: Share) -> Share:
    for number, parameter in enumerate(share.parameters):
        parameter.grad = torch.full_like(parameter, float(number + 1))
    share.collect()
    return share


@pytest.mark.parametrize("rank", [0, 1])
def test_state_is_that_of_the_own_part(rank: int) -> None:
    ranks = One(rank)
    share = with_gradients(Share(tables(), cast(Any, ranks)))
    large, small = share.parts
    assert large.numel() == (SMALL + 8) // 2
    assert small is share.parameters[1]
    optimiser = torch.optim.Adam(share.parts, lr=0.1, fused=True)
    optimiser.step()
    assert sum(one["exp_avg"].numel() for one in optimiser.state.values()) == (SMALL + 8) // 2 + 5
    # The part is a window on the table: the own half has moved, the other has not.
    moved = share.parameters[0].detach().view(-1) != 0
    assert moved.view(2, -1).all(1).tolist() == [rank == 0, rank == 1]
    assert moved.sum() == moved.numel() // 2
    state = share.state(optimiser)
    assert ranks.gathered == 2
    assert ("0/exp_avg" in state) == (rank == 0)
    if rank == 0:
        assert state["0/exp_avg"].shape == share.parameters[0].shape
        again = torch.optim.Adam(share.parts, lr=0.1, fused=True)
        share.load(again, state)
        assert torch.equal(again.state[large]["exp_avg"], optimiser.state[large]["exp_avg"])


def test_sums_and_norm_are_over_all_processes() -> None:
    share = with_gradients(Share(tables(), cast(Any, One(0))))
    # This process gives both, the other (rank 1) would give the table's other half alone: One doubles what it has.
    assert share.gradient_sums() == [2 * 2.0 * (SMALL + 8) / 2, 2 * 4.0 * 5]
    norm = share.clip(1.0)
    assert norm == pytest.approx(math.sqrt(2 * ((SMALL + 8) / 2 * 4 + 5 * 16)))
    assert share.parts[0].grad is not None
    assert share.parts[0].grad[0] == pytest.approx(2 / norm)
    assert with_gradients(Share(tables(), cast(Any, One(1)))).gradient_sums()[1] == 0


def test_alone_nothing_is_cut() -> None:
    share = with_gradients(Share(tables()))
    assert all(a is b for a, b in zip(share.parts, share.parameters, strict=True))
    expected = nn.utils.get_total_norm([parameter.grad for parameter in share.parameters if parameter.grad is not None])
    assert share.clip(1.0) == pytest.approx(float(expected))
