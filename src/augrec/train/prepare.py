"""Work before training: plug-ins that rewrite the log or train a model on it, done once and kept by what it depends
on."""

from __future__ import annotations

import fcntl
import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING

from safetensors.torch import load, save

from augrec.errors import CheckpointError
from augrec.seams import Prepared
from augrec.storage import read_folder, write_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from augrec.data.interactions import Interactions
    from augrec.seams import Fit, Plugin


def key_of(plugin: Plugin, train: Interactions, seed: int) -> str:
    """SHA-256 over `Plugin.prepared_key` (by default its name, its config and the seed) and the rows of the train
    split: what prepared state depends on."""
    digest = hashlib.sha256(json.dumps(plugin.prepared_key(seed), sort_keys=True).encode())
    train.hash_rows(digest)
    return digest.hexdigest()


def prepare(
    plugins: Sequence[Plugin],
    train: Interactions,
    fit: Fit,
    *,
    seed: int,
    cache: Path | None,
    made: dict[str, Prepared] | None = None,
) -> Interactions:
    """Prepares every plug-in in turn and gives each its state back; the train log as the last rewriting plug-in left
    it.

    Tensors are cached under `cache/<key>`, so that arms and seeds that ask for the same thing share it, even side by
    side; rewritten logs are not cached. Plug-ins of one run with equal keys are prepared once and share the very
    tensors; so do all calls that are given the same `made`, which is filled. A plug-in prepares on the log as rewritten
    by those before it, and loads beside the log that is trained on, whose rows the batches count.
    """
    made = {} if made is None else made
    loaded: list[tuple[Plugin, Prepared]] = []
    for plugin in plugins:
        prepared = Prepared()
        if plugin.prepares:
            key = key_of(plugin, train, seed)
            if key in made:
                prepared = made[key]
            elif cache is None:
                prepared = plugin.prepare(train, fit, seed=seed)
            else:
                prepared = _cached(cache / key, plugin, train, fit, seed)
            if prepared.train is None:
                made[key] = prepared
        if prepared.train is not None:
            train = prepared.train
        loaded.append((plugin, prepared))
    for plugin, prepared in loaded:
        plugin.load_prepared(prepared, train)
    return train


def _cached(folder: Path, plugin: Plugin, train: Interactions, fit: Fit, seed: int) -> Prepared:
    """What lies in `folder`, or what the plug-in makes now. Two processes take turns; a damaged folder is made anew."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(CheckpointError, KeyError):
            return Prepared(tensors=load(read_folder(folder)["tensors.safetensors"]))
        prepared = plugin.prepare(train, fit, seed=seed)
        if prepared.train is None:
            write_folder(folder, {"tensors.safetensors": save(dict(prepared.tensors))})
    return prepared
