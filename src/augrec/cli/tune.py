"""augrec tune: search over typed fields."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from augrec.cli.app import Json, app, print_json


@app.command
def tune(
    *,
    data: str = "beauty",
    model: str,
    augment: str = "",
    preset: str = "default",
    objective: str | None = None,
    split: str | None = None,
    protocol: str | None = None,
    search: Annotated[tuple[str, ...], Parameter(name="--search", negative="")] = (),
    trials: int = 20,
    metric: str | None = None,
    seed: int = 0,
    epochs: int | None = None,
    startup_trials: int = 5,
    warmup_epochs: int = 5,
    out: Path | None = None,
    set: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    json: Json = False,
) -> None:
    """Searches typed fields for the best validation metric with Optuna; test is never looked at.

    Needs the extra `tune`. The study is kept in --out (study.db): the same command goes on where it stopped, and a
    larger --trials extends it.

    Parameters
    ----------
    data
        A name (see `augrec data list`) or a file.
    model
        A backbone or baseline (see `augrec models`).
    augment
        Augmentations, separated by commas.
    preset
        Settings of the augmentations before the search: default, paper, published-code or robust.
    objective
        bpr, bce, softmax or sampled-softmax; by default bpr for pair models, softmax for sequence models.
    split
        ratio, leave-one-out, temporal or given; by default ratio for pair models, leave-one-out for sequence models.
    protocol
        P1, P1d or P2: rows, objective and ranking of a sequence model as in a family of papers (docs/protocols.md).
    search
        A field and its range or choices: train.learning_rate=1e-4:1e-2:log, sasrec.layers=1:4, adar.weight=0.1,0.2,0.5.
        May be repeated.
    trials
        Trials in all, pruned ones included.
    metric
        The validation metric, also for early stopping; by default what the model is selected on.
    seed
        Seed of the runs, the split and the sampler.
    epochs
        Epochs at most of each trial.
    startup_trials
        Trials that end before the first may be pruned.
    warmup_epochs
        Epochs every trial runs before it may be pruned.
    out
        The folder of the study; by default one in runs/ named after the settings.
    set
        One typed field that is not searched, as part.field=value. May be repeated.
    json
        Print the record as JSON.
    """
    from augrec.console import table
    from augrec.experiment.config import parse_overrides
    from augrec.experiment.tune import tune as make
    from augrec.train.memory import keep_freed_memory

    keep_freed_memory()
    names = [name.strip() for name in augment.split(",") if name.strip()]
    done = make(
        data, model=model, augment=names, preset=preset, objective=objective, split=split, protocol=protocol,
        search=search, trials=trials, metric=metric, seed=seed, epochs=epochs, startup_trials=startup_trials,
        warmup_epochs=warmup_epochs, overrides=parse_overrides(set), out=out,
    )  # fmt: skip
    record = done.record
    if json:
        print_json(record)
        return
    fields = list(record["search"])
    rows = [
        [
            one["number"],
            *(_short(one["values"][name]) for name in fields),
            _figure(one["value"]),
            one["state"],
            one["epochs"],
        ]
        for one in record["trials"]
    ]
    table(["trial", *fields, f"valid {record['metric']}", "state", "epochs"], rows)
    if record["best"] is not None:
        sys.stdout.write(f"\nbest: trial {record['best']['number']}, {_figure(record['best']['value'])}\n")
        sys.stdout.write(f"{record['best']['command']}\n")
    else:
        sys.stdout.write("\nno trial ran to its end\n")
    sys.stdout.write(f"all trials: {done.directory / 'trials.json'}\n")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
