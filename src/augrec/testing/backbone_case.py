"""What a backbone check is given: ways to make the backbone, train it and score with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch

from augrec.backbones.base import Backbone, InnerProductScorer, SequenceBackbone
from augrec.testing.assemble import Trial, assemble
from augrec.testing.asserting import require
from augrec.testing.logs import log_of, tiny_log
from augrec.train.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from augrec.data.interactions import Interactions
    from augrec.typed import Config


@dataclass(frozen=True, kw_only=True)
class BackboneCase:
    """A backbone under test."""

    make: Callable[..., Backbone]
    """`make(log, **options)`; draws its start from torch's default generator."""
    config: Config | None
    """The settings; None for a bare factory, whose config checks are left out."""
    objective: str
    """Objective the kit trains with."""

    @classmethod
    def of(cls, backbone: Any, config: Config | None = None, *, objective: str | None = None) -> BackboneCase:
        """From a class as the registry wants it, `Class(config, *, n_users, n_items, train, ...)` with its typed config
        as `Class.Config`; or from any callable that makes a backbone of a log."""
        settings = config
        made: Callable[..., Backbone] = backbone
        if isinstance(backbone, type):
            kind: Any = backbone
            require(hasattr(kind, "Config"), f"{kind.__name__} has no `Config`: set it to its typed config class")
            settings = kind.Config() if config is None else config

            def made(log: Interactions, **options: Any) -> Backbone:
                found: Backbone = kind(settings, n_users=log.n_users, n_items=log.n_items, train=log, **options)
                return found

        bare = cls(make=made, config=settings, objective="")
        fresh = bare.fresh()
        return replace(bare, objective=objective or fresh.objective or ("bpr" if fresh.kind == "pairs" else "softmax"))

    def fresh(self, log: Interactions | None = None, *, seed: int = 0, **options: Any) -> Backbone:
        """An untrained backbone from a stream of its own."""
        with Streams(seed).use("initialisation"):
            return self.make(tiny_log() if log is None else log, **options)

    def sequence(self, log: Interactions | None = None, **options: Any) -> SequenceBackbone:
        """The same, known to be a sequence backbone; in evaluation mode."""
        made = self.fresh(log, **options)
        require(isinstance(made, SequenceBackbone), f"{type(made).__name__} has kind 'sequences' but no encode()")
        return cast("SequenceBackbone", made.eval())

    def trial(self, log: Interactions | None = None, *, seed: int = 0, **settings: Any) -> Trial:
        """The backbone with its objective, ready to train."""
        return assemble(self.make, self.objective, (), tiny_log() if log is None else log, seed=seed, **settings)

    @staticmethod
    def scores(backbone: Backbone, user: Tensor, history: Interactions) -> Tensor:
        """(B, I) scores of `user` (B,)."""
        return InnerProductScorer(backbone).score(user, history)

    def long_log(self, extra: int) -> Interactions:
        """Histories longer than what the backbone reads; items repeat."""
        backbone, n_items = self.fresh(), 12
        length = int(getattr(backbone, "max_length", 8)) + extra
        draws = torch.randint(n_items, (4, length), generator=torch.Generator().manual_seed(0)).tolist()
        return log_of([*draws, draws[0][:3]], n_items=n_items)
