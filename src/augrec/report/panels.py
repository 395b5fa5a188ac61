"""Panels of a plot and what is drawn in them, through matplotlib's objects on an Agg canvas: no global state of pyplot
is touched and no display is needed."""

from __future__ import annotations

import math
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from augrec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

# Okabe and Ito's colours, told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555"
COLOURS = {
    "positive": BLUE, "negative": GREEN, "sampled negative": GREEN, "generated": ORANGE, "query": PURPLE,
    "without offset": BLUE, "with offset": ORANGE,
}  # fmt: skip
OTHERS = (ORANGE, GREY, "#56B4E9", "#E69F00")


def extra(module: str) -> Any:
    """A module of the extra `report`. Raises `UsageError` where it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        raise UsageError(
            f'plots need {module.partition(".")[0]}, which is not installed: pip install "augrec[report]", or leave '
            f"them out with --no-plots"
        ) from None


def grid_of_panels(
    rows: int, columns: int, *, height: float = 3.2, width: float = 5.2, note: bool = False
) -> tuple[Figure, Any]:
    """A figure and its (rows, columns) panels; `note` says that the panels cannot be read off one scale."""
    figure: Figure = extra("matplotlib.figure").Figure(
        figsize=(width * columns, height * rows + 0.3), layout="constrained"
    )
    extra("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    if note and rows > 1:
        figure.suptitle("Every panel has a scale of its own.", fontsize=8, color=GREY)
    return figure, figure.subplots(rows, columns, squeeze=False)


def dress(panel: Axes, title: str, x: str, y: str = "density") -> None:
    """Title, axis names, grid and legend."""
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


def densities(
    panel: Axes, series: Mapping[str, Array], *, log: bool = False, trim: float = 0.005, bins: int = 80
) -> None:
    """Outlined histograms over one range, which leaves out the share `trim` of each series at either end."""
    series = {name: values[np.isfinite(values)] for name, values in series.items()}
    series = {name: values[values > 0] if log else values for name, values in series.items()}
    series = {name: values for name, values in series.items() if values.size}
    if not series:
        say_empty(panel, "nothing to show")
        return
    ends = np.array([np.quantile(values, (trim, 1 - trim)) for values in series.values()], dtype=np.float64)
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = (low / 1.1, high * 1.1) if log else (low - 0.5, high + 0.5)
    edges = np.geomspace(low, high, bins + 1) if log else np.linspace(low, high, bins + 1)
    for number, (name, values) in enumerate(series.items()):
        colour = COLOURS.get(name, OTHERS[number % len(OTHERS)])
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


def say_empty(panel: Axes, reason: str) -> None:
    """A panel that says why it shows nothing."""
    panel.set_axis_off()
    panel.text(0.5, 0.5, reason, ha="center", va="center", transform=panel.transAxes, fontsize=9, color=GREY)


def random_cosine(panel: Axes, dim: int) -> None:
    """The density of the cosine of two random directions: (1 - c^2)^((dim - 3) / 2), normalised."""
    if dim < 3:
        return
    low, high = panel.get_xlim()
    c = np.linspace(max(low, -0.999), min(high, 0.999), 400)
    constant = math.lgamma(dim / 2) - math.lgamma((dim - 1) / 2) - 0.5 * math.log(math.pi)
    density = np.exp(constant + (dim - 3) / 2 * np.log1p(-(c**2)))
    panel.plot(c, density, color="black", linestyle=":", linewidth=1.2, label=f"random directions, D = {dim}")
