"""Time and memory of a training step with view augmentations, as ratios to the plain SASRec-softmax step.

    python benchmarks/sequence_views.py [--data beauty] [--steps 20] [--rounds 3] [--threads 1] [ARM ...]

An arm is an augmentation's name, with settings behind it: `simdiffrec:anchor=random,pick_time=full`. Arms take turns
(A B A B), so that a machine that slows down slows all of them; the figures are medians over rounds. Time is the CPU
time of the process, which on one thread is that of the clock on a quiet machine. `--peak` runs one arm alone and prints
the peak resident memory of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

from augrec.experiment.build import build, read_split
from augrec.experiment.config import parse_overrides, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from augrec.batches.batch import Batch


def settings(text: str) -> tuple[str | None, dict[str, dict[str, Any]]]:
    """Name of an arm and the fields it sets; "plain" is none."""
    name, _, fields = text.partition(":")
    return (None if name == "plain" else name), parse_overrides(
        [f"{name}.{field}" for field in fields.split(",") if field]
    )


class Arm:
    """One arm's step with Adam, over the same batches as every other."""

    def __init__(self, text: str, data: str, objective: str) -> None:
        name, fields = settings(text)
        run = resolve(
            data=data,
            model="sasrec",
            objective=objective,
            augment=[name] if name else [],
            overrides=fields,
        )
        parts = build(run, read_split(run).train, seed=0)
        self.text, self.step, self.batches = text, parts.step, parts.batches
        self.parameters = list(parts.groups["main"].parameters)
        self.adam = torch.optim.Adam(self.parameters, lr=1e-3, fused=True)
        self.source: Iterator[Batch] = iter(())
        self.step.train()

    def run(self, steps: int) -> float:
        """CPU seconds a step."""
        begun = time.process_time()
        for _ in range(steps):
            batch = next(self.source, None)
            if batch is None:
                self.source = iter(self.batches.epoch(generator=torch.Generator().manual_seed(0)))
                batch = next(self.source)
            torch.stack(list(self.step(self.step.begin(batch), 0).values())).sum().backward(inputs=self.parameters)
            self.adam.step()
            self.adam.zero_grad()
            self.step.moved("main")
        return (time.process_time() - begun) / steps


def main() -> None:
    """Prints one JSON line an arm."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("arms", nargs="*", default=["simdiffrec", "cadirec"])
    parser.add_argument("--data", default="beauty")
    parser.add_argument("--objective", default="softmax")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = options.arms if options.peak else ["plain", *options.arms]
    arms = [Arm(text, options.data, options.objective) for text in names]
    seconds: dict[str, list[float]] = {arm.text: [] for arm in arms}
    for arm in arms:
        arm.run(3)
    for _ in range(options.rounds):
        for arm in arms:
            seconds[arm.text].append(arm.run(options.steps))
    for text, found in seconds.items():
        line: dict[str, Any] = {"arm": text, "cpu_ms": round(1000 * statistics.median(found), 1)}
        if not options.peak:
            ratios = [mine / base for mine, base in zip(found, seconds["plain"], strict=True)]
            line |= {"ratio": round(statistics.median(ratios), 2), "ratios": [round(ratio, 2) for ratio in ratios]}
        else:
            line["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps(line))


if __name__ == "__main__":
    main()
