"""SimDiffRec's presets and refusals, the kit under other settings, and what must repeat to the byte."""

from __future__ import annotations

import pytest
import torch

from augrec.augment.compose import check_combination
from augrec.augment.simdiffrec import SimDiffRec, SimDiffRecConfig
from augrec.backbones.gru4rec import GRU4Rec, GRU4RecConfig
from augrec.backbones.sasrec import SASRec
from augrec.errors import ConfigError, UnsupportedCombinationError
from augrec.experiment.build import build
from augrec.experiment.config import resolve
from augrec.objectives.softmax import Softmax, SoftmaxConfig
from augrec.testing import augmentation_checks, tiny_log

LOG = tiny_log()
N = LOG.n_items


def test_refusals_name_what_to_change() -> None:
    with pytest.raises(ConfigError, match=r"width 8 is not a multiple of simdiffrec\.heads = 3"):
        SimDiffRec(SimDiffRecConfig(heads=3), kind="sequences", dim=8, n_items=N)
    shared = SimDiffRec(SimDiffRecConfig(denoiser="shared", heads=3), kind="sequences", dim=8, n_items=N)
    gru = GRU4Rec(GRU4RecConfig(dim=8), n_users=LOG.n_users, n_items=N)
    with pytest.raises(UnsupportedCombinationError, match=r"'simdiffrec'.*'gru4rec'"):
        check_combination(gru, Softmax(SoftmaxConfig(), train=LOG), [shared])
    with pytest.raises(ConfigError, match="nonsense"):
        SimDiffRec.preset("nonsense", kind="sequences")


def test_presets_build_and_step() -> None:
    for name in ("default", "paper", "published-code"):
        run = resolve(model="sasrec", augment=["simdiffrec"], preset=name, overrides={"train": {"batch_size": 32}})
        parts = build(run, LOG, seed=0)
        with parts.step.streams.use("batches"):
            batch = next(iter(parts.batches.epoch()))
        parts.step.train()
        terms = parts.step(parts.step.begin(batch), 0)
        assert set(terms) == {"softmax", "simdiffrec/contrast", "simdiffrec/reconstruction"}
        assert all(torch.isfinite(term) for term in terms.values())


CHECKED = ("resume", "state_round_trip", "live_zero", "inputs_are_kept", "reproducible", "train_only", "two_items")


@pytest.mark.parametrize("preset", ["paper", "published-code", "gaussian"])
def test_the_kit_holds_under_other_settings(preset) -> None:
    fields = {"noise": "gaussian"} if preset == "gaussian" else SimDiffRec.preset(preset, kind="sequences")
    config = SimDiffRecConfig(**fields).model_copy(update={"refresh_every": 2})
    checks = dict(augmentation_checks(SimDiffRec, config, backbone=SASRec))
    for name in CHECKED:
        checks[name]()


def test_resume_with_a_table_refreshed_in_between() -> None:
    checks = dict(augmentation_checks(SimDiffRec, SimDiffRecConfig(refresh_every=3), backbone=SASRec))
    checks["resume"]()


def test_two_threads_give_the_same_bytes_twice() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        item = torch.randn(3000, 16, requires_grad=True, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        plugin = SimDiffRec(SimDiffRecConfig(), kind="sequences", dim=16, n_items=3000)
        plugin.refresh(item.detach())
        ids = torch.randint(40, (900,), generator=torch.Generator().manual_seed(1))
        weight = torch.randn(900, 16, generator=torch.Generator().manual_seed(2))
        found = [torch.autograd.grad((plugin.noise(ids, item) * weight).sum(), item)[0] for _ in range(5)]
        assert all(torch.equal(one, found[0]) for one in found)
    finally:
        torch.set_num_threads(before)
