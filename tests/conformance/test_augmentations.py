"""The kit over every registered augmentation, on a backbone of every kind it works on."""

from __future__ import annotations

import pytest

from augrec.experiment import registry
from augrec.testing import augmentation_checks, backbones_of_kind, registered
from augrec.testing.registered import settings_of


def cases() -> list[object]:
    """A method on the last backbone of each kind, one that adds views on a bidirectional backbone too; its arms
    (entries with fixed fields), which share its code, on the first backbone that takes them."""
    found = []
    for entry in registered("augmentation"):
        settings = settings_of(entry)
        wanted = [backbones_of_kind(kind)[0 if entry.fixed else -1] for kind in ("pairs", "sequences")]
        if "views" in entry.load().acts:
            wanted += [backbone for backbone in backbones_of_kind("sequences") if not backbone.load().causal]
        taken = [
            backbone
            for backbone in wanted
            if backbone.load().kind in entry.load()(settings, kind=backbone.load().kind, dim=8, n_items=9).needs.kinds
        ]
        for backbone in taken[:1] if entry.fixed else taken:
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
