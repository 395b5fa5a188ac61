"""Is this installation in order? Real checks, a few training steps included."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from augrec import __version__
from augrec.data.catalog import load
from augrec.data.fetch import cache_folder
from augrec.errors import AugrecError
from augrec.experiment.build import build, read_split
from augrec.experiment.config import resolve
from augrec.train.threads import cores


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding; `mend` says what to do where it is not ok."""

    name: str
    found: str
    ok: bool = True
    mend: str = ""


def examine() -> list[Check]:
    """All checks, in order."""
    checks = [
        Check(name="augrec", found=__version__),
        Check(name="Python", found=platform.python_version()),
        *(
            _package(name)
            for name in ("torch", "numpy", "scipy", "polars", "pydantic", "safetensors", "lightning-fabric")
        ),
        Check(name="CPU cores", found=str(cores())),
        Check(name="accelerator", found=_accelerator()),
        _load(),
        _writable("cache folder", cache_folder(None)),
        _data_folder(),
    ]
    return [*checks, _beauty(), _steps()]


def _package(name: str) -> Check:
    try:
        return Check(name=name, found=version(name))
    except PackageNotFoundError:
        return Check(name=name, found="missing", ok=False, mend=f"pip install {name}")


def _accelerator() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()} (not used yet)"
    return "Apple GPU (not used yet)" if torch.backends.mps.is_available() else "none, trains on the CPU"


def _load() -> Check:
    load_average = os.getloadavg()[0]
    busy = load_average > 0.5 * cores()
    return Check(
        name="load of the machine",
        found=f"{load_average:.1f}" + (" (busy: timings will not be trustworthy)" if busy else ""),
    )


def _writable(name: str, folder: Path) -> Check:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            return Check(name=name, found=str(folder))
    except OSError as error:
        return Check(
            name=name,
            found=f"{folder}: {error.strerror}",
            ok=False,
            mend="set AUGREC_CACHE to a folder you may write to",
        )


def _data_folder() -> Check:
    value = os.environ.get("AUGREC_DATA")
    if not value:
        return Check(name="AUGREC_DATA", found="not set")
    count = len(list(Path(value).glob("*.parquet"))) if Path(value).is_dir() else -1
    if count < 0:
        return Check(
            name="AUGREC_DATA",
            found=f"{value} is no folder",
            ok=False,
            mend="point AUGREC_DATA at a folder of NAME.parquet",
        )
    return Check(name="AUGREC_DATA", found=f"{value}, {count} Parquet files")


def _beauty() -> Check:
    try:
        log = load("beauty")
    except AugrecError as error:
        return Check(name="embedded data", found="missing", ok=False, mend=str(error))
    whole = (log.n_users, log.n_items, len(log)) == (22_363, 12_101, 198_502)
    return Check(
        name="embedded data", found=f"beauty, {len(log):,} interactions", ok=whole, mend="install augrec again"
    )


def _steps() -> Check:
    """Three real steps of matrix factorisation on Beauty."""
    try:
        run = resolve(model="mf")
        parts = build(run, read_split(run).train, seed=0)
        begun = time.perf_counter()
        with parts.step.streams.use("batches"):
            batches = [batch for batch, _ in zip(parts.batches.epoch(), range(3), strict=False)]
        losses = []
        for batch in batches:
            loss = torch.stack(list(parts.step(parts.step.begin(batch), 0).values())).sum()
            loss.backward()
            losses.append(loss.item())
        milliseconds = 1e3 * (time.perf_counter() - begun) / len(batches)
    except AugrecError as error:
        return Check(name="training step", found="failed", ok=False, mend=str(error))
    sane = all(0.5 < loss < 0.9 for loss in losses)
    return Check(
        name="training step",
        found=f"mf on beauty, {milliseconds:.0f} ms",
        ok=sane,
        mend="losses should start near ln 2; report this",
    )
