"""Our own side of every row, run by `host.py` in a process of its own.

Tasks: "train" (a step or an epoch through the training loop), "evaluate" (full ranking), "sample" (negatives),
"prepare" (preferences). Models are untrained unless `epochs` asks for training first: what is timed does not depend on
the weights, but for ADAR's chain, which grows shorter as scores grow.
"""

from __future__ import annotations

import itertools
import os
import time
from abc import ABC, abstractmethod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

import augrec
from augrec.augment.pdrec import CoarseLists, Pools, Preference, Scan, history_weights
from augrec.backbones.base import InnerProductScorer
from augrec.backbones.diffrec import TIDiffRec, TIDiffRecConfig
from augrec.batches.negatives import NegativeSampler
from augrec.batches.sequences import SequenceBatches
from augrec.bench.naive import naive
from augrec.bench.naive.pdrec import prepare_user
from augrec.bench.products import products
from augrec.bench.rates import Rates
from augrec.errors import UsageError
from augrec.evaluate.protocol import EvaluateConfig, evaluate
from augrec.experiment.build import build, make_fabric, read_split
from augrec.experiment.config import RunConfig, resolve
from augrec.train.loop import Loop
from augrec.train.memory import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from augrec.batches.batch import Batch
    from augrec.data.interactions import Interactions


def open_work(task: str, settings: dict[str, Any]) -> Any:
    """The work of a task, ready to be timed."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    keep_freed_memory()
    if task not in _WORKS:
        raise UsageError(f"augrec has no task '{task}'; it has {', '.join(_WORKS)}")
    return _WORKS[task](settings)


def _run(settings: Mapping[str, Any]) -> RunConfig:
    names = ("data", "model", "objective", "augment", "preset", "split", "overrides")
    return resolve(**{name: settings[name] for name in names if name in settings})


def _shape(run: RunConfig) -> dict[str, Any]:
    """What `floors` counts with."""
    config = run.part(run.model)
    return {"model": run.model, "objective": run.objective} | {
        name: getattr(config, name) for name in ("dim", "layers") if hasattr(config, name)
    }  # fmt: skip


def _sizes(train: Interactions) -> dict[str, Any]:
    return {
        "version": augrec.__version__, "torch": torch.__version__, "users": train.n_users, "items": train.n_items,
        "interactions": len(train),
    }  # fmt: skip


OUTSIDE = "no operator"


class Profiled(ABC):
    """Tells what a unit's time is spent on."""

    def where(self) -> dict[str, float]:
        """The six largest shares of a second of units by torch operator (its own time, not that of what it calls),
        and what was spent in none: Python, numpy, waiting."""
        took = 0.0
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as found:
            while took < 1e6:
                self.ready()
                begun = time.perf_counter()
                self.unit()
                took += 1e6 * (time.perf_counter() - begun)
        own = {one.key: float(one.self_cpu_time_total) for one in found.key_averages()}
        total = max(took, sum(own.values()), 1e-9)
        shares = {name: value / total for name, value in sorted(own.items(), key=lambda one: -one[1])[:6]}
        return {name: round(value, 4) for name, value in {**shares, OUTSIDE: 1 - sum(own.values()) / total}.items()}

    def ready(self) -> None:  # noqa: B027 - most works have nothing to make ready
        """Nothing, unless a work has something to do before its clock starts."""

    @abstractmethod
    def unit(self) -> None:
        """One unit."""


class Train(Profiled):
    """Steps, or epochs, of the training loop. Settings beside those of a run: `unit` ("step" or "epoch"), `batches` (an
    epoch is so many of its batches, scaled), `naive`, `epochs` (trained before)."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        run = _run(settings)
        train = read_split(run).train
        self.parts = build(run, train, seed=0)
        if settings.get("naive"):
            naive(self.parts.step.plugins)
        self.loop = Loop(
            fabric=make_fabric("cpu"), step=self.parts.step, batches=self.parts.batches, groups=self.parts.groups,
            config=run.part("train"), select="loss",
        )  # fmt: skip
        self.generator = torch.Generator().manual_seed(0)
        self.parts.step.train()
        for plugin in self.parts.step.plugins:
            plugin.start_epoch(1)  # type: ignore[operator]
        for _ in range(int(settings.get("epochs", 0))):
            for batch in self.parts.batches.epoch(generator=self.generator):
                self.loop._train_batch(batch)
        self.whole = settings.get("unit") == "epoch"
        self.cap: int | None = settings.get("batches")
        self.source: Iterator[Batch] = iter(())
        self.batch: Batch | None = None
        batches = self.parts.batches
        count = len(batches)
        # Sequences count transitions, pairs and users count events.
        targets = batches.targets if isinstance(batches, SequenceBatches) else len(train)
        part = count / min(count, self.cap) if self.whole and self.cap else 1.0
        self.partial, begun = part > 1, time.perf_counter()
        if self.partial:
            batches.epoch(generator=self.generator)
        self.info = _sizes(train) | _shape(run) | {
            "targets": int(targets), "batches": count, "batch_targets": round(targets / count), "scale": part,
            "extrapolated": self.partial, "opening": time.perf_counter() - begun,
            "width": int(self.parts.step.backbone.dim),
            "parameters": sum(one.numel() for one in self.parts.step.parameters()),
            "augment": list(settings.get("augment", ())),
        }  # fmt: skip
        if not settings.get("naive"):
            # Not the first step: tables that serve a whole epoch are made there.
            self.loop._train_batch(self._next())
            self.info["products"] = products(lambda: self.loop._train_batch(self._next()))

    def ready(self) -> None:
        """A step's batch is made before the clock starts; an epoch's batches are part of it, but for the order of all
        that an epoch begins with where a part of it is timed (`opening`): it would be scaled too."""
        if not self.whole:
            self.batch = self._next()
        elif self.partial:
            self.source = iter(self.parts.batches.epoch(generator=self.generator))

    def _next(self) -> Batch:
        batch = next(self.source, None)
        if batch is None:
            self.source = iter(self.parts.batches.epoch(generator=self.generator))
            batch = next(self.source)
        return batch

    def unit(self) -> None:
        """A step or an epoch."""
        if not self.whole:
            assert self.batch is not None
            self.loop._train_batch(self.batch)
            return
        every = self.source if self.partial else self.parts.batches.epoch(generator=self.generator)
        for batch in itertools.islice(every, self.cap):
            self.loop._train_batch(batch)


class Evaluate(Profiled):
    """Full ranking of all test users, metrics included. Settings: those of a run, `users` (a sample of so many)."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        run = _run(settings)
        self.split = read_split(run)
        self.parts = build(run, self.split.train, seed=0)
        given: EvaluateConfig = run.part("evaluate")
        self.options = given.model_copy(update={"max_users": settings.get("users"), "ks": (10, 20)})
        users = len(np.unique(self.split.test.user))
        asked = settings.get("users")
        part = users / min(users, asked) if asked else 1.0
        self.info = _sizes(self.split.train) | _shape(run) | {
            "evaluated": users, "scale": part, "extrapolated": part > 1, "seen_items": given.seen_items,
            "width": int(self.parts.step.backbone.dim),
        }  # fmt: skip

    def unit(self) -> None:
        """One evaluation, the tables made anew as after training."""
        evaluate(InnerProductScorer(self.parts.step.backbone), self.split, "test", self.options)


class Sample(Profiled):
    """Negatives outside each user's train items. Settings: a run's, `rows` users, `k` each, `naive` (draw again what
    the user has, one by one)."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        train = read_split(_run(settings)).train
        self.k, rows, self.naive = int(settings["k"]), int(settings["rows"]), bool(settings.get("naive"))
        self.sampler = NegativeSampler(train)
        rng = np.random.default_rng(0)
        self.users = torch.from_numpy(train.user[rng.integers(0, len(train), rows)].astype(np.int64))
        self.n_items, self.rng = train.n_items, rng
        self.had = [set(one) for one in np.split(train.item, train.offsets[1:-1])] if self.naive else []
        self.info = _sizes(train) | {"draws": rows * self.k, "scale": 1.0}

    def unit(self) -> None:
        """One batch of draws."""
        if not self.naive:
            self.sampler.sample(self.users, self.k)
            return
        drawn = np.empty((len(self.users), self.k), dtype=np.int64)
        for row, user in enumerate(self.users.tolist()):
            for column in range(self.k):
                item = self.rng.integers(self.n_items)
                while item in self.had[user]:
                    item = self.rng.integers(self.n_items)
                drawn[row, column] = item


class Prepare(Profiled):
    """What follows the training of PDRec's preference model: users' vectors, HBR's weights, DPA's lists, NNS's bounds,
    for all users. Settings: a run's, `hidden`, `naive` and its `users` (so many, scaled to all)."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.train = read_split(_run(settings)).train
        config = TIDiffRecConfig(hidden=int(settings["hidden"]))
        sizes = {"n_users": self.train.n_users, "n_items": self.train.n_items}
        self.model = TIDiffRec(config, train=self.train, generator=torch.Generator().manual_seed(0), **sizes).eval()
        self.naive, users = bool(settings.get("naive")), int(settings.get("users", self.train.n_users))
        self.users = np.linspace(0, self.train.n_users - 1, min(users, self.train.n_users)).astype(int).tolist()
        part = self.train.n_users / len(self.users) if self.naive else 1.0
        self.info = _sizes(self.train) | {"scale": part, "extrapolated": part > 1, "hidden": config.hidden}
        if not self.naive:
            self.info["products"] = products(self.unit)

    @torch.no_grad()
    def unit(self) -> None:
        """One preparation."""
        train, model = self.train, self.model
        if self.naive:
            for one in self.users:
                prepare_user(model, train, one)
            return
        tables = model.tables()
        every = torch.arange(train.n_users)
        vectors = torch.cat([model.query_users(part, train, tables) for part in every.split(4096)])
        preference = Preference(user=vectors, item=tables.item)
        user, item = torch.from_numpy(train.user.copy()).long(), torch.from_numpy(train.item.copy()).long()
        history_weights(
            preference.scores(user, item), user, train.n_users, rank_share=0.1, clip=3.0, rescale=2.0
        )  # fmt: skip
        scan = Scan(preference, train)
        scan.ask(CoarseLists(50))
        scan.ask(Pools(skip=0.5))
        scan.run()


_WORKS: Mapping[str, Any] = MappingProxyType(
    {"train": Train, "evaluate": Evaluate, "sample": Sample, "prepare": Prepare, "rates": Rates}
)
