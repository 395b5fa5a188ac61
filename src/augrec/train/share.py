"""What of a group's parameters one process moves: with several processes, each keeps the optimiser's state of its part.

Every process holds all weights. A large parameter is cut into as many parts as there are processes: gradients are
summed at the process that moves the part, and the moved part is sent to all: the bytes of a ring sum of all gradients
(ZeRO stage 1: Rajbhandari et al., SC 2020). Adam works number by number, so the cut changes nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from augrec.train.lazy_adam import coalesced
from augrec.train.state import load_optimiser, optimiser_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from augrec.train.ranks import Ranks

SMALL = 1 << 16
"""Parameters of fewer numbers are moved by all alike, and their gradients travel together: a message has a cost."""


class Share:
    """The parts of `parameters` that this process moves: all of all of them where there are no other processes.

    `sparse`, one of the parameters, has sparse gradients and is not divided: every process moves the same few rows.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], ranks: Ranks | None = None, *, sparse: Tensor | None = None
    ) -> None:
        self.parameters, self.ranks, self._sparse = list(parameters), ranks, sparse
        self._cuts = [self._cut(parameter) for parameter in self.parameters]
        self.parts: list[nn.Parameter] = [
            parameter if cuts is None else nn.Parameter(self._own(parameter.detach(), cuts))
            for parameter, cuts in zip(self.parameters, self._cuts, strict=True)
        ]

    def _cut(self, parameter: Tensor) -> list[int] | None:
        """The places in the flat `parameter` that part the processes; None where it is not divided."""
        if self.ranks is None or parameter.numel() < SMALL or parameter is self._sparse:
            return None
        return [parameter.numel() * n // self.ranks.world for n in range(self.ranks.world + 1)]

    def _own(self, tensor: Tensor, cuts: list[int]) -> Tensor:
        assert self.ranks is not None
        first, last = self.ranks.mine(cuts)
        return tensor.view(-1)[first:last]

    def collect(self) -> None:
        """Gives every part the gradient of its numbers, summed over the processes; sparse ones are coalesced."""
        if self._sparse is not None and self._sparse.grad is not None and self._sparse.grad.is_sparse:
            self._sparse.grad = coalesced(self._sparse.grad)
        if self.ranks is None:
            return
        small: list[Tensor] = []
        for parameter, part, cuts in zip(self.parameters, self.parts, self._cuts, strict=True):
            if parameter.grad is None:
                continue
            if parameter.grad.is_sparse:
                parameter.grad = self.ranks.sum_touched(parameter.grad)
                continue
            if cuts is None:
                small.append(parameter.grad)
                continue
            whole = parameter.grad.contiguous()
            self.ranks.sum_parts(whole.view(-1), cuts)
            part.grad, parameter.grad = self._own(whole, cuts), None
        if small:
            flat = self.ranks.sum_(torch.cat([one.reshape(-1) for one in small]))
            for one, summed in zip(small, flat.split([one.numel() for one in small]), strict=True):
                one.copy_(summed.view_as(one))

    @torch.no_grad()
    def hand_out(self) -> None:
        """Gives every process the parts that the others have moved."""
        for parameter, cuts in zip(self.parameters, self._cuts, strict=True):
            if cuts is not None and self.ranks is not None:
                self.ranks.share_parts(parameter.view(-1), cuts)

    def gradient_sums(self) -> list[float]:
        """The sum of each parameter's gradient; 0 where it has none. Not finite where a number of it is not."""
        return self._over_all([0.0 if part.grad is None else _numbers(part.grad).sum().item() for part in self.parts])

    def clip(self, largest: float) -> float:
        """Scales all gradients so that their common L2 norm is at most `largest`; the norm before that."""
        gradients = [None if part.grad is None else _numbers(part.grad) for part in self.parts]
        norms = [0.0 if one is None else one.norm().item() for one in gradients]
        norm = math.sqrt(sum(self._over_all([one**2 for one in norms])))
        scale = largest / (norm + 1e-6)
        if scale < 1:
            torch._foreach_mul_([one for one in gradients if one is not None], scale)
        return norm

    def _over_all(self, values: list[float]) -> list[float]:
        """`values` of the parts, summed over the processes where a parameter is divided."""
        if self.ranks is None:
            return values
        alike = [cuts is None and self.ranks.rank > 0 for cuts in self._cuts]
        return self.ranks.total([0.0 if skip else value for value, skip in zip(values, alike, strict=True)])

    def state(self, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
        """The state of `optimiser`, which moves the parts, as of one that moves the parameters. Every process calls
        it; only process 0 is given the divided tensors."""
        found = optimiser_tensors(optimiser)
        if self.ranks is None:
            return found
        for name, tensor in sorted(found.items()):
            number = int(name.split("/")[0])
            cuts, parameter = self._cuts[number], self.parameters[number]
            if cuts is None or not tensor.dim():
                continue
            whole = tensor.new_zeros(parameter.numel())
            self._own(whole, cuts).copy_(tensor)
            self.ranks.gather_parts(whole, cuts)
            if self.ranks.rank:
                del found[name]
            else:
                found[name] = whole.view(parameter.shape)
        return found

    def load(self, optimiser: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
        """Puts what `state` gave to process 0 back, in whatever number of processes."""
        own = dict(state)
        for name, tensor in state.items():
            cuts = self._cuts[int(name.split("/")[0])]
            if cuts is not None and tensor.dim():
                own[name] = self._own(tensor, cuts)
        load_optimiser(optimiser, own)


def _numbers(gradient: Tensor) -> Tensor:
    """What a dense or a coalesced gradient holds."""
    return gradient._values() if gradient.is_sparse else gradient
