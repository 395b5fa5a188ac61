"""Which parts are refused together, and how the additions of several plug-ins merge."""

from __future__ import annotations

import itertools
from typing import ClassVar

import pytest
import torch

from augrec.augment.compose import check_combination
from augrec.backbones.mf import MF, MFConfig
from augrec.backbones.sasrec import SASRec, SASRecConfig
from augrec.errors import UnsupportedCombinationError
from augrec.experiment.build import build
from augrec.experiment.config import resolve
from augrec.seams import Additions, Needs, Negatives, Offset, Plugin, SoftPositives
from augrec.testing import tiny_log
from augrec.testing.assemble import make_objective
from augrec.typed import Config

LOG = tiny_log()
SIZES = {"n_users": LOG.n_users, "n_items": LOG.n_items}
BACKBONES = {"mf": MF(MFConfig(dim=4), **SIZES), "sasrec": SASRec(SASRecConfig(dim=4, inner=4), **SIZES)}
OBJECTIVES = {name: make_objective(name, LOG) for name in ("bpr", "bce", "softmax", "sampled-softmax")}
SEAMS = ("log", "views", "weights", "positives", "replace", "append", "offset", "losses", "phases")


def plugin(name, *seams, needs=None):
    class Stub(Plugin):
        acts: ClassVar = frozenset(seams)

    Stub.name = name
    made = Stub(Config(), kind="pairs", dim=4, n_items=LOG.n_items)
    if needs is not None:
        made.needs = needs
    return made


@pytest.mark.parametrize(("objective", "seam"), list(itertools.product(OBJECTIVES, SEAMS)))
def test_the_table_of_seams_and_objectives(objective, seam) -> None:
    one = plugin("stub", seam)
    if "softmax" in objective and seam in ("replace", "append"):
        with pytest.raises(UnsupportedCombinationError, match=f"'stub' acts on '{seam}', .* objective '{objective}'"):
            check_combination(BACKBONES["mf"], OBJECTIVES[objective], [one])
    else:
        check_combination(BACKBONES["mf"], OBJECTIVES[objective], [one])


def test_two_that_replace_are_refused_by_name() -> None:
    pair = [plugin("first", "replace"), plugin("middle", "append"), plugin("second", "replace")]
    with pytest.raises(UnsupportedCombinationError, match="'first' and 'second' both replace"):
        check_combination(BACKBONES["mf"], OBJECTIVES["bpr"], pair)
    check_combination(BACKBONES["mf"], OBJECTIVES["bpr"], pair[:2])


def test_the_same_name_twice_is_refused() -> None:
    with pytest.raises(UnsupportedCombinationError, match="'same' is named twice"):
        check_combination(BACKBONES["mf"], OBJECTIVES["bpr"], [plugin("same", "weights"), plugin("same", "offset")])


def test_two_arms_of_one_method_are_refused_when_built() -> None:
    run = resolve(model="mf", augment=["adar", "adar-gaussian"])
    with pytest.raises(UnsupportedCombinationError, match="adar"):
        build(run, LOG, seed=0)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_reading_negatives_needs_an_objective_that_draws_them(objective) -> None:
    one = plugin("reader", "weights", needs=Needs(negatives=True))
    if objective in ("bpr", "bce"):
        check_combination(BACKBONES["mf"], OBJECTIVES[objective], [one])
    else:
        with pytest.raises(UnsupportedCombinationError, match=f"'reader'.*'{objective}' draws none"):
            check_combination(BACKBONES["mf"], OBJECTIVES[objective], [one])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_plugins_and_objectives_of_one_kind(backbone) -> None:
    made = BACKBONES[backbone]
    other = "sequences" if made.kind == "pairs" else "pairs"
    with pytest.raises(UnsupportedCombinationError, match=f"'stub' works on {other} backbones, '{backbone}'"):
        check_combination(made, OBJECTIVES["bpr"], [plugin("stub", "views", needs=Needs(kinds=frozenset({other})))])
    objective = make_objective("bpr", LOG)
    objective.needs = Needs(kinds=frozenset({other}))
    with pytest.raises(UnsupportedCombinationError, match=f"objective 'bpr' does not work on '{backbone}'"):
        check_combination(made, objective, [])


def test_every_refusal_says_how_to_mend_it() -> None:
    refused = [
        (OBJECTIVES["softmax"], [plugin("a", "replace")]),
        (OBJECTIVES["bpr"], [plugin("a", "replace"), plugin("b", "replace")]),
        (OBJECTIVES["softmax"], [plugin("a", "weights", needs=Needs(negatives=True))]),
        (OBJECTIVES["bpr"], [plugin("a", "views", needs=Needs(kinds=frozenset({"sequences"})))]),
    ]
    for objective, plugins in refused:
        with pytest.raises(UnsupportedCombinationError, match=r"choose|keep|name it") as error:
            check_combination(BACKBONES["mf"], objective, plugins)
        assert error.value.exit_code == 2


def test_additions_merge() -> None:
    positives = [SoftPositives(query=torch.ones(1, 2) * n, ids=torch.zeros(1, 1).long(), weight=1.0) for n in range(2)]
    offsets = [Offset(score=torch.ones(3) * n, weight=0.5) for n in range(2)]
    appended = [Negatives(ids=torch.zeros(3, 1).long() + n, mode="append") for n in range(2)]
    replaced = Negatives(ids=torch.zeros(3, 2).long())
    first = Additions(weights=torch.tensor([1.0, 2.0, 3.0]), positives=(positives[0],), appended=(appended[0],))
    second = Additions(
        weights=torch.tensor([2.0, 0.5, 0.0]), positives=(positives[1],), appended=(appended[1],), replaced=replaced,
        offsets=(offsets[0],),
    )  # fmt: skip
    both = first.merge(second).merge(Additions(offsets=(offsets[1],)))
    assert both.weights.tolist() == [2.0, 1.0, 0.0]
    assert both.positives == (positives[0], positives[1])
    assert both.appended == (appended[0], appended[1])
    assert both.offsets == (offsets[0], offsets[1])
    assert both.replaced is replaced
    for one in (Additions().merge(first), first.merge(Additions())):
        assert torch.equal(one.weights, first.weights)
        assert (one.positives, one.appended, one.replaced) == (first.positives, first.appended, None)
