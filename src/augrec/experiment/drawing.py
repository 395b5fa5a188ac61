"""Batches drawn from a rebuilt step, and what its objective was given: scores, vectors and ids of the negatives."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from augrec.experiment.figures import generated_share
from augrec.objectives.common import dot, margin_shift
from augrec.seams import Negatives

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from augrec.batches.batch import Batch
    from augrec.batches.negatives import Sampler
    from augrec.experiment.build import Parts
    from augrec.seams import Additions, Encoded, Needs, Objective, Offset, Seam

_OF_OFFSETS = frozenset({"shift", "strength", "share/generated"})


class Listener:
    """An objective that notes what it drew and what it was asked to rank."""

    def __init__(self, objective: Objective) -> None:
        self.inner = objective
        self.name, self.samples = objective.name, objective.samples
        self.needs: Needs = objective.needs
        self.refuses: frozenset[Seam] = objective.refuses
        self.splits = False
        self.drawn: Negatives | None = None
        self.heard: tuple[Batch, Encoded, Additions, Tensor] | None = None

    def inputs(self, batch: Batch) -> Batch:
        return self.inner.inputs(batch)

    def draw(self, batch: Batch) -> Negatives:
        self.drawn = self.inner.draw(batch)
        return self.drawn

    def __call__(self, batch: Batch, encoded: Encoded, additions: Additions) -> Tensor:
        loss = self.inner(batch, encoded, additions)
        self.heard = (batch, encoded, additions, loss)
        return loss


@dataclass(kw_only=True)
class Vectors:
    """Some generated vectors, and whose they are."""

    weight: float | None
    """Lambda of an offset; None for vectors that stand as negatives."""
    vectors: Tensor
    """(n, D)."""
    user: Tensor
    """(n,)."""
    positive: Tensor
    """(n,) item."""


@dataclass(kw_only=True)
class Drawn:
    """What some batches held, row after row."""

    rows: dict[str, Tensor]
    """(M, ...) by name."""
    ids: dict[str, Tensor]
    """(M, K) ids of negatives by source: sampled, replaced, appended."""
    vectors: dict[str, Vectors]
    """Generated vectors by source, a sample of the rows."""
    logs: dict[str, dict[str, Any]]
    """What each plug-in says of these batches."""
    sampled: bool
    """False where the objective draws no negatives for each target and uniform ones stand in."""


@dataclass(kw_only=True)
class _Found:
    """One batch, read."""

    rows: dict[str, Tensor]
    ids: dict[str, Tensor]
    generated: dict[str, tuple[Tensor, float | None]]
    """(M, D) vectors and weight by source."""
    offsets: bool


def draw(parts: Parts, *, batches: int, reference: Sampler, keep: int, generator: torch.Generator) -> Drawn:
    """Runs `batches` training batches through every phase up to the encoder's, in training mode and without any update,
    and keeps what the objective was given. Generated vectors are kept for at most `keep` rows, spread over the batches
    by `generator`. `reference` draws one negative for each target where the objective draws none."""
    step = parts.step
    listener = Listener(step.objective)
    step.objective = listener
    step.train()
    # What the counters hold from training is dropped.
    for plugin in step.plugins:
        plugin.epoch_log()  # type: ignore[operator]
    main = next(number for number, phase in enumerate(step.phases) if phase.loss is None)
    rows: dict[str, list[Tensor]] = {}
    ids: dict[str, list[Tensor]] = {}
    vectors: dict[str, list[Vectors]] = {}
    offsets = False
    try:
        for batch in islice(_endless(parts), batches):
            begun = step.begin(batch)
            for number in range(main + 1):
                step(begun, number)
            found = read(listener, reference, generator)
            offsets = offsets or found.offsets
            for store, more in ((rows, found.rows), (ids, found.ids)):
                for name, value in more.items():
                    store.setdefault(name, []).append(value)
            user, target = found.rows["user"], found.rows["target"]
            pick = torch.randperm(len(user), generator=generator)[: max(1, keep // batches)]
            for name, (made, weight) in found.generated.items():
                one = Vectors(weight=weight, vectors=made[pick], user=user[pick], positive=target[pick])
                vectors.setdefault(name, []).append(one)
    finally:
        step.objective = listener.inner
    joined = {name: torch.cat(values) for name, values in rows.items() if offsets or name not in _OF_OFFSETS}
    return Drawn(
        rows=joined,
        ids={name: torch.cat(values) for name, values in ids.items()},
        vectors={
            name: Vectors(
                weight=some[0].weight,
                vectors=torch.cat([one.vectors for one in some]),
                user=torch.cat([one.user for one in some]),
                positive=torch.cat([one.positive for one in some]),
            )
            for name, some in vectors.items()
        },
        logs={plugin.name: dict(plugin.epoch_log()) for plugin in step.plugins},  # type: ignore[operator,misc]
        sampled=listener.drawn is not None and listener.drawn.ids is not None,
    )


def _endless(parts: Parts) -> Iterator[Batch]:
    """The batches of epoch after epoch."""
    while True:
        with parts.step.streams.use("batches"):
            epoch = parts.batches.epoch()
        yield from epoch


def read(listener: Listener, reference: Sampler, generator: torch.Generator) -> _Found:
    """What the objective was given for one batch, without gradient."""
    assert listener.heard is not None and listener.drawn is not None
    batch, encoded, additions, loss = listener.heard
    user, target = batch.target_user, batch.target
    table = encoded.tables.item.detach()
    query, positive = encoded.query.detach(), F.embedding(target, table)
    sampled = listener.drawn.ids
    if sampled is None:
        sampled = reference.sample(user, 1, generator=generator)
    ids = {"sampled": sampled.expand(len(user), -1)}
    trained = additions.replaced or encoded.negatives or Negatives(ids=sampled)
    generated: dict[str, tuple[Tensor, float | None]] = {}
    extra = [("replaced", additions.replaced), *((f"appended {n}", one) for n, one in enumerate(additions.appended, 1))]
    for name, one in extra:
        if one is not None and one.ids is not None:
            ids[name] = one.ids.expand(len(user), -1)
        if one is not None and one.vectors is not None and not _looked_up(one, table):
            # Of several vectors for a target, the first.
            generated[name] = (one.vectors.detach()[:, 0], None)
    made = list(_behind(encoded.query, additions.offsets))
    for n, (offset, vectors) in enumerate(made, 1):
        generated["offset" if n == 1 else f"offset {n}"] = (vectors, offset.weight)
    negative = (F.embedding(trained.ids, table) if trained.vectors is None else trained.vectors).detach()  # type: ignore[arg-type]
    shared = negative.dim() == 2
    first = negative[torch.arange(len(user)) % len(negative)] if shared else negative[:, 0]
    shift = margin_shift(additions.offsets)
    strength = torch.zeros(len(user))
    for offset, vectors in made:
        strength = strength + offset.weight**2 * vectors.square().mean(1)
    rows = {
        "user": user,
        "target": target,
        "shift": torch.zeros(len(user)) if shift is None else shift.detach(),
        "strength": strength,
        "share/generated": _share(encoded.query, loss, made),
        "score/positive": dot(query, positive),
        "score/negative": query @ negative.T if shared else dot(query, negative),
        "norm/query": query.norm(dim=1),
        "norm/positive": positive.norm(dim=1),
        "norm/negative": first.norm(dim=1),
        "cosine/query/positive": F.cosine_similarity(query, positive, dim=1),
    }
    for name, (vectors, _) in generated.items():
        rows.setdefault("score/generated", dot(query, vectors))
        rows[f"norm/{name}"] = vectors.norm(dim=1)
        for other, value in (("positive", positive), ("negative", first), ("query", query)):
            rows[f"cosine/{name}/{other}"] = F.cosine_similarity(vectors, value, dim=1)
    return _Found(rows=rows, ids=ids, generated=generated, offsets=bool(additions.offsets))


def _looked_up(negatives: Negatives, table: Tensor) -> bool:
    """Whether the vectors are those of the ids, and not somebody's own."""
    if negatives.ids is None or negatives.vectors is None:
        return False
    return torch.equal(negatives.vectors.detach(), F.embedding(negatives.ids, table))


def _behind(query: Tensor, offsets: tuple[Offset, ...]) -> Iterator[tuple[Offset, Tensor]]:
    """Each offset with the (M, D) vector behind it: the gradient of its score by the query, e_d where s_d = e_u . e_d.

    Offsets that do not depend on the query have none and are left out.
    """
    for offset in offsets:
        if offset.score.requires_grad:
            found = torch.autograd.grad(offset.score.sum(), query, retain_graph=True, allow_unused=True)[0]
            if found is not None:
                yield offset, found.detach()


def _share(query: Tensor, loss: Tensor, made: list[tuple[Offset, Tensor]]) -> Tensor:
    """(M,) share of each query's ranking gradient that comes through the offsets; 0 without any."""
    if not made:
        return torch.zeros(len(query))
    scores = [offset.score for offset, _ in made]
    total, *through = torch.autograd.grad(loss, [query, *scores], materialize_grads=True)
    parts = [slope[:, None] * vectors for slope, (_, vectors) in zip(through, made, strict=True)]
    return generated_share(total, torch.stack(parts).sum(0))
