"""Rows of our own parts: a step of every backbone under its objectives, what every augmentation adds to one, preparing
preferences, growth with the log, time to a quality.

A backbone or augmentation that is registered and stands in no row fails the suite: one entry in `STEPS` or `OVERHEADS`
is its row.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from augrec.bench.naive import NAMES
from augrec.bench.rows import Arm, Goal, Row

if TYPE_CHECKING:
    from collections.abc import Mapping

STEPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mf": ("bpr", "bce"),
        "lightgcn": ("bpr", "bce"),
        "ngcf": ("bpr", "bce"),
        "sasrec": ("bpr", "bce", "softmax", "sampled-softmax"),
        "gru4rec": ("bpr", "bce", "softmax", "sampled-softmax"),
        "bert4rec": ("bpr", "bce", "softmax", "sampled-softmax"),
        "t-diffrec": ("denoising",),
        "ti-diffrec": ("denoising",),
    }
)
"""Objectives that each backbone's step is timed with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overhead:
    """An augmentation on the backbone and objective its cost is told for."""

    model: str
    objective: str
    goals: tuple[Goal, ...] = ()
    augment: tuple[str, ...] = ()
    """What is switched on; by default the row's name alone."""
    preset: str = "default"
    epochs: int = 0
    """Epochs the augmented arm trains before, where its cost depends on the weights."""
    about: str = ""


def _added(milliseconds: float) -> tuple[Goal, ...]:
    return (Goal(kind="added", wanted=milliseconds, against="plain"),)


def _ratio(most: float) -> tuple[Goal, ...]:
    return (Goal(kind="ratio", wanted=most, against="plain"),)


def _graph(*goals: Goal, **more: Any) -> Overhead:
    return Overhead(model="lightgcn", objective="bpr", goals=goals, **more)


def _sequence(objective: str, *goals: Goal, **more: Any) -> Overhead:
    return Overhead(model="sasrec", objective=objective, goals=goals, **more)


_ARMS_OF_ADAR = (
    "gaussian", "ridge", "fixed-0.5", "fixed-0.75", "fixed-0.9", "random", "mixed", "theorem", "analytic", "forward",
)  # fmt: skip
OVERHEADS: Mapping[str, Overhead] = MappingProxyType(
    {
        "adar": _graph(*_added(12), preset="paper"),
        "adar-trained": _graph(
            *_added(12), augment=("adar",), preset="paper", epochs=12,
            about="adar after 12 epochs, when scores have grown and chains are shorter",
        ),
        **{f"adar-{arm}": _graph(preset="paper") for arm in _ARMS_OF_ADAR},
        "dns": _graph(), "cns": _graph(), "dins": _graph(),
        "mixgcf": _graph(*_added(15)), "ahns": _graph(*_added(10)),
        "cl4srec": _sequence("bpr", *_ratio(2.6)), "duorec": _sequence("softmax"),
        "simdiffrec": _sequence("softmax", *_ratio(3.0)), "simdiffrec-random": _sequence("softmax"),
        "cadirec": _sequence("softmax", Goal(kind="memory", wanted=1500)), "cadirec-random": _sequence("softmax"),
        "hbr": _sequence("bce"), "dpa": _sequence("bce"), "nns": _sequence("bce"),
        "hbr-random": _sequence("bce"), "dpa-random": _sequence("bce"), "nns-random": _sequence("bce"),
        "pdrec": _sequence(
            "bce", *_ratio(1.10), augment=("hbr", "dpa", "nns"), about="hbr, dpa and nns together, prepared before"
        ),
    }
)  # fmt: skip
"""Augmentations (or sets of them) by row."""
_PAIRS = ("mf", "lightgcn", "ngcf")
_PREFERENCE = MappingProxyType({"hidden": 256, "epochs": 1, "select": "nothing"})
"""The preference model that HBR, DPA and NNS read while they are timed; a step does not depend on its quality."""


def _batch(model: str) -> str:
    if model in _PAIRS:
        return "2,048 pairs of Beauty's ratio split, width 64"
    return "400 users of Beauty" if "diffrec" in model else "512 targets of Beauty, leave-one-out, width 64"


def _steps() -> list[Row]:
    return [
        Row(
            name=f"step/{model}-{objective}", about=f"a training step of {model} with {objective}",
            arms=(Arm(name="augrec", settings={"model": model, "objective": objective, "unit": "step"}),),
            equal=f"{_batch(model)}; encoding, loss, backward, Adam and the loop's checks; the batch is made before",
            floor="step", covers=(model,),
        )
        for model, objectives in STEPS.items()
        for objective in objectives
    ]  # fmt: skip


def _overheads() -> list[Row]:
    found = []
    for name, given in OVERHEADS.items():
        augment = given.augment or (name,)
        base: dict[str, Any] = {"model": given.model, "objective": given.objective, "unit": "step"}
        own = base | {"augment": list(augment), "preset": given.preset}
        if any(one.partition("-")[0] in ("hbr", "dpa", "nns") for one in augment):
            own["overrides"] = {"preference": dict(_PREFERENCE)}
        quick: dict[str, Any] = {}
        if given.epochs:
            own["epochs"], quick["epochs"] = given.epochs, 0
        arms = [Arm(name="augrec", settings=own, quick=quick), Arm(name="plain", settings=base)]
        # Naive chains are as long whatever the weights, so the trained row has none.
        if all(one in NAMES for one in augment) and not given.epochs:
            settings = {key: value for key, value in own.items() if key != "epochs"} | {"naive": True}
            arms.append(Arm(name="naive", settings=settings))
        found.append(
            Row(
                name=f"augment/{name}", about=f"{given.about or name} on {given.model}-{given.objective}",
                arms=tuple(arms), goals=given.goals, covers=augment, floor="step",
                equal=f"{_batch(given.model)}, the same for all arms; the batch is made before",
                unequal="`naive` gives the same, made the usual way (see augrec.bench.naive)" if len(arms) > 2 else "",
            )
        )  # fmt: skip
    return found


def _prepare() -> list[Row]:
    found = []
    for data, goals in (
        ("pdrec_toy", (Goal(kind="seconds", wanted=10), Goal(kind="memory", wanted=1500))),
        ("beauty", ()),
    ):
        settings = {"model": "sasrec", "data": data, "hidden": 256}
        naive = settings | {"naive": True, "users": 40}
        found.append(
            Row(
                name=f"prepare/pdrec-{data.removeprefix('pdrec_')}", unit="preparation",
                about=f"PDRec's preferences of everybody in {data}, from a model that is there", floor="prepare",
                arms=(
                    Arm(name="augrec", task="prepare", settings=settings),
                    Arm(name="naive", task="prepare", settings=naive, quick={"users": 2}),
                ),
                equal="all users, all items; users' vectors, HBR's weights, DPA's lists of 50, NNS's lower half; "
                "H = 256",
                unequal="the naive arm goes user by user through dense chains and whole sorts, as published; some "
                "users, scaled to all",
                goals=goals,
            )
        )  # fmt: skip
    return found


GROWTH: Mapping[str, str] = MappingProxyType(
    {
        "import": "`augrec data import`: a Parquet log read, checked, encoded and written",
        "mf": "an epoch of MF-BPR, 65,536 pairs a batch, scaled from 150 batches at most",
        "lightgcn": "an epoch of LightGCN-BPR in 15 batches (the graph is propagated once a batch)",
        "sasrec": "an epoch of SASRec with sampled softmax, 16,384 targets a batch, scaled from 150 batches at most",
        "evaluate": "full ranking of 20,000 users by MF",
    }
)


MILLION: Mapping[str, str] = MappingProxyType(
    {
        "mf": GROWTH["mf"],
        "sasrec": GROWTH["sasrec"],
        "evaluate": "full ranking of 50,000 users by MF",
        "recommend": "`augrec recommend`: top-20 lists of 50,000 users; memory is that of `augrec train` before it too",
    }
)


def _growth() -> list[Row]:
    def grows(task: str, about: str) -> Row:
        memory = (Goal(kind="memory", wanted=10 * 1024),) if task == "import" else ()
        return Row(
            name=f"growth/{task}", about=about, unit="run", arms=(Arm(name="augrec", task=f"growth-{task}"),),
            equal="synthetic logs of 10^5 to 10^7 events (10^8 with --large): 20 events a user, an item for each 100 "
            "events but 10^4 at least and 10^6 at most, items by a power law; each size in a process of its own; a "
            "first epoch of training is not counted",
            goals=((Goal(kind="slope", wanted=1.05),) if task != "evaluate" else ()) + memory,
        )  # fmt: skip

    def holds(task: str, about: str) -> Row:
        return Row(
            name=f"million/{task}", about=about, unit="run", arms=(Arm(name="augrec", task=f"growth-{task}"),),
            equal="a synthetic log of 50,000,000 events, 10^6 users, 10^6 items by a power law (with --large only)",
            goals=(Goal(kind="memory", wanted=18 * 1024),),
        )  # fmt: skip

    return [*(grows(*one) for one in GROWTH.items()), *(holds(*one) for one in MILLION.items())]


def _quality() -> list[Row]:
    """Epochs to a quality come from recorded curves, seconds from this very run's epoch and evaluation rows."""
    return [
        Row(
            name=f"quality/{name}", about=f"time to 95 % of RecBole's best validation NDCG@10, {name}", unit="training",
            arms=(Arm(name="augrec", task="quality", settings=settings),),
            equal="epochs and validations up to the target, from validation curves recorded once on the same split; "
            "what an epoch and an evaluation cost is this run's",
            unequal="the target is 95 % of RecBole's best where its curve was stopped, which may not be its end",
            goals=(Goal(kind="faster", against="recbole", wanted=wanted),),
        )
        for name, wanted, settings in (
            ("sasrec-softmax", 10, {
                "ours": "curves/sasrec_beauty.jsonl", "theirs": "peers/recbole_sasrec_b256_beauty_curve.jsonl",
                "epoch": "epoch/sasrec-softmax", "evaluate": "evaluate/sasrec", "judge": "recbole",
            }),
            ("sasrec-bpr", 10, {
                "ours": "curves/sasrec_bpr_beauty.jsonl", "theirs": "peers/recbole_sasrec_bpr_beauty_curve.jsonl",
                "epoch": "epoch/sasrec-bpr", "evaluate": "evaluate/sasrec", "judge": "recbole",
            }),
            ("gru4rec", 10, {
                "ours": "curves/gru4rec_beauty.jsonl", "theirs": "peers/recbole_gru4rec_beauty_curve.jsonl",
                "epoch": "epoch/gru4rec-softmax", "evaluate": "evaluate/gru4rec", "judge": "recbole",
            }),
            ("lightgcn", 4, {
                "ours": "curves/lightgcn_beauty.jsonl", "theirs": "peers/recbole_lightgcn_beauty_curve.jsonl",
                "epoch": "epoch/lightgcn-bpr", "evaluate": "evaluate/lightgcn", "judge": "recbole-tuned",
            }),
        )
    ]  # fmt: skip


def our_rows() -> list[Row]:
    """Rows of our own parts."""
    return [*_overheads(), *_steps(), *_prepare(), *_growth(), *_quality()]
