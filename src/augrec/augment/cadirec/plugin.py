"""CaDiRec at the seams: two views with generated items before encoding, their contrast and the denoiser's loss after
it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional as F

from augrec.augment.cadirec.config import CaDiRecConfig, preset
from augrec.augment.cadirec.denoiser import ContextDenoiser, RelativeStack
from augrec.augment.catalogue import likeliest, likeliest_among, sample_items
from augrec.augment.views import pick_anchors, row_ranks
from augrec.backbones.transformer import check_heads
from augrec.diffusion.process import q_sample
from augrec.diffusion.schedules import sqrt
from augrec.losses.infonce import nt_xent
from augrec.losses.softmax import full_softmax, sampled_softmax
from augrec.seams import Needs, Plugin, Seam, View

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from augrec.backbones.base import Kind
    from augrec.backbones.tables import Tables
    from augrec.batches.batch import Batch, Tokens
    from augrec.seams import Encoded

FIRST, SECOND = "cadirec/first", "cadirec/second"


class CaDiRec(Plugin):
    """Some events of a row are noised, the others stand clean around them as the condition, a denoiser predicts all of
    them in one step, and two views draw new items for the noised places from its likeliest ones.

    The views are embedded without gradient into the item table, as published (a frozen copy of it): the contrast trains
    the encoder alone. The denoiser's loss reaches the table, the denoiser trains with the encoder, in one Adam.
    """

    name: ClassVar[str] = "cadirec"
    Config = CaDiRecConfig
    acts: ClassVar[frozenset[Seam]] = frozenset({"views", "losses"})
    needs = Needs(kinds=frozenset({"sequences"}))

    counts: Tensor

    def __init__(self, config: CaDiRecConfig, *, kind: Kind, dim: int, n_items: int) -> None:
        super().__init__(config, kind=kind, dim=dim, n_items=n_items)
        self.settings = config
        check_heads("cadirec.heads", config.heads, dim)
        self.schedule = sqrt(config.steps)
        stack = RelativeStack(
            dim=dim,
            layers=config.layers,
            heads=config.heads,
            inner=config.inner,
            dropout=config.dropout,
            max_distance=config.max_distance,
        )
        self.denoiser = ContextDenoiser(dim=dim, steps=config.steps, input_dropout=config.input_dropout, stack=stack)
        self._sampled = config.candidates is not None and config.candidates < n_items
        # Tokens seen, places replaced, items drawn for them in both views, and of those the originals.
        self.register_buffer("counts", torch.zeros(4, dtype=torch.float64))
        self._terms: dict[str, Tensor] = {}

    @classmethod
    def preset(cls, name: str, *, kind: Kind) -> Mapping[str, Any]:
        return preset(name)

    @property
    def active(self) -> bool:
        return self.settings.weight > 0

    def hidden(self, tokens: Tokens) -> Tensor:
        """(m,) places that are noised and replaced: each with chance rho."""
        chosen = torch.rand(tokens.ids.shape[0], device=tokens.ids.device) < self.settings.ratio
        if self.settings.at_least_one:
            rows = tokens.rows
            found = chosen.new_zeros(tokens.offsets.shape[0] - 1, dtype=torch.int64).index_add(0, rows, chosen.long())
            chosen = chosen | ((found[rows] == 0) & (row_ranks(tokens) == 0))
        return chosen.nonzero().squeeze(1)

    def noised(self, clean: Tensor, place: Tensor, t: Tensor) -> Tensor:
        """(N, D) the rows with the places `place` (m,) at step `t` (N,) and all others clean."""
        noise = torch.randn(place.shape[0], clean.shape[1], dtype=clean.dtype, device=clean.device)
        noised = q_sample(self.schedule, clean.index_select(0, place), t[place], noise)
        return clean.index_copy(0, place, noised)

    def inputs(self, batch: Batch, tables: Tables) -> tuple[View, ...]:
        config, item = self.settings, tables.item0
        tokens = pick_anchors(batch, config.anchor).prefix
        rows, ids = tokens.rows, tokens.ids
        place = self.hidden(tokens)
        own = ids[place]
        among = None
        if self._sampled and config.candidates is not None:
            among = sample_items(self.n_items, config.candidates, device=item.device)
        clean = F.embedding(ids, item)
        if config.jitter:
            clean = clean + float((1 - self.schedule.alpha_bar[1]).sqrt()) * torch.randn_like(clean)
        t = torch.randint(1, config.steps + 1, (tokens.offsets.shape[0] - 1,), device=ids.device)
        restored = self.denoiser(self.noised(clean, place, t[rows]), t, tokens).index_select(0, place)
        self._terms = self._denoising(restored, clean.index_select(0, place), item, own, rows[place], tokens, among)
        drawn = self.picks(restored.detach(), item, own, among)
        if self.training:
            self.counts[0] += ids.shape[0]
            self.counts[1] += place.shape[0]
            self.counts[2] += drawn.numel()
            self.counts[3] += (drawn == own[:, None]).sum()
        return tuple(
            View(name=name, tokens=replace(tokens, ids=ids.index_copy(0, place, one), detach_items=True))
            for name, one in zip((FIRST, SECOND), drawn.unbind(1), strict=True)
        )

    def _denoising(
        self,
        restored: Tensor,
        clean: Tensor,
        item: Tensor,
        own: Tensor,
        rows: Tensor,
        tokens: Tokens,
        among: Tensor | None,
    ) -> dict[str, Tensor]:
        """Losses of the noised places: cross-entropy as the mean over rows of each row's mean (rows without a noised
        place count as 0, as published), mean squared error over all of them."""
        config, terms = self.settings, {}
        places, count = own.shape[0], tokens.offsets.shape[0] - 1
        if config.reconstruction_weight > 0:
            in_row = rows.new_zeros(count).index_add(0, rows, torch.ones_like(rows))
            weight = (places / count) / in_row[rows].to(restored.dtype)
            if among is None:
                loss = full_softmax(restored, item, own, weight=weight, chunk=config.chunk)
            else:
                loss = sampled_softmax(restored, item, own, among, weight=weight)
            terms["reconstruction"] = config.reconstruction_weight * loss
        if config.mse_weight > 0:
            error = (restored - clean).square().sum() / max(restored.numel(), 1)
            terms["mse"] = config.mse_weight * error
        return terms

    def picks(self, query: Tensor, item: Tensor, own: Tensor, among: Tensor | None = None) -> Tensor:
        """(m, 2) an item for each place and view: two independent uniform draws from the `top_k` likeliest."""
        config = self.settings
        size = (own.shape[0], 2)
        if config.items == "random":
            open_ = self.n_items - (config.exclude_original and self.n_items > 1)
            drawn = torch.randint(open_, size, device=own.device)
            return drawn + (drawn >= own[:, None]) if open_ < self.n_items else drawn
        if among is None:
            found = likeliest(query, item, config.top_k, exclude=own if config.exclude_original else None)
        else:
            found = likeliest_among(query, item, own, among, config.top_k, exclude_own=config.exclude_original)
        return found.ids.gather(1, torch.randint(found.ids.shape[1], size, device=own.device))

    def losses(self, batch: Batch, encoded: Encoded) -> Mapping[str, Tensor]:
        config = self.settings
        contrast = nt_xent(
            encoded.views[FIRST].last,
            encoded.views[SECOND].last,
            similarity=config.similarity,
            temperature=config.temperature,
        )
        return {"contrast": config.weight * contrast, **self._terms}

    def epoch_log(self) -> Mapping[str, Any]:
        seen, places, drawn, kept = self.counts.tolist()
        self.counts.zero_()
        if not seen:
            return {}
        return {"replaced": round(places / seen, 6), "original_kept": round(kept / max(drawn, 1), 6)}
