"""Seconds to the same validation NDCG@10, ours and RecBole's: epochs from the recorded curves, seconds an epoch from
the quiet run.

    python benchmarks/time_to_quality.py

A curve recorded on a busy machine tells how many epochs a quality takes; what an epoch and a validation cost comes from
results/benchmarks/against_recbole.jsonl. Targets are 95 % of each program's best. Standard library only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "results"
CURVES = {
    "SASRec": ("curves/sasrec_beauty.jsonl", "peers/recbole_sasrec_b256_beauty_curve.jsonl"),
    "LightGCN": ("curves/lightgcn_beauty.jsonl", "peers/recbole_lightgcn_beauty_curve.jsonl"),
}


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def points(path: Path) -> dict[int, float]:
    """Validation NDCG@10 by epoch; a resumed run's later line wins."""
    return {line["epoch"]: line["valid"]["ndcg@10"] for line in lines(path) if line.get("valid")}


def reach(curve: dict[int, float], target: float) -> tuple[int, int] | None:
    """Epochs to the target and validations made on the way."""
    for number, epoch in enumerate(sorted(curve), start=1):
        if curve[epoch] >= target:
            return epoch, number
    return None


def main() -> None:
    timed = lines(RESULTS / "benchmarks/against_recbole.jsonl")
    out = RESULTS / "benchmarks/time_to_quality.jsonl"
    rows = []
    for model, files in CURVES.items():
        ours, theirs = (points(RESULTS / name) for name in files)
        ended = any(line.get("kind") == "end" for line in lines(RESULTS / files[1]))
        best = {"augrec": max(ours.values()), "recbole": max(theirs.values())}
        for row in (one for one in timed if one["model"] == model):
            state = "anomaly_on" if "anomaly_on" in row["recbole"] else "anomaly_off"
            cost = {
                "augrec": (row["augrec"]["epoch_seconds_median"], row["augrec"]["eval_seconds"]),
                "recbole": (row["recbole"][state]["epoch_seconds_median"], row["recbole"]["eval_seconds"]),
            }
            for whose in ("augrec", "recbole"):
                target, line = 0.95 * best[whose], {"model": model, "threads": row["threads"], "recbole_state": state}
                line |= {"target": round(target, 5), "is_95_percent_of": whose, "best": best}
                line |= {"epochs_recorded": {"augrec": max(ours), "recbole": max(theirs)}, "recbole_curve_ended": ended}
                for program, curve in (("augrec", ours), ("recbole", theirs)):
                    found = reach(curve, target)
                    if found is None:
                        line[program] = None
                        continue
                    seconds = found[0] * cost[program][0] + found[1] * cost[program][1]
                    line[program] = {"epochs": found[0], "validations": found[1], "seconds": round(seconds, 1)}
                if line["augrec"] and line["recbole"]:
                    line["ratio"] = round(line["recbole"]["seconds"] / line["augrec"]["seconds"], 1)
                rows.append(line)
                print(json.dumps(line))
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
