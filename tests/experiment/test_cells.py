"""Every comparison carries its controls, and every arm can be named."""

from __future__ import annotations

import pytest

from augrec.augment.adar.config import ARMS
from augrec.augment.cadirec import CaDiRecConfig
from augrec.errors import UnsupportedCombinationError, UsageError
from augrec.experiment.cells import Cell, complete, plan
from augrec.experiment.config import parse_overrides, resolve
from augrec.experiment.registry import entries


def test_every_arm_of_adar_can_be_named() -> None:
    known = entries()
    for arm, fields in ARMS.items():
        if arm not in ("off", "eq11"):  # base, and ADAR itself
            assert dict(known[f"adar-{arm}"].fixed) == dict(fields)
            config = resolve(model="mf", augment=[f"adar-{arm}"]).part(f"adar-{arm}")
            assert {name: getattr(config, name) for name in fields} == dict(fields)
    assert {name for name, entry in known.items() if entry.noise and entry.target == known["adar"].target} == {
        "adar-gaussian",
        "adar-ridge",
    }


def test_fields_of_an_arm_with_a_dot_in_its_name_can_be_set() -> None:
    assert parse_overrides(["adar-fixed-0.75.weight=0.2"]) == {"adar-fixed-0.75": {"weight": 0.2}}


def names(**options: object) -> list[str]:
    return list(plan(data="toy", model="mf", **{"augment": ["adar"], **options}).cells)


def test_every_comparison_carries_its_controls() -> None:
    assert names() == ["popularity", "itemknn", "ease", "base", "adar-gaussian", "adar-ridge", "adar"]
    found = plan(data="toy", model="mf", augment=["adar"], arms=["random"])
    assert set(found.pairs) == {
        ("adar-gaussian", "base"), ("adar-ridge", "base"), ("adar", "base"), ("adar", "adar-gaussian"),
        ("adar", "adar-ridge"), ("adar", "adar-random"), ("adar-random", "base"), ("adar-random", "adar-gaussian"),
        ("adar-random", "adar-ridge"),
    }  # fmt: skip


def test_the_ridge_arm_stands_only_where_negatives_are_drawn() -> None:
    found = plan(data="toy", model="sasrec", augment=["adar"])
    assert found.configs["base"].objective == "softmax"
    assert "adar-gaussian" in found.cells
    assert "adar-ridge" not in found.cells
    assert "draws none" in found.left_out["adar-ridge"]
    assert found.cells["adar"].controls == ("adar-gaussian",)
    with pytest.raises(UnsupportedCombinationError, match="draws none"):
        plan(data="toy", model="sasrec", augment=["adar-ridge"])


def test_all_cells_share_split_protocol_and_budget() -> None:
    found = plan(
        data="toy", model="sasrec", augment=["adar"], epochs=9,
        overrides={"split": {"kind": "temporal"}, "train": {"patience": 3}},
    )  # fmt: skip
    for part in ("data", "split", "evaluate"):
        assert len({config.part(part) for config in found.configs.values()}) == 1
    trained = [config for name, config in found.configs.items() if found.cells[name].role != "baseline"]
    assert {(one.part("train").epochs, one.part("train").patience) for one in trained} == {(9, 3)}
    assert {one.objective for one in trained} == {"softmax"}


def test_overrides_of_a_method_hold_for_its_arms_but_not_what_they_fix() -> None:
    found = plan(
        data="toy", model="mf", augment=["adar"], arms=["fixed-0.75", "random"],
        overrides={
            "adar": {"weight": 0.3, "selector": "theorem"}, "adar-random": {"weight": 0.7},
            "ease": {"regularisation": 7},
        },
    )  # fmt: skip
    part = {name: config.part(name) for name, config in found.configs.items() if name.startswith("adar")}
    assert {name: one.weight for name, one in part.items()} == {
        "adar-gaussian": 0.3, "adar-ridge": 0.3, "adar": 0.3, "adar-fixed-0.75": 0.3, "adar-random": 0.7,
    }  # fmt: skip
    assert part["adar"].selector == "theorem"
    assert part["adar-fixed-0.75"].selector == "fixed"
    assert found.configs["ease"].part("ease").regularisation == 7


def test_presets_stand_side_by_side_and_plugins_in_one_cell() -> None:
    found = plan(data="toy", model="mf", augment=["adar", "adar@robust"])
    assert list(found.cells)[3:] == [
        "base", "adar-gaussian", "adar-ridge", "adar-gaussian@robust", "adar-ridge@robust", "adar", "adar@robust",
    ]  # fmt: skip
    assert found.configs["adar@robust"].part("adar").sampler == "ddpm"
    assert found.cells["adar@robust"].controls == ("adar-gaussian@robust", "adar-ridge@robust")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": ["adra"]}, "did you mean 'adar'"),
        ({"augment": ["adar@robsut"]}, "did you mean 'robust'"),
        ({"augment": []}, "name what is to be compared"),
        ({"model": "ease"}, "is a baseline"),
        ({"arms": ["fixed-0.7"]}, "has no arm 'fixed-0.7'; did you mean 'adar-fixed-0.75'"),
        ({"overrides": {"adra": {"weight": 1}}}, "no part 'adra'; did you mean 'adar'"),
        ({"overrides": {"adar": {"wieght": 1}}}, "no such field; did you mean 'weight'"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(**{"data": "toy", "model": "mf", "augment": ["adar"], **options})


def test_a_noise_arm_trains_as_the_row_it_stands_beside() -> None:
    settings = {"train": {"learning_rate": 2e-3}, "simdiffrec": {"weight": 0.3, "items": "denoiser"}}
    base = Cell(name="base", role="base", model="sasrec")
    method = Cell(name="ours", role="augmentation", model="sasrec", augment=("simdiffrec",), settings=settings)
    further = Cell(
        name="other", role="arm", model="sasrec", augment=("cadirec",), settings={"cadirec": {"weight": 0.3}}
    )
    found = complete(base, {"ours": method, "other": further}, data="toy", objective="softmax").configs
    noise = found["simdiffrec-random"]
    assert noise.part("train") == found["ours"].part("train") != found["base"].part("train")
    assert noise.part("simdiffrec-random").weight == 0.3
    assert noise.part("simdiffrec-random").items == "random"
    assert found["cadirec-random"].part("cadirec-random").weight == CaDiRecConfig().weight
