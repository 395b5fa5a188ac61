"""Files with a wrong byte, cut short or of another version: the exact old state or one clear error."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

import augrec
from augrec import storage
from augrec.errors import CheckpointError
from augrec.serve.bundle import load_bundle
from augrec.train.state import Checkpoints, Progress, Snapshot


def snapshot(step: int) -> Snapshot:
    values = torch.arange(6, dtype=torch.float32).view(2, 3) + step
    tensors = {"model/w": values, "best/w": values + 1, "stream/batches": torch.full((5,), step, dtype=torch.uint8)}
    return Snapshot(tensors=tensors, progress=Progress(epoch=step, steps=step, best_value=0.1 * step, lines=step))


def same(one: Snapshot | None, other: Snapshot) -> bool:
    return (
        one is not None
        and one.progress == other.progress
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())
    )


def attempt(read) -> tuple:
    """What was read, or the one message allowed instead."""
    try:
        return read(), ""
    except CheckpointError as error:
        return None, str(error)


def damage(folder: Path, check) -> int:
    """Calls `check` with the folder after each single wrong byte, and after truncating each file to many lengths."""
    rng, tried = random.Random(5), 0
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        places = range(len(data)) if len(data) < 800 else [*range(400), *rng.sample(range(400, len(data)), 100)]
        changed = [data[:n] + bytes([data[n] ^ (1 << rng.randrange(8))]) + data[n + 1 :] for n in places]
        changed += [data[:n] for n in {0, 1, 7, 8, 9, *rng.sample(range(len(data)), min(len(data), 40))}]
        changed += [data + b"\0", b"", b"\0" * len(data)]
        for content in changed:
            path.write_bytes(content)
            check()
            tried += 1
        path.unlink()
        check()
        path.mkdir()
        check()
        path.rmdir()
        path.write_bytes(data)
    return tried


def test_every_wrong_byte_of_a_checkpoint_is_found(tmp_path):
    good = snapshot(7)
    folder = Checkpoints(tmp_path).save(good)
    sound = 0

    def check() -> None:
        nonlocal sound
        found, refused = attempt(lambda: Checkpoints.read(folder))
        assert str(folder) in refused if found is None else same(found, good)
        sound += found is not None

    tried = damage(folder, check)
    assert tried > 700
    assert sound < tried // 20  # only a changed blank of the manifest may pass
    assert same(Checkpoints.read(folder), good)


@pytest.mark.parametrize(
    "manifest", ["[]", "{}", "3", "null", '{"state.json": 3}', '{"../state.json": ""}', "\udcff", "{"]
)
def test_a_forged_manifest(manifest, tmp_path):
    folder = Checkpoints(tmp_path).save(snapshot(1))
    (folder / "manifest.json").write_bytes(manifest.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match="step-00000001"):
        Checkpoints.read(folder)


@pytest.mark.parametrize("numbers", ["[]", "{}x", '{"epoch": 1, "colour": 2}', "null", "3"])
def test_a_checkpoint_of_another_version(numbers, tmp_path):
    files = {"state.safetensors": storage.read_folder(Checkpoints(tmp_path).save(snapshot(1)))["state.safetensors"]}
    storage.write_folder(tmp_path / "step-00000002", files | {"state.json": numbers.encode()})
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        Checkpoints.read(tmp_path / "step-00000002")
    storage.write_folder(tmp_path / "step-00000002", {"state.json": b"{}", "state.safetensors": b"\x08" + b"\0" * 20})
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        Checkpoints.read(tmp_path / "step-00000002")


SMALL = {"mf": {"dim": 4}, "train": {"batch_size": 200, "threads": 1, "epochs": 2}}


def test_every_wrong_byte_of_a_bundle_is_found(log, tmp_path):
    folder = augrec.train(log, model="mf", out=tmp_path / "run", overrides=SMALL, callbacks=[]).directory / "bundle"
    good = storage.read_folder(folder)
    users = torch.arange(5)
    scores = load_bundle(folder).scorer.score(users, load_bundle(folder).history)

    def check() -> None:
        bundle, refused = attempt(lambda: load_bundle(folder))
        if bundle is None:
            assert str(folder) in refused
        else:
            assert storage.read_folder(folder) == good
            assert torch.equal(bundle.scorer.score(users, bundle.history), scores)

    assert damage(folder, check) > 1500
