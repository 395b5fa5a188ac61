"""Top-k lists from a bundle, in original ids."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
import torch

from augrec.data.interactions import Interactions, Vocabulary
from augrec.errors import DataError, UsageError
from augrec.evaluate.ranking import rank
from augrec.serve.bundle import Bundle, load_bundle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Unknown = Literal["fail", "skip", "popular"]


class Recommender:
    """Recommends from a bundle. Seen items are left out unless asked for."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        counts = torch.from_numpy(np.bincount(bundle.history.item, minlength=bundle.scorer.n_items)).float()
        self._popular = counts

    @staticmethod
    def load(folder: str | Path) -> Recommender:
        """From a bundle folder; see `load_bundle` for what is refused."""
        return Recommender(load_bundle(Path(folder)))

    def recommend(
        self,
        users: Sequence[object] | pl.Series | None = None,
        *,
        k: int = 20,
        seen: bool = False,
        allow: Sequence[object] | pl.Series | None = None,
        deny: Sequence[object] | pl.Series | None = None,
        unknown: Unknown = "fail",
    ) -> pl.DataFrame:
        """One row a recommendation: user, item (original ids), rank (from 1), score; all users where `users` is None.

        `unknown` users are refused, skipped, or given the most popular items. Raises `UsageError` (k < 1, no item
        allowed) and
        `DataError` (unknown ids under "fail").
        """
        known = self.bundle.history.users
        if users is None:
            return self._rank(self.bundle.history, np.arange(len(known)), known.ids, k, seen, allow, deny)
        asked = pl.Series("user", users) if not isinstance(users, pl.Series) else users.rename("user")
        index = known.index_of(asked)
        missing = index < 0
        if missing.any() and unknown == "fail":
            first = asked.filter(pl.Series(missing))[0]
            raise DataError(
                f"{int(missing.sum())} of {len(asked)} users are not in the model (first: {first!r}); "
                f"leave them out, or choose what they get with --unknown skip or --unknown popular"
            )
        lists = self._rank(
            self.bundle.history, index[~missing], asked.filter(pl.Series(~missing)), k, seen, allow, deny
        )
        if missing.any() and unknown == "popular":
            lists = pl.concat(
                [lists, self._popular_lists(asked.filter(pl.Series(missing)), k, allow, deny).cast(lists.schema)]
            )
        return lists

    def recommend_histories(
        self,
        histories: Interactions,
        *,
        k: int = 20,
        seen: bool = False,
        allow: Sequence[object] | pl.Series | None = None,
        deny: Sequence[object] | pl.Series | None = None,
    ) -> pl.DataFrame:
        """As `recommend`, for users known only by the histories given (their items must be in the catalogue).

        Raises `UsageError` on a factorisation model, which has no vector for such users, and `DataError` for unknown
        items.
        """
        if not self.bundle.reads_history:
            raise UsageError(
                f"{self.bundle.model} has vectors for the users it was trained on and cannot read new histories; "
                f"use a sequence or neighbourhood model (sasrec, bert4rec, gru4rec, itemknn, ease), or train again "
                f"with these events"
            )
        items = self.bundle.history.items
        mapped = items.index_of(histories.items.ids)
        if (mapped < 0).any():
            first = histories.items.ids.filter(pl.Series(mapped < 0))[0]
            raise DataError(
                f"{histories.name}: {int((mapped < 0).sum())} items are not in the model's catalogue (first: "
                f"{first!r}); remove these events"
            )
        known = Interactions(
            users=histories.users, items=items, user=histories.user, item=mapped[histories.item].astype(np.int32),
            offsets=histories.offsets, timestamp=histories.timestamp, candidates=self.bundle.history.candidates,
            name=histories.name, sha256="",
        )  # fmt: skip
        return self._rank(known, np.arange(histories.n_users), histories.users.ids, k, seen, allow, deny)

    def _rank(
        self,
        history: Interactions,
        index: np.ndarray,
        names: pl.Series,
        k: int,
        seen: bool,
        allow: Sequence[object] | pl.Series | None,
        deny: Sequence[object] | pl.Series | None,
    ) -> pl.DataFrame:
        if k < 1:
            raise UsageError(f"k must be at least 1 (got {k})")
        allowed, denied = self._flags(allow, "allow"), self._flags(deny, "deny")
        top = rank(
            self.bundle.scorer,
            index,
            history,
            k=min(k, self.bundle.scorer.n_items),
            mask_seen=not seen,
            allow=allowed,
            deny=denied,
        )
        return _frame(names, top.items, top.scores, self.bundle.history.items)

    def _flags(self, ids: Sequence[object] | pl.Series | None, option: str) -> Tensor | None:
        candidates = self.bundle.history.candidates
        if ids is None:
            # A model of one domain of a mixed log recommends from that domain alone.
            kept = option == "allow" and candidates is not None
            return torch.from_numpy(candidates.copy()) if kept and candidates is not None else None
        index = self.bundle.history.items.index_of(ids)
        if (index < 0).all():
            raise DataError(f"--{option}: none of the {len(index)} items is in the model's catalogue")
        flags = torch.zeros(self.bundle.scorer.n_items, dtype=torch.bool)
        flags[torch.from_numpy(index[index >= 0])] = True
        if option == "allow" and candidates is not None:
            flags &= torch.from_numpy(candidates.copy())
            if not bool(flags.any()):
                raise DataError(f"--allow: none of the {len(index)} items is in the model's target domain")
        return flags

    def _popular_lists(
        self,
        names: pl.Series,
        k: int,
        allow: Sequence[object] | pl.Series | None,
        deny: Sequence[object] | pl.Series | None,
    ) -> pl.DataFrame:
        allowed, denied = self._flags(allow, "allow"), self._flags(deny, "deny")
        score = self._popular.clone()
        if allowed is not None:
            score[~allowed] = -torch.inf
        if denied is not None:
            score[denied] = -torch.inf
        order = torch.sort(score, descending=True, stable=True)
        item, value = order.indices[:k].numpy(), order.values[:k].numpy()
        item = np.where(np.isneginf(value), -1, item)
        rows = len(names)
        return _frame(names, np.tile(item, (rows, 1)), np.tile(value, (rows, 1)), self.bundle.history.items)


def _frame(names: pl.Series, items: np.ndarray, scores: np.ndarray, vocabulary: Vocabulary) -> pl.DataFrame:
    rows, k = items.shape
    place = np.tile(np.arange(1, k + 1, dtype=np.int32), rows)
    flat = items.reshape(-1)
    keep = flat >= 0
    return pl.DataFrame(
        {
            "user": names.gather(np.repeat(np.arange(rows), k)[keep]),
            "item": vocabulary.take(flat[keep]),
            "rank": place[keep],
            "score": np.asarray(scores, dtype=np.float32).reshape(-1)[keep],
        }
    )
