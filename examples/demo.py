"""A recommender on Amazon Beauty, plain and with plug-ins, beside the sober baselines: one table in about ten minutes.

Run it with `make demo`, or `python examples/demo.py --help`. Everything is written to `demo-output/`; finished arms are
kept, so a second run only prints, and an interrupted one goes on where it stopped.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import augrec
from augrec.console import table
from augrec.experiment.api import TrainedRun
from augrec.experiment.config import resolve
from augrec.train.callbacks import Callback

DATA, TITLE = "beauty", "Amazon Beauty"
SEED = 0
EVERY = 5  # epochs between validations
MINUTES = 5.5  # training time of the three LightGCN arms together
SLOWEST = "LightGCN + ADAR"


@dataclass(frozen=True)
class Arm:
    """One row of the table."""

    title: str
    model: str
    augment: tuple[str, ...] = ()

    @property
    def trained(self) -> bool:
        """Trained in epochs, not counted or solved."""
        return self.model == "lightgcn"


ARMS = (
    Arm("popularity", "popularity"),
    Arm("ItemKNN", "itemknn"),
    Arm("EASE", "ease"),
    Arm("LightGCN", "lightgcn"),
    Arm("LightGCN + noise", "lightgcn", ("adar-gaussian",)),
    Arm(SLOWEST, "lightgcn", ("adar",)),
)


class Lines(Callback):
    """A line an epoch on standard error."""

    def __init__(self, title: str) -> None:
        self.title = title

    def on_epoch_end(self, line: Mapping[str, Any]) -> None:
        valid = "" if line["valid"] is None else f", valid recall@20 {line['valid']['recall@20']:.4f}"
        say(f"    {self.title}: epoch {line['epoch']}, {line['seconds']:.1f} s{valid}")


def say(text: str) -> None:
    """Progress goes to standard error, so that standard output holds the results alone."""
    print(text, file=sys.stderr, flush=True)


def train(arm: Arm, folder: Path, *, epochs: int, **overrides: Mapping[str, Any]) -> TrainedRun:
    """Trains an arm in `folder`, goes on with an unfinished one, or keeps a finished one of the same settings."""
    parts: dict[str, Mapping[str, Any]] = dict(overrides)
    if arm.trained:
        parts["train"] = {"epochs": epochs, "evaluate_every": EVERY, "checkpoint_every": EVERY}
    settings: dict[str, Any] = {
        "data": DATA, "model": arm.model, "augment": arm.augment, "split": "ratio", "seed": SEED,
        "overrides": parts,
    }  # fmt: skip
    wanted, resume = {"augrec": augrec.__version__, **resolve(**settings).to_json()}, False
    if folder.exists():
        found = read_json(folder / "config.json")
        resume = found is not None and wanted == {key: found[key] for key in found if key != "choices"}
        if resume and (folder / "result.json").exists():
            say(f"{arm.title}: kept from an earlier run of the demo ({folder})")
        elif resume:
            say(f"{arm.title}: goes on where it stopped ({folder})")
        else:
            say(f"{arm.title}: {folder} was made with other settings and is made anew")
            shutil.rmtree(folder)
    else:
        say(f"{arm.title}: " + (f"{epochs} epoch{'s' * (epochs > 1)}" if arm.trained else "fitted in closed form"))
    return augrec.train(**settings, out=folder, resume=resume, callbacks=[Lines(arm.title)])


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none."""
    import json

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def choose_epochs(out: Path) -> int:
    """As many epochs (5 to 25) as the time allows, judged by one epoch of the slowest arm on this machine."""
    slowest = next(arm for arm in ARMS if arm.title == SLOWEST)
    say("How fast is this machine? One epoch of the slowest arm.")
    done = train(slowest, out / "one-epoch", epochs=1, evaluate={"max_users": 200})
    seconds = done.result["seconds"]["epoch_median"]
    fit = int(MINUTES * 60 / (seconds * sum(arm.trained for arm in ARMS)))
    epochs = min(25, max(5, fit))
    say(f"{seconds:.1f} s an epoch, so each LightGCN arm gets {epochs} epochs.")
    return epochs


def show(arms: Sequence[tuple[Arm, TrainedRun]]) -> None:
    """The one table: validation beside test."""
    names = [f"{part}\n{name}" for part in ("valid", "test") for name in ("recall@20", "ndcg@20")]
    header = ["", *names, "coverage\n@20", "best\nepoch", "early\nstop", "train\nseconds"]
    rows: list[list[Any]] = []
    for arm, run in arms:
        found = run.result
        figures = [f"{found[part][name]:.4f}" for part in ("valid", "test") for name in ("recall@20", "ndcg@20")]
        epochs, train_seconds = found["epochs"], found["seconds"]["train"]
        best = f"{epochs['best']} of {epochs['run']}" if arm.trained else "-"
        stopped = ("yes" if epochs["stopped_early"] else "no") if arm.trained else "-"
        coverage = f"{found['beyond_accuracy']['coverage@20']:.3f}"
        rows.append([arm.title, *figures, coverage, best, stopped, f"{train_seconds:.0f}"])
    table(header, rows)


def weights(arms: Sequence[tuple[Arm, TrainedRun]]) -> str:
    """The weight of each plug-in in the runs' own records; one number where they agree."""
    found = {
        read_json(run.directory / "config.json")["parts"][name]["weight"]  # type: ignore[index]
        for arm, run in arms
        for name in arm.augment
    }
    return " and ".join(f"{weight:g}" for weight in sorted(found))


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is missing, prints the table, writes recommendations of five users."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, help="epochs of each LightGCN arm; by default what this machine can do")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="the folder to write to")
    options = parser.parse_args(arguments)
    out, begun = options.out, time.perf_counter()
    epochs = options.epochs or choose_epochs(out)
    arms = []
    for arm in ARMS:
        name = "-".join([arm.model, *arm.augment])
        folder = out / (f"{name}-{epochs}-epochs" if arm.trained else name)
        arms.append((arm, train(arm, folder, epochs=epochs)))

    first = arms[0][1].result
    data, split = first["data"], first["split"]
    print(
        f"\n{TITLE}: {data['users']:,} users, {data['items']:,} items, {data['interactions']:,} interactions.\n"
        f"Per-user 80/20 split, a tenth of train held out for validation (train {split['train']:,}, valid "
        f"{split['valid']:,}, test {split['test']:,}), seed {SEED}.\n"
        f"Full ranking of the catalogue, seen items masked; the epoch is chosen on validation recall@20.\n"
    )
    show(arms)
    best = [run.result["epochs"] for arm, run in arms if arm.trained]
    if not any(one["stopped_early"] for one in best):
        print(
            f"\nEarly stopping did not fire: {epochs} epochs are a short budget and no LightGCN arm has converged, so "
            f"the table\nsays how far each came in equal epochs, not where it ends."
        )
    print(
        f"LightGCN and its plug-ins run on default settings, both plug-ins with weight (lambda) {weights(arms)}; the "
        f"baselines' defaults\nwere chosen on Beauty's validation part. This is one seed: a difference between rows "
        f"is no claim, not even a measurement."
    )

    run = arms[-1][1]
    five = augrec.load(DATA).users.ids.head(5).to_list()
    lists, place = run.recommend(five, k=5), out / "recommendations.csv"
    lists.write_csv(place)
    print(
        f"\nFive recommendations for each of five users, by {arms[-1][0].title} (original ids, seen items left out):\n"
    )
    for user in five:
        print(f"  user {user}: items {', '.join(str(item) for item in lists.filter(lists['user'] == user)['item'])}")
    print(
        f"\nWhere everything is: {place} and one folder an arm in {out}/, with config.json, metrics.jsonl,\n"
        f"result.json, per_user.parquet, bundle/ (what recommends) and checkpoints/.\n"
        f"The demo took {time.perf_counter() - begun:.0f} s.\n\n"
        f"Next:\n"
        f"  augrec train --data beauty --model lightgcn                  # until validation stops rising\n"
        f"  augrec train --data beauty --model lightgcn --augment adar   # the same with ADAR\n"
        f"  augrec recommend {run.directory} --k 20 --out recs.parquet\n"
        f"  augrec train --data YOUR.csv --model sasrec                  # your own log\n"
        f"  (augrec stands in .venv/bin, or: source .venv/bin/activate)"
    )


if __name__ == "__main__":
    main()
