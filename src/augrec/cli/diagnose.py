"""augrec diagnose: what the negatives of finished runs really are."""

from __future__ import annotations

import json as json_text
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from augrec.cli.app import Json, app, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@app.command
def diagnose(
    run: Path,
    other: Path | None = None,
    /,
    *,
    batches: int = 32,
    seed: int | None = None,
    out: Path | None = None,
    plots: bool = True,
    tsne: bool = True,
    json: Json = False,
) -> None:
    """What the negatives of a finished run really are: how many are false, how hard, how far from real items.

    Draws training batches again from the finished model, changes nothing of the run, and writes diagnose.json and
    plots. A second run stands beside the first.

    Parameters
    ----------
    run
        The run directory.
    other
        A second run directory to compare with.
    batches
        Training batches to draw.
    seed
        Seed of the draws; by default the run's.
    out
        Folder for diagnose.json and the plots; by default RUN/diagnose, for two runs RUN/diagnose/with-OTHER.
    plots
        Draw the plots (they need the extra `report`).
    tsne
        Draw the t-SNE maps of user and item vectors, which take longest.
    json
        Print JSON.
    """
    from augrec import __version__
    from augrec.console import table
    from augrec.experiment.diagnose import diagnose as examine
    from augrec.report.panels import extra
    from augrec.report.plots import write_plots
    from augrec.storage import write_file

    if plots:
        for module in ("matplotlib", *(("sklearn",) if tsne else ())):
            extra(module)
    folders = [run] if other is None else [run, other]
    found = [examine(folder, batches=batches, seed=seed) for folder in folders]
    titles = [_title(folder, one.figures) for folder, one in zip(folders, found, strict=True)]
    if len(set(titles)) < len(titles):
        titles = [str(folder) for folder in folders]
    target = out or (run / "diagnose" if other is None else run / "diagnose" / f"with-{other.resolve().name}")
    values = {"augrec": __version__, "runs": [one.figures for one in found]}
    text = json_text.dumps(values, indent=1, ensure_ascii=False) + "\n"
    write_file(target / "diagnose.json", text.encode())
    if plots:
        write_plots(dict(zip(titles, found, strict=True)), target, tsne=tsne, seed=seed or 0)
    if json:
        print_json(values)
    else:
        table(["", *titles], rows_of([one.figures for one in found]))
        sys.stdout.write(f"{'figures and plots' if plots else 'figures'}: {target}\n")


def _title(folder: Path, figures: Mapping[str, Any]) -> str:
    """The folder's name; where a grid named it by a hash, what was run."""
    name = folder.resolve().name
    if re.fullmatch("[0-9a-f]{16}", name) is None:
        return name
    preset = "" if figures["preset"] == "default" else f"@{figures['preset']}"
    return " + ".join([figures["model"], *figures["augment"]]) + f"{preset}, seed {figures['seed']}"


def rows_of(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The table: a line a figure, a column a run; "-" where a run has no such figure."""
    columns = [dict(_lines(one)) for one in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    if len(columns) > 1:
        # A run's lines keep their order; what only the other has comes where it stands there.
        longest = max(columns, key=len)
        names = [*longest, *(name for name in names if name not in longest)]
    return [[name, *(column.get(name, "-") for column in columns)] for name in names]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _spread(values: Mapping[str, float | None]) -> str:
    """Mean, and median between the 5 % and 95 % quantiles."""
    if values["mean"] is None:
        return "-"
    return f"{_number(values['mean'])}  [{_number(values['q05'])}  {_number(values['q50'])}  {_number(values['q95'])}]"


def _chance(values: Mapping[str, Any]) -> str:
    if values["rate"] is None:
        return "-"
    interval = f"{100 * values['low']:.3g}..{100 * values['high']:.3g}"
    expected = "-" if values["expected"] is None else f"{100 * values['expected']:.3g}"
    noise = "" if values.get("noise") is None else f", noise {100 * values['noise']:.3g} %"
    return f"{100 * values['rate']:.3g} % ({interval}), uniform {expected} %{noise}"


def _lines(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "model", " + ".join([run["model"], *run["augment"]]) + f", {run['objective']}"
    yield "weights of epoch", str(run["epoch"])
    yield "drawn", f"{run['drawn']['batches']} batches, {run['drawn']['targets']:,} targets"
    for source, found in run["negatives"].items():
        if source == "drawn_by_objective":
            continue
        title = source if _by_objective(run, source) else "uniform (the objective draws none)"
        for part in ("test", "valid", "train"):
            if part in found:
                yield f"{title} negatives in the user's {part}", _chance(found[part])
    yield "mean [5 % median 95 %] of", ""
    for name, values in run["scores"].items():
        yield f"  score, {name}", _spread(values)
    for name, values in run["margin"].items():
        yield f"  margin {name.replace('_', ' ')}", _spread(values)
    for name, values in run["gradient"]["weight"].items():
        yield f"  pair weight {name.replace('_', ' ')}", _spread(values)
    if run["gradient"]["share_generated"]:
        yield "  query gradient from generated", _spread(run["gradient"]["share_generated"])
    for name, values in run["norms"].items():
        yield f"  norm, {name}", _spread(values)
    for name, values in run["margin"].items():
        yield f"wrong order {name.replace('_', ' ')}", f"{100 * values['wrong_order']:.3g} %"
    yield from _generated(run)
    yield from _space(run["space"])


def _by_objective(run: Mapping[str, Any], source: str) -> bool:
    """Whether these ids are what the objective trains on, not stand-ins."""
    return source != "sampled" or bool(run["negatives"]["drawn_by_objective"])


def _generated(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, found in run["generated"].items():
        if found["weight"] is not None:
            yield f"{name}: weight", _number(found["weight"])
        for other, values in found["cosine"].items():
            yield f"{name}: cosine with {other}", _spread(values)
        for key, near in found["nearest"].items():
            by = key.replace("_", " ")
            for part in ("test", "valid", "train", "positive"):
                if part in near:
                    whose = "the positive" if part == "positive" else f"in the user's {part}"
                    yield f"{name}: nearest item {whose}, by {by}", _chance(near[part])
            yield (
                f"{name}: distinct nearest items, by {by}",
                (f"{near['distinct_items']:,} of {found['compared']:,}, noise {near['distinct_items_noise']:,}"),
            )
            yield f"{name}: rank of the positive, by {by}", _spread(near["positive_rank"])
    if run["ridge"]:
        for name, value in run["ridge"].items():
            yield f"offset in the loss, {name.replace('_', ' ')}", _number(value)
    if run["steps"]:
        yield "t*/T, mean", _number(run["steps"]["drawn"]["mean"])
        yield "saturated (t* >= T - 1)", f"{100 * run['steps']['drawn']['saturated']:.3g} %"


def _space(space: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "user norm", _spread(space["user_norm"])
    yield "item norm", _spread(space["item_norm"])
    for part in ("train", "test"):
        yield f"alignment of {part} pairs", _number(space[f"alignment_{part}"])
    for part in ("users", "items"):
        shown = f"{_number(space[f'uniformity_{part}'])} (uniform sphere {_number(space['uniformity_bound'])})"
        yield f"uniformity of {space[part]:,} {part}", shown
    for part in ("items", "users"):
        yield f"effective rank, {part}", f"{_number(space[f'effective_rank_{part}'])} of {space['dim']}"
    yield (
        "cosine of items of one sequence",
        f"{_number(space['cohesion_sequences'])} (items dealt at random {_number(space['cohesion_chance'])})",
    )
