"""An epoch of augrec against an epoch of RecBole 1.2.1 over the same transitions of Beauty, side by side in one run.

    python benchmarks/against_recbole.py --peer .venv-recbole/bin/python --data beauty.parquet [--threads 1 2]
    [--rounds 2]

Each round runs RecBole, then augrec, for each model and thread count (A B A B), through their own trainers: RecBole's
`--mode epoch` (see peers/recbole), augrec's command line with three epochs, of which the median counts. Equal for
both: the split
(leave-one-out), every train transition once an epoch (131,413 for SASRec, 153,776 pairs for LightGCN), width 64,
layers, heads,
dropout, Adam 1e-3, full softmax (SASRec) or BPR with one negative (LightGCN), 2,048 pairs a batch. Not equal: RecBole
trains a
row per prefix padded to 50 items in batches of 256, augrec whole windows without padding in batches of about 1,024
targets.
Foreign load is noted for every figure; trust none where it is not near 0.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OURS = {
    "SASRec": ["--model", "sasrec", "--objective", "softmax"],
    "LightGCN": ["--model", "lightgcn", "--set", "train.select=ndcg@10"],
}


def busy() -> float:
    """Busy processor seconds of the whole machine since it started."""
    fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / 100


def peer(python: str, data: str, model: str, threads: int) -> dict[str, Any]:
    """One `--mode epoch` run of RecBole."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "epoch.jsonl"
        command = [
            python,
            str(HERE / "peers/recbole/run_recbole.py"),
            "--model",
            model,
            "--data",
            data,
            "--mode",
            "epoch",
        ]
        subprocess.run([*command, "--threads", str(threads), "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(out.read_text().splitlines()[-1])
        return found


def ours(data: str, model: str, threads: int) -> dict[str, Any]:
    """Three epochs of augrec's own command line."""
    with tempfile.TemporaryDirectory() as folder:
        out, begun = Path(folder) / "run", busy()
        command = [sys.executable, "-m", "augrec", "train", "--data", data, "--split", "leave-one-out", *OURS[model]]
        command += [
            "--epochs",
            "3",
            "--set",
            f"train.threads={threads}",
            "--set",
            "train.evaluate_every=3",
            "--out",
            str(out),
        ]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        if os.waitstatus_to_exitcode(status):
            raise SystemExit(f"augrec failed: {' '.join(command)}")
        result = json.loads((out / "result.json").read_text())
        epochs = [json.loads(line)["seconds"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        wall = result["seconds"]["train"] + result["seconds"]["evaluate"]
        foreign = (busy() - begun - usage.ru_utime - usage.ru_stime) / max(wall, 1e-9)
        return {
            "epoch_seconds": epochs,
            "epoch_seconds_median": statistics.median(epochs),
            "eval_seconds": result["seconds"]["evaluate"],
            "peak_rss_mb": result["peak_rss_mb"],
            "foreign_cores": round(max(foreign, 0.0), 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="the Python of RecBole's environment")
    parser.add_argument("--data", required=True, help="beauty.parquet")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=list(OURS), choices=list(OURS))
    parser.add_argument("--out", type=Path, default=HERE.parent / "results/benchmarks/against_recbole.jsonl")
    chosen = parser.parse_args()
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    for number in range(chosen.rounds):
        for model in chosen.models:
            for threads in chosen.threads:
                row: dict[str, Any] = {"model": model, "threads": threads, "round": number + 1}
                row["recbole"] = peer(chosen.peer, chosen.data, model, threads)
                row["augrec"] = ours(chosen.data, model, threads)
                for state in ("anomaly_on", "anomaly_off"):
                    if state in row["recbole"]:
                        theirs = row["recbole"][state]["epoch_seconds_median"]
                        row[f"ratio_{state}"] = round(theirs / row["augrec"]["epoch_seconds_median"], 2)
                with chosen.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(
                    json.dumps({key: value for key, value in row.items() if key not in ("recbole", "augrec")}),
                    flush=True,
                )


if __name__ == "__main__":
    main()
