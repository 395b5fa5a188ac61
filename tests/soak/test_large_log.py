"""Large logs and large catalogues go through the command line within a memory limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from augrec.bench.growth import make_log


def peak_mb(*arguments):
    """Peak resident memory of one augrec command."""
    child = subprocess.Popen([sys.executable, "-m", "augrec", *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, arguments
    return usage.ru_maxrss // 1024


@pytest.mark.soak
def test_twenty_million_events_stay_under_eight_gigabytes(tmp_path):
    log, run, asked = tmp_path / "log.parquet", tmp_path / "run", tmp_path / "users.txt"
    make_log(log, interactions=20_000_000, users=1_000_000, items=100_000)
    asked.write_text("\n".join(str(user) for user in range(0, 1_000_000, 50)), encoding="utf-8")
    large = ["--set", "train.batch_size=65536", "--set", "evaluate.max_users=20000"]
    peaks = {
        "data show": peak_mb("data", "show", log),
        "train": peak_mb("train", "--data", log, "--model", "mf", "--epochs", "1", *large, "--out", run),
        "recommend": peak_mb("recommend", run, "--users", asked, "--k", "20", "--out", tmp_path / "lists.parquet"),
    }
    assert max(peaks.values()) < 8 * 1024, peaks
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert result["data"]["users"] == 1_000_000
    assert result["test"]["recall@20"] > 20 / 100_000


@pytest.mark.soak
def test_a_million_items_under_sampled_softmax_with_simdiffrec(tmp_path):
    """1,200,000 events of 60,000 users, every one of 1,000,000 items at least once."""
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.permutation(1_000_000), rng.integers(0, 1_000_000, 200_000)])
    users = np.repeat(np.arange(60_000), 20)
    log, run = tmp_path / "log.parquet", tmp_path / "run"
    pl.DataFrame({"user": users, "item": items, "timestamp": np.arange(len(items))}).write_parquet(log)
    chosen = ("--model", "sasrec", "--objective", "sampled-softmax", "--augment", "simdiffrec")
    settings = ("simdiffrec.candidates=4096", "train.batch_size=8192", "train.threads=1", "evaluate.max_users=1000")
    large = [word for one in settings for word in ("--set", one)]
    peak = peak_mb("train", "--data", log, *chosen, "--epochs", "1", *large, "--out", run)
    assert peak < 12 * 1024, peak
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert result["data"]["items"] == 1_000_000
