"""Conformance checks of what an augmentation must leave alone: the encoder when off, gradients, held-out data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load, save

from augrec.backbones.base import InnerProductScorer
from augrec.testing.assemble import encoder_state, fit, make_loop
from augrec.testing.asserting import close, reaches, require, same_bytes
from augrec.testing.augmentation_case import silence
from augrec.testing.logs import all_users, hold_out_last, poisoned, tiny_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from augrec.splits.base import Split
    from augrec.testing.assemble import Watcher
    from augrec.testing.augmentation_case import AugmentationCase


def check_off_is_off(case: AugmentationCase) -> None:
    """Switched off is not built: not active, and a run with it equals one without any plug-in, bit by bit."""
    require(
        case.off is not None,
        "say how the plug-in is switched off: pass off=Config(...), or give it a `weight` or an `off` of its own",
    )
    off, on = case.made(config=case.off), case.made()
    require(on.active, "the plug-in under test is switched off by its own settings")
    require(not off.active, f"{case.off!r} must make `active` False")
    with_it, without = case.trial(plugin=off), case.plain()
    fit(with_it), fit(without)
    same_bytes(encoder_state(with_it), encoder_state(without), "the encoder with the plug-in off and with none")


def check_live_zero(case: AugmentationCase) -> None:
    """Everything drawn, nothing contributed: the encoder ends where it ends without the plug-in.

    Bit by bit for plug-ins that act after encoding; to 1e-5, in float64, for those that read hops, whose tables may be
    summed in another order, and, with dropout 0, for those that add views: more rows in a product move its last digits,
    which Adam makes larger. A plug-in that rewrites the log contributes before
    all this and is held to the rewritten log.
    """
    views = "views" in case.plugin.acts
    maker = case.without_dropout if views else None
    quiet = case.trial(plugin=silence(case.made()), backbone=maker)
    log = tiny_log()
    if "log" in case.plugin.acts:
        log = case.made().prepare(log, _no_fit, seed=0).train or log
    without = case.plain(log, backbone=maker)
    if views or case.made().needs.hops:
        quiet.step.double(), without.step.double()
        fit(quiet), fit(without)
        for name, value in encoder_state(quiet).items():
            close(value, encoder_state(without)[name], f"'{name}' under a live zero", relative=1e-5, absolute=1e-5)
        return
    fit(quiet), fit(without)
    same_bytes(encoder_state(quiet), encoder_state(without), "the encoder under a live zero and without the plug-in")


def check_phases_spare_the_encoder(case: AugmentationCase) -> None:
    """The losses of its own phases send no gradient into the encoder, unless declared."""
    trial = case.trial()
    batch = trial.first_batch()
    encoded = trial.step.encode(batch)
    encoder = [p for p in trial.backbone.parameters() if p.requires_grad]
    reached = False
    for phase in trial.step.phases:
        if phase.loss is None or phase.group == "main":
            continue
        with trial.step.streams.use(f"phase/{phase.name}"):
            loss = phase.loss(batch, encoded)
        require(loss.requires_grad, f"phase '{phase.name}' has a loss without gradient")
        found = torch.autograd.grad(loss, encoder, allow_unused=True, retain_graph=True)
        reached |= reaches(found)
    if not case.declared.phases_reach_encoder:
        require(not reached, "a phase of its own sends a gradient into the encoder: detach, or declare it")


def check_phases_train_their_groups(case: AugmentationCase) -> None:
    """Every parameter of an own group gets a gradient from some phase of its own, and moves in a run."""
    trial = case.trial()
    plugin: Any = trial.step.plugins[0]
    groups = plugin.groups()
    before = {name: value.detach().clone() for name, value in plugin.named_parameters()}
    fit(trial)
    owned = {id(parameter) for group in groups.values() for parameter in group.parameters}
    for name, parameter in plugin.named_parameters():
        if id(parameter) in owned and parameter.requires_grad:
            require(not torch.equal(parameter, before[name]), f"'{name}' never moves in training")


def check_ranking_spares_own_groups(case: AugmentationCase) -> None:
    """The main loss sends no gradient into the plug-in's own groups, unless declared."""
    trial = case.trial()
    plugin: Any = trial.step.plugins[0]
    own = [p for group in plugin.groups().values() for p in group.parameters if p.requires_grad]
    if not own:
        return
    found = torch.autograd.grad(trial.loss(trial.first_batch()), own, allow_unused=True)
    reached = reaches(found)
    if not case.declared.ranking_reaches_own:
        require(not reached, "the main loss sends a gradient into the plug-in's own group: detach, or declare it")


def check_train_only(case: AugmentationCase) -> None:
    """Poison: test items replaced, the run's bytes are equal; validation and test replaced, the last weights are."""
    split = hold_out_last(tiny_log(shortest=5))

    def run(split: Split) -> tuple[Watcher, dict[str, torch.Tensor]]:
        trial = case.trial(split.train)
        watcher = fit(trial, split=split)
        return watcher, {name: value.clone() for name, value in trial.step.state_dict().items()}

    plain, best = run(split)
    poison, poison_best = run(poisoned(split, valid=False))
    same_bytes(poison.weights, plain.weights, "the last weights after the test items were replaced")
    same_bytes(poison_best, best, "the chosen weights after the test items were replaced")
    require(poison.lines == plain.lines, "the epochs' figures change with the test items")
    both, _ = run(poisoned(split, valid=True))
    same_bytes(both.weights, plain.weights, "the last weights after validation and test items were replaced")
    losses = [[line["loss"] for line in one.lines] for one in (both, plain)]
    require(losses[0] == losses[1], "the losses change with the validation items")


def check_state_round_trip(case: AugmentationCase) -> None:
    """Its state written as safetensors into a plug-in with another start continues bit by bit."""
    trial = case.trial()
    fit(trial)
    plugin: Any = trial.step.plugins[0]
    other = case.trial(plugin=case.made(seed=9))
    other.step.load_state_dict(load(save({k: v.contiguous() for k, v in trial.step.state_dict().items()})))
    other.step.streams.load(trial.step.streams.state())
    other_plugin: Any = other.step.plugins[0]
    for one in (plugin, other_plugin):
        one.start_epoch(3)
    trial.step.train(), other.step.train()
    batches = [one.first_batch() for one in (trial, other)]
    found = [one.loss(batch) for one, batch in zip((trial, other), batches, strict=True)]
    same_bytes({"loss": found[1].detach()}, {"loss": found[0].detach()}, "the next loss after a round trip")


def check_resume(case: AugmentationCase) -> None:
    """One epoch, a checkpoint, and two more in a new process equal three at once, bit by bit."""
    whole = case.trial(epochs=3)
    fit(whole)
    first = case.trial(epochs=1)
    loop = make_loop(first)
    loop.run()
    second = case.trial(epochs=3)
    resumed = make_loop(second)
    snapshot = loop.snapshot()
    snapshot.tensors = {name: value.clone() for name, value in snapshot.tensors.items()}
    resumed.resume(snapshot)
    resumed.run()
    same_bytes(dict(second.step.state_dict()), dict(whole.step.state_dict()), "the weights of a resumed run")


def check_identity_in_evaluation(case: AugmentationCase) -> None:
    """The recommender is the backbone alone: its saved names and its scores know nothing of the plug-in."""
    log = tiny_log()
    trial = case.trial(log)
    fit(trial)
    plain = case.backbone.fresh(log, seed=5)
    plain.load_state_dict(trial.backbone.state_dict())
    scores = [InnerProductScorer(one).score(all_users(log), log) for one in (trial.backbone, plain)]
    same_bytes({"scores": scores[1]}, {"scores": scores[0]}, "scores with and without the plug-in beside the backbone")


def _no_fit(*_: object, **__: object) -> Any:
    raise AssertionError("a plug-in that trains a model in prepare() and rewrites the log needs a check of its own")


EVERY: tuple[Callable[[AugmentationCase], None], ...] = (
    check_off_is_off, check_live_zero, check_phases_spare_the_encoder, check_phases_train_their_groups,
    check_ranking_spares_own_groups, check_train_only, check_state_round_trip, check_resume,
    check_identity_in_evaluation,
)  # fmt: skip
