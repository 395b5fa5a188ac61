"""Runs augrec in fresh processes without paying for its imports each time.

Started by path as a program of its own. It imports everything, computes nothing (so that no library has started a
thread) and forks for every request: one JSON object a line on standard input, one line with the exit code on standard
output (negative: killed by that signal).

A request: {"argv": command line} and optionally "plan" or "plans" ({"at": place, "n": count, ...}, see `arm`), "env",
"cwd", "stderr" and "stdout" (files).
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

MODULES = (
    "augrec.cli", "augrec.experiment.api", "augrec.experiment.run", "augrec.augment.adar.plugin",
    "augrec.objectives.pairwise", "augrec.objectives.softmax", "augrec.objectives.pointwise",
    "augrec.backbones.sasrec", "augrec.backbones.gru4rec", "augrec.backbones.lightgcn", "augrec.backbones.mf",
    "augrec.console", "polars", "numpy", "lightning_fabric", "torch.optim.adam",
)  # fmt: skip


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


class Countdown:
    """Kills the process at the n-th call, counted from 1."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def arm(plan: dict) -> None:
    """Makes this process kill itself, or meet something, at a place and count."""
    from augrec import storage
    from augrec.backbones.base import InnerProductScorer
    from augrec.train import callbacks
    from augrec.train.loop import Loop

    due, place, act = Countdown(plan.get("n", 1)), plan["at"], die
    if "signals" in plan:

        def act() -> None:
            for number in plan["signals"]:
                os.kill(os.getpid(), number)

    if place == "step":  # after an optimiser step and its bookkeeping
        callbacks.ProgressBar.on_step = lambda self, epoch, batch, loss: due() and act()
    elif place == "validation":
        callbacks.ProgressBar.on_validation_start = lambda self, epoch: due() and act()
    elif place == "line":  # between the epoch's line of metrics and its checkpoint
        callbacks.ProgressBar.on_epoch_end = lambda self, line: due() and act()
    elif place == "score":  # inside an evaluation
        original = InnerProductScorer.score_queries

        def score_queries(self, query):
            if due():
                act()
            return original(self, query)

        InnerProductScorer.score_queries = score_queries
    elif place in ("write", "half", "written"):  # before, within and after writing one file of a checkpoint
        write = storage.write_bytes

        def write_bytes(path, data, **options):
            if "step-" not in str(path) or not due():
                return write(path, data, **options)
            if place == "half":
                write(path, data[: len(data) // 2], **options)
            elif place == "written":
                write(path, data, **options)
            return act()

        storage.write_bytes = write_bytes
    elif place in ("rename", "renamed"):  # before and after a checkpoint takes its final name
        move = Path.replace

        def replace(self, target):
            hit = "step-" in str(target) and due()
            if hit and place == "rename":
                act()
            done = move(self, target)
            if hit:
                act()
            return done

        Path.replace = replace
    elif place == "phase":  # inside a step, between the phases' optimiser steps
        forward = Loop._train_batch

        def train_batch(self, batch):
            moved = self.step.moved

            def told(group):
                moved(group)
                if due():
                    act()

            self.step.moved = told
            try:
                return forward(self, batch)
            finally:
                del self.step.moved

        Loop._train_batch = train_batch
    else:
        raise ValueError(place)


def child(request: dict) -> None:
    for stream, name in ((1, "stdout"), (2, "stderr")):
        target = os.open(request.get(name) or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, stream)
    os.environ.update(request.get("env", {}))
    os.chdir(request.get("cwd", "."))
    for plan in request.get("plans", [request["plan"]] if "plan" in request else []):
        arm(plan)
    from augrec.cli import main

    main(request["argv"])


def serve() -> None:
    for name in MODULES:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                child(json.loads(line))
            except SystemExit as end:
                code = end.code or 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    serve()
