"""augrec data: list, show, import, fetch."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from augrec.cli.app import Json, data_app, print_json


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
        print_json(rows)
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
        print_json(facts)
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
    from augrec.console import write_frame
    from augrec.data.catalog import load
    from augrec.errors import UsageError
    from augrec.experiment.describe import describe, to_frame

    if out.suffix not in (".parquet", ".pq"):
        raise UsageError(f"--out {out}: name a .parquet file")
    log = load(source)
    write_frame(to_frame(log), out)
    if json:
        print_json({"out": str(out), **describe(log)})
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
        print_json({"name": name, "path": str(path)})
    else:
        sys.stdout.write(f"{path}\n")
