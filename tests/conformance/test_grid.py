"""Every backbone x objective x augmentation, built as a run is: three steps with a falling loss, or refused by name."""

from __future__ import annotations

import itertools

import pytest
import torch

from augrec.errors import UnsupportedCombinationError
from augrec.experiment.build import build
from augrec.experiment.config import resolve
from augrec.experiment.registry import entries, find
from augrec.testing import registered, tiny_log
from augrec.testing.assemble import Trial, train_on

# Settings under which an augmentation needs more of its objective than its defaults do.
VARIANTS = {"adar": [{}, {"source": "ridge"}, {"selector": "theorem"}]}
GRID = [
    (model.name, objective.name, augment, fields)
    for model, objective in itertools.product(registered("backbone"), registered("objective"))
    for augment, fields in [
        (None, {}),
        *((one.name, fields) for one in registered("augmentation") for fields in VARIANTS.get(one.name, [{}])),
    ]
]
LOG = tiny_log()


def made(model, objective, augment, fields):
    overrides = {"train": {"batch_size": 32, "learning_rate": 1e-3}} | ({augment: fields} if fields else {})
    run = resolve(model=model, objective=objective, augment=[augment] if augment else [], overrides=overrides)
    parts = build(run, LOG, seed=0)
    return Trial(step=parts.step, batches=parts.batches, groups=parts.groups, config=run.part("train"))


def clashes(model, objective, augment, fields):
    """What must be refused, worked out from the declarations and not from the composer."""
    kind = find(model, ("backbone",), option="").load().kind
    goal = find(objective, ("objective",), option="").load()
    if kind not in goal.needs.kinds:
        return True
    if augment is None:
        return False
    entry = entries()[augment]
    plugin = entry.load()(entry.load().Config(**{**entry.fixed, **fields}), kind=kind, dim=8, n_items=9)
    wants = plugin.needs.negatives and not goal.samples
    return bool(plugin.acts & goal.refuses) or wants or kind not in plugin.needs.kinds


@pytest.mark.parametrize(
    ("model", "objective", "augment", "fields"),
    [pytest.param(*one, id="-".join([one[0], one[1], str(one[2]), *map(str, one[3].values())])) for one in GRID],
)
def test_three_steps_or_a_refusal(model, objective, augment, fields) -> None:
    if clashes(model, objective, augment, fields):
        with pytest.raises(UnsupportedCombinationError) as error:
            made(model, objective, augment, fields)
        assert entries()[augment].load().name in str(error.value)
        assert objective in str(error.value) or model in str(error.value)
        return
    trial = made(model, objective, augment, fields)
    batch = trial.first_batch()
    losses = [trial.ranking_loss(batch)]
    for _ in range(3):
        train_on(trial, batch, steps=1)
        losses.append(trial.ranking_loss(batch))
    assert torch.isfinite(torch.tensor(losses)).all()
    assert losses[3] < losses[0]


def test_both_outcomes_occur() -> None:
    refused = [one for one in GRID if clashes(*one)]
    assert 0 < len(refused) < len(GRID) / 2
    assert len(GRID) == len(registered("backbone")) * len(registered("objective")) * (
        1 + sum(len(VARIANTS.get(one.name, [{}])) for one in registered("augmentation"))
    )
