"""Conformance checks of a backbone. In a test of your own package:

    from augrec.testing import backbone_checks

    @pytest.mark.parametrize(("name", "check"), backbone_checks(MyBackbone))
    def test_conformance(name, check):
        check()

or all at once, without pytest: `check_backbone(MyBackbone)`.
"""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args

import torch
from safetensors.torch import load, save

from augrec.backbones.base import Backbone, Kind
from augrec.testing import gradient_checks, scoring_checks, sequence_checks
from augrec.testing.assemble import fit, random_states, tensors_of
from augrec.testing.asserting import close, finite, reaches, require, same_bytes
from augrec.testing.backbone_case import BackboneCase
from augrec.testing.logs import all_users, tiny_log
from augrec.train.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from augrec.typed import Config

NONE: Mapping[str, str] = MappingProxyType({})


def check_config_round_trip(case: BackboneCase) -> None:
    """Settings written as JSON come back equal, and an unknown field is refused."""
    assert case.config is not None
    kind = type(case.config)
    again = kind.model_validate_json(case.config.model_dump_json())
    require(again == case.config, f"{kind.__name__}: {case.config!r} came back from JSON as {again!r}")
    try:
        kind.model_validate({**case.config.model_dump(), "no_such_field": 1})
    except ValueError:
        return
    raise AssertionError(f"{kind.__name__} accepts unknown fields: derive it from augrec.typed.Config")


def check_config_is_explained(case: BackboneCase) -> None:
    """Every field has a docstring: it is the help text people see."""
    assert case.config is not None
    bare = [name for name, field in type(case.config).model_fields.items() if not field.description]
    require(not bare, f"{type(case.config).__name__}: no docstring under {', '.join(bare)}")


def check_declares_itself(case: BackboneCase) -> None:
    """Name, kind and sizes are those the rest of the house reads."""
    log = tiny_log()
    made = case.fresh(log)
    require(isinstance(made, Backbone), f"{type(made).__name__} is no augrec.backbones.base.Backbone")
    require(made.kind in get_args(Kind), f"kind is {made.kind!r}, not one of {', '.join(get_args(Kind))}")
    require(getattr(made, "name", ""), "name must be a non-empty string")
    found = (made.n_users, made.n_items)
    require(found == (log.n_users, log.n_items), f"(n_users, n_items) is {found}, not {(log.n_users, log.n_items)}")
    require(made.dim == made.tables().item.shape[1], f"dim is {made.dim}, tables().item is {made.tables().item.shape}")


def check_start_comes_from_the_stream(case: BackboneCase) -> None:
    """The same stream gives the same start, another seed another, and no global state is left touched."""
    before = random_states()
    first, again, other = case.fresh(seed=1), case.fresh(seed=1), case.fresh(seed=2)
    require(random_states() == before, "making the backbone left a global random state changed")
    same_bytes(dict(first.state_dict()), dict(again.state_dict()), "two starts of one seed")
    pairs = zip(first.parameters(), other.parameters(), strict=True)
    require(any(not torch.equal(a, b) for a, b in pairs), "two seeds give the same start")
    for name, parameter in first.named_parameters():
        finite(parameter, f"the start of '{name}'")


def check_loss_falls(case: BackboneCase) -> None:
    """A few epochs on a tiny log: every loss finite, the last well below the first."""
    batches, trial = case.trial().learning()
    before = trial.mean_ranking_loss(batches)
    losses = fit(trial).losses
    finite(torch.tensor(losses), "the loss of a step")
    after, epochs = trial.mean_ranking_loss(batches), trial.config.epochs
    require(after < before, f"{epochs} epochs took the ranking loss from {before:.5f} to {after:.5f}")


def check_read_only_arrays(case: BackboneCase) -> None:
    """Training and scoring work on arrays that may not be written, and leave them so."""
    log = tiny_log()
    for name in ("user", "item", "offsets", "timestamp"):
        require(not getattr(log, name).flags.writeable, f"the log's {name} must be read-only for this check")
    trial = case.trial(log, epochs=1)
    fit(trial)
    case.scores(trial.backbone, all_users(log), log)


def check_state_round_trip(case: BackboneCase) -> None:
    """Weights written as safetensors into a backbone with another start give the same scores, bit by bit."""
    log = tiny_log()
    trial = case.trial(log)
    fit(trial)
    other = case.fresh(log, seed=9)
    other.load_state_dict(load(save({k: v.contiguous() for k, v in trial.backbone.state_dict().items()})))
    scores = [case.scores(one, all_users(log), log) for one in (trial.backbone, other)]
    same_bytes({"scores": scores[1]}, {"scores": scores[0]}, "scores after a round trip of the state")


def check_fit_is_reproducible(case: BackboneCase) -> None:
    """The same seed twice ends in the same bytes, and leaves the global random states alone."""
    states = random_states()
    first, again = (fit(case.trial(seed=4)).weights for _ in range(2))
    same_bytes(again, first, "two fits of one seed")
    require(random_states() == states, "training left a global random state changed")


def check_tables(case: BackboneCase) -> None:
    """The vectors have the sizes the seams promise and carry the gradient."""
    log = tiny_log()
    backbone = case.fresh(log)
    tables = backbone.tables()
    wanted = (log.n_items, backbone.dim)
    require(tuple(tables.item.shape) == wanted, f"tables().item is {tuple(tables.item.shape)}, expected {wanted}")
    require(tables.item0.shape[0] == log.n_items, f"tables().item0 has {tables.item0.shape[0]} rows")
    require(tables.item.requires_grad, "tables().item carries no gradient")
    if backbone.kind == "pairs":
        require(tables.user is not None and tables.user0 is not None, "a pair backbone's tables need user and user0")
        assert tables.user is not None
        require(tuple(tables.user.shape) == (log.n_users, backbone.dim), f"tables().user is {tables.user.shape}")


def check_hops(case: BackboneCase) -> None:
    """Where hops are served, tables(hops=True) scores as tables() does, hop 0 is the layer-0 rows, the hops pooled as
    `pool` says are the scoring vectors, and gradients agree.

    Another summation order may cost rounding, nothing more.
    """
    backbone = case.fresh()
    with_hops, plain = backbone.tables(hops=True), backbone.tables()
    if with_hops.hops is None:
        return
    nodes = backbone.n_users + backbone.n_items
    require(all(hop.shape[0] == nodes for hop in with_hops.hops), f"every hop must have U + I = {nodes} rows")
    assert plain.user is not None and with_hops.user is not None and plain.user0 is not None
    close(with_hops.item, plain.item, "tables(hops=True).item differs from tables().item")
    close(with_hops.user, plain.user, "tables(hops=True).user differs from tables().user")
    close(with_hops.hops[0], torch.cat([plain.user0, plain.item0]), "hop 0 differs from the layer-0 rows")
    pooled = torch.cat(with_hops.hops, 1) if with_hops.pool == "concat" else torch.stack(with_hops.hops).mean(0)
    close(pooled, torch.cat([with_hops.user, with_hops.item]), f"the hops, pooled by {with_hops.pool}, differ")
    weight = torch.randn(plain.item.shape, generator=torch.Generator().manual_seed(0))
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    found: list[tuple[Tensor | None, ...]] = [
        torch.autograd.grad((one.item * weight).sum(), parameters, allow_unused=True) for one in (with_hops, plain)
    ]
    for a, b in zip(*found, strict=True):
        require(reaches([a]) == reaches([b]), "tables(hops=True) and tables() reach other parameters")
        if a is not None and b is not None:
            close(a, b, "the gradient of tables(hops=True) differs")


def check_penalty(case: BackboneCase) -> None:
    """The L2 term is None or a finite scalar >= 0, and zero negatives add nothing."""
    trial = case.trial()
    tables, batch = trial.backbone.tables(), trial.first_batch()
    zeros = torch.zeros(len(batch.target), 1, tables.item0.shape[1])
    bare, padded = (trial.backbone.penalty(batch, tables, rows) for rows in (None, zeros))
    require((bare is None) == (padded is None), "penalty() is None with negatives and a number without, or the reverse")
    if bare is not None and padded is not None:
        require(bare.dim() == 0 and bare.item() >= 0, f"penalty() must be a scalar >= 0, got {bare}")
        finite(bare, "penalty()")
        close(bare, padded, "zero rows of negatives change penalty()")


def check_queries_match_scoring(case: BackboneCase) -> None:
    """The query trained on is the query served: `queries` in evaluation mode equals `query_users` on what was known."""
    if case.fresh().kind == "sequences":
        sequence_checks.check_trained_query_is_served_query(case)
        return
    trial = case.trial()
    backbone, batch = trial.backbone.eval(), trial.first_batch()
    tables = backbone.tables()
    served = backbone.query_users(batch.user, tiny_log(), tables)
    close(backbone.queries(batch, tables), served, "queries() and query_users() differ")


def check_step_keeps_its_inputs(case: BackboneCase) -> None:
    """A training step changes no tensor of the batch."""
    trial = case.trial()
    batch = trial.first_batch()
    before = [tensor.clone() for tensor in tensors_of(batch)]
    trial.loss(batch).backward()
    same = all(torch.equal(a, b) for a, b in zip(tensors_of(batch), before, strict=True))
    require(same, "a training step changed its batch")


def check_training_draws_from_torch(case: BackboneCase) -> None:
    """In training mode, two forward passes from one stream are equal: all draws come from torch's default generator."""
    trial = case.trial()
    batch = trial.first_batch()
    backbone = trial.backbone.train()
    made = []
    for _ in range(2):
        with Streams(7).use("dropout"), torch.no_grad():
            made.append(backbone.queries(batch, backbone.tables()))
    same_bytes({"queries": made[1]}, {"queries": made[0]}, "two passes from one stream")


_EVERY: tuple[Callable[[BackboneCase], None], ...] = (
    check_declares_itself, check_start_comes_from_the_stream, check_loss_falls, check_read_only_arrays,
    check_state_round_trip, check_fit_is_reproducible, check_tables, check_hops, check_penalty,
    check_queries_match_scoring, check_step_keeps_its_inputs, check_training_draws_from_torch,
    *gradient_checks.EVERY, *scoring_checks.EVERY,
)  # fmt: skip


def backbone_checks(
    backbone: Any, config: Config | None = None, *, objective: str | None = None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(name, check) for every check that applies; a check takes nothing and raises AssertionError.

    Args:
        backbone: a class `Class(config, *, n_users, n_items, train, ...)` with its typed config as `Class.Config`, or a
            callable that makes a backbone of an `Interactions` log.
        config: settings under test; by default `Class.Config()`.
        objective: registered objective to train with; by default bpr for pairs and softmax for sequences.
    """
    case = BackboneCase.of(backbone, config, objective=objective)
    chosen = _EVERY
    if case.config is not None:
        chosen = (check_config_round_trip, check_config_is_explained, *chosen)
    if case.fresh().kind == "sequences":
        chosen = (*chosen, *sequence_checks.EVERY)
    for check in chosen:
        yield check.__name__.removeprefix("check_"), partial(check, case)


def check_backbone(
    backbone: Any,
    config: Config | None = None,
    *,
    objective: str | None = None,
    expected_failures: Mapping[str, str] = NONE,
) -> None:
    """Runs `backbone_checks`; raises one AssertionError that lists every check that failed.

    `expected_failures` names checks that may fail, each with its reason; one that passes after all is a failure too.
    """
    run_all(backbone_checks(backbone, config, objective=objective), expected_failures)


def run_all(checks: Iterator[tuple[str, Callable[[], None]]], expected_failures: Mapping[str, str]) -> None:
    """Every check, then one AssertionError about those that did not do as expected."""
    wrong, seen = [], set()
    for name, check in checks:
        seen.add(name)
        try:
            check()
        except Exception as error:
            if name not in expected_failures:
                wrong.append(f"{name}: {type(error).__name__}: {error}")
        else:
            if name in expected_failures:
                wrong.append(f"{name}: expected to fail ({expected_failures[name]}) but passes")
    wrong += [f"{name}: expected to fail, but there is no such check" for name in set(expected_failures) - seen]
    require(not wrong, f"{len(wrong)} of {len(seen)} checks failed:\n" + "\n".join(wrong))
