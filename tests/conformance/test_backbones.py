"""The kit over every registered backbone; a class that is registered is covered."""

from __future__ import annotations

import pytest

from augrec.experiment import registry
from augrec.testing import backbone_checks, registered
from augrec.testing.registered import settings_of


def cases() -> list[object]:
    return [
        pytest.param(check, id=f"{entry.name}-{name}")
        for entry in registered("backbone")
        for name, check in backbone_checks(entry.load(), settings_of(entry))
    ]


CASES = cases()


@pytest.mark.parametrize("check", CASES)
def test_backbone(check) -> None:
    check()


def test_the_parametrisation_equals_the_registry() -> None:
    covered = {case.id.rsplit("-", 1)[0] for case in CASES}
    assert covered == {entry.name for entry in registry.entries().values() if entry.family == "backbone"}
    assert len(CASES) >= 20 * len(covered)


def test_a_new_backbone_is_picked_up(monkeypatch) -> None:
    new = registry.Entry(name="other", family="backbone", target="augrec.backbones.mf:MF", about="a new one")
    monkeypatch.setattr(registry, "_OWN", (*registry._OWN, new))
    assert {case.id.rsplit("-", 1)[0] for case in cases()} == {case.id.rsplit("-", 1)[0] for case in CASES} | {"other"}
