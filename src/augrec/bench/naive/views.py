"""SimDiffRec and CaDiRec as their public code makes them: rows padded to the longest history, scores of every place and
every item held at once, similar items sought anew for every place in every step, CaDiRec's scores made twice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from augrec.augment.cadirec.plugin import FIRST, SECOND, CaDiRec
from augrec.augment.simdiffrec.plugin import Restored, SimDiffRec
from augrec.augment.views import pick_anchors
from augrec.diffusion.process import q_sample
from augrec.seams import View

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.backbones.tables import Tables
    from augrec.batches.batch import Batch, Tokens

_IGNORED = -100


def padded(values: Tensor, tokens: Tokens, width: int, fill: float) -> Tensor:
    """(B, width, ...) the packed `values` (N, ...) with `fill` after each row's end."""
    out = values.new_full((tokens.offsets.shape[0] - 1, width, *values.shape[1:]), fill)
    return out.index_put((tokens.rows, tokens.positions), values)


class NaiveSimDiffRec(SimDiffRec):
    """Of the settings it takes one draw of t, an unsampled catalogue and the reconstruction loss, as published."""

    width = 0
    """Places of a padded row."""

    def inputs(self, batch: Batch, tables: Tables) -> tuple[View, ...]:
        assert batch.tokens is not None
        self.width = max(batch.max_length, batch.tokens.max_length)
        return super().inputs(batch, tables)

    def refresh(self, item: Tensor) -> None:
        """No table is kept."""

    def noise(self, ids: Tensor, item: Tensor, among: Tensor | None = None) -> Tensor:
        """(N, D): for each place the scores of all items, the highest but itself gathered and averaged."""
        if self.settings.noise == "gaussian":
            return torch.randn(ids.shape[0], item.shape[1], dtype=item.dtype)
        with torch.no_grad():
            every = F.normalize(item, dim=1) if self.settings.noise == "cosine" else item
            scores = F.embedding(ids, every) @ every.T
            scores.scatter_(1, ids[:, None], -torch.inf)
            near = scores.topk(self.table.shape[1], dim=1).indices
        return F.embedding(near, item).mean(1)

    def restored(self, tokens: Tokens, item: Tensor, tables: Tables, among: Tensor | None = None) -> Restored:
        """Scores of every padded place: a cross-entropy over them, and a softmax of which the largest value is read."""
        rows, ids, width = tokens.rows, tokens.ids, self.width
        t = torch.randint(1, self.settings.steps + 1, (tokens.offsets.shape[0] - 1,))
        noised = q_sample(self.schedule, F.embedding(ids, item), t[rows], self.noise(ids, item))
        found = self.denoiser(noised, t, tokens, tables.mix)
        logits = padded(found, tokens, width, 0.0) @ item.T
        labels = padded(ids, tokens, width, _IGNORED)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED)
        if self.settings.reconstruction == "mse+nll":
            loss = loss + F.mse_loss(found, F.embedding(ids, item))
        with torch.no_grad():
            sure = logits.softmax(-1).amax(-1)[rows, tokens.positions]
        return Restored(loss=loss, query=found.detach(), confidence=sure)


class NaiveCaDiRec(CaDiRec):
    """The denoiser's scores of every padded place, once for the loss and once more for the candidates."""

    def inputs(self, batch: Batch, tables: Tables) -> tuple[View, ...]:
        config, item = self.settings, tables.item0
        tokens = pick_anchors(batch, config.anchor).prefix
        rows, ids = tokens.rows, tokens.ids
        width = max(batch.max_length, tokens.max_length)
        place = self.hidden(tokens)
        clean = F.embedding(ids, item)
        if config.jitter:
            clean = clean + float((1 - self.schedule.alpha_bar[1]).sqrt()) * torch.randn_like(clean)
        t = torch.randint(1, config.steps + 1, (tokens.offsets.shape[0] - 1,))
        found = padded(self.denoiser(self.noised(clean, place, t[rows]), t, tokens), tokens, width, 0.0)
        hidden = padded(torch.zeros(ids.shape[0]).index_fill(0, place, 1.0), tokens, width, 0.0)
        labels = padded(ids, tokens, width, 0)
        every = F.cross_entropy((found @ item.T).flatten(0, 1), labels.flatten(), reduction="none").view_as(hidden)
        by_row = (every * hidden).sum(1) / hidden.sum(1).clamp(min=1)
        self._terms = {"reconstruction": config.reconstruction_weight * by_row.mean()}
        at = rows[place], tokens.positions[place]
        with torch.no_grad():
            scores = found @ item.T
            if config.exclude_original:
                scores = scores.scatter(2, labels[:, :, None], -torch.inf)
            best = scores.topk(config.top_k, dim=2).indices[at]
        drawn = best.gather(1, torch.randint(best.shape[1], (len(place), 2)))
        return tuple(
            View(name=name, tokens=replace(tokens, ids=ids.index_copy(0, place, one), detach_items=True))
            for name, one in zip((FIRST, SECOND), drawn.unbind(1), strict=True)
        )
