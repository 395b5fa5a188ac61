"""The command line. Every command is a thin call of the Python entrance and a table; `--json` prints for machines."""

from __future__ import annotations

import errno
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from augrec import __version__
from augrec.errors import AugrecError, UsageError

Json = Annotated[bool, Parameter(name="--json", negative="")]
Flag = Parameter(negative="")

app = App(
    name="augrec", help="Diffusion augmentation for any recommender.", version=__version__, version_flags=["--version"]
)
data_app = App(name="data", help="Data sets by name or path.")
app.command(data_app)


def _print(values: Any) -> None:
    sys.stdout.write(json.dumps(values, indent=1, ensure_ascii=False) + "\n")


@data_app.command(name="list")
def data_list(*, json: Json = False) -> None:
    """Data sets that can be named: embedded, in AUGREC_DATA, or to be fetched.

    Parameters
    ----------
    json
        Print JSON.
    """
    from augrec.console import table
    from augrec.data.catalog import available

    rows = [asdict(entry) for entry in available()]
    if json:
        _print(rows)
    else:
        keep = ("name", "users", "items", "interactions", "state", "licence")
        table(
            ["name", "users", "items", "interactions", "where", "licence"], [[row[key] for key in keep] for row in rows]
        )


@data_app.command(name="show")
def data_show(source: str, /, *, json: Json = False) -> None:
    """What a data set holds.

    Parameters
    ----------
    source
        A name, or a CSV, TSV, Parquet, RecBole .inter or "user item item ..." file.
    json
        Print JSON.
    """
    from augrec.console import table
    from augrec.data.catalog import load
    from augrec.experiment.describe import describe

    facts = describe(load(source))
    if json:
        _print(facts)
    else:
        table(["", facts["name"]], [[key, value] for key, value in facts.items() if key != "name"])


@data_app.command(name="import")
def data_import(source: str, /, *, out: Path, json: Json = False) -> None:
    """Reads and checks a file, and writes it as Parquet that augrec reads fastest.

    Parameters
    ----------
    source
        A CSV, TSV, Parquet, RecBole .inter or "user item item ..." file.
    out
        The Parquet file to write.
    json
        Print JSON.
    """
    from augrec.data.catalog import load
    from augrec.experiment.describe import describe, to_frame
    from augrec.storage import replacing

    log = load(source)
    with replacing(out) as temporary:
        to_frame(log).write_parquet(temporary)
    if json:
        _print({"out": str(out), **describe(log)})
    else:
        sys.stdout.write(f"{out}: {len(log):,} interactions of {log.n_users:,} users and {log.n_items:,} items\n")


@data_app.command(name="fetch")
def data_fetch(name: str, /, *, json: Json = False) -> None:
    """Downloads a public data set into the cache and checks its checksum.

    Parameters
    ----------
    name
        One of the names `augrec data list` shows as "to fetch".
    json
        Print JSON.
    """
    from augrec.data.catalog import fetch

    path = fetch(name)
    if json:
        _print({"name": name, "path": str(path)})
    else:
        sys.stdout.write(f"{path}\n")


@app.command
def train(
    *,
    data: str = "beauty",
    model: str | None = None,
    augment: str = "",
    preset: str = "default",
    objective: str | None = None,
    split: str | None = None,
    seed: int = 0,
    epochs: int | None = None,
    refit: Annotated[bool, Flag] = False,
    out: Path | None = None,
    resume: Annotated[bool, Flag] = False,
    set: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),  # noqa: A002 - the option's name
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
    out
        The run directory; by default a folder in runs/ named after the settings.
    resume
        Go on with the run in --out; its settings are read from there.
    set
        One typed field, as part.field=value, for example --set train.batch_size=512. May be repeated.
    json
        Print the result as JSON.
    """
    from augrec.console import show_result
    from augrec.experiment import api
    from augrec.experiment.config import parse_overrides

    if resume and out is None:
        raise UsageError("--resume: name the run to go on with: --out DIR")
    if model is None and not resume:
        raise UsageError("--model: name a model, for example --model lightgcn; `augrec models` lists them")
    names = [name.strip() for name in augment.split(",") if name.strip()]
    done = api.train(
        data, model=model or "", augment=names, preset=preset, objective=objective, split=split, seed=seed, epochs=epochs,
        refit=refit, out=out, resume=resume, overrides=parse_overrides(set),
    )  # fmt: skip
    if json:
        _print(done.result)
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
    json
        Print JSON.
    """
    from augrec.console import table
    from augrec.experiment.api import evaluate_run

    found = evaluate_run(run, protocol=protocol, part=split_part, seen_items=seen_items)
    if json:
        _print(found)
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
    k: int = 20,
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
    from augrec.experiment.describe import read_ids
    from augrec.experiment.directory import RunDirectory
    from augrec.serve.recommender import Recommender

    if users is not None and histories is not None:
        raise UsageError("--users and --histories: give one of them")
    RunDirectory(run).read_json(RunDirectory(run).result)
    recommender = Recommender.load(RunDirectory(run).bundle)
    listed = {name: read_ids(path) for name, path in (("allow", allow), ("deny", deny)) if path is not None}
    if histories is not None:
        lists = recommender.recommend_histories(load(histories), k=k, seen=seen, **listed)
    else:
        asked = None if users is None else read_ids(users)
        lists = recommender.recommend(asked, k=k, seen=seen, unknown=unknown, **listed)
    write_lists(lists, out, as_json=json)


@app.command
def models(*, json: Json = False) -> None:
    """Backbones, baselines, objectives and augmentations that can be named.

    Parameters
    ----------
    json
        Print JSON.
    """
    from augrec.console import table
    from augrec.experiment.registry import entries

    rows = [{"name": e.name, "family": e.family, "about": e.about} for e in entries().values()]
    if json:
        _print(rows)
    else:
        table(["name", "family", "what it is"], [list(row.values()) for row in rows])


@app.command
def doctor(*, json: Json = False) -> None:
    """Checks the installation: versions, cores, folders, the embedded data and a few training steps.

    Parameters
    ----------
    json
        Print JSON.
    """
    from augrec.console import table
    from augrec.experiment.doctor import examine

    checks = examine()
    if json:
        _print([asdict(check) for check in checks])
    else:
        table(
            ["check", "found", "ok"],
            [[check.name, check.found, "yes" if check.ok else f"NO: {check.mend}"] for check in checks],
        )
    if not all(check.ok for check in checks):
        raise AugrecError("something above is not in order")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and leaves with its exit code: 0 done, 1 failed, 2 wrong usage or bad input, 130/143
    stopped."""
    code = 0
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        code = _say(f"{error}; see augrec --help", 2)
    except AugrecError as error:
        code = _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = _say("stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:
        reason = (
            "the disk is full; free space and go on with --resume" if error.errno == errno.ENOSPC else error.strerror
        )
        code = _say(f"{error.filename or 'writing'}: {reason}", 1)
    sys.exit(code)


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"augrec: {message}\n")
    return code


if __name__ == "__main__":
    main()
