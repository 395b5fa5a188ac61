"""AHNS (Lai et al., AAAI 2024): adaptive hardness; the better a positive scores, the easier its negative."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from augrec.augment.candidates import CandidateConfig, CandidatePlugin, score_candidates
from augrec.seams import Additions, Needs, Negatives

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from augrec.backbones.base import Kind
    from augrec.batches.batch import Batch
    from augrec.seams import Encoded


class AHNSConfig(CandidateConfig):
    """Settings of AHNS; the defaults are its values for Sports."""

    alpha: float = Field(default=0.5, allow_inf_nan=False)
    """Added to the positive's score before the power."""
    beta: float = Field(default=0.1, allow_inf_nan=False)
    """Factor of the target hardness beta * (s_p + alpha)^(p + 1)."""
    p: float = Field(default=-2.0, allow_inf_nan=False)
    """The power is p + 1; -2 everywhere in the paper's runs."""
    guard: float | None = Field(default=1e-6, gt=0)
    """Least value of s_p + alpha. At 0 and below the power has a pole, turns its sign (the easiest negatives for the
    worst positives) or, for broken p, has no value. None leaves it so, as published."""


def ahns_select(
    positive_score: Tensor, scores: Tensor, *, alpha: float, beta: float, p: float, guard: float | None = 1e-6
) -> Tensor:
    """(M, K) places in 0..C-1: argmin_c |s_c - beta * (s_p + alpha)^(p + 1)|, of equals any one.

    Args:
        positive_score: (M,) scores s_p.
        scores: (M, K, C) scores of the candidates.
        alpha, beta, p, guard: as in `AHNSConfig`.
    """
    # In float64: beside a guarded target of 1e5 float32 tells scores apart to .008 only.
    base = positive_score.detach().double() + alpha
    if guard is not None:
        base = base.clamp(min=guard)
    wanted = beta * base.pow(p + 1)
    return (scores.detach().double() - wanted[:, None, None]).abs().argmin(2)


class AHNS(CandidatePlugin):
    """Adaptive hardness negative sampling. Hardness is read off the scores the model ranks by.

    On pair backbones only, as published: well-scored positives meet easy negatives alone, and where scores grow freely
    (a recurrent network) nothing then holds the other items down.
    """

    name: ClassVar[str] = "ahns"
    Config = AHNSConfig
    needs = Needs(negatives=True, kinds=frozenset({"pairs"}))

    def __init__(self, config: AHNSConfig, *, kind: Kind, dim: int, n_items: int) -> None:
        super().__init__(config, kind=kind, dim=dim, n_items=n_items)
        self.settings = config

    @classmethod
    def preset(cls, name: str, *, kind: Kind) -> Mapping[str, Any]:
        return {"guard": None} if name in ("paper", "published-code") else {}

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        candidates, given = self.draw(batch, encoded), self.settings
        with torch.no_grad():
            positive = encoded.positive
        place = ahns_select(
            (encoded.query.detach() * positive).sum(1),
            score_candidates(encoded.query, encoded.tables.item, candidates),
            alpha=given.alpha,
            beta=given.beta,
            p=given.p,
            guard=given.guard,
        )
        return Additions(replaced=Negatives(ids=candidates.gather(2, place[:, :, None]).squeeze(2)))
