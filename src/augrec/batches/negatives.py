"""Samplers of negative items: uniform outside a user's history without rejection, uniform, and by popularity."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from augrec.errors import UsageError


class Pairs(Protocol):
    """What the sampler reads of an interaction log; `augrec.data.Interactions` has it."""

    @property
    def user(self) -> NDArray[np.int32]: ...
    @property
    def item(self) -> NDArray[np.int32]: ...
    @property
    def n_users(self) -> int: ...
    @property
    def n_items(self) -> int: ...


@runtime_checkable
class Sampler(Protocol):
    """Draws negatives for rows of users."""

    n_items: int

    def sample(self, user: Tensor, k: int, *, generator: torch.Generator | None = None) -> Tensor:
        """(M,) int64 user ids -> (M, k) int64 item ids, independent draws with replacement."""
        ...


@runtime_checkable
class SharedSampler(Sampler, Protocol):
    """Draws from one distribution over the catalogue, so that a batch can share its sample (sampled softmax)."""

    def shared(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """(count,) int64 item ids, independent draws with replacement."""
        ...

    def log_q(self, items: Tensor) -> Tensor:
        """Log-probability of each item in one draw, float32, same shape as `items`."""
        ...


class NegativeSampler:
    """Uniform over the items a user has not in train, exact and without rejection, for whole batches at once.

    A user's unique train items in ascending order are i_0 < i_1 < ...; then i_k - k counts the free items below i_k and
    never falls. For r uniform over the free items' ranks, the answer is r + #{k : i_k - k <= r}. One sorted array of
    user * (I + 1) + i_k - k serves all users, whole batches at once. Ranks come from 53-bit uniform numbers: item
    probabilities are equal to within I * 2^-53.

    Args:
        train: the pairs to avoid; repeated pairs count once. Where it names `candidates`, only these are drawn. Memory:
            8 bytes for each pair, about five times that while it is built.
        allow_full: let users who have every item draw from the whole catalogue instead of being refused.

    Raises:
        UsageError: an empty catalogue, or users who have every item while allow_full is False.
    """

    def __init__(self, train: Pairs, *, allow_full: bool = False) -> None:
        self.n_users = int(train.n_users)
        self.n_items = _check_catalogue(train.n_items)
        user: NDArray[Any] = np.asarray(train.user)
        item: NDArray[Any] = np.asarray(train.item)
        # Candidates are numbered among themselves, and drawn numbers looked up again.
        self._ids: Tensor | None = None
        candidates: NDArray[np.bool_] | None = getattr(train, "candidates", None)
        if candidates is not None:
            chosen, place, inside = np.flatnonzero(candidates), np.cumsum(candidates) - 1, candidates[item]
            user, item = user[inside], place[item[inside]]
            self._ids, self.n_items = torch.from_numpy(chosen.astype(np.int64)), _check_catalogue(len(chosen))
        keys = user.astype(np.int64)
        keys *= self.n_items
        keys += item
        keys.sort()
        if keys.size:
            keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
        user = keys // self.n_items
        degree = np.bincount(user, minlength=self.n_users)
        full = degree == self.n_items
        if full.any():
            if not allow_full:
                raise UsageError(
                    f"{int(full.sum())} of {self.n_users} users have all {self.n_items} items in train (first: "
                    f"internal user {int(full.argmax())}), so they have no negatives. Drop them from train, or pass "
                    "allow_full=True to draw from the whole catalogue for them."
                )
            keep = ~full[user]
            keys, user = keys[keep], user[keep]
            degree[full] = 0
        start = np.concatenate([[0], np.cumsum(degree)])[:-1]
        # user * I + i  ->  user * (I + 1) + i - k, where k is the item's rank in its user's list.
        keys += user
        keys -= np.arange(keys.size)
        keys += start[user]
        # The bisection looks at windows of up to so many keys; the tail keeps the last user's inside the array.
        tail = np.full(2 ** int(degree.max(initial=0)).bit_length(), np.iinfo(np.int64).max)
        self._keys = torch.from_numpy(np.concatenate([keys, tail]))
        self._start = torch.from_numpy(start)
        self._free = torch.from_numpy((self.n_items - degree).astype(np.float64))

    def sample(self, user: Tensor, k: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw k negatives for each row.

        Args:
            user: (M,) int64 user ids, repeats allowed.
            k: draws for each row, >= 0; independent, with replacement.
            generator: source of randomness; torch's default one when None.

        Returns:
            (M, k) int64 item ids.

        Raises:
            UsageError: user ids outside 0..U-1 or not a vector, or k < 0.
        """
        _check_request(user, k)
        if user.numel() and (int(user.min()) < 0 or int(user.max()) >= self.n_users):
            raise UsageError(f"user ids {int(user.min())}..{int(user.max())} go outside 0..{self.n_users - 1}.")
        free = self._free[user][:, None]
        rank = torch.rand(len(user), k, dtype=torch.float64, generator=generator).mul_(free)
        # A product may round up to `free` itself.
        drawn = rank.clamp_max_(free - 0.5).to(torch.int64)
        wanted = (drawn + (user * (self.n_items + 1))[:, None]).view(-1)
        start = self._start[user][:, None].expand_as(drawn).reshape(-1)
        # Bisection of all rows together, within each user's own keys: later users' keys are larger than any rank here,
        # so no end is checked. Several times faster than torch.searchsorted, which goes row by row.
        longest = self.n_items - int(free.min()) if len(user) else 0
        end = start.clone()
        for bit in reversed(range(longest.bit_length())):
            probe = self._keys.index_select(0, end + (2**bit - 1))
            end.add_(probe.le_(wanted), alpha=2**bit)
        drawn = drawn.add_(end.sub_(start).view_as(drawn))
        return drawn if self._ids is None else self._ids[drawn]

    @property
    def free(self) -> Tensor:
        """(U,) float64: how many items each user can draw from."""
        return self._free


class UniformSampler:
    """Uniform over the whole catalogue; a user's own items may come up.

    Args:
        n_items: size I of the catalogue.

    Raises:
        UsageError: n_items < 1.
    """

    def __init__(self, n_items: int) -> None:
        self.n_items = _check_catalogue(n_items)

    def sample(self, user: Tensor, k: int, *, generator: torch.Generator | None = None) -> Tensor:
        """(M,) user ids -> (M, k) int64 item ids. Raises UsageError when k < 0."""
        _check_request(user, k)
        return torch.randint(self.n_items, (len(user), k), generator=generator)

    def shared(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """(count,) int64 item ids for a whole batch."""
        return torch.randint(self.n_items, (count,), generator=generator)

    def log_q(self, items: Tensor) -> Tensor:
        """-log I for every item, float32, same shape as `items`."""
        return torch.full(items.shape, -math.log(self.n_items))


class PopularitySampler:
    """Items with probability proportional to count^alpha, the unigram law of Mikolov et al. 2013 at alpha = 0.75.

    Args:
        counts: (I,) how often each item occurs in train, >= 0. An item of count 0 is never drawn unless alpha is 0, and
            its log q is -inf.
        alpha: exponent >= 0; 0 is uniform, 1 is popularity itself.

    Raises:
        UsageError: negative or non-finite counts, none above 0, or a negative alpha.
    """

    def __init__(self, counts: ArrayLike, alpha: float = 0.75) -> None:
        weight = np.asarray(counts, dtype=np.float64)
        if weight.ndim != 1 or not np.isfinite(weight).all() or (weight < 0).any() or not (weight > 0).any():
            raise UsageError("PopularitySampler needs one finite count >= 0 for each item, and one count above 0.")
        if not 0 <= alpha < math.inf:
            raise UsageError(f"PopularitySampler needs alpha >= 0, got {alpha}.")
        self.n_items = weight.size
        # Divided by the largest first, so that a large alpha cannot overflow.
        weight = (weight / weight.max()) ** alpha
        cumulative = np.cumsum(weight)
        self._cumulative = torch.from_numpy(cumulative)
        self._last = int(np.flatnonzero(weight)[-1])
        with np.errstate(divide="ignore"):
            self._log_q = torch.from_numpy((np.log(weight) - np.log(cumulative[-1])).astype(np.float32))

    def sample(self, user: Tensor, k: int, *, generator: torch.Generator | None = None) -> Tensor:
        """(M,) user ids -> (M, k) int64 item ids. Raises UsageError when k < 0."""
        _check_request(user, k)
        return self.shared(len(user) * k, generator=generator).view(len(user), k)

    def shared(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """(count,) int64 item ids for a whole batch."""
        point = torch.rand(count, dtype=torch.float64, generator=generator).mul_(self._cumulative[-1])
        return torch.searchsorted(self._cumulative, point, right=True).clamp_max_(self._last)

    def log_q(self, items: Tensor) -> Tensor:
        """Log-probability of each item in one draw, float32, same shape as `items`."""
        return self._log_q[items]


def _check_catalogue(n_items: int) -> int:
    if n_items < 1:
        raise UsageError("There are no items to sample negatives from: the catalogue is empty.")
    return int(n_items)


def _check_request(user: Tensor, k: int) -> None:
    if user.dim() != 1 or user.dtype != torch.int64:
        raise UsageError(f"user must be an int64 vector (M,), got {user.dtype} of shape {tuple(user.shape)}.")
    if k < 0:
        raise UsageError(f"The number of negatives k must be >= 0, got {k}.")
