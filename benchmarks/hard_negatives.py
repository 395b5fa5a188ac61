"""What hard negatives cost: a LightGCN step of 2,048 pairs on Beauty, plain and with each method, side by side.

    python benchmarks/hard_negatives.py [--threads 2] [--rounds 15] [--out results/benchmarks/hard_negatives.jsonl]

A step is encoding, ranking loss, backward and Adam, on the train part of the ratio split. Every round runs one step of
each arm in turn, so that a change of the machine's load meets all of them; an arm's cost is the median over rounds of
its step less the plain step of the same round. `mixgcf-naive` mixes every candidate in every hop with gradient before
it chooses, as the published code does, with our sampler and our propagation. Freed memory is kept, as the command line
does. One JSON line an arm. Processor time is given beside the clock: on a busy machine it is the steadier of the two.
Foreign load is the number of processors that others kept busy; trust nothing where it is not near 0.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from augrec.augment.candidates import Hops
from augrec.augment.mixgcf import MixGCF
from augrec.experiment.build import build, read_split
from augrec.experiment.config import resolve
from augrec.seams import Additions, Negatives
from augrec.train.memory import keep_freed_memory

ARMS = {"plain": None, "dns": "dns", "ahns": "ahns", "mixgcf": "mixgcf", "dins": "dins", "mixgcf-naive": "mixgcf"}


class Naive(MixGCF):
    """Every candidate mixed in every hop, the hardest mixtures kept."""

    def targets(self, batch: Any, encoded: Any) -> Additions:
        hops, candidates = Hops.of(encoded.tables), self.draw(batch, encoded)
        rows = torch.stack(
            [torch.nn.functional.embedding(candidates[:, 0] + hops.shift, table) for table in hops.tables], 2
        )
        positive = torch.stack(
            [torch.nn.functional.embedding(batch.target + hops.shift, table) for table in hops.tables], 1
        )[:, None]
        share = torch.rand(len(rows), 1, rows.shape[2], 1)
        mixed = share * positive + (1 - share) * rows
        scores = (encoded.query[:, None, None] * mixed).sum(-1)
        chosen = mixed.gather(1, scores.argmax(1)[:, None, :, None].expand(-1, 1, -1, mixed.shape[3]))[:, 0]
        return Additions(replaced=Negatives(vectors=chosen.mean(1)[:, None], layer0=chosen[:, :1]))


class Arm:
    """One arm and its place in its own epoch."""

    def __init__(self, name: str, split: Any, model: str, candidates: int) -> None:
        method = ARMS[name]
        overrides = {method: {"candidates": candidates}} if method else {}
        run = resolve(model=model, augment=[method] if method else [], overrides=overrides)
        self.parts = build(run, split.train, seed=0)
        self.step = self.parts.step.train()
        if name == "mixgcf-naive":
            self.step.plugins[0].__class__ = Naive
        self.optimiser = torch.optim.Adam(self.step.parameters(), lr=1e-3, fused=True)
        self.batches = iter(())

    def run(self) -> tuple[float, float]:
        """Seconds of one step, on the clock and of processor time."""
        batch = next(self.batches, None)
        if batch is None or len(batch.target) < 2048:
            self.batches = self.parts.batches.epoch()
            batch = next(self.batches)
        begun, spent = time.perf_counter(), time.process_time()
        terms = self.step(self.step.begin(batch), 0)
        torch.stack(list(terms.values())).sum().backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step.moved("main")
        return time.perf_counter() - begun, time.process_time() - spent


def busy() -> float:
    """Busy processor seconds of the whole machine since it started."""
    fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / 100


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles in milliseconds."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {key: round(1e3 * value, 2) for key, value in (("median", middle), ("q1", low), ("q3", high))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--candidates", type=int, default=32)
    parser.add_argument("--model", default="lightgcn", choices=["mf", "lightgcn"])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--out", type=Path, help="a file to add the lines to")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    keep_freed_memory()
    split = read_split(resolve(model=chosen.model))
    names = ["plain", *(name for name in chosen.arms if name != "plain")]
    arms = {name: Arm(name, split, chosen.model, chosen.candidates) for name in names}
    for arm in arms.values():
        for _ in range(3):
            arm.run()
    before, spent, wall = busy(), time.process_time(), time.perf_counter()
    rounds = [{name: arm.run() for name, arm in arms.items()} for _ in range(chosen.rounds)]
    foreign = (busy() - before - (time.process_time() - spent)) / (time.perf_counter() - wall)
    for name in names:
        row: dict[str, Any] = {"arm": name, "model": chosen.model, "candidates": chosen.candidates}
        row |= {"threads": chosen.threads, "rounds": chosen.rounds, "step_ms": spread([one[name][0] for one in rounds])}
        row["cpu_ms"] = spread([one[name][1] for one in rounds])
        if name != "plain":
            row["added_ms"] = spread([one[name][0] - one["plain"][0] for one in rounds])
            row["added_cpu_ms"] = spread([one[name][1] - one["plain"][1] for one in rounds])
            row["ratio"] = round(statistics.median(one[name][0] / one["plain"][0] for one in rounds), 3)
        row["foreign_cores"] = round(max(foreign, 0.0), 2)
        print(json.dumps(row), flush=True)
        if chosen.out is not None:
            chosen.out.parent.mkdir(parents=True, exist_ok=True)
            with chosen.out.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
