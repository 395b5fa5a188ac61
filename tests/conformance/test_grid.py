"""Every backbone x objective x augmentation, built as a run is: three steps with a falling loss, or refused by name."""

from __future__ import annotations

import itertools

import pytest
import torch

from augrec.errors import UnsupportedCombinationError
from augrec.experiment.build import build
from augrec.experiment.config import resolve
from augrec.experiment.registry import entries
from augrec.testing import registered, tiny_log
from augrec.testing.assemble import Trial, train_on

AUGMENTATIONS = [None, *(entry.name for entry in registered("augmentation"))]
PAIRS = list(itertools.product(registered("backbone"), registered("objective")))
FITTING = [(m.name, o.name) for m, o in PAIRS if m.load().kind in o.load().needs.kinds]
MISFITS = [(m.name, o.name) for m, o in PAIRS if (m.name, o.name) not in FITTING]
GRID = [(model, objective, augment) for model, objective in FITTING for augment in AUGMENTATIONS]
LOG, KNOWN = tiny_log(), entries()


def made(model, objective, augment):
    overrides = {"train": {"batch_size": 32, "learning_rate": 1e-3}}
    run = resolve(model=model, objective=objective, augment=[augment] if augment else [], overrides=overrides)
    parts = build(run, LOG, seed=0)
    return Trial(step=parts.step, batches=parts.batches, groups=parts.groups, config=run.part("train"))


def clashes(model, objective, augment):
    """What must be refused, worked out from the declarations and not from the composer."""
    kind = KNOWN[model].load().kind
    goal = KNOWN[objective].load()
    if augment is None:
        return False
    entry = KNOWN[augment]
    plugin = entry.load()(entry.load().Config(**entry.fixed), kind=kind, dim=8, n_items=9)
    wants = plugin.needs.negatives and not goal.samples
    return bool(plugin.acts & goal.refuses) or wants or kind not in plugin.needs.kinds


@pytest.mark.parametrize(
    ("model", "objective", "augment"), [pytest.param(*one, id="-".join(map(str, one))) for one in GRID]
)
def test_three_steps_or_a_refusal(model, objective, augment) -> None:
    if clashes(model, objective, augment):
        with pytest.raises(UnsupportedCombinationError) as error:
            made(model, objective, augment)
        assert KNOWN[augment].load().name in str(error.value)
        assert objective in str(error.value) or model in str(error.value)
        return
    trial = made(model, objective, augment)
    batch = trial.first_batch()
    losses = [trial.ranking_loss(batch)]
    for _ in range(3):
        train_on(trial, batch, steps=1)
        losses.append(trial.ranking_loss(batch))
    assert torch.isfinite(torch.tensor(losses)).all()
    assert losses[3] < losses[0]


@pytest.mark.parametrize(("model", "objective"), MISFITS)
def test_an_objective_of_another_kind_is_refused(model, objective) -> None:
    with pytest.raises(UnsupportedCombinationError) as error:
        made(model, objective, None)
    assert f"'{objective}'" in str(error.value)
    assert f"'{model}'" in str(error.value)


def test_both_outcomes_occur() -> None:
    refused = [one for one in GRID if clashes(*one)]
    assert 0 < len(refused) < len(GRID) * 2 / 3
    assert {model for model, _ in FITTING} == {one.name for one in registered("backbone")}
    assert {objective for _, objective in FITTING} == {one.name for one in registered("objective")}
    assert MISFITS
    assert len(GRID) == len(set(GRID)) == len(FITTING) * (1 + len(registered("augmentation")))
