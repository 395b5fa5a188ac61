"""Writes losses.json: the loss of the first 20 steps of every backbone and augmentation with the default objective.

    python tests/golden/make.py

Run it when a change to the numbers is meant, and say in the commit why they changed.
"""

from __future__ import annotations

import json
from pathlib import Path

STEPS = 20
PATH = Path(__file__).with_name("losses.json")


def names() -> list[str]:
    """`model` or `model+augmentation` for everything registered that can stand together."""
    from augrec.augment.compose import check_combination
    from augrec.errors import UnsupportedCombinationError
    from augrec.testing import registered, tiny_log
    from augrec.testing.assemble import make_objective
    from augrec.testing.backbone_case import BackboneCase
    from augrec.testing.registered import settings_of

    found = []
    for model in registered("backbone"):
        found.append(model.name)
        case = BackboneCase.of(model.load())
        backbone, objective = case.fresh(), make_objective(case.objective, tiny_log())
        for arm in registered("augmentation"):
            if backbone.kind not in arm.load().needs.kinds:
                continue
            plugin = arm.load()(settings_of(arm), kind=backbone.kind, dim=backbone.dim, n_items=backbone.n_items)
            try:
                check_combination(backbone, objective, [plugin])
            except UnsupportedCombinationError:
                continue
            found.append(f"{model.name}+{arm.name}")
    return found


def losses(name: str) -> list[float]:
    """Sums of the main phase's terms over the first steps, on one thread."""
    import torch

    from augrec.experiment.build import build
    from augrec.experiment.config import resolve
    from augrec.testing import tiny_log
    from augrec.testing.assemble import Trial, losses_of

    model, _, augment = name.partition("+")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run = resolve(
            model=model,
            augment=[augment] if augment else [],
            overrides={"train": {"batch_size": 32, "learning_rate": 1e-2}},
        )
        parts = build(run, tiny_log(seed=20, n_users=40), seed=5)
        trial = Trial(step=parts.step, batches=parts.batches, groups=parts.groups, config=run.part("train"))
        return losses_of(trial, STEPS)
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    PATH.write_text(json.dumps({name: losses(name) for name in names()}, indent=1) + "\n")
    print(PATH)
