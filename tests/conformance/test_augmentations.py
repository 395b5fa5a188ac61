"""The kit over every registered augmentation, on a backbone of every kind it works on."""

from __future__ import annotations

import pytest

from augrec.experiment import registry
from augrec.testing import augmentation_checks, backbones_of_kind, registered
from augrec.testing.registered import settings_of


def cases() -> list[object]:
    found = []
    for entry in registered("augmentation"):
        settings = settings_of(entry)
        for kind in ("pairs", "sequences"):
            backbone = backbones_of_kind(kind)[-1]
            made = entry.load()(settings, kind=kind, dim=8, n_items=9)
            if kind not in made.needs.kinds:
                continue
            found += [
                pytest.param(check, id=f"{entry.name}@{backbone.name}-{name}")
                for name, check in augmentation_checks(entry.load(), settings, backbone=backbone.load())
            ]
    return found


CASES = cases()


@pytest.mark.parametrize("check", CASES)
def test_augmentation(check) -> None:
    check()


def test_the_parametrisation_equals_the_registry() -> None:
    covered = {case.id.split("@")[0] for case in CASES}
    assert covered == {entry.name for entry in registry.entries().values() if entry.family == "augmentation"}
    assert len(CASES) >= 25 * len(covered)
