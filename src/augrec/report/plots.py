"""Plots of a diagnosis as PNG files, a row (or a column) for each run."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from augrec.report.maps import map_sequences, map_users
from augrec.report.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    densities,
    dress,
    extra,
    grid_of_panels,
    random_cosine,
    say_empty,
)
from augrec.storage import write_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from augrec.experiment.diagnose import Diagnosis

    Array = NDArray[np.float32]

_DPI = 130


def write_plots(runs: Mapping[str, Diagnosis], folder: Path, *, tsne: bool = True, seed: int = 0) -> list[Path]:
    """Writes the plots of the named diagnoses into `folder`: scores, gradient, norms, users, sequences, and steps where
    some run chooses steps. `tsne` adds the maps of user and of item vectors. Returns the files. Raises `UsageError`
    without the extra `report`."""
    extra("matplotlib")
    figures = {
        "scores.png": _scores(runs), "gradient.png": _gradient(runs), "norms.png": _norms(runs),
        "users.png": map_users(runs, tsne=tsne, seed=seed), "sequences.png": map_sequences(runs, tsne=tsne, seed=seed),
    }  # fmt: skip
    if any(one.figures["steps"] for one in runs.values()):
        figures["steps.png"] = _steps(runs)
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI)
        write_file(folder / name, buffer.getvalue())
    return [folder / name for name in figures]


def _under(diagnosis: Diagnosis, prefix: str) -> dict[str, Array]:
    return {
        name[len(prefix) + 1 :]: values for name, values in diagnosis.samples.items() if name.startswith(f"{prefix}/")
    }


def _scores(runs: Mapping[str, Diagnosis]) -> Figure:
    """On a logarithmic axis of densities: most pairs lie near zero, and the tails are what is asked about."""
    figure, panels = grid_of_panels(len(runs), 2, note=True)
    for (name, one), (left, right) in zip(runs.items(), panels, strict=True):
        right.axvline(0, color=GREY, linewidth=0.8)
        for panel, prefix in ((left, "score"), (right, "margin")):
            densities(panel, _under(one, prefix), bins=160)
            panel.set_yscale("log")
        dress(left, f"{name}: scores", "inner product with the query", "density (log scale)")
        dress(right, f"{name}: margin", "score of positive minus score of negative", "density (log scale)")
    return figure


def _gradient(runs: Mapping[str, Diagnosis]) -> Figure:
    """Weights of pairs; where some run has an offset also its share of the gradient and the ridge check."""
    offset = any("share/generated" in one.samples for one in runs.values())
    figure, panels = grid_of_panels(len(runs), 3 if offset else 1, width=4.6, note=True)
    for (name, one), row in zip(runs.items(), panels, strict=True):
        densities(row[0], _under(one, "weight"))
        dress(row[0], f"{name}: weight of a pair", "σ(-margin)")
        if not offset:
            continue
        if "share/generated" in one.samples:
            densities(row[1], {"generated": one.samples["share/generated"]})
            row[1].set_xlim(0, 1)
        else:
            say_empty(row[1], "no generated vectors in the margin")
        dress(row[1], f"{name}: gradient on the query", "share that comes from generated vectors")
        _ridge(row[2], one.figures["ridge"])
        dress(row[2], f"{name}: what the offset adds to the loss", "", "mean over targets")
    return figure


def _ridge(panel: Axes, terms: Mapping[str, float] | None) -> None:
    if terms is None:
        say_empty(panel, "no offset on a BPR margin")
        return
    names = ("measured", "first_order", "second_order", "predicted")
    shown = ("measured", "first order\n(a pull along e_d)", "second order", "ridge, if e_d\nis noise")
    panel.bar(shown, [terms[name] for name in names], color=(BLUE, GREEN, ORANGE, PURPLE), width=0.6)
    panel.errorbar([0], [terms["measured"]], yerr=[terms["standard_error"]], color="black", capsize=3)
    panel.axhline(0, color=GREY, linewidth=0.8)
    panel.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))


def _norms(runs: Mapping[str, Diagnosis]) -> Figure:
    figure, panels = grid_of_panels(len(runs), 2)
    names = {"negative": "sampled negative", "offset": "generated"}
    for (name, one), (left, right) in zip(runs.items(), panels, strict=True):
        densities(left, {names.get(key, key): values for key, values in _under(one, "norm").items()}, log=True)
        dress(left, f"{name}: norms", "Euclidean norm (log scale)", "share of rows by bin")
        made = next(iter(one.figures["generated"]), None)
        if made is None:
            densities(right, {"query with positive": one.samples["cosine/query/positive"]}, trim=0)
            dress(right, f"{name}: cosine of query and positive", "cosine")
            continue
        labels = {"positive": "positive", "negative": "sampled negative", "query": "query"}
        cosines = {labels[key]: values for key, values in _under(one, f"cosine/{made}").items()}
        densities(right, cosines, trim=0)
        random_cosine(right, one.figures["space"]["dim"])
        dress(right, f"{name}: cosine of the generated vector with ...", "cosine")
    for panel in panels[1:, 0]:
        panel.sharex(panels[0][0])
    panels[0][0].autoscale(axis="x")
    return figure


def _steps(runs: Mapping[str, Diagnosis]) -> Figure:
    """A row for each run that chooses steps."""
    found = {name: one.figures["steps"] for name, one in runs.items() if one.figures["steps"]}
    figure, panels = grid_of_panels(len(found), 2)
    for (name, steps), (left, right) in zip(found.items(), panels, strict=True):
        counts = np.array(steps["drawn"]["histogram"], dtype=np.float64)
        left.bar(np.arange(len(counts)), counts / max(counts.sum(), 1), width=0.9, color=ORANGE, label="best weights")
        if steps["epochs"]:
            first = np.array(steps["epochs"][0]["histogram"], dtype=np.float64)
            edges = np.arange(len(first) + 1) - 0.5
            left.stairs(first / max(first.sum(), 1), edges, color=BLUE, label="first epoch", linewidth=1.2)
        left.set_xlim(-1, len(counts))
        epochs = [line["epoch"] for line in steps["epochs"]]
        for key, colour, label in (("mean", BLUE, "mean of t*/T"), ("saturated", ORANGE, "share with t* ≥ T - 1")):
            right.plot(epochs, [line[key] for line in steps["epochs"]], color=colour, marker=".", label=label)
        right.set_ylim(-0.03, 1.03)
        right.xaxis.get_major_locator().set_params(integer=True)
        dress(left, f"{name}: chosen step", "t* (0 is clean, T is noise)", "share of targets")
        dress(right, f"{name}: while training", "epoch", "share")
    return figure
