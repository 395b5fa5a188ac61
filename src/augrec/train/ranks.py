"""The processes that share every batch of a run, and what they tell each other.

All of them hold the same weights and make the same batches and draws; each works on its share of the rows. What is
summed over them is summed in one order, so every process goes on from the same bits.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from augrec.backbones.lookups import sum_touched_rows
from augrec.errors import ProcessError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor


class Ranks:
    """Process number `rank` of `world`, over torch's default process group, which must have been made."""

    def __init__(self) -> None:
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()

    def cuts(self, offsets: Tensor) -> list[int] | None:
        """`world` + 1 row numbers that cut packed rows, `offsets` (B + 1,), into parts of about equal length, one a
        process; None where that would leave a process nothing."""
        total = int(offsets[-1])
        wanted = [total * n // self.world for n in range(1, self.world)]
        inner = torch.searchsorted(offsets, torch.tensor(wanted, dtype=offsets.dtype)).tolist()
        cuts = [0, *inner, offsets.shape[0] - 1]
        places = offsets[cuts]
        return cuts if bool((places.diff() > 0).all()) else None

    def mine(self, cuts: Sequence[int]) -> tuple[int, int]:
        """First row of this process's part, and the row after its last."""
        return cuts[self.rank], cuts[self.rank + 1]

    def sum_(self, tensor: Tensor) -> Tensor:
        """`tensor`, contiguous, summed over the processes in place."""
        with _reached():
            distributed.all_reduce(tensor)
        return tensor

    def sum_touched(self, gradient: Tensor) -> Tensor:
        """A coalesced sparse `gradient` (I, D) summed over the processes, each of which may have touched other rows."""
        counts = [0.0] * self.world
        counts[self.rank] = float(gradient._nnz())
        counts = self.total(counts)
        ids = gradient.indices().new_zeros(self.world, int(max(counts)))
        rows = gradient.values().new_zeros(*ids.shape, gradient.shape[1])
        ids[self.rank, : gradient._nnz()], rows[self.rank, : gradient._nnz()] = gradient.indices()[0], gradient.values()
        with _reached():
            distributed.all_gather(list(ids), ids[self.rank].clone())
            distributed.all_gather(list(rows), rows[self.rank].clone())
        own = torch.arange(ids.shape[1]) < torch.tensor(counts)[:, None]
        return sum_touched_rows(rows[own], ids[own], gradient.shape[0])

    def joined(self, part: Tensor, place: Tensor, total: int) -> Tensor:
        """(total, ...) with rows `place` (n,) of it from this process's `part` (n, ...) and the rest from the others.
        The gradient of every process's loss comes back to the process that made the row."""
        joined: Tensor = _Joined.apply(part, place, total, self)  # type: ignore[no-untyped-call]
        return joined

    def sum_parts(self, flat: Tensor, cuts: Sequence[int]) -> None:
        """Sums `flat` (N,) over the processes, each part of it at its own process; the other parts are undefined
        afterwards."""
        with _reached():
            for rank, (first, last) in enumerate(pairwise(cuts)):
                distributed.reduce(flat[first:last], dst=rank)

    def share_parts(self, flat: Tensor, cuts: Sequence[int]) -> None:
        """Every process takes each part of `flat` (N,) from the process it belongs to."""
        with _reached():
            for rank, (first, last) in enumerate(pairwise(cuts)):
                distributed.broadcast(flat[first:last], src=rank)

    def gather_parts(self, flat: Tensor, cuts: Sequence[int]) -> None:
        """Process 0 takes each part of `flat` (N,) from the process it belongs to."""
        with _reached():
            for rank, (first, last) in list(enumerate(pairwise(cuts)))[1:]:
                if self.rank == rank:
                    distributed.send(flat[first:last], dst=0)
                elif self.rank == 0:
                    distributed.recv(flat[first:last], src=rank)

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums of `values` over the processes, in float64."""
        found: list[float] = self.sum_(torch.tensor(values, dtype=torch.float64)).tolist()
        return found

    def largest(self, value: int | None) -> int | None:
        """The largest value of a process that has one; it is above 0."""
        tensor = torch.tensor(value or 0)
        with _reached():
            distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX)
        return int(tensor) or None

    def send(self, data: bytes | None) -> bytes:
        """What process 0 gives; what the others give is not looked at."""
        data = data if self.rank == 0 else None
        size = torch.tensor(len(data or b""))
        with _reached():
            distributed.broadcast(size, src=0)
            packed = torch.zeros(int(size), dtype=torch.uint8)
            if data:
                packed = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            distributed.broadcast(packed, src=0)
        return packed.numpy().tobytes()

    @torch.no_grad()
    def share(self, state: Mapping[str, Tensor]) -> None:
        """Every process takes the tensors of process 0."""
        with _reached():
            for tensor in state.values():
                distributed.broadcast(tensor.detach(), src=0)

    def wait(self) -> None:
        """Returns when every process has come here."""
        self.largest(None)


@contextmanager
def _reached() -> Iterator[None]:
    """A message that cannot be delivered means that a process is gone."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ProcessError(
            f"another process of this run has ended or cannot be reached ({reason[:160]}); see its own message; the "
            f"last checkpoint is intact, go on with --resume"
        ) from error


class _Joined(torch.autograd.Function):
    """Rows of several processes as one tensor; backward sums its gradient over the processes and takes the own
    rows."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, place: Tensor, total: int, ranks: Ranks) -> Tensor:
        ctx.save_for_backward(place)
        ctx.ranks = ranks
        # Every row is given by one process, and zeros by the others: the sum is that row, to the bit.
        return ranks.sum_(part.new_zeros(total, *part.shape[1:]).index_copy_(0, place, part))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (place,) = ctx.saved_tensors
        whole = ctx.ranks.sum_(grad_outputs[0].clone(memory_format=torch.contiguous_format))
        return whole.index_select(0, place), None, None, None
