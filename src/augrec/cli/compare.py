"""augrec compare: augmentations beside their controls."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from augrec.cli.app import Json, Whole, app, print_json
from augrec.errors import UsageError


@app.command
def compare(
    *,
    data: str = "beauty",
    model: str,
    augment: str,
    preset: str = "default",
    objective: str | None = None,
    split: str | None = None,
    protocol: str | None = None,
    seeds: int = 5,
    epochs: int | None = None,
    arms: str = "",
    tune_weight: str = "",
    budget_minutes: float | None = None,
    workers: Annotated[int | None, Whole] = None,
    ray: str | None = None,
    out: Path | None = None,
    set: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    json: Json = False,
) -> None:
    """Popularity, ItemKNN, EASE, the base, its noise arms and the augmentations over seeds, with paired tests.

    All cells have the same split and the same budget; only the training seed varies. The same command again goes on
    where it stopped. Writes compare.json, compare.md and ledger.jsonl.

    Parameters
    ----------
    data
        A name (see `augrec data list`) or a file.
    model
        A backbone (see `augrec models`).
    augment
        Augmentations, separated by commas. NAME@PRESET gives one its own preset; A+B puts both into one cell.
    preset
        Settings of the augmentations: default, paper, published-code or robust.
    objective
        bpr, bce, softmax or sampled-softmax; by default bpr for pair models, softmax for sequence models.
    split
        ratio, leave-one-out, temporal or given; by default ratio for pair models, leave-one-out for sequence models.
    protocol
        P1, P1d or P2: rows, objective and ranking of a sequence model as in a family of papers (docs/protocols.md).
    seeds
        Training seeds 0 to N - 1. One is no claim, three are a measurement, five are a claim.
    epochs
        Epochs at most, the same for every cell.
    arms
        Further arms of the augmentations, such as fixed-0.75,random, or all.
    tune_weight
        Weights such as 0.1,0.2,0.5 from which every augmented cell takes its best on validation with seed 0.
    budget_minutes
        Start no run after this many minutes; the same command goes on later.
    workers
        Make so many runs at a time, each in a process of its own.
    ray
        Make the runs on a Ray cluster: its address, auto, or local.
    out
        The folder of the comparison; by default one in runs/ named after the settings.
    set
        One typed field of every cell that has it, as part.field=value. May be repeated.
    json
        Print the record as JSON.
    """
    from augrec.console import table
    from augrec.experiment.compare import compare as make
    from augrec.experiment.config import parse_overrides
    from augrec.experiment.spread import make_spread
    from augrec.experiment.tables import cells_table, notes, tests_table
    from augrec.train.memory import keep_freed_memory

    keep_freed_memory()
    try:
        weights = [float(one) for one in _names(tune_weight)]
    except ValueError:
        raise UsageError(f"--tune-weight {tune_weight}: give numbers separated by commas, as 0.1,0.2,0.5") from None
    done = make(
        data, model=model, augment=_names(augment), objective=objective, preset=preset, split=split, protocol=protocol,
        seeds=seeds, epochs=epochs, arms=_names(arms), tune_weight=weights, overrides=parse_overrides(set),
        budget_minutes=budget_minutes, out=out, spread=make_spread(workers=workers, ray=ray),
    )  # fmt: skip
    if json:
        print_json(done.record)
        return
    for head, rows in (cells_table(done.record, brief=True), tests_table(done.record)):
        if rows:
            table(head, rows)
            sys.stdout.write("\n")
    for line in notes(done.record):
        sys.stdout.write(f"- {line}\n")
    sys.stdout.write(f"tables, protocol and commands: {done.directory / 'compare.md'}\n")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
