"""Conformance checks for backbones and augmentations, shipped so that packages can test their own classes.

`check_backbone(MyBackbone)` and `check_augmentation(MyPlugin, backbone=MF)` run everything; `backbone_checks` and
`augmentation_checks` yield the single checks for `pytest.mark.parametrize`. Nothing here needs pytest; `strategies`
needs hypothesis.
"""

from __future__ import annotations

from augrec.testing.augmentation_case import Declared
from augrec.testing.check_augmentation import augmentation_checks, check_augmentation
from augrec.testing.check_backbone import backbone_checks, check_backbone
from augrec.testing.logs import log_of, tiny_log
from augrec.testing.registered import backbones_of_kind, registered

__all__ = [
    "Declared", "augmentation_checks", "backbone_checks", "backbones_of_kind", "check_augmentation", "check_backbone",
    "log_of", "registered", "tiny_log",
]  # fmt: skip
