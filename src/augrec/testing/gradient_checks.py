"""Conformance checks of a backbone's gradients: that they reach every parameter, and that sparse ones are the dense."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from augrec.testing.assemble import assemble
from augrec.testing.asserting import close, finite, require
from augrec.testing.logs import tiny_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from augrec.testing.backbone_case import BackboneCase


def check_gradients_reach_everything(case: BackboneCase) -> None:
    """After one epoch's gradients, no parameter is left without one."""
    trial = case.trial()
    trial.step.train()
    for batch in trial.batches.epoch(generator=torch.Generator().manual_seed(0)):
        trial.loss(trial.step.begin(batch)).backward()
    for name, parameter in trial.backbone.named_parameters():
        if parameter.requires_grad:
            require(parameter.grad is not None, f"no gradient reaches '{name}'")
            assert parameter.grad is not None
            finite(parameter.grad, f"the gradient of '{name}'")
            require(parameter.grad.abs().max() > 0, f"the gradient of '{name}' is zero everywhere")


def check_looked_up(case: BackboneCase) -> None:
    """The table that is `looked_up` can have sparse gradients, and they hold what the dense ones do."""
    if case.fresh().looked_up() is None:
        return
    trial, found = assemble(case.make, "bpr", (), tiny_log()), list[torch.Tensor]()
    table, batch, streams = trial.backbone.looked_up(), trial.first_batch(), trial.step.streams.state()
    assert table is not None
    for sparse in (False, True):
        trial.step.streams.load(streams)
        trial.backbone.sparse, table.grad = sparse, None
        trial.loss(batch).backward()
        assert table.grad is not None
        require(table.grad.is_sparse == sparse, f"sparse={sparse}: the gradient is {table.grad.layout}")
        found.append(table.grad.to_dense())
    close(found[1], found[0], "sparse and dense gradients differ")


EVERY: tuple[Callable[[BackboneCase], None], ...] = (check_gradients_reach_everything, check_looked_up)
