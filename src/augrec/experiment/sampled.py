"""A finished run judged among sampled negatives in place of the whole catalogue."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from augrec.evaluate.sampled import PREFIX, SampledConfig, evaluate_sampled
from augrec.experiment.build import read_split
from augrec.experiment.directory import RunDirectory
from augrec.experiment.result import write_per_user
from augrec.serve.bundle import load_bundle

if TYPE_CHECKING:
    from augrec.experiment.grid import Finished, Grid

PER_USER = "per_user_sampled99.parquet"
"""File of per-user values in a run directory."""


def sampled99(done: Finished, grid: Grid) -> Finished:
    """The run with its test figures, and validation's where it selected on them, among 99 seeded negatives; those of
    test are the same for every run of a split.

    The values are written into the run directory once and read from there afterwards. A run without a test part comes
    back as it is.
    """
    path = done.directory / PER_USER
    if "test" not in done.result:
        return done
    if not path.exists():
        split = read_split(done.config, grid.log_of(done.config))
        scorer = load_bundle(RunDirectory(done.directory).bundle).scorer
        found = evaluate_sampled(scorer, split, "test", SampledConfig(seed=0))
        write_per_user(path, found.metrics, split)
    frame = pl.read_parquet(path).drop("user")
    means = {name: float(frame[name].to_numpy().mean()) for name in frame.columns}
    protocol = {**done.result["protocol"], "ranking": "sampled99", "biased": True, "seen_items": "mask"}
    known = done.result.get("valid", {})
    valid = {name.removeprefix(PREFIX): value for name, value in known.items() if name.startswith(PREFIX)}
    more = {"test": means, "protocol": protocol} | ({"valid": valid} if valid else {})
    return replace(done, result={**done.result, **more})
