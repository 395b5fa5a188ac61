"""A slice of Beauty, every model trained a little on it, and its bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from augrec.backbones.base import InnerProductScorer, Scorer
from augrec.batches.pairs import PairBatches
from augrec.batches.sequences import SequenceBatches
from augrec.data import load
from augrec.data.filters import shrink
from augrec.experiment.build import make_fabric, parameter_groups
from augrec.experiment.config import resolve
from augrec.experiment.registry import find
from augrec.serve.bundle import save_bundle
from augrec.serve.recommender import Recommender
from augrec.splits import Split, make_split
from augrec.train.config import TrainConfig
from augrec.train.loop import Loop
from augrec.train.step import TrainStep
from augrec.train.streams import Streams

MODELS = ("mf", "lightgcn", "sasrec", "bert4rec", "gru4rec", "popularity", "itemknn", "ease")


@dataclass(frozen=True)
class Served:
    """A scorer as trained, the same scorer as loaded from its bundle, and what both know."""

    scorer: Scorer
    recommender: Recommender
    split: Split
    folder: Path


@pytest.fixture(scope="session")
def logs():
    """The first 1,000 users of Beauty."""
    whole = load("beauty")
    return shrink(whole.part(np.asarray(whole.user < 1000)))


def fitted(model: str, split: Split) -> Scorer:
    """A scorer after one epoch, or fitted in closed form."""
    run = resolve(model=model)
    if find(model, ("backbone", "baseline"), option="--model").family == "baseline":
        return find(model, ("baseline",), option="--model").load().fit(split.train, config=run.part(model))
    kind = find(model, ("backbone",), option="--model").load()
    train, config = split.train, TrainConfig(epochs=1)
    with Streams(0).use("initialisation"):
        backbone = kind(run.part(model), n_users=train.n_users, n_items=train.n_items, train=train)
    if kind.kind == "pairs":
        batches = PairBatches(train, batch_size=1024)
    else:
        batches = SequenceBatches(train, batch_size=512, max_length=50)
    objective = find("bpr", ("objective",), option="--objective").load()
    step = TrainStep(backbone, objective(objective.Config(), train=train), (), Streams(0))
    Loop(fabric=make_fabric("cpu"), step=step, batches=batches, groups=parameter_groups(step, config), config=config,
         select="loss").run()  # fmt: skip
    return InnerProductScorer(backbone)


@pytest.fixture(scope="session")
def bundles(logs, tmp_path_factory) -> dict[str, Served]:
    torch.set_num_threads(1)
    made = {}
    for model in MODELS:
        split = make_split(logs, {"kind": "leave-one-out" if model in ("sasrec", "bert4rec", "gru4rec") else "ratio"})
        scorer = fitted(model, split)
        folder = tmp_path_factory.mktemp("bundles") / model
        save_bundle(folder, model=model, model_config=resolve(model=model).part(model), scorer=scorer, split=split)
        made[model] = Served(scorer, Recommender.load(folder), split, folder)
    return made


@pytest.fixture(params=MODELS)
def served(request, bundles) -> Served:
    return bundles[request.param]
