"""Folders of files written whole or not at all, with a SHA-256 for each file; shared by checkpoints and bundles."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from augrec.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def write_bytes(path: Path, data: bytes) -> None:
    """Writes and flushes to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_file(path: Path, data: bytes) -> None:
    """Replaces one file whole or not at all. An `OSError` (full disk) leaves the old one."""
    with replacing(path) as temporary:
        write_bytes(temporary, data)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes `files` and their manifest as `folder`, whole or not at all. An `OSError` (full disk) leaves nothing
    behind.

    The folder is made beside its final name, flushed and renamed, so a folder under its final name is always complete.
    """
    temporary = folder.parent / f".writing-{folder.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for name, data in files.items():
            write_bytes(temporary / name, data)
        manifest = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        write_bytes(temporary / "manifest.json", json.dumps(manifest, indent=1).encode())
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    handle = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_folder(folder: Path) -> dict[str, bytes]:
    """The files of a folder written by `write_folder`. Raises `CheckpointError` where a byte differs or a file is
    missing."""
    files: dict[str, bytes] = {}
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        if not isinstance(manifest, dict) or not manifest:
            raise CheckpointError(f"{folder}: manifest.json lists no files; it is damaged")
        for name, digest in manifest.items():
            if Path(name).name != name:
                raise CheckpointError(f"{folder}: manifest.json names '{name}', which is outside the folder")
            files[name] = (folder / name).read_bytes()
            if hashlib.sha256(files[name]).hexdigest() != digest:
                raise CheckpointError(
                    f"{folder / name}: the content does not match its SHA-256 in manifest.json; it is damaged"
                )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({error})") from error
    return files


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the name `path` only if nothing was raised."""
    temporary = path.with_name(f".writing-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
