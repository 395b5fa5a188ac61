"""Tell epochs and seconds to a validation NDCG@10 from a curve: ``python time_to_target.py CURVE [--epoch-time FILE]``.

The curve gives the epoch; seconds come from a quiet ``--mode epoch`` run, since a curve recorded on a busy machine has
wall times that mean nothing. Needs the standard library only.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def main() -> int:
    """Print one JSON object; return 1 where the curve never reaches the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("curve", type=Path)
    parser.add_argument("--epoch-time", type=Path, help="JSON lines of --mode epoch; its last matching line is used")
    parser.add_argument("--fraction", type=float, default=0.95, help="of the curve's best validation NDCG@10")
    parser.add_argument("--target", type=float, help="an absolute validation NDCG@10 instead of a fraction")
    args = parser.parse_args()
    lines = read(args.curve)
    run = next(line for line in lines if line["kind"] == "run")
    # A resumed run trains the epochs after its last saved state again: the later line of an epoch is the one kept.
    points = {line["epoch"]: line["valid"]["ndcg@10"] for line in lines if "valid" in line}
    if not points:
        print(f"{args.curve} holds no evaluation yet", file=sys.stderr)
        return 1
    best_epoch = max(points, key=lambda epoch: points[epoch])
    target = args.target if args.target is not None else args.fraction * points[best_epoch]
    reached = next((epoch for epoch in sorted(points) if points[epoch] >= target), None)
    answer: dict[str, Any] = {
        "model": run["model"],
        "train_batch_size": run["train_batch_size"],
        "best_valid_ndcg@10": points[best_epoch],
        "best_epoch": best_epoch,
        "last_epoch": max(points),
        "finished": any(line["kind"] == "end" for line in lines),
        "test_at_best": next((x["test"] for x in reversed(lines) if x.get("epoch") == best_epoch), None),
        "target": round(target, 6),
        "epochs_to_target": reached,
        "epochs_between_evaluations": run["eval_every"],
    }
    if args.epoch_time and reached:
        keys = ("model", "train_batch_size", "data")
        timed = [t for t in read(args.epoch_time) if all(t[key] == run[key] for key in keys)]
        if not timed:
            print(f"{args.epoch_time} has no epoch time of this model, batch size and data set", file=sys.stderr)
            return 1
        answer["epoch_time_threads"] = timed[-1]["threads"]
        evaluations = sum(epoch <= reached for epoch in points)
        for state in ("anomaly_on", "anomaly_off"):
            if state in timed[-1]:
                seconds = reached * timed[-1][state]["epoch_seconds_median"]
                answer[f"train_seconds_to_target_{state}"] = round(seconds, 1)
                if "eval_seconds" in timed[-1]:
                    total = seconds + evaluations * timed[-1]["eval_seconds"]
                    answer[f"train_and_eval_seconds_to_target_{state}"] = round(total, 1)
    print(json.dumps(answer, indent=1))
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
