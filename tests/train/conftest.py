"""A small seeded log, and processes to train on it in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from augrec.data import read_interactions
from augrec.data.interactions import Interactions
from augrec.errors import Interrupted
from augrec.experiment.build import build, make_fabric, parameter_groups
from augrec.experiment.config import resolve
from augrec.seams import Plugin
from augrec.train.callbacks import Callback
from augrec.train.loop import Loop
from augrec.train.state import Checkpoints, Snapshot
from augrec.train.step import TrainStep
from augrec.train.streams import Streams

ENV = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1"),
    "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src"),
}


def make_frame(n_users: int = 90, n_items: int = 60, *, seed: int = 0) -> pl.DataFrame:
    """Users and items in four groups, 6 to 14 distinct items each, mostly of the user's own group, in time order."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        near = np.where(np.arange(n_items) % 4 == user % 4, 8.0, 1.0)
        chosen = rng.choice(n_items, size=rng.integers(6, 15), replace=False, p=near / near.sum())
        rows += [(f"u{user:03d}", f"i{item:03d}", 1_000_000 + 1000 * n) for n, item in enumerate(chosen)]
    return pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")


@pytest.fixture(scope="session")
def log() -> Interactions:
    return read_interactions(make_frame())


@pytest.fixture(scope="session")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "toy.csv"
    make_frame().write_csv(path)
    return path


@dataclass
class ForkServer:
    """See forkserver.py."""

    process: subprocess.Popen[str]
    folder: Path
    count: int = field(default=0)

    def run(self, argv: list[Any], **request: Any) -> tuple[int, str]:
        """Exit code and standard error of one augrec command."""
        self.count += 1
        errors = self.folder / f"{self.count}.txt"
        asked = {"argv": [str(one) for one in argv], "stderr": str(errors), "env": {}, "cwd": str(self.folder)}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked | request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline()), errors.read_text()


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory):
    program = Path(__file__).with_name("forkserver.py")
    process = subprocess.Popen(
        [sys.executable, str(program)], env=os.environ | ENV, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield ForkServer(process, tmp_path_factory.mktemp("forks"))
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=30)


@pytest.fixture(scope="session")
def one_thread() -> dict[str, str]:
    """The environment of a process that runs this checkout on one thread."""
    return os.environ | ENV


@pytest.fixture(scope="session")
def outcome() -> Callable[[Path], dict[str, Any]]:
    """All of a finished run that must not depend on interruptions or the clock."""
    return _outcome


def _outcome(run: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((run / "result.json").read_text())
    for one in (*lines, result, *result["evaluations"]):
        one.pop("seconds")
    result.pop("peak_rss_mb")
    found: dict[str, Any] = {"lines": lines, "result": result}
    for name in ("weights.safetensors", "history.safetensors", "bundle.json"):
        found[f"bundle/{name}"] = (run / "bundle" / name).read_bytes()
    found["per_user"] = (run / "per_user.parquet").read_bytes()
    for folder in ("checkpoints", "checkpoints-refit"):
        if (run / folder).exists():
            last = max((run / folder).glob("step-*"))
            # Weights, optimisers, every random stream and the best weights.
            found[folder] = (last.name, (last / "state.safetensors").read_bytes())
    return found


@dataclass
class Made:
    """A loop and what it is made of."""

    loop: Loop
    step: TrainStep
    log: Interactions
    folder: Path

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def stop_after(self, steps: int) -> Snapshot:
        """Trains until it is stopped after so many steps, inside an epoch or at its end; what it leaves to go on
        with."""
        stop = SimpleNamespace(number=None)
        loop = self.loop

        class Stop(Callback):
            def on_step(self, epoch: int, batch: int, loss: float) -> None:
                if loop.progress.steps == steps:
                    stop.number = 15

        loop.callbacks = [*loop.callbacks, Stop()]

        def all_epochs() -> None:
            for _ in range(loop.config.epochs):
                loop._epoch(stop)

        with pytest.raises(Interrupted):
            all_epochs()
        snapshot = loop.checkpoints.latest()
        assert snapshot.progress.steps == steps
        return snapshot


@pytest.fixture
def make(log: Interactions, tmp_path: Path) -> Callable[..., Made]:
    """A small loop on the whole log: `make(plugins=..., model=..., validate=..., train={...}, parts={...})`."""

    def built(
        *,
        plugins: Callable[..., list[Plugin]] = lambda **sizes: [],
        model: str = "mf",
        objective: str | None = None,
        train: dict[str, Any] | None = None,
        parts: dict[str, dict[str, Any]] | None = None,
        name: str = "loop",
        checkpoints: bool = True,
        **more: Any,
    ) -> Made:
        overrides = {model: {"dim": 6}, "train": {"epochs": 2, "batch_size": 250, **(train or {})}, **(parts or {})}
        config = resolve(model=model, objective=objective, overrides=overrides)
        made = build(config, log, seed=0)
        streams = Streams(0)
        with streams.use("toys"):
            toys = plugins(kind=made.step.backbone.kind, dim=made.step.backbone.dim, n_items=log.n_items)
        step = TrainStep(made.step.backbone, made.step.objective, toys, Streams(0))
        folder = tmp_path / name
        folder.mkdir()
        loop = Loop(
            fabric=make_fabric("cpu"),
            step=step,
            batches=made.batches,
            groups=parameter_groups(step, config.part("train")),
            config=config.part("train"),
            select="m",
            checkpoints=Checkpoints(folder / "checkpoints") if checkpoints else None,
            metrics_file=folder / "metrics.jsonl",
            **more,
        )
        return Made(loop, step, log, folder)

    return built
