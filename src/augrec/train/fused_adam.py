"""torch's fused Adam, called without what torch prepares anew at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.optim.adam import Adam

if TYPE_CHECKING:
    from torch import Tensor

_LISTS = tuple[dict[str, Any], list["Tensor"], list["Tensor"], list["Tensor"], list["Tensor"]]
"""A group, its parameters, both their moments and their steps."""


class FusedAdam(Adam):
    """`torch.optim.Adam(fused=True)`: the same kernel, the same state, the same bits.

    For the thirty small tensors of a transformer torch spends as long on sorting them by device and type as its kernel
    does on moving them. Where all are float32 on a CPU and have a dense gradient the kernel is called at once, with
    lists kept from step to step; everything else is left to torch.
    """

    _kept: list[_LISTS] | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update."""
        gradients = [[parameter.grad for parameter in group["params"]] for group in self.param_groups]
        dense = all(one is not None and one.layout == torch.strided for each in gradients for one in each)
        self._kept = (self._kept or self._lists()) if dense and closure is None else None
        if self._kept is None:
            # Around the step of a class that it has seen torch puts its hooks; around this one they are already.
            plain: Any = Adam.step
            return (plain.__wrapped__ if getattr(plain, "hooked", False) else plain)(self, closure)
        for (group, parameters, means, squares, steps), given in zip(self._kept, gradients, strict=True):
            torch._foreach_add_(steps, 1)
            torch._fused_adam_(
                parameters, given, means, squares, [], steps, lr=group["lr"], beta1=group["betas"][0],
                beta2=group["betas"][1], weight_decay=group["weight_decay"], eps=group["eps"], amsgrad=False,
                maximize=False,
            )  # fmt: skip
        return None

    def load_state_dict(self, state_dict: Any) -> None:
        """Goes back to a saved state."""
        self._kept = None
        super().load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Moves further parameters from now on."""
        self._kept = None
        super().add_param_group(param_group)

    def _lists(self) -> list[_LISTS] | None:
        """None where torch has to make the state first, or where its kernel is not the whole rule."""
        found: list[_LISTS] = []
        for group in self.param_groups:
            states = [self.state[parameter] for parameter in group["params"]]
            plain = group["fused"] and not (group["amsgrad"] or group["maximize"] or group["differentiable"])
            kernel = all(one.device.type == "cpu" and one.dtype == torch.float32 for one in group["params"])
            if not (plain and kernel and all("step" in state for state in states)):
                return None
            moments = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
            found.append((group, list(group["params"]), *moments))  # type: ignore[arg-type]
        return found
