"""One training step as one module: batch in, named loss terms out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from augrec.batches.batch import Batch, Tokens
from augrec.objectives.common import soft_positive_loss
from augrec.seams import Additions, Encoded, EncodedView, Negatives, Phase, Plugin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from augrec.backbones.base import Backbone, SequenceBackbone
    from augrec.backbones.tables import Tables
    from augrec.seams import Objective, View
    from augrec.train.ranks import Ranks
    from augrec.train.streams import Streams


def join(parts: Sequence[Tokens]) -> Tokens:
    """Several sets of packed rows as one. Parts given as vectors need all parts as vectors (the caller embeds them)."""
    offsets, shift = [parts[0].offsets], int(parts[0].ids.shape[0])
    for part in parts[1:]:
        offsets.append(part.offsets[1:] + shift)
        shift += part.ids.shape[0]
    return Tokens(
        ids=torch.cat([p.ids for p in parts]), offsets=torch.cat(offsets), max_length=max(p.max_length for p in parts)
    )


class TrainStep(nn.Module):
    """Backbone, objective and plug-ins as one `forward`, so that Fabric can wrap it.

    A batch is encoded once and shared by its phases until a phase moves the "main" group; then it is encoded anew.
    `RankStep` divides the work among processes by overriding `draw`, `states`, `ranking` and `common`.
    """

    ranks: Ranks | None = None
    """The processes that share a batch; None where there is one."""

    def __init__(self, backbone: Backbone, objective: Objective, plugins: Sequence[Plugin], streams: Streams) -> None:
        super().__init__()
        self.backbone = backbone
        self.objective = objective
        self.plugins = nn.ModuleList(plugins)
        self.streams = streams
        own = [phase for plugin in plugins for phase in plugin.phases()]
        main = Phase(name="main", group="main", loss=None)
        self.phases = (*[p for p in own if p.when == "before"], main, *[p for p in own if p.when == "after"])
        self._order = sorted(plugins, key=lambda plugin: "replace" not in plugin.acts)
        # Swapping a stream in costs more than a hook that does nothing.
        self._viewing = [p for p in plugins if type(p).inputs is not Plugin.inputs]
        self._losing = [p for p in self._order if type(p).losses is not Plugin.losses]
        self._hops = objective.needs.hops or any(p.needs.hops for p in plugins)
        self._shared: tuple[Batch, Encoded] | None = None

    def begin(self, batch: Batch) -> Batch:
        """Takes a new batch: a bidirectional backbone hides items in it, the objective may rewrite it."""
        self._shared = None
        if self.backbone.masking is not None:
            with self.streams.use("masks"):
                batch = self.backbone.training_batch(batch)  # type: ignore[operator]
        with self.streams.use("objective"):
            return self.objective.inputs(batch)

    def moved(self, group: str) -> None:
        """Told after each optimiser step; a moved encoder makes the shared encoding stale."""
        if group == "main":
            self._shared = None

    def forward(self, batch: Batch, phase: int) -> dict[str, Tensor]:
        """Named terms of phase number `phase`; their sum is the loss."""
        if self._shared is None:
            self._shared = (batch, self.encode(batch))
        encoded = self._shared[1]
        current = self.phases[phase]
        if current.loss is not None:
            with self.streams.use(f"phase/{current.name}"):
                return self.common({current.name: current.loss(batch, encoded)})
        return self.main(batch, encoded)

    def encode(self, batch: Batch) -> Encoded:
        """Tables, queries, views, positives and base negatives of a batch."""
        with self.streams.use("dropout"):
            tables = self.backbone.tables(hops=self._hops)
            own = self.backbone.own_loss(batch, tables)
        if own is not None:
            return Encoded(tables=tables, query=tables.item[:0], own=own)
        if batch.tokens is None:
            with self.streams.use("dropout"):
                encoded = Encoded(tables=tables, query=self.backbone.queries(batch, tables))
        else:
            encoded = self._encode_sequences(batch, tables)
        negatives = self.draw(batch)
        return replace(encoded, target=batch.target, negatives=None if negatives.ids is None else negatives)

    def _encode_sequences(self, batch: Batch, tables: Tables) -> Encoded:
        """Anchor and views in one pass over real tokens."""
        assert batch.tokens is not None and batch.target_token is not None
        backbone: SequenceBackbone = self.backbone  # type: ignore[assignment]
        views: list[View] = []
        for plugin in self._viewing:
            with self.streams.use(f"plugin/{plugin.name}"):
                views.extend(plugin.inputs(batch, tables))
        views = [replace(view, tokens=backbone.asking(view.tokens, tables)) for view in views]
        with self.streams.use("dropout"):
            states = self.states([batch.tokens, *(view.tokens for view in views)], tables)
        return Encoded(
            tables=tables,
            query=tables.query(states[0].index_select(0, batch.target_token)),
            anchor=EncodedView(tokens=batch.tokens, states=states[0]),
            views={v.name: EncodedView(tokens=v.tokens, states=s) for v, s in zip(views, states[1:], strict=True)},
        )

    def draw(self, batch: Batch) -> Negatives:
        """The base negatives of a batch."""
        with self.streams.use("negatives"):
            return self.objective.draw(batch)

    def states(self, every: Sequence[Tokens], tables: Tables) -> tuple[Tensor, ...]:
        """(N, D) states of each of several sets of rows, encoded together. Draws from torch's own generator."""
        backbone: SequenceBackbone = self.backbone  # type: ignore[assignment]
        if len(every) == 1:
            return (backbone.encode(every[0], tables),)
        vectors = torch.cat([backbone.embed(tokens, tables) for tokens in every])
        states = backbone.encode(replace(join(every), vectors=vectors), tables)
        return tuple(torch.split(states, [tokens.ids.shape[0] for tokens in every]))

    def main(self, batch: Batch, encoded: Encoded) -> dict[str, Tensor]:
        """The encoder's phase: ranking loss with all additions, L2 term, extra positives, the plug-ins' own terms.

        Whoever replaces the negatives is asked first, so that all others read those that are trained on.
        """
        additions = Additions()
        for plugin in self._order:
            with self.streams.use(f"plugin/{plugin.name}"):
                more = plugin.targets(batch, encoded)
            if more.replaced is not None:
                encoded = replace(encoded, negatives=more.replaced)
            additions = additions.merge(more)
        terms = self.ranking(batch, encoded, additions)
        own: dict[str, Tensor] = {}
        for number, positives in enumerate(additions.positives):
            own[f"positives/{number}"] = soft_positive_loss(positives, encoded.tables)
        for plugin in self._losing:
            with self.streams.use(f"plugin/{plugin.name}"):
                losses = plugin.losses(batch, encoded)
            own.update({f"{plugin.name}/{name}": term for name, term in losses.items()})
        return terms | self.common(own)

    def ranking(self, batch: Batch, encoded: Encoded, additions: Additions) -> dict[str, Tensor]:
        """The objective and the L2 term, both means over the targets of the batch."""
        with self.streams.use("objective"):
            terms = {self.objective.name: self.objective(batch, encoded, additions)}
        negatives = encoded.negatives
        rows = None
        if negatives is not None and negatives.layer0 is not None:
            rows = negatives.layer0
        elif negatives is not None and negatives.ids is not None:
            rows = encoded.tables.items0(negatives.ids)
        penalty = self.backbone.penalty(batch, encoded.tables, rows)
        if penalty is not None:
            terms["l2"] = penalty
        return terms

    def common(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Terms over the whole batch that every process makes alike: their share in one process's loss."""
        return terms
