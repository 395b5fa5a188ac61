"""What ADAR adds to a training step, early and once scores have grown, beside the same chain run naively.

    python benchmarks/adar_step.py [--model lightgcn] [--threads 1 2] [--epochs 0 15] [--preset paper]

After each number of epochs of training with ADAR on Beauty, whole steps on the same 2,048 pairs and from the same
weights are timed in turns of a few steps (A B C A B C ...): plain, with ADAR, and with ADAR whose chain runs all T
steps of Algorithm 1. Medians; `foreign` is the processor time other programs took, in cores: trust no row where it is
not near 0.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from augrec.experiment.build import Parts, build, make_fabric, read_split
from augrec.experiment.config import resolve
from augrec.train.loop import Loop
from augrec.train.memory import keep_freed_memory

HERE = Path(__file__).resolve().parent
WARM = 4
"""Steps of each turn that are not counted: three models do not fit into the cache together."""


def busy() -> float:
    """Busy processor seconds of the whole machine since it started."""
    fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def made(model: str, augment: list[str], preset: str) -> tuple[Parts, Loop]:
    """Parts and the loop that trains them."""
    run = resolve(data="beauty", model=model, augment=augment, preset=preset, objective="bpr", split="ratio")
    parts = build(run, read_split(run).train, seed=0)
    loop = Loop(
        fabric=make_fabric("cpu"), step=parts.step, batches=parts.batches, groups=parts.groups,
        config=run.part("train"), select="loss",
    )  # fmt: skip
    return parts, loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lightgcn", choices=["mf", "lightgcn"])
    parser.add_argument("--preset", default="paper", choices=["default", "paper", "robust"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--epochs", type=int, nargs="+", default=[0, 15])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=HERE.parent / "results/benchmarks/adar_step.jsonl")
    chosen = parser.parse_args()
    keep_freed_memory()

    plain, trained = made(chosen.model, [], "default"), made(chosen.model, ["adar"], chosen.preset)
    naive = made(chosen.model, ["adar"], chosen.preset)
    generator: Any = naive[0].step.plugins[0].adar.generator
    generator.generate = partial(generator.generate, method="naive")
    done = 0
    for epochs in sorted(chosen.epochs):
        torch.set_num_threads(os.cpu_count() or 1)
        while done < epochs:
            for batch in trained[0].batches.epoch():
                trained[1]._train_batch(batch)
            done += 1
        trained[0].step.plugins[0].epoch_log()
        state = {name: value.clone() for name, value in trained[0].step.state_dict().items()}
        batches = [batch for batch, _ in zip(trained[0].batches.epoch(), range(WARM + 8), strict=False)]
        for threads in chosen.threads:
            torch.set_num_threads(threads)
            for parts, _ in (plain, naive):
                own = parts.step.state_dict()
                parts.step.load_state_dict({name: state[name] for name in own})
            seconds: dict[str, list[float]] = {"plain": [], "adar": [], "naive": []}
            before, spent, begun = busy(), time.process_time(), time.perf_counter()
            for _ in range(chosen.rounds):
                for name, (_, loop) in (("plain", plain), ("adar", trained), ("naive", naive)):
                    for number, batch in enumerate(batches):
                        start = time.perf_counter()
                        loop._train_batch(batch)
                        if number >= WARM:
                            seconds[name].append(time.perf_counter() - start)
            wall = time.perf_counter() - begun
            foreign = (busy() - before - (time.process_time() - spent)) / wall
            log = trained[0].step.plugins[0].epoch_log()
            median = {name: statistics.median(values) * 1e3 for name, values in seconds.items()}
            row = {
                "model": chosen.model, "preset": chosen.preset, "threads": threads, "epochs": epochs,
                "milliseconds": {name: round(value, 2) for name, value in median.items()},
                "added": round(median["adar"] - median["plain"], 2),
                "added_naive": round(median["naive"] - median["plain"], 2),
                "ratio": round(median["adar"] / median["plain"], 2),
                "ratio_naive": round(median["naive"] / median["plain"], 2),
                "t_star_mean": log["t_star_mean"], "saturated": log["saturated"], "foreign": round(max(foreign, 0), 2),
            }  # fmt: skip
            trained[0].step.load_state_dict(state)
            print(json.dumps(row), flush=True)
            chosen.out.parent.mkdir(parents=True, exist_ok=True)
            with chosen.out.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
