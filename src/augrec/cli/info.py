"""Commands about augrec itself: models, doctor."""

from __future__ import annotations

from dataclasses import asdict

from augrec.cli.app import Json, app, print_json
from augrec.errors import AugrecError


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
        print_json(rows)
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
        print_json([asdict(check) for check in checks])
    else:
        table(
            ["check", "found", "ok"],
            [[check.name, check.found, "yes" if check.ok else f"NO: {check.mend}"] for check in checks],
        )
    if not all(check.ok for check in checks):
        raise AugrecError("something above is not in order")
