"""The k best items of many users, exactly, in blocks of users that fit a memory budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from augrec.backbones.base import QueryScorer
from augrec.errors import NumericalError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from augrec.backbones.base import Scorer
    from augrec.data.interactions import Interactions

# Scores (4 bytes a cell), one temporary of the scorer, one masked copy, and one for topk and tie repair.
_BYTES_PER_CELL = 16
# On a CPU larger blocks only cost page faults: 4 M cells (16 MB) measured fastest from 64 to 1,024 users of Beauty.
_CPU_CELLS = 1 << 22
# Columns whose largest score is looked at first: 64 was the fastest of 16 to 256, for 12,101 columns and for a million.
_BLOCK = 64
# Users who are encoded together: sorted by length, histories of so many have little padding.
_AHEAD = 1 << 12


@dataclass(frozen=True, kw_only=True, eq=False)
class TopK:
    """Best items first. `users` int64 (n,), `items` int64 (n, k), `scores` float32 (n, k).

    Ties stand in order of item id. Places without an item (fewer than k are allowed) hold item -1 and score -inf.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    scores: NDArray[np.float32]

    @property
    def k(self) -> int:
        """Length of the lists."""
        return int(self.items.shape[1])


def csr_rows(offsets: NDArray[np.int64], users: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the CSR entries of `users`, user after user, and the place in `users` of each; both (nnz,)."""
    start = offsets[users]
    length = offsets[users + 1] - start
    row = np.repeat(np.arange(len(users), dtype=np.int64), length)
    first = np.cumsum(length) - length
    return np.arange(len(row), dtype=np.int64) + (start - first)[row], row


def check_users(users: NDArray[np.int64], n_users: int) -> NDArray[np.int64]:
    """`users` as int64 (n,); UsageError when it has another shape or names a user outside 0..n_users-1."""
    users = np.asarray(users)
    if users.ndim != 1 or (len(users) and users.dtype.kind not in "iu"):
        raise UsageError(
            f"users must be a one-dimensional array of internal user ids, but has shape {users.shape} and type "
            f"{users.dtype}."
        )
    users = users.astype(np.int64)
    if len(users) and (users.min() < 0 or users.max() >= n_users):
        bad = users[(users < 0) | (users >= n_users)][0]
        raise UsageError(
            f"User {bad} is not in the data: internal user ids run from 0 to {n_users - 1}. "
            "Map external ids with Vocabulary.index_of and leave out -1."
        )
    return users


def score_blocks(
    scorer: Scorer,
    users: NDArray[np.int64],
    history: Interactions,
    *,
    memory_budget_mb: int = 1024,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[slice, Tensor]]:
    """Scores of all items for blocks of users: pairs (slice of `users`, (B, I) float32), without gradient.

    The block is as many users as fit `memory_budget_mb` MiB at 16 bytes per score, and on a CPU no more than a
    cache-friendly 16 MB of scores. The caller may read a block, and must put back what it writes: a scorer may own
    the memory it returns. Raises NumericalError, naming the user and the item, for a score that is NaN or infinite.
    """
    if memory_budget_mb < 1:
        raise UsageError(f"memory_budget_mb must be at least 1 (MiB), but is {memory_budget_mb}.")
    n_items = scorer.n_items
    if n_items != history.n_items:
        raise UsageError(
            f"The scorer knows {n_items} items but the history declares {history.n_items}: both must come from one "
            "data set."
        )
    cells = memory_budget_mb * (1 << 20) // _BYTES_PER_CELL
    if torch.device(device).type == "cpu":
        cells = min(cells, max(_CPU_CELLS, 64 * n_items))
    block = max(1, cells // max(n_items, 1))
    for where, scores in _scored(scorer, users, history, block, max(_AHEAD // block, 1) * block, device):
        with torch.no_grad():
            scores = scores.detach().to(torch.float32).contiguous()
            if scores.is_inference():  # may not be written to outside inference mode
                scores = scores.clone()
        if scores.shape != (where.stop - where.start, n_items):
            raise UsageError(
                f"The scorer returned scores of shape {tuple(scores.shape)} for {where.stop - where.start} users; "
                f"it must return one row per user and one column per item: ({where.stop - where.start}, {n_items})."
            )
        _check_finite(scores, users[where])
        yield where, scores


def _scored(
    scorer: Scorer, users: NDArray[np.int64], history: Interactions, block: int, ahead: int, device: torch.device | str
) -> Iterator[tuple[slice, Tensor]]:
    """Scores for `block` users at a time, `ahead` of whom are encoded together where the scorer has queries."""
    encoder = scorer if isinstance(scorer, QueryScorer) else None
    queries = torch.empty(0)
    for start in range(0, len(users), block):
        where = slice(start, min(start + block, len(users)))
        place = start % ahead
        with torch.no_grad():
            if encoder is None:
                scores = scorer.score(torch.from_numpy(users[where]).to(device), history)
            else:
                if not place:
                    queries = encoder.queries(torch.from_numpy(users[start : start + ahead]).to(device), history)
                scores = encoder.score_queries(queries[place : place + block])
        yield where, scores


def rank(
    scorer: Scorer,
    users: NDArray[np.int64],
    history: Interactions,
    *,
    k: int,
    mask_seen: bool,
    memory_budget_mb: int = 1024,
    allow: Tensor | None = None,
    deny: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> TopK:
    """The `k` best items of each of `users` (n,) over the whole catalogue: higher score first, then lowest item id.

    With `mask_seen` the items in a user's row of `history` are left out. `allow` and `deny` are bool (I,): only items
    with `allow` true and `deny` false are ranked. `torch.topk` does not say which of several tied items it returns,
    so rows where a tie crosses place k are repaired from the scores, and ties inside a list are sorted by id: the
    result is a function of the scores alone, whatever the block size. Memory beyond the scorer and the result stays
    near `memory_budget_mb` MiB (at least one user's scores). Raises UsageError for arguments that do not fit and
    NumericalError for scores that are not finite.
    """
    if k < 1:
        raise UsageError(f"k must be at least 1, but is {k}.")
    users = check_users(users, history.n_users)
    n_items = scorer.n_items
    allowed = _allowed(allow, deny, n_items)
    items = np.full((len(users), k), -1, dtype=np.int64)
    values = np.full((len(users), k), -np.inf, dtype=np.float32)
    for where, scores in score_blocks(scorer, users, history, memory_budget_mb=memory_budget_mb, device=device):
        if allowed is not None:
            scores = scores.masked_fill(~allowed.to(scores.device), -torch.inf)
        if mask_seen:
            entry, row = csr_rows(history.offsets, users[where])
            cell = torch.from_numpy(row * n_items + history.item[entry]).to(scores.device)
            flat = scores.view(-1)
            kept = flat[cell]
            flat[cell] = -torch.inf
            try:
                value, item = top_k(scores, k)
            finally:
                flat[cell] = kept
        else:
            value, item = top_k(scores, k)
        width = value.shape[1]
        values[where, :width] = value.cpu().numpy()
        items[where, :width] = item.cpu().numpy()
    items[np.isneginf(values)] = -1
    return TopK(users=users, items=items, scores=values)


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and columns, both (B, min(k, I)), of the largest `scores` (B, I), largest first, ties by lowest column.

    Scores may be -inf (left out) but not NaN; the order among -inf is unspecified.
    """
    n_items = scores.shape[1]
    k = min(k, n_items)
    value, item = _largest(scores, min(k + 1, n_items))
    if n_items > k:
        # One place more than asked for shows whether a tie crosses the end of the list.
        crossing = (value[:, k] == value[:, k - 1]) & ~torch.isneginf(value[:, k])
        value, item = value[:, :k].contiguous(), item[:, :k].contiguous()
        rows = crossing.nonzero().squeeze(1)
        if len(rows):
            item[rows] = _repair(scores, rows, value[rows], item[rows])
    tied = (value[:, 1:] == value[:, :-1]).any(dim=1).nonzero().squeeze(1)
    if len(tied):
        # Two sorts, the second key first: by id, then stably by falling value.
        by_id, order = item[tied].sort(dim=1)
        sorted_value, order2 = value[tied].gather(1, order).sort(dim=1, descending=True, stable=True)
        value[tied], item[tied] = sorted_value, by_id.gather(1, order2)
    return value, item


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`scores.topk(k)` of every row, up to the choice among ties; in wide rows on a CPU two to five times faster.

    The k largest scores of a row stand in those k of its blocks whose maxima are largest: a block left out has nothing
    above any of these k maxima. Only their columns, and those after the last whole block, are sorted.
    """
    blocks = scores.shape[1] // _BLOCK
    if scores.device.type != "cpu" or blocks < 8 * k:
        return scores.topk(k, dim=1)
    whole = blocks * _BLOCK
    grid = scores[:, :whole].unflatten(1, (blocks, _BLOCK))
    best = grid.amax(2).topk(k, dim=1, sorted=False).indices
    left = grid[torch.arange(len(scores))[:, None], best].flatten(1)
    value, place = torch.cat([left, scores[:, whole:]], 1).topk(k, dim=1)
    column = best.gather(1, (place // _BLOCK).clamp_max(k - 1)) * _BLOCK + place % _BLOCK
    return value, torch.where(place < k * _BLOCK, column, place + (whole - k * _BLOCK))


def _repair(scores: Tensor, rows: Tensor, value: Tensor, item: Tensor) -> Tensor:
    """Items (R, k) of `rows`, those tied with the last place replaced by the lowest ids that hold that value.

    Columns are read in windows of doubling width and rows leave as soon as they are complete, so that heavy ties
    (most scores equal, as in neighbourhood models) end after the first window.
    """
    k, n_items = value.shape[1], scores.shape[1]
    last = value[:, -1]
    place = (value > last[:, None]).sum(dim=1)  # values fall, so this is also where the tied places begin
    item = item.clone()
    pending = torch.arange(len(rows), device=rows.device)
    start, width = 0, max(4 * k, 256)
    while len(pending):
        window = scores[rows[pending], start : start + width]
        hit_row, hit_column = (window == last[pending, None]).nonzero(as_tuple=True)
        count = torch.bincount(hit_row, minlength=len(pending))
        nth = torch.arange(len(hit_row), device=rows.device) - (count.cumsum(0) - count)[hit_row]
        target = place[pending][hit_row] + nth
        fits = target < k
        item[pending[hit_row[fits]], target[fits]] = hit_column[fits] + start
        place[pending] += count
        pending = pending[place[pending] < k]
        start, width = start + width, 2 * width
        if start >= n_items:
            break
    return item


def _allowed(allow: Tensor | None, deny: Tensor | None, n_items: int) -> Tensor | None:
    for name, mask in (("allow", allow), ("deny", deny)):
        if mask is not None and (mask.dtype != torch.bool or mask.shape != (n_items,)):
            raise UsageError(
                f"{name} must be a bool tensor with one entry per item, ({n_items},), but is {mask.dtype} "
                f"{tuple(mask.shape)}."
            )
    if deny is None:
        return allow
    return ~deny if allow is None else allow & ~deny.to(allow.device)


def _check_finite(scores: Tensor, users: NDArray[np.int64]) -> None:
    # One pass: a sum of finite scores is finite unless it overflows, and only then every cell is looked at.
    if bool(torch.isfinite(scores.sum(dim=1)).all()):
        return
    bad = (~torch.isfinite(scores)).nonzero()
    if len(bad):
        row, column = (int(x) for x in bad[0])
        raise NumericalError(
            f"The score of item {column} for user {int(users[row])} (internal ids) is {float(scores[row, column])}; "
            "scores must be finite. The model has diverged or holds damaged weights: train it again with a lower "
            "learning rate, or load an earlier checkpoint."
        )
