"""A log of 1,000,000 users, 100,000 items and 20,000,000 events through the command line: read, split, one epoch,
evaluation, lists.

    python benchmarks/large_log.py --folder DIR [--rows 20000000] [--users 1000000] [--items 100000]

Prints seconds and peak memory of each command as JSON lines. Items follow a power law; users have at least two events.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl


def make_log(path: Path, *, rows: int, users: int, items: int) -> None:
    """Writes a shuffled synthetic log as Parquet."""
    rng = np.random.default_rng(0)
    user = np.concatenate(
        [np.repeat(np.arange(users, dtype=np.int32), 2), rng.integers(0, users, rows - 2 * users, dtype=np.int32)]
    )
    item = (items * rng.random(rows) ** 3).astype(np.int32)
    stamp = rng.integers(1_500_000_000, 1_600_000_000, rows)
    order = rng.permutation(rows)
    pl.DataFrame({"user": user[order], "item": item[order], "timestamp": stamp[order]}).write_parquet(path)


def timed(name: str, arguments: list[str]) -> None:
    """Runs one augrec command and prints its seconds and peak memory."""
    begun = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "augrec", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    row = {
        "step": name,
        "seconds": round(time.perf_counter() - begun, 1),
        "peak_rss_mb": usage.ru_maxrss // 1024,
        "exit": code,
    }
    print(json.dumps(row), flush=True)
    if code:
        sys.exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    chosen = parser.parse_args()
    folder: Path = chosen.folder
    folder.mkdir(parents=True, exist_ok=True)
    log, run = folder / "log.parquet", folder / "run"
    begun = time.perf_counter()
    make_log(log, rows=chosen.rows, users=chosen.users, items=chosen.items)
    print(
        json.dumps(
            {"step": "make the log", "seconds": round(time.perf_counter() - begun, 1), "mb": log.stat().st_size >> 20}
        ),
        flush=True,
    )
    asked = folder / "users.txt"
    asked.write_text("\n".join(str(user) for user in range(0, chosen.users, max(chosen.users // 20_000, 1))))
    large = ["--set", "train.batch_size=65536", "--set", "evaluate.max_users=20000"]
    timed("data show", ["data", "show", str(log)])
    timed("train", ["train", "--data", str(log), "--model", "mf", "--epochs", "1", *large, "--out", str(run)])
    timed(
        "recommend", ["recommend", str(run), "--users", str(asked), "--k", "20", "--out", str(folder / "lists.parquet")]
    )
    print((run / "metrics.jsonl").read_text(), end="")
    print(
        json.dumps(
            {
                key: json.loads((run / "result.json").read_text())[key]
                for key in ("data", "seconds", "peak_rss_mb", "test")
            }
        )
    )


if __name__ == "__main__":
    main()
