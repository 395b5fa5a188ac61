"""The sampler of an objective's own negatives, chosen by its typed config."""

from __future__ import annotations

import pytest
import torch

from augrec.batches.batch import Batch
from augrec.errors import ConfigError
from augrec.experiment.build import build
from augrec.experiment.config import resolve
from augrec.testing import log_of, tiny_log

# Item i is met by 4 - i users; item 4 by nobody.
LOG = log_of([[0, 1, 2, 3], [0, 1, 2], [0, 1], [0]], n_items=5)


def draws(objective, count=20_000, **fields):
    run = resolve(model="mf", objective=objective, overrides={objective: {"negatives": count, **fields}})
    step = build(run, LOG, seed=3).step
    one = torch.zeros(1, dtype=torch.int64)
    batch = Batch(user=one + 3, target=one, event=one, target_row=one)
    with step.streams.use("negatives"):
        return step.objective.draw(batch).ids[0].bincount(minlength=LOG.n_items).double()


@pytest.mark.parametrize("objective", ["bpr", "bce"])
@pytest.mark.parametrize(("fields", "law"), [
    ({}, [0, 1, 1, 1, 1]),
    ({"sampler": "popularity"}, [4**0.75, 3**0.75, 2**0.75, 1, 0]),
    ({"sampler": "popularity", "alpha": 2}, [16, 9, 4, 1, 0]),
])  # fmt: skip
def test_negatives_follow_the_chosen_law(objective, fields, law) -> None:
    """The last user has item 0 alone: uniform draws leave it out, popular ones do not."""
    count = draws(objective, **fields)
    expected = torch.tensor(law, dtype=torch.float64) * count.sum() / sum(law)
    assert (count[expected == 0] == 0).all()
    kept = expected > 0
    statistic = float(((count - expected)[kept] ** 2 / expected[kept]).sum())
    assert statistic < 16.3  # 0.1 % point of chi-square at three degrees of freedom


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"bpr\.sampler.*'uniform' or 'popularity'.*'popular'"):
        resolve(model="mf", overrides={"bpr": {"sampler": "popular"}})


def test_hard_negatives_draw_their_candidates_uniformly_all_the_same() -> None:
    overrides = {"bpr": {"sampler": "popularity"}, "train": {"batch_size": 32}}
    log = tiny_log()
    plugin = build(resolve(model="mf", augment=["dns"], overrides=overrides), log, seed=0).step.plugins[0]
    drawn = plugin._sampler.sample(torch.tensor([0]), 2000)
    assert (drawn == log.n_items - 1).any()  # an item nobody met
