"""A training step whose rows are divided among processes, with the sums of one process."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from augrec.errors import UnsupportedCombinationError
from augrec.train.step import TrainStep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from augrec.backbones.tables import Tables
    from augrec.batches.batch import Batch, Tokens
    from augrec.seams import Additions, Encoded, Negatives
    from augrec.train.ranks import Ranks


def check_split(step: TrainStep) -> None:
    """Raises `UnsupportedCombinationError` for a step that several processes cannot share."""
    if not getattr(step.objective, "splits", False):
        raise UnsupportedCombinationError(
            f"objective '{step.objective.name}' of '{step.backbone.name}' is no mean over targets that several "
            f"processes could share; leave out --devices and --num-nodes"
        )


class RankStep(TrainStep):
    """The loss of a batch in parts: over all processes the terms, and the gradients, sum to those of `TrainStep`.

    Every process has the whole batch and makes every draw of it. Without plug-ins it then keeps its own rows: a mean
    over its M_r targets counts M_r / M. With plug-ins the encoder runs on the own rows, its states are joined with
    gradient, and plug-ins see the whole batch; the objective is taken over the own targets, and the plug-ins' own
    terms, which all processes make alike, count 1 / world each. So a plug-in needs to know nothing of processes, a
    contrast within the batch is over the whole batch, and what plug-ins compute is not divided. A batch of fewer
    rows than processes is worked on by all alike.

    Dropout inside the encoder is each process's own; its draws follow from the stream "dropout", which is the same
    for all, so that a checkpoint of one process holds everything.
    """

    def __init__(self, step: TrainStep, ranks: Ranks) -> None:
        """Takes the parts of `step`; all processes go on from the weights of process 0. Raises
        `UnsupportedCombinationError` where it cannot be shared."""
        check_split(step)
        super().__init__(step.backbone, step.objective, list(step.plugins), step.streams)  # type: ignore[arg-type]
        self.ranks: Ranks = ranks
        ranks.share(self.state_dict())
        self._whole: Batch | None = None
        self._rows: tuple[int, int] | None = None

    def begin(self, batch: Batch) -> Batch:
        self._whole = batch = super().begin(batch)
        offsets = torch.arange(batch.user.shape[0] + 1) if batch.tokens is None else batch.tokens.offsets
        cuts = self.ranks.cuts(offsets)
        self._rows = None if cuts is None else self.ranks.mine(cuts)
        return batch if self._rows is None or len(self.plugins) else batch.part(*self._rows)

    @property
    def _apart(self) -> bool:
        """Whether this process looks at its own rows alone."""
        return self._rows is not None and not len(self.plugins)

    @property
    def _targets(self) -> slice:
        """The own targets in the whole batch."""
        assert self._whole is not None and self._rows is not None
        return self._whole.targets_of(*self._rows)

    def draw(self, batch: Batch) -> Negatives:
        assert self._whole is not None
        negatives = super().draw(self._whole)
        return _cut(negatives, self._targets) if self._apart else negatives

    def states(self, every: Sequence[Tokens], tables: Tables) -> tuple[Tensor, ...]:
        word = int(torch.randint(2**62, ()))
        cuts = [self.ranks.cuts(tokens.offsets) for tokens in every] if self._rows and not self._apart else [None]
        parts, places, shift = [], [], 0
        for tokens, cut in zip(every, cuts, strict=False):
            if cut is None:
                # The rows are the own ones already, or too few to divide: then all processes draw alike.
                with self.streams.aside(word, f"rank/{self.ranks.rank}" if self._apart else "all"):
                    return super().states(every, tables)
            first, last = self.ranks.mine(cut)
            parts.append(tokens.part(first, last))
            places.append(torch.arange(int(tokens.offsets[first]), int(tokens.offsets[last])) + shift)
            shift += tokens.ids.shape[0]
        with self.streams.aside(word, f"rank/{self.ranks.rank}"):
            own = torch.cat(super().states(parts, tables))
        joined = self.ranks.joined(own, torch.cat(places), shift)
        return tuple(torch.split(joined, [tokens.ids.shape[0] for tokens in every]))

    def ranking(self, batch: Batch, encoded: Encoded, additions: Additions) -> dict[str, Tensor]:
        assert self._whole is not None
        if self._rows is None:
            return self.common(super().ranking(batch, encoded, additions))
        targets = self._targets
        if not self._apart:
            batch, additions = batch.part(*self._rows), _cut_additions(additions, targets)
            encoded = replace(
                encoded,
                query=encoded.query[targets],
                target=batch.target,
                negatives=None if encoded.negatives is None else _cut(encoded.negatives, targets),
            )
        share = (targets.stop - targets.start) / self._whole.target.shape[0]
        return {name: term * share for name, term in super().ranking(batch, encoded, additions).items()}

    def common(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: term / self.ranks.world for name, term in terms.items()}


def _cut(negatives: Negatives, targets: slice) -> Negatives:
    """The negatives of some targets; those shared by the batch stay."""
    ids, vectors, layer0 = negatives.ids, negatives.vectors, negatives.layer0
    if ids is not None and ids.dim() == 1:
        return negatives
    return replace(
        negatives,
        ids=None if ids is None else ids[targets],
        vectors=None if vectors is None else vectors[targets],
        layer0=None if layer0 is None else layer0[targets],
    )


def _cut_additions(additions: Additions, targets: slice) -> Additions:
    """What is added to some targets; extra positives are a term of their own and stay whole."""
    return replace(
        additions,
        weights=None if additions.weights is None else additions.weights[targets],
        replaced=None if additions.replaced is None else _cut(additions.replaced, targets),
        appended=tuple(_cut(one, targets) for one in additions.appended),
        offsets=tuple(replace(one, score=one.score[targets]) for one in additions.offsets),
    )
