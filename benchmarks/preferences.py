"""What PDRec costs: reading preferences from a trained model, and each part's share of a SASRec epoch.

    python benchmarks/preferences.py [--data pdrec_toy] [--hidden 256 1000] [--threads 2] [--rounds 2] [--skip epoch]
    python benchmarks/preferences.py --synthetic 100000 100000 [--fit-batches 2] --hidden 256 --skip epoch

`prepare`: an untrained TI-DiffRec of each width on the data's train part (what is timed does not depend on the
weights), then what a run does after its training, timed one by one: users' vectors (the reverse chain), HBR's weights,
and the one pass over all scores that gives DPA's lists and NNS's pools; and the peak of memory above that of the log
and the model. `--synthetic USERS ITEMS` makes a log of 20 events a user in place of --data; `--fit-batches` also trains
the model for so many batches and gives the seconds of one and of an epoch at that rate. `epoch`: whole epochs of SASRec
with bce, plain and with each part and all three, in turns (A B C A B C ...). Medians; `foreign` is the processor time
other programs took, in cores: trust no row where it is not near 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from augrec.augment.pdrec import CoarseLists, Pools, Preference, Scan, history_weights
from augrec.backbones.diffrec import TIDiffRec, TIDiffRecConfig
from augrec.data.interactions import Interactions, Vocabulary
from augrec.experiment.build import build, make_batches, make_fabric, parameter_groups, read_split
from augrec.experiment.config import resolve
from augrec.testing.assemble import make_objective
from augrec.train.config import TrainConfig
from augrec.train.loop import Loop
from augrec.train.memory import keep_freed_memory
from augrec.train.step import TrainStep
from augrec.train.streams import Streams

HERE = Path(__file__).resolve().parent


def busy() -> float:
    """Busy processor seconds of the whole machine since it started."""
    fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def resident() -> float:
    """Resident memory now, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


class Peak:
    """Highest resident memory while it is open, sampled every 5 ms."""

    def __enter__(self):
        self.start = self.value = resident()
        self.open = True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self):
        while self.open:
            self.value = max(self.value, resident())
            time.sleep(0.005)

    def __exit__(self, *_):
        self.open = False
        self.thread.join()

    @property
    def added(self) -> float:
        return self.value - self.start


def synthetic(users: int, items: int, events: int = 20) -> Interactions:
    """A log of `events` events a user, items by a Zipf-like law."""
    rng = np.random.default_rng(0)
    count = users * events
    return Interactions.from_columns(
        user=np.repeat(np.arange(users), events),
        item=(items * rng.random(count) ** 2).astype(np.int64),
        timestamp=rng.integers(10**6, size=count),
        users=Vocabulary.of(np.arange(users)),
        items=Vocabulary.of(np.arange(items)),
        name=f"synthetic-{users}x{items}",
    )


def fitted(model: TIDiffRec, train: Interactions, batches: int) -> dict:
    """Processor seconds of a batch of the model's training, and of an epoch at that rate."""
    config = TrainConfig.model_validate(dict(model.run_preset("default")["train"]))
    step = TrainStep(model, make_objective("denoising", train), (), Streams(0))
    loop = Loop(
        fabric=make_fabric("cpu"), step=step, batches=make_batches(model, train, config.batch_size),
        groups=parameter_groups(step, config), config=config, select="loss",
    )  # fmt: skip
    seconds = []
    for batch in itertools.islice(loop.batches.epoch(), batches + 1):
        start = time.process_time()
        loop._train_batch(batch)
        seconds.append(time.process_time() - start)
    each = statistics.median(seconds[1:])
    return {"fit_batches": batches, "fit_batch": round(each, 2), "fit_epoch": round(each * len(loop.batches), 1)}


def prepare(train: Interactions, hidden: int, skip: float, fit_batches: int) -> dict:
    """Processor seconds of each step after training, and the memory they add."""
    config = TIDiffRecConfig(hidden=hidden)
    model = TIDiffRec(config, n_users=train.n_users, n_items=train.n_items, train=train)
    trained = fitted(model, train, fit_batches) if fit_batches else {}
    model.eval()
    seconds, before, spent, begun = {}, busy(), time.process_time(), time.perf_counter()
    with torch.no_grad(), Peak() as peak:

        def timed(name, made):
            start = time.process_time()
            found = made()
            seconds[name] = round(time.process_time() - start, 3)
            return found

        def vectors():
            tables = model.tables()
            every = torch.arange(train.n_users)
            user = torch.cat([model.query_users(part, train, tables) for part in every.split(4096)])
            return Preference(user=user, item=tables.item.clone())

        preference = timed("vectors", vectors)
        user, item = torch.from_numpy(train.user.copy()).long(), torch.from_numpy(train.item.copy()).long()
        timed("hbr", lambda: history_weights(
            preference.scores(user, item), user, train.n_users, rank_share=0.1, clip=3, rescale=2
        ))  # fmt: skip
        scan = Scan(preference, train)
        scan.ask(CoarseLists(50))
        pools = scan.ask(Pools(skip=skip))
        timed("lists and pools", scan.run)
    wall = time.perf_counter() - begun
    foreign = (busy() - before - (time.process_time() - spent)) / wall
    return {
        "what": "prepare", "data": train.name, "users": train.n_users, "items": train.n_items, "hidden": hidden,
        "threads": torch.get_num_threads(), "processor_seconds": seconds, "wall": round(wall, 2),
        "processor": round(time.process_time() - spent, 2), "added_mb": round(peak.added),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        "pools": "bounds" if pools.bits is None else "bits", **trained, "foreign": round(max(foreign, 0), 2),
    }  # fmt: skip


def epoch(data: str, hidden: int, rounds: int, batches: int | None, cache: Path) -> dict:
    """Processor seconds of an epoch, or of its first batches, plain and with the parts."""
    arms = {"plain": [], "hbr": ["hbr"], "dpa": ["dpa"], "nns": ["nns"], "pdrec": ["pdrec"]}
    loops = {}
    for name, augment in arms.items():
        overrides = {"preference": {"hidden": hidden, "epochs": 1, "select": "nothing"}} if augment else {}
        run = resolve(data=data, model="sasrec", augment=augment, objective="bce", overrides=overrides)
        parts = build(run, read_split(run).train, seed=0, cache=cache)
        loops[name] = Loop(
            fabric=make_fabric("cpu"), step=parts.step, batches=parts.batches, groups=parts.groups,
            config=run.part("train"), select="loss",
        )  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    before, spent, begun = busy(), time.process_time(), time.perf_counter()
    for turn in range(rounds + 1):
        for name, loop in loops.items():
            start = time.process_time()
            generator = torch.Generator().manual_seed(turn)
            for batch in itertools.islice(loop.batches.epoch(generator=generator), batches):
                loop._train_batch(batch)
            if turn:
                seconds[name].append(time.process_time() - start)
    wall = time.perf_counter() - begun
    foreign = (busy() - before - (time.process_time() - spent)) / wall
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "what": "epoch", "batches": batches, "data": data, "hidden": hidden, "threads": torch.get_num_threads(),
        "processor_seconds": {name: round(value, 2) for name, value in median.items()},
        "ratio": {name: round(value / median["plain"], 3) for name, value in median.items()},
        "foreign": round(max(foreign, 0), 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="pdrec_toy")
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 1000])
    parser.add_argument("--nns-skip", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, help="batches of an epoch that are timed; all by default")
    parser.add_argument("--skip", choices=["prepare", "epoch", "none"], default="none")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results/benchmarks/preferences.jsonl")
    parser.add_argument("--synthetic", type=int, nargs=2, metavar=("USERS", "ITEMS"))
    parser.add_argument("--fit-batches", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    keep_freed_memory()
    for hidden in chosen.hidden:
        for what in ("prepare", "epoch"):
            if what == chosen.skip:
                continue
            if what == "prepare":
                if chosen.synthetic:
                    train = synthetic(*chosen.synthetic)
                else:
                    train = read_split(resolve(data=chosen.data, model="sasrec")).train
                made = prepare(train, hidden, chosen.nns_skip, chosen.fit_batches)
            else:
                with tempfile.TemporaryDirectory() as cache:
                    made = epoch(chosen.data, hidden, chosen.rounds, chosen.batches, Path(cache))
            print(json.dumps(made), flush=True)
            chosen.out.parent.mkdir(parents=True, exist_ok=True)
            with chosen.out.open("a") as file:
                file.write(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
