"""A log of 1,000,000 users, 100,000 items and 20,000,000 events goes through the command line in less than 8 GB."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.soak
def test_twenty_million_events_stay_under_eight_gigabytes(root, tmp_path):
    script = root / "benchmarks" / "large_log.py"
    done = subprocess.run([sys.executable, str(script), "--folder", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    peaks = {line["step"]: line["peak_rss_mb"] for line in lines if "exit" in line}
    assert set(peaks) == {"data show", "train", "recommend"}
    assert max(peaks.values()) < 8 * 1024, peaks
    assert lines[-1]["data"]["users"] == 1_000_000
    assert lines[-1]["test"]["recall@20"] > 20 / 100_000
