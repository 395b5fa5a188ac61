"""ADAR in a bare loop, by the examples, gives our trainer's losses on the same draws."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from augrec.augment.adar.config import AdarConfig
from augrec.augment.adar.plugin import ADAR
from augrec.backbones.mf import MF, MFConfig
from augrec.batches.negatives import NegativeSampler
from augrec.batches.pairs import PairBatches
from augrec.experiment.build import make_fabric
from augrec.testing import tiny_log
from augrec.testing.assemble import assemble, losses_of
from augrec.train.streams import Streams

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STEPS, SEED, DIM, RATE = 8, 2, 16, 1e-2
LOG = tiny_log()


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_backbone(log):
    return MF(MFConfig(dim=DIM, l2=0.0), n_users=log.n_users, n_items=log.n_items)


def make_plugin():
    with Streams(SEED).use("initialisation/adar"):
        return ADAR(AdarConfig(weight=0.7), kind="pairs", dim=DIM, n_items=LOG.n_items)


def our_losses():
    trial = assemble(make_backbone, "bpr", [make_plugin()], LOG, seed=SEED, learning_rate=RATE)
    return losses_of(trial, STEPS)


def draws():
    """The batches and negatives our trainer draws, from streams of their own."""
    streams, sampler = Streams(SEED), NegativeSampler(LOG, allow_full=True)
    batches = PairBatches(LOG, batch_size=32)
    done = 0
    while done < STEPS:
        with streams.use("batches"):
            epoch = list(batches.epoch())
        for batch in epoch:
            with streams.use("negatives"):
                negative = sampler.sample(batch.user, 1)[:, 0]
            yield batch.user, batch.target, negative
            done += 1
            if done == STEPS:
                return


def start(module):
    model = module.BareMF(LOG.n_users, LOG.n_items, DIM)
    with Streams(SEED).use("initialisation"), torch.no_grad():
        ours = make_backbone(LOG)
        user, item = ours.split(ours.nodes)
        model.user.copy_(user), model.item.copy_(item)
    return model, make_plugin().adar


def test_plain_torch_equals_our_trainer() -> None:
    module = example("own_loop_torch")
    model, adar = start(module)
    streams, found = Streams(SEED), []
    for_model = torch.optim.Adam(model.parameters(), lr=RATE)
    for_adar = torch.optim.Adam(adar.parameters(), lr=1e-3)
    for user, item, negative in draws():
        with streams.use("phase/adar"):
            own = module.denoiser_loss(model, adar, user, item)
        for_adar.zero_grad()
        own.backward()
        assert model.user.grad is None or not model.user.grad.any()
        for_adar.step()
        with streams.use("plugin/adar"):
            loss = module.ranking_loss(model, adar, user, item, negative)
        for_model.zero_grad()
        loss.backward()
        for_model.step()
        model.zero_grad()
        found.append(own.item() + loss.item())
    assert found == pytest.approx(our_losses(), rel=1e-6, abs=1e-6)


def test_fabric_equals_our_trainer() -> None:
    module = example("own_loop_fabric")
    model, adar = start(module)
    train, streams, found = module.Train(make_fabric("cpu"), model, adar, learning_rate=RATE), Streams(SEED), []
    for user, item, negative in draws():
        with streams.use("phase/adar"):
            own = train.denoiser_step(user, item)
        with streams.use("plugin/adar"):
            found.append(own + train.ranking_step(user, item, negative))
    assert found == pytest.approx(our_losses(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", ["own_loop_torch", "own_loop_fabric"])
def test_the_examples_run_and_learn(name) -> None:
    losses = example(name).main(steps=60, batch_size=512)
    assert len(losses) == 60
    assert sum(losses[-10:]) < sum(losses[:10])
