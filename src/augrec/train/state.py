"""Everything a run needs to go on as if it had never stopped, listed in one place, written whole or not at all.

A checkpoint is a folder `step-NNNNNNNN` of `state.safetensors` (tensors), `state.json` (numbers) and `manifest.json`
(SHA-256 of both).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from augrec.errors import CheckpointError
from augrec.storage import read_folder, write_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


@dataclass(kw_only=True)
class Progress:
    """Where a run stands; all plain numbers."""

    epoch: int = 0
    """Epochs finished."""
    batch: int = 0
    """Batches of the next epoch already done."""
    steps: int = 0
    """Batches done in all."""
    best_epoch: int = 0
    best_value: float | None = None
    since_best: int = 0
    """Validations since the best one."""
    lines: int = 0
    """Lines of metrics.jsonl that belong to this state."""
    stopped_early: bool = False
    epoch_seconds: list[float] = field(default_factory=list)
    partial_seconds: float = 0.0
    """Training seconds spent in the unfinished epoch."""
    partial_loss: dict[str, float] = field(default_factory=dict)
    """Sums of the loss terms over the unfinished epoch."""


@dataclass(kw_only=True)
class Snapshot:
    """Tensors by name ("model/...", "optimiser/<group>/<n>/...", "stream/<owner>", "epoch/batches", "best/...") and
    the numbers."""

    tensors: dict[str, Tensor]
    progress: Progress


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with `prefix/` before every name."""
    return {f"{prefix}/{name}": tensor.detach().contiguous() for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors named `prefix/...`, without the prefix."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + "/")}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state by parameter number."""
    state: dict[int, dict[str, Any]] = optimiser.state_dict()["state"]
    return {f"{n}/{key}": torch.as_tensor(value) for n, one in state.items() for key, value in one.items()}


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts `optimiser_tensors` back; hyper-parameters stay those of the running config."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split("/")
        state.setdefault(int(number), {})[key] = tensor.clone()
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


class Checkpoints:
    """The checkpoints of a run; the newest two are kept."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def save(self, snapshot: Snapshot) -> Path:
        """Writes a checkpoint, then removes those past `keep` and what a killed process left half written."""
        path = self.folder / f"step-{snapshot.progress.steps:08d}"
        numbers = json.dumps(asdict(snapshot.progress)).encode()
        write_folder(path, {"state.safetensors": save(snapshot.tensors), "state.json": numbers})
        for old in (*self._found()[self.keep :], *self.folder.glob(".*")):
            shutil.rmtree(old, ignore_errors=True)
        return path

    def _found(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)

    def latest(self) -> Snapshot | None:
        """The newest valid checkpoint, or None where there is none at all. Raises `CheckpointError` if all are
        damaged."""
        problem: CheckpointError | None = None
        for path in self._found():
            try:
                return self.read(path)
            except CheckpointError as error:
                problem = problem or error
        if problem is not None:
            raise problem
        return None

    @staticmethod
    def read(path: Path) -> Snapshot:
        """One checkpoint, exactly as it was saved."""
        files = read_folder(path)
        try:
            tensors = load(files["state.safetensors"])
            progress = Progress(**json.loads(files["state.json"]))
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not a checkpoint of this version ({error})") from error
        return Snapshot(tensors=tensors, progress=progress)
