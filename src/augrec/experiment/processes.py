"""The processes of one run: starting them, joining them, and ending them together."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from safetensors.torch import load, save

from augrec.errors import UsageError
from augrec.evaluate.protocol import Evaluation, evaluate
from augrec.evaluate.ranking import TopK, rank
from augrec.train.rank_step import RankStep, check_split
from augrec.train.ranks import Ranks
from augrec.train.state import Progress, Snapshot
from augrec.train.threads import cores

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from numpy.typing import NDArray
    from torch import nn

    from augrec.backbones.base import Scorer
    from augrec.data.interactions import Interactions
    from augrec.evaluate.protocol import EvaluateConfig
    from augrec.experiment.build import Parts
    from augrec.splits import Split
    from augrec.train.state import Checkpoints

RANK = "AUGREC_RANK"
"""The variable by which a process started here knows its number."""
_FABRIC_LOG = logging.getLogger("lightning_fabric")
_GRACE = 10.0
"""Seconds a process is given to notice by itself that another one has ended."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a process stands among those of its run."""

    rank: int = 0
    local: int = 0
    """Its number on its own machine."""
    devices: int = 1
    """Processes on each machine."""
    nodes: int = 1
    outside: bool = False
    """Started by torchrun, which starts the others too."""

    @property
    def world(self) -> int:
        """Processes of the run."""
        return self.devices * self.nodes


def place_of(devices: int | None, num_nodes: int | None, environment: Mapping[str, str]) -> Place:
    """What the arguments and the environment say of this process. Raises `UsageError` where they do not agree."""
    for option, value in (("--devices", devices), ("--num-nodes", num_nodes)):
        if value is not None and value < 1:
            raise UsageError(f"{option}: must be at least 1 (got {value})")
    if "TORCHELASTIC_RUN_ID" in environment:
        number = {name: int(environment[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")}
        local, nodes = number["LOCAL_WORLD_SIZE"], number["WORLD_SIZE"] // number["LOCAL_WORLD_SIZE"]
        if devices not in (None, local) or num_nodes not in (None, nodes):
            raise UsageError(
                f"--devices and --num-nodes: torchrun started {local} processes on each of {nodes} machines; leave "
                f"both out under torchrun"
            )
        return Place(rank=number["RANK"], local=number["LOCAL_RANK"], devices=local, nodes=nodes, outside=True)
    devices, nodes = devices or 1, num_nodes or 1
    node = 0
    if nodes > 1:
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if not environment.get(name)]
        if missing:
            raise UsageError(
                f"--num-nodes {nodes}: set {', '.join(missing)} on every machine (address and free port of the first, "
                f"and the number of this one from 0), or start the command with torchrun"
            )
        node = int(environment["NODE_RANK"])
        if not 0 <= node < nodes:
            raise UsageError(f"NODE_RANK is {node}, but --num-nodes {nodes} has machines 0 to {nodes - 1}")
    local = int(environment[RANK]) - node * devices if RANK in environment else 0
    return Place(rank=node * devices + local, local=local, devices=devices, nodes=nodes)


def rank_in(environment: Mapping[str, str]) -> int:
    """The number of this process in its run, 0 where it has started no run yet."""
    return int(environment.get("RANK", 0) if "TORCHELASTIC_RUN_ID" in environment else environment.get(RANK, 0))


class _Bare(DDPStrategy):
    """Fabric's processes and devices without its wrapper: phases are reduced by the loop, group by group."""

    def setup_module(self, module: nn.Module) -> Any:
        return module


class Processes:
    """The processes that share a run, from this one's side; a context that ends them together."""

    def __init__(self, *, devices: int | None = None, num_nodes: int | None = None, threads: int | None = None) -> None:
        """Starts nothing yet. Raises `UsageError` for numbers that do not fit the environment."""
        self.place = place_of(devices, num_nodes, os.environ)
        self.threads = threads
        """CPU threads of this process where the config names none; None lets a process that is alone measure."""
        if threads is None and self.place.world > 1:
            self.threads = max(1, cores() // self.place.devices)
        self.ranks: Ranks | None = None
        self.fabric: Fabric | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        self._over = threading.Event()

    @property
    def first(self) -> bool:
        """Whether this process writes the run directory."""
        return self.place.rank == 0

    def join(self) -> Ranks | None:
        """Starts what is to be started on this machine and waits until all processes are there; None for one process.

        The children run this program's own command again, so that whatever process 0 refused before is refused once.
        """
        place = self.place
        if place.world == 1:
            return None
        if self.ranks is not None:
            return self.ranks
        if torch.distributed.is_initialized() and not place.outside:
            raise UsageError("--devices: a program can make one run over several processes; start another for the next")
        environment: ClusterEnvironment = TorchElasticEnvironment()
        if not place.outside:
            os.environ |= {"LOCAL_RANK": str(place.local), "NODE_RANK": os.environ.get("NODE_RANK", "0")}
            os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
            if place.rank == 0 and place.nodes == 1:
                os.environ["MASTER_PORT"] = str(_free_port())
            environment = LightningEnvironment()
            if place.local == 0:
                self._start()
        strategy = _Bare(cluster_environment=environment)
        self.fabric = Fabric(accelerator="cpu", devices=place.devices, num_nodes=place.nodes, strategy=strategy)
        level = _FABRIC_LOG.level
        _FABRIC_LOG.setLevel(logging.WARNING)
        try:
            self.fabric.launch()
        finally:
            _FABRIC_LOG.setLevel(level)
        self.ranks = Ranks()
        return self.ranks

    def _start(self) -> None:
        """The other processes of this machine, and a thread that watches them."""
        import __main__

        named = getattr(__main__, "__spec__", None)
        module = named.name.removesuffix(".__main__") if named is not None else None
        program = ["-m", module] if module is not None else [os.path.abspath(sys.argv[0])]
        if module is None and not os.path.isfile(program[0]):
            raise UsageError("--devices: this program is no script that could be started again; put it in a file")
        for local in range(1, self.place.devices):
            own = {"LOCAL_RANK": str(local), RANK: str(self.place.rank + local)}
            command = [sys.executable, *program, *sys.argv[1:]]
            self._children.append(subprocess.Popen(command, env={**os.environ, **own}))  # noqa: S603
        threading.Thread(target=self._watch, daemon=True, name="augrec-processes").start()

    def _watch(self) -> None:
        """Ends this process where a child has failed and nothing here notices: in a long computation, or while waiting
        for a child that never came."""
        while not self._over.wait(0.2):
            failed = [child for child in self._children if child.poll()]
            if failed and not self._over.wait(_GRACE if self.ranks is not None else 1.0):
                number = self.place.rank + 1 + self._children.index(failed[0])
                sys.stderr.write(
                    f"augrec: process {number} of this run has ended with code {failed[0].returncode}; the last "
                    f"checkpoint is intact, go on with --resume\n"
                )
                sys.stderr.flush()
                self._kill()
                os._exit(1)

    def _kill(self) -> None:
        for child in self._children:
            with suppress(OSError):
                child.kill()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Waits for the children, or ends them where this process has failed."""
        self._over.set()
        if kind is not None and getattr(error, "exit_code", 0) < 128:
            self._kill()
        for child in self._children:
            try:
                child.wait(timeout=_GRACE if kind is not None else None)
            except subprocess.TimeoutExpired:
                child.kill()

    def same(self, what: str, value: str) -> None:
        """Raises `UsageError` in every process whose `value` is not that of process 0."""
        if self.ranks is None:
            return
        first = self.ranks.send(value.encode() if self.first else None).decode()
        if first != value:
            raise UsageError(
                f"process {self.place.rank} has another {what} than process 0 ({value[:12]} and {first[:12]}); give "
                f"every machine the same data and command"
            )

    def shared(self, parts: Parts) -> Parts:
        """The parts with a step that the processes share; as they are for one process. The first call joins them.
        Raises `UnsupportedCombinationError`, before anything is started, where the step cannot be shared."""
        if self.place.world > 1:
            check_split(parts.step)
        ranks = self.join()
        return parts if ranks is None else replace(parts, step=RankStep(parts.step, ranks))

    def snapshot(self, checkpoints: Checkpoints | None) -> Snapshot | None:
        """The newest checkpoint, which process 0 reads and sends to the others; None where there is none."""
        found = checkpoints.latest() if checkpoints is not None else None
        if self.ranks is None:
            return found
        numbers = self.ranks.send(json.dumps(asdict(found.progress) if found else None).encode())
        tensors = self.ranks.send(save(found.tensors) if found else b"")
        if checkpoints is None and tensors:
            return Snapshot(tensors=load(tensors), progress=Progress(**json.loads(numbers)))
        return found

    def result(self, made: dict[str, Any] | None) -> dict[str, Any]:
        """The result that process 0 has made, for every process."""
        if self.ranks is None:
            assert made is not None
            return made
        sent: dict[str, Any] = json.loads(self.ranks.send(json.dumps(made).encode() if made is not None else None))
        return sent

    def evaluate(self, scorer: Scorer, split: Split, part: Any, options: EvaluateConfig) -> Evaluation:
        """`evaluate` with the users divided among the processes; all of them get the whole."""
        if self.ranks is None:
            return evaluate(scorer, split, part, options)
        return evaluate(scorer, split, part, options, ranker=self._rank)

    def _rank(self, scorer: Scorer, users: NDArray[np.int64], history: Interactions, **options: Any) -> TopK:
        assert self.ranks is not None
        cuts = self.ranks.cuts(torch.arange(len(users) + 1))
        if cuts is None:
            return rank(scorer, users, history, **options)
        first, last = self.ranks.mine(cuts)
        own = rank(scorer, users[first:last], history, **options)
        place = torch.arange(first, last)
        items, scores = (
            self.ranks.joined(torch.from_numpy(one), place, len(users)).numpy() for one in (own.items, own.scores)
        )
        return TopK(users=users, items=items, scores=scores)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
