"""Plots of a diagnosis as PNG files, a row (or a column) for each run. Drawn through matplotlib's objects on an Agg
canvas, so that no global state of pyplot is touched and no display is needed."""

from __future__ import annotations

import io
import math
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from augrec.errors import UsageError
from augrec.storage import write_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from augrec.experiment.diagnose import Diagnosis

    Array = NDArray[np.float32]

# Okabe and Ito's colours, told apart by colour-blind readers too.
_BLUE, _ORANGE, _GREEN, _PURPLE, _GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555"
_COLOURS = {
    "positive": _BLUE, "negative": _GREEN, "sampled negative": _GREEN, "generated": _ORANGE, "query": _PURPLE,
    "without offset": _BLUE, "with offset": _ORANGE,
}  # fmt: skip
_OTHERS = (_ORANGE, _GREY, "#56B4E9", "#E69F00")
_DPI = 130


def extra(module: str) -> Any:
    """A module of the extra `report`. Raises `UsageError` where it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        raise UsageError(
            f'plots need {module.partition(".")[0]}, which is not installed: pip install "augrec[report]", or leave '
            f"them out with --no-plots"
        ) from None


def write_plots(runs: Mapping[str, Diagnosis], folder: Path, *, tsne: bool = True, seed: int = 0) -> list[Path]:
    """Writes the plots of the named diagnoses into `folder`: scores, gradient, norms, users, and steps where some run
    chooses steps. `tsne` adds the map of user vectors. Returns the files. Raises `UsageError` without the extra
    `report`."""
    extra("matplotlib")
    figures = {
        "scores.png": _scores(runs), "gradient.png": _gradient(runs), "norms.png": _norms(runs),
        "users.png": _users(runs, tsne=tsne, seed=seed),
    }  # fmt: skip
    if any(one.figures["steps"] for one in runs.values()):
        figures["steps.png"] = _steps(runs)
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI)
        write_file(folder / name, buffer.getvalue())
    return [folder / name for name in figures]


def tsne_map(vectors: Array, *, seed: int) -> Array | None:
    """(n, 2) t-SNE (van der Maaten and Hinton, 2008) of the normalised rows (n, D), as in Figure 3 of arXiv 2601.01448;
    None for fewer than 5 rows. Raises `UsageError` without scikit-learn."""
    manifold = extra("sklearn.manifold")
    if len(vectors) < 5:
        return None
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    perplexity = min(30.0, (len(unit) - 1) / 3)
    made = manifold.TSNE(n_components=2, init="pca", perplexity=perplexity, random_state=seed)
    found: Array = np.asarray(made.fit_transform(unit), dtype=np.float32)
    return found


def _panels(
    rows: int, columns: int, *, height: float = 3.2, width: float = 5.2, note: bool = False
) -> tuple[Figure, Any]:
    """A figure and its (rows, columns) panels; `note` says that the panels cannot be read off one scale."""
    figure: Figure = extra("matplotlib.figure").Figure(
        figsize=(width * columns, height * rows + 0.3), layout="constrained"
    )
    extra("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    if note and rows > 1:
        figure.suptitle("Every panel has a scale of its own.", fontsize=8, color=_GREY)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _dress(panel: Axes, title: str, x: str, y: str = "density") -> None:
    panel.set_title(title, fontsize=10)
    if not panel.axison:
        return
    panel.set_xlabel(x, fontsize=9)
    panel.set_ylabel(y, fontsize=9)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    if panel.get_legend_handles_labels()[1]:
        panel.legend(fontsize=8, frameon=False)


def _densities(
    panel: Axes, series: Mapping[str, Array], *, log: bool = False, trim: float = 0.005, bins: int = 80
) -> None:
    """Outlined histograms over one range, which leaves out the share `trim` of each series at either end."""
    series = {name: values[np.isfinite(values)] for name, values in series.items()}
    series = {name: values[values > 0] if log else values for name, values in series.items()}
    series = {name: values for name, values in series.items() if values.size}
    if not series:
        _empty(panel, "nothing to show")
        return
    ends = np.array([np.quantile(values, (trim, 1 - trim)) for values in series.values()], dtype=np.float64)
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = (low / 1.1, high * 1.1) if log else (low - 0.5, high + 0.5)
    edges = np.geomspace(low, high, bins + 1) if log else np.linspace(low, high, bins + 1)
    for number, (name, values) in enumerate(series.items()):
        colour = _COLOURS.get(name, _OTHERS[number % len(_OTHERS)])
        # On a logarithmic axis the share by bin is what the eye reads as area.
        weights = np.full(values.size, 1 / values.size) if log else None
        shape: dict[str, Any] = {"bins": edges, "density": not log, "weights": weights, "color": colour}
        panel.hist(values, histtype="stepfilled", alpha=0.15, **shape)
        panel.hist(values, histtype="step", linewidth=1.4, label=name, **shape)
    if log:
        ticker = extra("matplotlib.ticker")
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=20))
        panel.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(ticker.NullFormatter())


def _empty(panel: Axes, reason: str) -> None:
    panel.set_axis_off()
    panel.text(0.5, 0.5, reason, ha="center", va="center", transform=panel.transAxes, fontsize=9, color=_GREY)


def _under(diagnosis: Diagnosis, prefix: str) -> dict[str, Array]:
    return {
        name[len(prefix) + 1 :]: values for name, values in diagnosis.samples.items() if name.startswith(f"{prefix}/")
    }


def _scores(runs: Mapping[str, Diagnosis]) -> Figure:
    """On a logarithmic axis of densities: most pairs lie near zero, and the tails are what is asked about."""
    figure, panels = _panels(len(runs), 2, note=True)
    for (name, one), (left, right) in zip(runs.items(), panels, strict=True):
        right.axvline(0, color=_GREY, linewidth=0.8)
        for panel, prefix in ((left, "score"), (right, "margin")):
            _densities(panel, _under(one, prefix), bins=160)
            panel.set_yscale("log")
        _dress(left, f"{name}: scores", "inner product with the query", "density (log scale)")
        _dress(right, f"{name}: margin", "score of positive minus score of negative", "density (log scale)")
    return figure


def _gradient(runs: Mapping[str, Diagnosis]) -> Figure:
    """Weights of pairs; where some run has an offset also its share of the gradient and the ridge check."""
    offset = any("share/generated" in one.samples for one in runs.values())
    figure, panels = _panels(len(runs), 3 if offset else 1, width=4.6, note=True)
    for (name, one), row in zip(runs.items(), panels, strict=True):
        _densities(row[0], _under(one, "weight"))
        _dress(row[0], f"{name}: weight of a pair", "σ(-margin)")
        if not offset:
            continue
        if "share/generated" in one.samples:
            _densities(row[1], {"generated": one.samples["share/generated"]})
            row[1].set_xlim(0, 1)
        else:
            _empty(row[1], "no generated vectors in the margin")
        _dress(row[1], f"{name}: gradient on the query", "share that comes from generated vectors")
        _ridge(row[2], one.figures["ridge"])
        _dress(row[2], f"{name}: what the offset adds to the loss", "", "mean over targets")
    return figure


def _ridge(panel: Axes, terms: Mapping[str, float] | None) -> None:
    if terms is None:
        _empty(panel, "no offset on a BPR margin")
        return
    names = ("measured", "first_order", "second_order", "predicted")
    shown = ("measured", "first order\n(a pull along e_d)", "second order", "ridge, if e_d\nis noise")
    panel.bar(shown, [terms[name] for name in names], color=(_BLUE, _GREEN, _ORANGE, _PURPLE), width=0.6)
    panel.errorbar([0], [terms["measured"]], yerr=[terms["standard_error"]], color="black", capsize=3)
    panel.axhline(0, color=_GREY, linewidth=0.8)
    panel.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))


def _norms(runs: Mapping[str, Diagnosis]) -> Figure:
    figure, panels = _panels(len(runs), 2)
    names = {"negative": "sampled negative", "offset": "generated"}
    for (name, one), (left, right) in zip(runs.items(), panels, strict=True):
        _densities(left, {names.get(key, key): values for key, values in _under(one, "norm").items()}, log=True)
        _dress(left, f"{name}: norms", "Euclidean norm (log scale)", "share of rows by bin")
        made = next(iter(one.figures["generated"]), None)
        if made is None:
            _densities(right, {"query with positive": one.samples["cosine/query/positive"]}, trim=0)
            _dress(right, f"{name}: cosine of query and positive", "cosine")
            continue
        labels = {"positive": "positive", "negative": "sampled negative", "query": "query"}
        cosines = {labels[key]: values for key, values in _under(one, f"cosine/{made}").items()}
        _densities(right, cosines, trim=0)
        _random_cosine(right, one.figures["space"]["dim"])
        _dress(right, f"{name}: cosine of the generated vector with ...", "cosine")
    for panel in panels[1:, 0]:
        panel.sharex(panels[0][0])
    panels[0][0].autoscale(axis="x")
    return figure


def _random_cosine(panel: Axes, dim: int) -> None:
    """The density of the cosine of two random directions: (1 - c^2)^((dim - 3) / 2), normalised."""
    if dim < 3:
        return
    low, high = panel.get_xlim()
    c = np.linspace(max(low, -0.999), min(high, 0.999), 400)
    constant = math.lgamma(dim / 2) - math.lgamma((dim - 1) / 2) - 0.5 * math.log(math.pi)
    density = np.exp(constant + (dim - 3) / 2 * np.log1p(-(c**2)))
    panel.plot(c, density, color="black", linestyle=":", linewidth=1.2, label=f"random directions, D = {dim}")


def _steps(runs: Mapping[str, Diagnosis]) -> Figure:
    """A row for each run that chooses steps."""
    found = {name: one.figures["steps"] for name, one in runs.items() if one.figures["steps"]}
    figure, panels = _panels(len(found), 2)
    for (name, steps), (left, right) in zip(found.items(), panels, strict=True):
        counts = np.array(steps["drawn"]["histogram"], dtype=np.float64)
        left.bar(np.arange(len(counts)), counts / max(counts.sum(), 1), width=0.9, color=_ORANGE, label="best weights")
        if steps["epochs"]:
            first = np.array(steps["epochs"][0]["histogram"], dtype=np.float64)
            edges = np.arange(len(first) + 1) - 0.5
            left.stairs(first / max(first.sum(), 1), edges, color=_BLUE, label="first epoch", linewidth=1.2)
        left.set_xlim(-1, len(counts))
        epochs = [line["epoch"] for line in steps["epochs"]]
        for key, colour, label in (("mean", _BLUE, "mean of t*/T"), ("saturated", _ORANGE, "share with t* ≥ T - 1")):
            right.plot(epochs, [line[key] for line in steps["epochs"]], color=colour, marker=".", label=label)
        right.set_ylim(-0.03, 1.03)
        right.xaxis.get_major_locator().set_params(integer=True)
        _dress(left, f"{name}: chosen step", "t* (0 is clean, T is noise)", "share of targets")
        _dress(right, f"{name}: while training", "epoch", "share")
    return figure


def _users(runs: Mapping[str, Diagnosis], *, tsne: bool, seed: int) -> Figure:
    """The map of users (Figure 3 of the paper) and, under it, what does not depend on a map: all pairwise cosines
    against uniformly spread directions."""
    figure, panels = _panels(2 if tsne else 1, len(runs), height=4.4, width=5.4)
    if tsne:
        _maps(panels[0], [tsne_map(one.users, seed=seed) for one in runs.values()])
        for panel, (name, one) in zip(panels[0], runs.items(), strict=True):
            panel.set_title(f"{name}: t-SNE of {len(one.users):,} users", fontsize=10)
    for column, (name, one) in enumerate(runs.items()):
        space = one.figures["space"]
        panel = panels[-1][column]
        unit = one.users / np.maximum(np.linalg.norm(one.users, axis=1, keepdims=True), 1e-12)
        cosine = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
        _densities(panel, {"pairs of users": cosine}, trim=0)
        panel.set_xlim(-1, 1)
        _random_cosine(panel, space["dim"])
        value = space["uniformity_users"]
        measured = "" if value is None else f"\nuniformity {value:.3f} (uniform sphere {space['uniformity_bound']:.3f})"
        _dress(panel, f"{name}: are users spread evenly?{measured}", "cosine of two users")
    return figure


def _maps(panels: Any, maps: list[Array | None]) -> None:
    """Scatter plots coloured by density (Gaussian kernels in the plane, relative to the run's mean), on one scale."""
    kernel = extra("scipy.stats").gaussian_kde
    densities = [None if points is None else kernel(points.T)(points.T) for points in maps]
    top = max((float((one / one.mean()).max()) for one in densities if one is not None), default=1.0)
    shown = None
    for panel, points, density in zip(panels, maps, densities, strict=True):
        if points is None or density is None:
            _empty(panel, "too few users for a map")
            continue
        panel.set_xticks([])
        panel.set_yticks([])
        panel.set_aspect("equal", adjustable="datalim")
        order = np.argsort(density)
        x, y = points[order].T
        shade = density[order] / density.mean()
        shown = panel.scatter(x, y, c=shade, s=6, cmap="viridis", linewidths=0, vmin=0, vmax=top)
    if shown is not None:
        bar = panels[0].get_figure().colorbar(shown, ax=list(panels), shrink=0.8, aspect=30)
        bar.set_label("local density on the map / mean", fontsize=8)
        bar.ax.tick_params(labelsize=8)
