"""Conformance checks of a backbone's scores: shape, independence of the question's form, no trace left behind."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from augrec.testing.assemble import random_states
from augrec.testing.asserting import close, finite, require, same_bytes
from augrec.testing.logs import all_users, log_of, tiny_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from augrec.backbones.base import Backbone
    from augrec.testing.backbone_case import BackboneCase


def check_score_shape(case: BackboneCase) -> None:
    """(B, I) float32 and finite, for users with and without events."""
    log = tiny_log()
    scores = case.scores(case.fresh(log), all_users(log), log)
    wanted = (log.n_users, log.n_items)
    require(tuple(scores.shape) == wanted, f"scores are {tuple(scores.shape)}, expected {wanted}")
    require(scores.dtype == torch.float32, f"scores are {scores.dtype}, expected float32")
    require(not scores.requires_grad, "scores carry a gradient")
    finite(scores, "scores")


def check_batch_equals_single(case: BackboneCase) -> None:
    """A user's scores do not depend on who is scored with them."""
    log = tiny_log()
    backbone = case.fresh(log)
    together = case.scores(backbone, all_users(log), log)
    alone = torch.cat([case.scores(backbone, user[None], log) for user in all_users(log)])
    close(alone, together, "users scored alone and together differ")


def check_order_of_users(case: BackboneCase) -> None:
    """Users in another order, and named twice, get the same scores."""
    log = tiny_log()
    backbone = case.fresh(log)
    order = torch.cat([torch.randperm(log.n_users, generator=torch.Generator().manual_seed(3)), torch.tensor([2, 2])])
    plain = case.scores(backbone, all_users(log), log)
    close(case.scores(backbone, order, log), plain[order], "scores change with the order of users")


def check_no_users(case: BackboneCase) -> None:
    """No users asked: (0, I) scores."""
    log = tiny_log()
    scores = case.scores(case.fresh(log), torch.zeros(0, dtype=torch.int64), log)
    require(tuple(scores.shape) == (0, log.n_items), f"no users: scores are {tuple(scores.shape)}")


def check_one_user_one_item(case: BackboneCase) -> None:
    """The smallest catalogue there is."""
    log = log_of([[0, 0, 0]], n_items=1)
    scores = case.scores(case.fresh(log), torch.tensor([0]), log)
    require(tuple(scores.shape) == (1, 1), f"one user and one item: scores are {tuple(scores.shape)}")
    finite(scores, "one user and one item: scores")


def check_log_without_events(case: BackboneCase) -> None:
    """A declared catalogue nobody has met yet can be scored."""
    log = log_of([[], [], []], n_items=5)
    finite(case.scores(case.fresh(log), all_users(log), log), "scores on a log without events")


def check_scoring_leaves_no_trace(case: BackboneCase) -> None:
    """Scoring changes no weight, buffer, attribute, input or random state."""
    log = tiny_log()
    backbone, user = case.fresh(log), all_users(log)
    kept = {name: value.clone() for name, value in [*backbone.named_parameters(), *backbone.named_buffers()]}
    attributes, columns, states = _attributes(backbone), (log.item.copy(), log.offsets.copy()), random_states()
    case.scores(backbone, user, log)
    same_bytes(dict([*backbone.named_parameters(), *backbone.named_buffers()]), kept, "weights after scoring")
    require(_attributes(backbone) == attributes, f"scoring added {_attributes(backbone) ^ attributes}")
    require(torch.equal(user, all_users(log)), "scoring changed the user ids it was given")
    require((log.item == columns[0]).all() and (log.offsets == columns[1]).all(), "scoring changed the log")
    require(random_states() == states, "scoring drew random numbers: is a dropout active in evaluation mode?")
    require(all(p.grad is None for p in backbone.parameters()), "scoring left a gradient behind")


def check_scoring_is_deterministic(case: BackboneCase) -> None:
    """The same question twice, bit by bit, also for a backbone that was in training mode."""
    log = tiny_log()
    backbone = case.fresh(log).train()
    first, again = (case.scores(backbone, all_users(log), log) for _ in range(2))
    same_bytes({"scores": again}, {"scores": first}, "two scorings")


def check_deepcopy(case: BackboneCase) -> None:
    """A deep copy scores the same and shares no memory."""
    log = tiny_log()
    backbone = case.fresh(log)
    twin = copy.deepcopy(backbone)
    before = case.scores(backbone, all_users(log), log)
    same_bytes({"scores": case.scores(twin, all_users(log), log)}, {"scores": before}, "scores of a deep copy")
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    after = case.scores(backbone, all_users(log), log)
    same_bytes({"scores": after}, {"scores": before}, "scores after its deep copy was changed")


def _attributes(backbone: Backbone) -> set[str]:
    return {f"{name}.{key}" for name, module in backbone.named_modules() for key in vars(module)}


EVERY: tuple[Callable[[BackboneCase], None], ...] = (
    check_score_shape, check_batch_equals_single, check_order_of_users, check_no_users, check_one_user_one_item,
    check_log_without_events, check_scoring_leaves_no_trace, check_scoring_is_deterministic, check_deepcopy,
)  # fmt: skip
