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


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an `OSError` raised inside the path it happened at: writing and flushing leave it out."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_bytes(path: Path, data: bytes, *, append: bool = False) -> None:
    """Writes and flushes to the disk. An `OSError` (full disk) names `path`."""
    with naming(path), path.open("ab" if append else "wb", buffering=0) as file:
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())


def write_file(path: Path, data: bytes) -> None:
    """Replaces one file whole or not at all. An `OSError` (full disk) leaves the old one."""
    with replacing(path) as temporary:
        write_bytes(temporary, data)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes `files` and their manifest as `folder`, whole or not at all. An `OSError` (full disk) leaves nothing
    behind.

    The folder is made beside its final name, flushed and renamed, so a folder under its final name is always complete;
    one that stood there is moved aside first, since a folder cannot be removed in one step.
    """
    temporary, aside = (folder.parent / f".{word}-{folder.name}" for word in ("writing", "old"))
    for left_over in (temporary, aside):
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for name, data in files.items():
            write_bytes(temporary / name, data)
        manifest = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        write_bytes(temporary / "manifest.json", json.dumps(manifest, indent=1).encode())
        _flush_folder(temporary)
        if folder.exists():
            folder.replace(aside)
        try:
            temporary.replace(folder)
        except OSError:
            if aside.exists():
                aside.replace(folder)
            raise
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(aside, ignore_errors=True)
    _flush_folder(folder.parent)


def _flush_folder(folder: Path) -> None:
    """Makes the names in a folder durable, not only the content of its files."""
    with naming(folder):
        handle = os.open(folder, os.O_RDONLY)
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
        with naming(path):
            yield temporary
        temporary.replace(path)
        _flush_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
