"""augrec bench: us and our peers side by side in one run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from augrec.cli.app import Flag, Json, app, print_json
from augrec.errors import UsageError

if TYPE_CHECKING:
    from augrec.bench.record import Record


@app.command
def bench(
    *,
    rows: str = "",
    threads: str = "",
    quick: Annotated[bool, Flag] = False,
    large: Annotated[bool, Flag] = False,
    resume: Annotated[bool, Flag] = False,
    out: Path = Path("runs/bench"),
    peers_dir: Path | None = None,
    peer_python: Annotated[tuple[str, ...], Parameter(name="--peer-python", negative="")] = (),
    curves: Path | None = None,
    list: Annotated[bool, Flag] = False,
    json: Json = False,
) -> None:
    """Times us, other libraries and naive versions of the plug-ins in turns, and says how their work is made equal.

    Writes bench.json, bench.md and, with the extra `report`, bench.png. Peers run in environments of their own, made on
    first use; what cannot be run says why.

    Parameters
    ----------
    rows
        Rows or families to run, separated by commas: epoch, augment/adar, "evaluate/*". All by default.
    threads
        Thread counts, separated by commas; by default 1 and 2, as far as there are cores.
    quick
        Show in little time that rows work; the figures are no measurement.
    large
        Let logs grow to 10^8 events, and a million users meet a million items: up to 24 GB of memory, 10 of disk.
    resume
        Go on with the run in `--out`: rows that are there and whole are kept.
    out
        The folder of bench.json, bench.md and bench.png.
    peers_dir
        Where the peers' environments are made and kept; by default in augrec's cache folder.
    peer_python
        A ready Python of a peer, as NAME=PATH, in place of making its environment. May be repeated.
    curves
        A folder with recorded validation curves, for the rows of time to a quality.
    list
        Say what rows there are; nothing is run.
    json
        Print the record as JSON.
    """
    from augrec.bench.rows import select

    chosen = select([one.strip() for one in rows.split(",") if one.strip()])
    if list:
        from augrec.console import table

        lines = [
            {"row": row.name, "arms": [arm.name for arm in row.arms] + [*row.recorded], "about": row.about}
            for row in chosen
        ]  # fmt: skip
        if json:
            print_json(lines)
        else:
            table(["row", "arms", "what"], [[*one.values()] for one in lines])
        return
    from augrec.bench.environments import PEERS, Environments
    from augrec.bench.run import Options, bench
    from augrec.data.fetch import cache_folder

    given = _pythons(peer_python, [*PEERS])
    counts = _counts(threads)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; name a folder")
    earlier = _earlier(out, resume=resume)
    place = peers_dir if peers_dir is not None else cache_folder(None) / "bench"
    environments = Environments(place, given, say=_say)
    options = Options(
        threads=counts, quick=quick, large=large, curves=curves, say=_say, keep=lambda record: _write(record, out),
        earlier=earlier,
    )  # fmt: skip
    record = bench(chosen, environments, options)
    drawn = _draw(record, out)
    if json:
        print_json(record.model_dump(mode="json"))
        return
    from augrec.bench.markdown import markdown

    sys.stdout.write(markdown(record))
    sys.stdout.write(f"\n{out / 'bench.json'}, {out / 'bench.md'}{f', {out / drawn}' if drawn else ''}\n")


def _say(message: str) -> None:
    sys.stderr.write(f"bench: {message}\n")
    sys.stderr.flush()


def _pythons(given: tuple[str, ...], known: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, sign, path = text.partition("=")
        if not sign or name not in known or not path:
            raise UsageError(f"--peer-python {text}: write it as NAME=PATH, NAME one of {', '.join(known)}")
        found[name] = path
    return found


def _counts(text: str) -> tuple[int, ...]:
    from augrec.train.threads import cores

    if not text:
        return (1, 2) if cores() > 1 else (1,)
    words = [one.strip() for one in text.split(",")]
    if not all(one.isascii() and one.isdigit() and 0 < int(one) <= 1024 for one in words):
        raise UsageError(f"--threads {text}: whole numbers from 1 to 1024, separated by commas, such as 1,2")
    return tuple(dict.fromkeys(int(one) for one in words))


def _earlier(out: Path, *, resume: bool) -> Record | None:
    """The run that is gone on with. Raises `UsageError` for one that is not asked for, and for one that cannot be
    read."""
    from pydantic import ValidationError

    from augrec.bench.record import Record

    path = out / "bench.json"
    if not path.exists():
        return None
    if not resume:
        raise UsageError(f"--out {out}: holds a run already; go on with it (--resume), or name another folder")
    try:
        return Record.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--resume: {path} is not a run of this command ({reason}); name another folder") from None


def _write(record: Record, out: Path) -> None:
    """The record so far; a stopped run leaves what it measured."""
    import json

    from augrec.bench.markdown import markdown
    from augrec.storage import write_file

    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "bench.json", json.dumps(record.model_dump(mode="json"), indent=1).encode() + b"\n")
    write_file(out / "bench.md", markdown(record).encode())


def _draw(record: Record, out: Path) -> str:
    """The plot's name, empty where there is none."""
    from augrec.report.bars import write_bars

    try:
        return "bench.png" if write_bars(record.model_dump(mode="json"), out / "bench.png") else ""
    except UsageError as error:
        _say(f"no plot: {error}")
        return ""
