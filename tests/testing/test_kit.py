"""The kit itself: classes with one fault each must be caught by the check made for it, and by name."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field
from torch.nn import functional as F

from augrec.augment.adar.plugin import ADAR
from augrec.backbones.gru4rec import GRU4Rec, GRU4RecConfig
from augrec.backbones.lightgcn import LightGCN
from augrec.backbones.mf import MF, MFConfig
from augrec.backbones.sasrec import SASRec
from augrec.backbones.tables import Tables
from augrec.seams import Additions, Group, Needs, Negatives, Offset, Phase, Plugin
from augrec.testing import Declared, augmentation_checks, backbone_checks, check_augmentation, check_backbone, tiny_log
from augrec.testing.logs import hold_out_last, poisoned
from augrec.typed import Config


def bad_backbone(base, **members):
    return type(base.__name__ + "Bad", (base,), members)


class Unexplained(MFConfig):
    extra: int = 1


class Noisy(MF):
    """Draws where it should not: dropout that forgets the mode."""

    def tables(self, *, hops=False):
        made = super().tables(hops=hops)
        return Tables(user=F.dropout(made.user, 0.3), item=made.item, user0=made.user0, item0=made.item0)


class Remembering(MF):
    def query_users(self, user, history, tables):
        self.last_asked = user
        return super().query_users(user, history, tables)


class BatchNormed(MF):
    def query_users(self, user, history, tables):
        found = super().query_users(user, history, tables)
        return found - found.mean(0)


class Idle(MF):
    def __init__(self, config, **options):
        super().__init__(config, **options)
        self.never_used = torch.nn.Parameter(torch.zeros(3))


class WrongHops(LightGCN):
    def tables(self, *, hops=False):
        made = super().tables(hops=hops)
        return made if not hops else Tables(
            user=made.user * 1.01, item=made.item, user0=made.user0, item0=made.item0, hops=made.hops
        )  # fmt: skip


class Seeing(SASRec):
    """Attention without a causal mask, as if each state may know its future."""

    def encode(self, tokens, tables):
        states = super().encode(tokens, tables)
        total = torch.zeros(tokens.offsets.shape[0] - 1, self.dim).index_add(0, tokens.rows, states)
        return states + 0.1 * total.index_select(0, tokens.rows)


class Leaking(GRU4Rec):
    def encode(self, tokens, tables):
        return super().encode(tokens, tables) + 0.01 * self.embed(tokens, tables).mean(0)


class WholeHistory(GRU4Rec):
    def query_users(self, user, history, tables, *, tokens_at_once=8192):
        self.max_length, kept = 1000, self.max_length
        try:
            return super().query_users(user, history, tables, tokens_at_once=tokens_at_once)
        finally:
            self.max_length = kept


class GlobalDraw(MF):
    def __init__(self, config, **options):
        super().__init__(config, **options)
        self.offset = float(np.random.rand())


@pytest.mark.parametrize(
    ("backbone", "caught"),
    [
        (bad_backbone(MF, Config=Unexplained), {"config_is_explained"}),
        (bad_backbone(MF, name=""), {"declares_itself"}),
        (Noisy, {"scoring_is_deterministic", "scoring_leaves_no_trace"}),
        (Remembering, {"scoring_leaves_no_trace"}),
        (BatchNormed, {"batch_equals_single"}),
        (Idle, {"gradients_reach_everything"}),
        (WrongHops, {"hops"}),
        (Seeing, {"states_are_causal"}),
        (Leaking, {"packed_rows_equal_rows_alone"}),
        (WholeHistory, {"longer_than_max_length"}),
        (GlobalDraw, {"start_comes_from_the_stream"}),
    ],
)
def test_a_faulty_backbone_is_caught(backbone, caught) -> None:
    checks = dict(backbone_checks(backbone))
    for name in caught:
        with pytest.raises(AssertionError):
            checks[name]()


class PlainConfig(Config):
    weight: float = Field(default=0.5, ge=0)
    """Strength."""


class Plain(Plugin):
    """Weights each positive by a fixed number; the base of the faulty ones."""

    name: ClassVar[str] = "plain"
    Config = PlainConfig
    acts: ClassVar = frozenset({"weights"})

    @property
    def active(self):
        return self.config.weight > 0

    def targets(self, batch, encoded):
        return Additions(weights=1 + self.config.weight * torch.sigmoid(encoded.query[:, 0]).detach())


class AlwaysOn(Plain):
    active = True


class OwnSeed(Plain):
    def targets(self, batch, encoded):
        return Additions(weights=torch.from_numpy(np.random.rand(len(batch.target))).float())


class Writes(Plain):
    def targets(self, batch, encoded):
        batch.target.zero_()
        return super().targets(batch, encoded)


class NegativeWeights(Plain):
    def targets(self, batch, encoded):
        return Additions(weights=encoded.query[:, 0].detach())


class Undeclared(Plain):
    def targets(self, batch, encoded):
        return Additions(offsets=(Offset(score=encoded.query[:, 0], weight=0.1),))


class SeenNegatives(Plain):
    acts: ClassVar = frozenset({"replace"})

    def targets(self, batch, encoded):
        return Additions(replaced=Negatives(ids=batch.target[:, None]))


class OutsideNegatives(Plain):
    acts: ClassVar = frozenset({"replace"})

    def targets(self, batch, encoded):
        return Additions(replaced=Negatives(ids=torch.full((len(batch.target), 1), self.n_items)))


class Greedy(Plain):
    """Makes a score for every user and item."""

    def targets(self, batch, encoded):
        scores = encoded.tables.user @ encoded.tables.item.T
        return Additions(weights=1 + torch.sigmoid(scores[batch.user, batch.target]).detach())


class Phased(Plain):
    """A network of its own whose loss reaches the encoder, and which the ranking loss reaches."""

    acts: ClassVar = frozenset({"offset", "phases"})

    def __init__(self, config, *, kind, dim, n_items):
        super().__init__(config, kind=kind, dim=dim, n_items=n_items)
        self.net = torch.nn.Linear(dim, 1)

    def groups(self):
        return {"own": Group(parameters=tuple(self.net.parameters()), learning_rate=1e-3)}

    def phases(self):
        return (Phase(name="own", group="own", loss=lambda batch, encoded: self.net(encoded.query).square().mean()),)

    def targets(self, batch, encoded):
        return Additions(offsets=(Offset(score=self.net(encoded.query)[:, 0], weight=0.1),))


class Forgetful(Plain):
    """Keeps a counter that is not saved."""

    def __init__(self, config, *, kind, dim, n_items):
        super().__init__(config, kind=kind, dim=dim, n_items=n_items)
        self.calls = 0

    def targets(self, batch, encoded):
        self.calls += 1
        return Additions(weights=torch.full(batch.target.shape, 1.0 + self.calls % 7))


class Picky(Plain):
    needs = Needs(negatives=True)


@pytest.mark.parametrize(
    ("plugin", "caught"),
    [
        (AlwaysOn, {"off_is_off"}),
        (OwnSeed, {"reproducible"}),
        (Writes, {"inputs_are_kept"}),
        (NegativeWeights, {"weights"}),
        (Undeclared, {"acts_as_declared"}),
        (SeenNegatives, {"negatives"}),
        (OutsideNegatives, {"negatives"}),
        (Greedy, {"memory"}),
        (Phased, {"phases_spare_the_encoder", "ranking_spares_own_groups"}),
        (Forgetful, {"resume"}),
    ],
)
def test_a_faulty_augmentation_is_caught(plugin, caught) -> None:
    checks = dict(augmentation_checks(plugin, backbone=MF))
    for name in caught:
        with pytest.raises(AssertionError):
            checks[name]()


def test_a_clean_augmentation_passes() -> None:
    check_augmentation(Plain, backbone=MF)
    dict(augmentation_checks(Picky, backbone=MF))["objectives"]()


def test_what_is_declared_is_allowed() -> None:
    declared = Declared(phases_reach_encoder=True, ranking_reaches_own=True)
    checks = dict(augmentation_checks(Phased, backbone=MF, declared=declared))
    checks["phases_spare_the_encoder"]()
    checks["ranking_spares_own_groups"]()
    dict(augmentation_checks(SeenNegatives, backbone=MF, declared=Declared(draws_seen_items=True)))["negatives"]()


def test_three_lines_are_enough_and_a_factory_will_do() -> None:
    check_backbone(lambda log: MF(MFConfig(dim=4), n_users=log.n_users, n_items=log.n_items))


def test_failures_are_listed_and_expected_ones_need_to_fail() -> None:
    with pytest.raises(AssertionError, match=r"1 of \d+ checks failed:\ngradients_reach_everything: .*never_used"):
        check_backbone(Idle)
    check_backbone(Idle, expected_failures={"gradients_reach_everything": "kept for old checkpoints"})
    with pytest.raises(AssertionError, match=r"penalty: expected to fail \(no reason\) but passes"):
        check_backbone(MF, expected_failures={"penalty": "no reason"})
    with pytest.raises(AssertionError, match="no such check"):
        check_backbone(MF, expected_failures={"gone": "renamed"})


def test_check_names_are_unique_and_there_are_enough() -> None:
    for checks, least in (
        (backbone_checks(MF), 24),
        (backbone_checks(GRU4Rec), 34),
        (augmentation_checks(ADAR, backbone=MF), 30),
    ):
        names = [name for name, _ in checks]
        assert len(names) == len(set(names)) >= least


def test_settings_reach_the_class_under_test() -> None:
    checks = dict(backbone_checks(GRU4Rec, GRU4RecConfig(dim=4, hidden=4, max_length=2)))
    for name in ("longer_than_max_length", "states_are_causal", "packed_rows_equal_rows_alone"):
        checks[name]()


def test_the_tiny_log_has_its_odd_corners() -> None:
    log = tiny_log()
    assert log.degrees()[-1] == log.item_counts()[-1] == 0
    assert len({*zip(log.user.tolist(), log.item.tolist(), strict=True)}) == len(log)
    assert tiny_log().sha256 == log.sha256 != tiny_log(seed=1).sha256


def test_poison_replaces_every_item_and_nothing_else() -> None:
    split = hold_out_last(tiny_log())
    both = poisoned(split, valid=True)
    assert both.train is split.train
    for old, new in ((split.valid, both.valid), (split.test, both.test)):
        assert (old.user == new.user).all()
        assert (old.item != new.item).all()
    assert poisoned(split, valid=False).valid is split.valid
