"""Commands about runs: train, evaluate, recommend."""

from __future__ import annotations

from os import environ
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from augrec.cli.app import Flag, Json, Whole, app, print_json
from augrec.errors import UsageError


@app.command
def train(
    *,
    data: str = "beauty",
    model: str | None = None,
    augment: str = "",
    preset: str = "default",
    objective: str | None = None,
    split: str | None = None,
    seed: Annotated[int, Whole] = 0,
    epochs: Annotated[int | None, Whole] = None,
    refit: Annotated[bool, Flag] = False,
    protocol: str | None = None,
    out: Path | None = None,
    resume: Annotated[bool, Flag] = False,
    devices: Annotated[int | None, Whole] = None,
    num_nodes: Annotated[int | None, Whole] = None,
    set: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    json: Json = False,
) -> None:
    """Trains a recommender, evaluates it and writes a run directory.

    Parameters
    ----------
    data
        A name (see `augrec data list`) or a file.
    model
        A backbone or baseline (see `augrec models`).
    augment
        Augmentations, separated by commas.
    preset
        Settings of the augmentations: default, paper, published-code or robust.
    objective
        bpr, bce, softmax or sampled-softmax; by default bpr for pair models, softmax for sequence models.
    split
        ratio, leave-one-out, temporal or given; by default ratio for pair models, leave-one-out for sequence models.
    seed
        Seed of the split and of every random stream.
    epochs
        Epochs at most.
    refit
        Train again on train + validation for the chosen number of epochs.
    protocol
        P1, P1d or P2: rows, objective and ranking of a sequence model as in a family of papers (docs/protocols.md).
    out
        The run directory; by default a folder in runs/ named after the settings.
    resume
        Go on with the run in --out; its settings are read from there.
    devices
        Processes on this machine that share the run; by default one, or what torchrun has started.
    num_nodes
        Machines that share the run; each is given the command (see docs/distributed.md).
    set
        One typed field, as part.field=value, for example --set train.batch_size=512. May be repeated.
    json
        Print the result as JSON.
    """
    from augrec.console import show_result
    from augrec.experiment import api
    from augrec.experiment.config import parse_overrides
    from augrec.experiment.processes import rank_in
    from augrec.train.memory import keep_freed_memory

    keep_freed_memory()
    if resume and out is None:
        raise UsageError("--resume: name the run to go on with: --out DIR")
    if model is None and not resume:
        raise UsageError("--model: name a model, for example --model lightgcn; `augrec models` lists them")
    names = [name.strip() for name in augment.split(",") if name.strip()]
    done = api.train(
        data,
        model=model or "",
        augment=names,
        preset=preset,
        objective=objective,
        split=split,
        seed=seed,
        epochs=epochs,
        refit=refit,
        protocol=protocol,
        out=out,
        resume=resume,
        overrides=parse_overrides(set),
        devices=devices,
        num_nodes=num_nodes,
    )
    if rank_in(environ):
        return  # process 0 speaks for all
    if json:
        print_json(done.result)
    else:
        show_result(done.result, done.directory)


@app.command
def evaluate(
    run: Path,
    /,
    *,
    protocol: Literal["full", "sampled99"] = "full",
    split_part: Literal["valid", "test"] = "test",
    seen_items: Literal["mask", "keep"] | None = None,
    data: str | None = None,
    json: Json = False,
) -> None:
    """Evaluates a finished run by another protocol and notes it in its result.json.

    Parameters
    ----------
    run
        The run directory.
    protocol
        full ranks the whole catalogue; sampled99 ranks among 99 negatives, which is biased.
    split_part
        The held-out part.
    seen_items
        Leave seen items out of the ranking or keep them; by default as the run did.
    data
        The run's data, where it has moved since.
    json
        Print JSON.
    """
    from augrec.console import table
    from augrec.experiment.api import evaluate_run

    found = evaluate_run(run, protocol=protocol, part=split_part, seen_items=seen_items, data=data)
    if json:
        print_json(found)
    else:
        rule = ", ".join(
            f"{key} {value}"
            for key, value in found["protocol"].items()
            if key in ("ranking", "seen_items", "part", "biased")
        )
        table(["metric", rule], [[name, f"{value:.4f}"] for name, value in found["metrics"].items()])


@app.command
def recommend(
    run: Path,
    /,
    *,
    out: Path | None = None,
    users: Path | None = None,
    histories: Path | None = None,
    k: Annotated[int, Whole] = 20,
    seen: Annotated[bool, Flag] = False,
    unknown: Literal["fail", "skip", "popular"] = "fail",
    allow: Path | None = None,
    deny: Path | None = None,
    json: Json = False,
) -> None:
    """Writes top-k lists of a finished run in original ids: user, item, rank, score.

    Parameters
    ----------
    run
        The run directory.
    out
        A .parquet, .csv or .jsonl file; without it the lists are printed.
    users
        A text file with a user id a line; by default all users.
    histories
        A log of users the model need not know (sequence and neighbourhood models only).
    k
        Length of the lists.
    seen
        Also recommend items the user has had.
    unknown
        What users the model does not know get: a refusal, nothing, or the most popular items.
    allow
        A text file of item ids; only these are recommended.
    deny
        A text file of item ids that are not recommended.
    json
        Print JSON.
    """
    from augrec.console import write_lists
    from augrec.data.catalog import load
    from augrec.experiment.api import open_run
    from augrec.experiment.describe import read_ids

    if users is not None and histories is not None:
        raise UsageError("--users and --histories: give one of them")
    recommender = open_run(run).recommender()
    listed = {name: read_ids(path) for name, path in (("allow", allow), ("deny", deny)) if path is not None}
    if histories is not None:
        lists = recommender.recommend_histories(load(histories), k=k, seen=seen, **listed)
    else:
        asked = None if users is None else read_ids(users)
        lists = recommender.recommend(asked, k=k, seen=seen, unknown=unknown, **listed)
    write_lists(lists, out, as_json=json)
