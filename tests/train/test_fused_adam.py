"""The direct call of torch's fused kernel against torch's own step."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from augrec.train.fused_adam import FusedAdam


def weights() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((7, 3), (5,), (), (40, 64))]


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("missing", [False, True])
def test_every_step_has_the_bits_of_torchs(decay: float, missing: bool) -> None:
    ours, theirs = weights(), weights()
    mine = FusedAdam(ours, lr=0.01, weight_decay=decay, fused=True)
    right = torch.optim.Adam(theirs, lr=0.01, weight_decay=decay, fused=True)
    generator = torch.Generator().manual_seed(1)
    for step in range(6):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        if missing and step in (0, 3):
            ours[1].grad = theirs[1].grad = None
        if step == 4:
            for group in (*mine.param_groups, *right.param_groups):
                group["lr"] = 0.003
        mine.step()
        right.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    for one, other in zip(ours, theirs, strict=True):
        for name, value in right.state[other].items():
            assert torch.equal(mine.state[one][name], value), name


def test_a_state_goes_from_one_to_the_other() -> None:
    ours, theirs = weights(), weights()
    right = torch.optim.Adam(theirs, lr=0.01, fused=True)
    for _ in range(3):
        for other in theirs:
            other.grad = torch.ones_like(other)
        right.step()
    mine = FusedAdam(ours, lr=0.01, fused=True)
    mine.load_state_dict(deepcopy(right.state_dict()))
    for one, other in zip(ours, theirs, strict=True):
        one.data.copy_(other)
        one.grad = other.grad = torch.full_like(one, 0.5)
    mine.step()
    right.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_what_the_kernel_does_not_do_alone_is_left_to_torch() -> None:
    ours, theirs = weights(), weights()
    mine = FusedAdam(ours, lr=0.01, amsgrad=True, fused=True)
    right = torch.optim.Adam(theirs, lr=0.01, amsgrad=True, fused=True)
    for step in range(4):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.full_like(one, float(step))
            other.grad = one.grad.clone()
        mine.step()
        right.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    with pytest.raises(ValueError, match="learning rate"):
        FusedAdam(ours, lr=-1.0)


def test_hooks_run_once_a_step() -> None:
    torch.optim.Adam(weights(), fused=True).step()
    ours, calls = weights(), []
    mine = FusedAdam(ours, lr=0.01, fused=True)
    mine.register_step_pre_hook(lambda *_: calls.append("before"))
    for _ in range(3):
        for one in ours:
            one.grad = torch.ones_like(one)
        mine.step()
    assert calls == ["before"] * 3
