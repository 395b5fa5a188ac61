"""Diffusion-based Positive Augmentation: unobserved items of high preference that the encoder agrees on (PDRec)."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from augrec.augment.pdrec.plugin import PreferencePlugin
from augrec.augment.pdrec.scan import Block, Reader, Scan
from augrec.batches.batch import shared_tensor
from augrec.batches.sequences import pack
from augrec.linear import products_at
from augrec.seams import Additions, Seam, SoftPositives, View
from augrec.typed import Config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from augrec.augment.pdrec.preference import Preference
    from augrec.backbones.tables import Tables
    from augrec.batches.batch import Batch
    from augrec.data.interactions import Interactions
    from augrec.seams import Encoded


class DPAConfig(Config):
    """Settings of DPA; published values by data set in docs/pdrec.md."""

    weight: float = Field(default=0.01, ge=0)
    """omega_d: weight of the term; 0 switches it off. Published: .3 on Amazon, .01 on Douban."""
    source: Literal["preference", "random"] = "preference"
    """Where preferences come from; random is the control arm."""
    coarse: int = Field(default=50, ge=1)
    """m: items of highest preference kept for each user."""
    fine: int = Field(default=5, ge=1)
    """n: of these, the ones the current encoder scores highest are taken as liked."""
    exclude_observed: bool = True
    """Keep a user's train items out of the m; the public code leaves them in, and a model that restores its input puts
    them first."""
    query: Literal["target", "last"] = "target"
    """The user's vector. target: the query of the newest target, which the step has made already; last: the state after
    the newest train event, as published, which costs one more encoding of every history."""
    score: Literal["backbone", "cosine"] = "backbone"
    """backbone: as the backbone scores; cosine: `temperature` * cosine in this term whatever the backbone does."""
    temperature: float = Field(default=5.0, gt=0)
    """Tau of `score` = cosine; published: 5 on Amazon, 10 on Douban."""


class CoarseLists(Reader):
    """Each user's `m` candidates of highest preference, with `exclude_observed` none of its train items."""

    def __init__(self, m: int, *, exclude_observed: bool = True) -> None:
        self.m, self.exclude_observed = m, exclude_observed
        self.lists = torch.zeros(0, 0, dtype=torch.int32)
        """(U, min(m, I)), best first; -1 where fewer than m are left."""

    def start(self, train: Interactions) -> None:
        self.lists = torch.full((train.n_users, min(self.m, train.n_items)), -1, dtype=torch.int32)

    def every(self, block: Block) -> None:
        if not self.exclude_observed:
            self._take(block)

    def unobserved(self, block: Block) -> None:
        if self.exclude_observed:
            self._take(block)

    def _take(self, block: Block) -> None:
        value, item = block.scores.topk(self.lists.shape[1], dim=1)
        self.lists[block.users] = item.masked_fill_(torch.isneginf(value), -1).int()


def coarse_lists(preference: Preference, train: Interactions, m: int, *, exclude_observed: bool = True) -> Tensor:
    """(U, min(m, I)) int32: each user's items of highest preference, best first; -1 where fewer than m are left.

    Only items of `train.candidates` stand in a list; with `exclude_observed` none of the user's train items does.
    """
    scan = Scan(preference, train)
    found = scan.ask(CoarseLists(m, exclude_observed=exclude_observed))
    scan.run()
    return found.lists


class DPA(PreferencePlugin):
    """A cross-entropy term with label 1 on the n of m items that the encoder itself ranks highest for the user.

    The choice is made anew in every step and has no gradient; the term's gradient reaches the query and the items. A
    history cut into several windows has one term, with its newest. Users without a target are in no batch, so nobody
    without a history takes part.
    """

    name: ClassVar[str] = "dpa"
    Config = DPAConfig
    acts: ClassVar[frozenset[Seam]] = frozenset({"positives"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "paper": {"weight": 0.3, "query": "last"},
            "published-code": {"query": "last", "exclude_observed": False, "score": "cosine", "weight": 0.05},
        }
    )

    def __init__(self, config: DPAConfig, **sizes: Any) -> None:
        super().__init__(config, **sizes)
        self.settings = config
        if config.query == "last":
            # A declaration of this very instance: only then does it add a view.
            self.acts = frozenset({"positives", "views"})  # type: ignore[misc]
        self.lists, self.short = torch.zeros(0, 0, dtype=torch.int32), False
        self.items, self.ends = torch.zeros(0), torch.zeros(0)

    @classmethod
    def deviations(cls, config: Any) -> tuple[str, ...]:
        return () if config.exclude_observed else ("dpa.exclude_observed=false",)

    def ask(self, scan: Scan) -> CoarseLists:
        return scan.ask(CoarseLists(self.settings.coarse, exclude_observed=self.settings.exclude_observed))

    def take(self, scan: Scan, found: CoarseLists) -> None:
        train = scan.train
        self.lists, self.short = found.lists, bool((found.lists < 0).any())
        self.items = shared_tensor(train.item)
        # Whether an event is the newest of its user that can be a target.
        inside = torch.from_numpy(train.in_candidates()).nonzero()[:, 0]
        user = shared_tensor(train.user)[inside]
        self.ends = torch.zeros(len(train), dtype=torch.bool)
        self.ends[inside[torch.diff(user, append=torch.tensor([-1], dtype=user.dtype)) != 0]] = True

    def inputs(self, batch: Batch, tables: Tables) -> tuple[View, ...]:
        self.settle()
        if self.settings.query != "last":
            return ()
        batch = batch.plain
        assert batch.tokens is not None and batch.target_token is not None
        newest, tokens = _newest(batch), batch.tokens
        end = batch.event[newest] - batch.target_token[newest] + tokens.last
        length = tokens.lengths + 1
        if batch.max_length:
            length = length.clamp(max=batch.max_length)
        return (View(name="dpa", tokens=pack(self.items, end + 1 - length, length, int(length.max()))[0]),)

    def _choose(self, query: Tensor, lists: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """(Q, min(n, m)) the best of each row's list (Q, m) by the current encoder, -1 where the list is shorter; and
        their scores."""
        listed = lists.clamp(min=0) if self.short else lists
        score = products_at(query, item, listed)
        if self.settings.score == "cosine":
            score = score / item[listed].norm(dim=2).clamp(min=1e-12)
        if self.short:
            score = score.masked_fill(lists < 0, -torch.inf)
        # Their order among each other does not matter.
        score, best = score.topk(min(self.settings.fine, lists.shape[1]), dim=1, sorted=False)
        return lists.gather(1, best), score

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        self.settle()
        assert batch.tokens is not None
        settings, newest = self.settings, _newest(batch)
        if batch.tokens.masked:
            kept = torch.arange(len(newest))
        else:
            kept = self.ends.index_select(0, batch.event.index_select(0, newest)).nonzero()[:, 0]
        if settings.query == "last":
            every, place = encoded.tables.query(encoded.views["dpa"].last), kept
        else:
            every, place = encoded.query, newest.index_select(0, kept)
        query = every.index_select(0, place)
        lists = self.lists.index_select(0, batch.user.index_select(0, kept)).long()
        chosen, score = self._choose(query.detach(), lists, encoded.tables.item.detach())
        if self.short and bool((chosen < 0).any()):
            # One row for each item that there is.
            row, which = (chosen >= 0).nonzero(as_tuple=True)
            query, chosen, score = query.index_select(0, row), chosen[row, which][:, None], score[row, which][:, None]
        cosine = settings.score == "cosine"
        positives = SoftPositives(
            query=query,
            ids=chosen,
            weight=settings.weight,
            scale=settings.temperature if cosine else 1.0,
            cosine=cosine,
            products=None if cosine else score,
        )
        return Additions(positives=(positives,))


def _newest(batch: Batch) -> Tensor:
    """(B,) the last target of each row; rows lie end to end and none is without a target."""
    assert batch.tokens is not None
    if batch.target_row.shape[0] == batch.tokens.ids.shape[0]:  # every token has one
        return batch.tokens.last
    count = torch.bincount(batch.target_row, minlength=batch.user.shape[0])
    return torch.cumsum(count, 0) - 1
