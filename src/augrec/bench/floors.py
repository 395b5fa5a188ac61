"""The physical floor of a row: bytes that must move and operations that must be made, against what this machine does.

Counted is what the mathematics asks for with dense Adam (every row of every table has moments that decay in every
step): tables read and written once where they are used, no intermediate results, no random numbers, no loss of order in
memory. Graph models, MF and SASRec with full softmax are counted by formula. Everything else, augmentations above all,
counts Adam's passes over its parameters and the dense products that the program makes (`augrec.bench.products`): a
product that could be saved is not seen there. A program cannot be faster; how close it can come is another question.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_FLOAT = 4
_ADAM = 8
"""Passes over a table: weights, gradient and two moments read; weights, two moments and the gradient written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one unit needs at least."""

    moved: float
    """Bytes."""
    operations: float
    """Floating-point operations."""
    held: float
    """Bytes of the tables in use: decides whether they come from memory or from the cache."""

    def times(self, count: float) -> Cost:
        """Of so many units."""
        return Cost(moved=self.moved * count, operations=self.operations * count, held=self.held)


def cost(what: str, info: Mapping[str, Any]) -> Cost | None:
    """Of a row's unit ("step", "epoch", "evaluate" or "prepare"), by what our arm says of itself; None where it is not
    counted."""
    if what == "evaluate":
        return _evaluation(info)
    if what == "prepare":
        return Cost(moved=0.0, operations=info["products"], held=0.0)
    one = _step(info)
    if one is None or what == "step":
        return one
    return one.times(info["batches"])


def _step(info: Mapping[str, Any]) -> Cost | None:
    plain, augment, parameters = _formula(info), info.get("augment"), info.get("parameters", 0)
    if "products" not in info or (plain is not None and not augment):
        return plain
    made = Cost(moved=float(_ADAM * parameters * _FLOAT), operations=info["products"], held=4.0 * parameters * _FLOAT)
    if plain is None or info["model"] not in ("mf", "lightgcn"):
        return made
    # The formula's sparse products and passes over its tables, and what else is moved and multiplied.
    table = (info["users"] + info["items"]) * info["dim"] * _FLOAT
    return Cost(
        moved=plain.moved + made.moved - _ADAM * table, operations=plain.operations + made.operations,
        held=plain.held + made.held - 4 * table,
    )  # fmt: skip


def _formula(info: Mapping[str, Any]) -> Cost | None:
    model, dim, rows = info["model"], info.get("dim", 0), info["batch_targets"]
    nodes = info["users"] + info["items"]
    table = float(nodes * dim * _FLOAT)
    # User, item and negative of each pair: read, and their gradients written.
    gathered = 2.0 * 3 * rows * dim * _FLOAT
    if model == "mf":
        return Cost(moved=_ADAM * table + gathered, operations=12.0 * rows * dim + 10.0 * nodes * dim, held=4 * table)
    layers, entries = info.get("layers", 0), 2 * info["interactions"]
    # Both ways through every layer: the table read and written, an index and a weight for each entry.
    hops = 2.0 * layers * (2 * table + entries * 2 * _FLOAT)
    products = 2.0 * layers * 2 * entries * dim
    if model == "lightgcn":
        return Cost(moved=hops + _ADAM * table + gathered, operations=products + 10.0 * nodes * dim, held=5 * table)
    if model == "ngcf":
        # Two D x D matrices a layer, forward and two products backward; neighbours' products are one table more.
        dense = layers * 3 * 2 * 2.0 * nodes * dim * dim
        return Cost(
            moved=1.5 * hops + _ADAM * table + (layers + 1) * gathered, operations=products + dense,
            held=(5 + layers) * table,
        )  # fmt: skip
    if model == "sasrec" and info["objective"] == "softmax":
        parameters = float(info["parameters"])
        # Logits, and the gradients of queries and items; twelve D x D of weights a layer, forward and twice backward.
        operations = 6.0 * rows * info["items"] * dim + 6.0 * 12 * dim * dim * layers * rows
        return Cost(moved=_ADAM * parameters * _FLOAT, operations=operations, held=4 * parameters * _FLOAT)
    return None


def _evaluation(info: Mapping[str, Any]) -> Cost:
    """Every user's score for every item; only lists are kept."""
    users, items, width = info["evaluated"], info["items"], info["width"]
    tables = float((users + items) * width * _FLOAT)
    return Cost(moved=tables, operations=2.0 * users * items * width, held=tables)


def seconds(needed: Cost, rates: Mapping[str, float]) -> dict[str, float | str]:
    """The floor in seconds and what sets it, from measured `memory_bandwidth`, `cache_bandwidth` (bytes a second) and
    `gemm_rate` (operations a second)."""
    cached = needed.held <= cache_bytes()
    bandwidth = rates["cache_bandwidth" if cached else "memory_bandwidth"]
    moving, computing = needed.moved / bandwidth, needed.operations / rates["gemm_rate"]
    bound = "operations" if computing > moving else "cache" if cached else "memory"
    return {
        "seconds": max(moving, computing), "bound": bound, "bytes": needed.moved, "operations": needed.operations,
    }  # fmt: skip


def cache_bytes() -> int:
    """Size of the last-level cache, 0 where the system does not tell."""
    path = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return 0
    units = {"K": 2**10, "M": 2**20}
    return int(text[:-1]) * units.get(text[-1], 1) if text[-1] in units else int(text)
