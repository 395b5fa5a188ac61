"""A backbone and a plug-in of somebody else's package, found through entry points, pass the kit and train by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

MODULE = '''
"""A plug-in and a backbone in a package of their own."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from augrec.backbones.base import PairBackbone
from augrec.backbones.tables import Tables
from augrec.seams import Additions, Plugin
from augrec.typed import Config


class ScaledConfig(Config):
    dim: int = Field(default=8, ge=1)
    """Width."""
    scale: float = 2.0
    """Factor of the item vectors."""


class Scaled(PairBackbone):
    name: ClassVar[str] = "scaled"
    Config = ScaledConfig

    def __init__(self, config, *, n_users, n_items, train=None, generator=None):
        super().__init__(n_users=n_users, n_items=n_items, dim=config.dim, l2=1e-4, generator=generator)
        self.scale = config.scale

    def tables(self, *, hops=False):
        user, item = self.split(self.nodes)
        return Tables(user=user, item=item * self.scale, user0=user, item0=item)


class RareConfig(Config):
    weight: float = Field(default=0.5, ge=0)
    """Strength of the reweighting."""


class Rare(Plugin):
    name: ClassVar[str] = "rare"
    Config = RareConfig
    acts: ClassVar[frozenset] = frozenset({"weights"})

    def __init__(self, config, *, kind, dim, n_items):
        super().__init__(config, kind=kind, dim=dim, n_items=n_items)
        self.register_buffer("weight", torch.ones(n_items))

    @property
    def active(self):
        return self.config.weight > 0

    def load_prepared(self, prepared, train):
        count = torch.from_numpy(train.item_counts()).float()
        self.weight.copy_((1 + count) ** -self.config.weight)

    def targets(self, batch, encoded):
        return Additions(weights=self.weight[batch.target])
'''
POINTS = """
[augrec.backbones]
scaled = thirdparty_rec:Scaled

[augrec.plugins]
rare = thirdparty_rec:Rare
"""
METADATA = "Metadata-Version: 2.1\nName: thirdparty-rec\nVersion: 1.0\n"
SCRIPT = """
import json, sys
import augrec
from augrec.experiment.registry import entries
from augrec.testing import check_augmentation, check_backbone, registered, tiny_log

found = entries()
check_backbone(found["scaled"].load())
check_augmentation(found["rare"].load(), backbone=found["scaled"].load())
check_augmentation(found["rare"].load(), backbone=found["gru4rec"].load())
assert {"scaled", "rare"} <= {e.name for e in registered("backbone") + registered("augmentation")}
done = augrec.train(
    tiny_log(shortest=6), model="scaled", augment=["rare", "adar"], epochs=1, out=sys.argv[1],
    overrides={"scaled": {"dim": 4}, "train": {"threads": 1}}, callbacks=(),
)
print(json.dumps({"augment": done.result["augment"], "lists": len(done.recommend([0], k=3))}))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder as pip leaves it: the module and its .dist-info."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "thirdparty_rec.py").write_text(MODULE)
    info = folder / "thirdparty_rec-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(POINTS)
    return folder


def python(site, *arguments, cwd):
    paths = [str(site), *[path for path in sys.path if path]]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_command_line_lists_them(site, tmp_path) -> None:
    rows = {row["name"]: row for row in json.loads(python(site, "-m", "augrec", "models", "--json", cwd=tmp_path))}
    assert rows["scaled"] == {"name": "scaled", "family": "backbone", "about": "from thirdparty_rec"}
    assert rows["rare"]["family"] == "augmentation"
    assert rows["adar"]["family"] == "augmentation"


def test_they_pass_the_kit_and_train_by_name(site, tmp_path) -> None:
    out = python(site, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "run"), cwd=tmp_path)
    assert json.loads(out.splitlines()[-1]) == {"augment": ["rare", "adar"], "lists": 3}
