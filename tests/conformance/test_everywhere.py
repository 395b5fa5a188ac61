"""The papers' own methods on every backbone and objective they work with: off is off, train only, resume."""

from __future__ import annotations

import pytest

from augrec.augment.compose import check_combination
from augrec.errors import UnsupportedCombinationError
from augrec.experiment.registry import entries
from augrec.testing import augmentation_checks, registered, tiny_log
from augrec.testing.assemble import make_objective
from augrec.testing.backbone_case import BackboneCase
from augrec.testing.registered import settings_of

PAIRS, SEQUENCES = ("mf", "lightgcn", "ngcf"), ("sasrec", "gru4rec", "bert4rec")
RANKING = {"bpr", "bce", "softmax", "sampled-softmax"}
METHODS = {
    "adar": ({*PAIRS, *SEQUENCES}, RANKING),
    "hbr": ({*SEQUENCES}, RANKING),
    "dpa": ({*SEQUENCES}, RANKING),
    "nns": ({*SEQUENCES}, {"bpr", "bce"}),
}
"""The backbones and objectives that each must work with."""
CHECKS = ("off_is_off", "live_zero", "phases_spare_the_encoder", "ranking_spares_own_groups", "train_only", "resume")


def works(method, backbone, objective) -> bool:
    """Whether the composer takes the three."""
    log, entry = tiny_log(), entries()[method]
    built = BackboneCase.of(backbone).fresh(log)
    plugin = entry.load()(settings_of(entry), kind=built.kind, dim=built.dim, n_items=built.n_items)
    try:
        check_combination(built, make_objective(objective, log), [plugin])
    except UnsupportedCombinationError:
        return False
    return True


GRID = [
    (method, backbone, objective)
    for method in METHODS
    for backbone in registered("backbone")
    for objective in registered("objective")
    if works(method, backbone.load(), objective.name)
]


def cases():
    for method, backbone, objective in GRID:
        entry = entries()[method]
        found = dict(augmentation_checks(entry.load(), backbone=backbone.load(), objective=objective.name))
        for name in CHECKS:
            yield pytest.param(found[name], id=f"{method}@{backbone.name}-{objective.name}-{name}")


@pytest.mark.parametrize("check", list(cases()))
def test_everywhere(check) -> None:
    check()


def test_no_backbone_is_left_out() -> None:
    for method, (backbones, objectives) in METHODS.items():
        covered = [(backbone.name, objective.name) for name, backbone, objective in GRID if name == method]
        assert {backbone for backbone, _ in covered} >= backbones
        assert {objective for _, objective in covered} == objectives
        assert len(covered) == len({backbone for backbone, _ in covered}) * len(objectives)
