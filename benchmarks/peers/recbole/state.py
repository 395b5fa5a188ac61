"""Keep and restore a RecBole run between two epochs, so that a curve of hours survives a stop."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any


def save_state(path: Path, peer: Any, epoch: int, best: float, best_epoch: int) -> None:
    """Keep parameters, Adam's moments and every random state; replaces the file in one move."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    tensors = {f"model.{k}": v.detach().clone().contiguous() for k, v in peer.model.state_dict().items()}
    for index, slots in peer.trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value.clone().contiguous() for name, value in slots.items()}
    name, keys, position, gauss, cached = np.random.get_state()
    version, internal, _ = random.getstate()
    tensors |= {
        "rng.torch": torch.get_rng_state(), "rng.loader": peer.train.generator.get_state(),
        "rng.numpy": torch.from_numpy(keys.astype(np.int64)), "rng.python": torch.tensor(internal),
    }  # fmt: skip
    facts = {"epoch": epoch, "best": best, "best_epoch": best_epoch, "numpy": [name, position, gauss, cached]}
    save_file(tensors, f"{path}.new", metadata={"facts": json.dumps(facts | {"python_version": version})})
    os.replace(f"{path}.new", path)


def load_state(path: Path, peer: Any) -> dict[str, Any]:
    """Put a state of `save_state` back; return its epoch, best and best_epoch."""
    import numpy as np
    import torch
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as handle:
        facts: dict[str, Any] = json.loads(handle.metadata()["facts"])
        tensors = {k: handle.get_tensor(k) for k in handle.keys()}  # noqa: SIM118
    peer.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    slots: dict[int, dict[str, Any]] = {}
    for key in (k for k in tensors if k.startswith("adam.")):
        _, index, name = key.split(".")
        slots.setdefault(int(index), {})[name] = tensors[key]
    peer.trainer.optimizer.load_state_dict(peer.trainer.optimizer.state_dict() | {"state": slots})
    torch.set_rng_state(tensors["rng.torch"])
    peer.train.generator.set_state(tensors["rng.loader"])
    name, position, gauss, cached = facts["numpy"]
    np.random.set_state((name, tensors["rng.numpy"].numpy().astype(np.uint32), position, gauss, cached))
    random.setstate((facts["python_version"], tuple(tensors["rng.python"].tolist()), None))
    return facts
