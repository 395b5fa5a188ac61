"""SimDiffRec at the seams: noise, restoration and picks before encoding, contrast and reconstruction after it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional as F

from augrec.augment.catalogue import Likeliest, likeliest, likeliest_among, nearest_items, sample_items
from augrec.augment.simdiffrec.config import SimDiffRecConfig, preset
from augrec.augment.simdiffrec.denoiser import SequenceDenoiser, restore
from augrec.augment.simdiffrec.picks import choose_ranks, highest_places, random_items, replaced_counts
from augrec.augment.views import Anchors, anchor_states, anchor_views, pick_anchors, row_ranks
from augrec.backbones.transformer import TransformerStack, check_heads
from augrec.diffusion.process import q_sample
from augrec.diffusion.schedules import linear, rescale_zero_terminal_snr
from augrec.losses.infonce import info_nce
from augrec.losses.softmax import full_softmax_and_confidence, sampled_softmax
from augrec.seams import Needs, Plugin, Seam, View

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from augrec.backbones.base import Kind
    from augrec.backbones.tables import Tables
    from augrec.batches.batch import Batch, Tokens
    from augrec.seams import Encoded

ANCHOR, POSITIVE, NEGATIVE = "simdiffrec/anchor", "simdiffrec/positive", "simdiffrec/negative"


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """The denoiser's answer to a batch."""

    loss: Tensor | None
    """Reconstruction loss; None where its weight is 0."""
    query: Tensor
    """(N, D) restored vectors that items are picked with, without gradient."""
    confidence: Tensor
    """(N,) probability of the likeliest item."""


class SimDiffRec(Plugin):
    """A sequence is mixed with what is similar to its items, restored by a denoiser, and where the denoiser is surest
    its likeliest items give a positive view and its k-th likeliest a hard negative one.

    One noising draw, one denoiser pass and a cross-entropy, as in the public code; a fully noised start and a DDIM
    chain are settings. Everything runs on real tokens, so the public code's loss over padding has no counterpart.
    The denoiser trains with the encoder, in one Adam; gradients of the reconstruction reach the items of a sequence and
    those similar to them, never the choice of either.
    """

    name: ClassVar[str] = "simdiffrec"
    Config = SimDiffRecConfig
    acts: ClassVar[frozenset[Seam]] = frozenset({"views", "losses"})

    table: Tensor
    age: Tensor
    counts: Tensor

    def __init__(self, config: SimDiffRecConfig, *, kind: Kind, dim: int, n_items: int) -> None:
        super().__init__(config, kind=kind, dim=dim, n_items=n_items)
        self.settings = config
        shared = config.denoiser == "shared"
        self.needs = Needs(kinds=frozenset({"sequences"}), mix=shared)
        self.schedule = rescale_zero_terminal_snr(linear(config.steps))
        stack = None
        if not shared:
            check_heads("simdiffrec.heads", config.heads, dim)
            stack = TransformerStack(
                dim=dim,
                layers=config.layers,
                heads=config.heads,
                inner=config.inner,
                dropout=config.dropout,
                attention_dropout=config.dropout,
            )
        self.denoiser = SequenceDenoiser(
            dim=dim, steps=config.steps, positions=config.positions, dropout=config.dropout, stack=stack
        )
        # Similar items of every item, kept where they are not sought anew at each step. Saved, so that a resumed run
        # refreshes when and from what the whole run does.
        self._sampled = config.candidates is not None and config.candidates < n_items
        self._keeps_table = config.noise != "gaussian" and config.refresh_every > 1 and not self._sampled
        width = max(1, min(config.neighbours, n_items - 1))
        self.register_buffer("table", torch.zeros(n_items if self._keeps_table else 0, width, dtype=torch.int32))
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))
        # Tokens seen, their summed confidence, places replaced, and of those given the original back.
        self.register_buffer("counts", torch.zeros(4, dtype=torch.float64))
        self._made: tuple[Anchors, Restored] | None = None

    @classmethod
    def preset(cls, name: str, *, kind: Kind) -> Mapping[str, Any]:
        return preset(name)

    @property
    def active(self) -> bool:
        return self.settings.weight > 0

    def noise(self, ids: Tensor, item: Tensor, among: Tensor | None = None) -> Tensor:
        """(N, D) what each of `ids` (N,) is mixed with: the mean of its similar items' vectors, with gradient into
        them (equation 7), or N(0, I).

        Args:
            item: (I, D) item vectors.
            among: (S,) ids that may be similar; all by default, read from the table where one is kept.
        """
        config = self.settings
        if config.noise == "gaussian":
            return torch.randn(ids.shape[0], item.shape[1], dtype=item.dtype, device=item.device)
        if self._keeps_table and among is None:
            near = self.table[ids].long()
        else:
            unique, place = torch.unique(ids, return_inverse=True)
            near = nearest_items(item, config.neighbours, metric=config.noise, of=unique, among=among)[place]
        return F.embedding_bag(near, item, mode="mean")

    def refresh(self, item: Tensor) -> None:
        """Counts a training step and seeks similar items anew when it is time; outside training, only if never
        done."""
        config = self.settings
        if not self._keeps_table or config.noise == "gaussian":
            return
        age = int(self.age)
        if age % config.refresh_every == 0 and (self.training or age == 0):
            self.table.copy_(nearest_items(item, config.neighbours, metric=config.noise))
        if self.training:
            self.age.add_(1)

    def inputs(self, batch: Batch, tables: Tables) -> tuple[View, ...]:
        config, item = self.settings, tables.item0
        anchors = pick_anchors(batch, config.anchor)
        tokens = anchors.prefix
        self.refresh(item)
        among = None
        if self._sampled and config.candidates is not None:
            among = sample_items(self.n_items, config.candidates, device=item.device)
        restored = self.restored(tokens, item, tables, among)
        score = -row_ranks(tokens).double() if config.replace == "random" else restored.confidence
        counts = replaced_counts(
            tokens.lengths, ratio=None if config.replace == "fixed" else config.ratio, places=config.places
        )
        chosen = highest_places(score, tokens, counts).nonzero().squeeze(1)
        positive, negative = self.picks(restored, tokens, item, chosen, among)
        self._note(restored, tokens, chosen, positive)
        self._made = anchors, restored
        views = [*anchor_views(batch, anchors, ANCHOR), View(name=POSITIVE, tokens=_put(tokens, chosen, positive))]
        if negative is not None:
            views.append(View(name=NEGATIVE, tokens=_put(tokens, chosen, negative)))
        return tuple(views)

    def restored(self, tokens: Tokens, item: Tensor, tables: Tables, among: Tensor | None = None) -> Restored:
        """Noises the rows of `tokens`, restores them, and says with what loss and how surely.

        Where the loss and the picks come from the same pass, so does the confidence: the fused softmax knows the
        largest probability of every row.
        """
        config, top = self.settings, self.settings.steps
        rows, ids = tokens.rows, tokens.ids
        size = (tokens.offsets.shape[0] - 1,)
        full = torch.full(size, top, device=ids.device)
        t = full if config.loss_time == "full" else torch.randint(1, top + 1, size, device=ids.device)
        clean = F.embedding(ids, item)
        noise = self.noise(ids, item, among)

        def predict(x: Tensor, step: Tensor) -> Tensor:
            out: Tensor = self.denoiser(x, step, tokens, tables.mix)
            return out

        loss = confidence = query = None
        same_step = config.pick_time == "loss" or config.loss_time == "full"
        if config.reconstruction_weight > 0:
            found = predict(q_sample(self.schedule, clean, t[rows], noise), t)
            if among is None:
                loss, confidence = full_softmax_and_confidence(found, item, ids, chunk=config.chunk)
            else:
                loss = sampled_softmax(found, item, ids, among)
            if config.reconstruction == "mse+nll":
                loss = loss + F.mse_loss(found, clean)
            query = found.detach()
        if query is None or not same_step or config.restore_steps > 1:
            with torch.no_grad():
                start = t if same_step else full
                noised = q_sample(self.schedule, clean, start[rows], noise)
                query = restore(self.schedule, predict, noised, start, rows, config.restore_steps)
            confidence = None
        if confidence is None:
            confidence = self._likeliest(query, item, ids, among, 0).confidence
        return Restored(loss=loss, query=query, confidence=confidence)

    def picks(
        self, restored: Restored, tokens: Tokens, item: Tensor, chosen: Tensor, among: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(m,) items of the positive and of the negative view at the places `chosen` (m,) of `tokens`."""
        config, own = self.settings, tokens.ids[chosen]
        if config.items == "random":
            positive, negative = random_items(own, self.n_items, exclude_own=config.exclude_original)
            return positive, negative if config.hard_negative_rank is not None else None
        sample = config.top_k if config.positive == "sample" else None
        k = max(sample or 1, config.hard_negative_rank or 1)
        found = self._likeliest(restored.query.index_select(0, chosen), item, own, among, k)
        return choose_ranks(found.ids, sample=sample, negative_rank=config.hard_negative_rank)

    def _likeliest(self, query: Tensor, item: Tensor, own: Tensor, among: Tensor | None, k: int) -> Likeliest:
        exclude = self.settings.exclude_original
        if among is not None:
            return likeliest_among(query, item, own, among, k, exclude_own=exclude)
        return likeliest(query, item, k, exclude=own if exclude else None)

    def losses(self, batch: Batch, encoded: Encoded) -> Mapping[str, Tensor]:
        assert self._made is not None
        (anchors, restored), config = self._made, self.settings
        negative = encoded.views.get(NEGATIVE)
        contrast = info_nce(
            anchor_states(encoded, anchors, ANCHOR),
            encoded.views[POSITIVE].last,
            None if negative is None else negative.last,
            similarity="cosine",
            temperature=config.temperature,
        )
        terms = {"contrast": config.weight * contrast}
        if restored.loss is not None:
            terms["reconstruction"] = config.reconstruction_weight * restored.loss
        return terms

    def _note(self, restored: Restored, tokens: Tokens, chosen: Tensor, positive: Tensor) -> None:
        """Figures of the epoch, kept as a buffer so that a resumed epoch reports itself whole."""
        if not self.training:
            return
        self.counts[0] += tokens.ids.shape[0]
        self.counts[1] += restored.confidence.sum()
        self.counts[2] += chosen.shape[0]
        self.counts[3] += (positive == tokens.ids[chosen]).sum()

    def epoch_log(self) -> Mapping[str, Any]:
        seen, sure, replaced, kept = self.counts.tolist()
        self.counts.zero_()
        if not seen:
            return {}
        return {
            "confidence": round(sure / seen, 6),
            "replaced": round(replaced / seen, 6),
            "original_kept": round(kept / max(replaced, 1), 6),
        }


def _put(tokens: Tokens, place: Tensor, ids: Tensor) -> Tokens:
    """`tokens` with other items at some places; the original is left as it is."""
    return replace(tokens, ids=tokens.ids.index_copy(0, place, ids))
