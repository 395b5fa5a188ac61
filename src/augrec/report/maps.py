"""Maps of user and item vectors (t-SNE), each beside what a map cannot distort: cosines of pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from augrec.report.panels import densities, dress, extra, grid_of_panels, random_cosine, say_empty

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from augrec.experiment.diagnose import Diagnosis

    Array = NDArray[np.float32]


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


def map_users(runs: Mapping[str, Diagnosis], *, tsne: bool, seed: int) -> Figure:
    """The map of users (Figure 3 of the paper) and, under it, what does not depend on a map: all pairwise cosines
    against uniformly spread directions."""
    figure, panels = grid_of_panels(2 if tsne else 1, len(runs), height=4.4, width=5.4)
    if tsne:
        _maps(panels[0], [tsne_map(one.space.users, seed=seed) for one in runs.values()])
        for panel, (name, one) in zip(panels[0], runs.items(), strict=True):
            panel.set_title(f"{name}: t-SNE of {len(one.space.users):,} users", fontsize=10)
    for column, (name, one) in enumerate(runs.items()):
        space = one.figures["space"]
        panel = panels[-1][column]
        unit = one.space.users / np.maximum(np.linalg.norm(one.space.users, axis=1, keepdims=True), 1e-12)
        cosine = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
        densities(panel, {"pairs of users": cosine}, trim=0)
        panel.set_xlim(-1, 1)
        random_cosine(panel, space["dim"])
        value = space["uniformity_users"]
        measured = "" if value is None else f"\nuniformity {value:.3f} (uniform sphere {space['uniformity_bound']:.3f})"
        dress(panel, f"{name}: are users spread evenly?{measured}", "cosine of two users")
    return figure


def map_sequences(runs: Mapping[str, Diagnosis], *, tsne: bool, seed: int) -> Figure:
    """The map of items with some users' sequences in colour, and what a map cannot distort: cosines of items of one
    sequence against those of different ones."""
    figure, panels = grid_of_panels(2 if tsne else 1, len(runs), height=4.4, width=5.4)
    palette = extra("matplotlib").colormaps["tab20"]
    for column, (name, one) in enumerate(runs.items()):
        space, number = one.space.figures, one.space.sequence
        if tsne:
            points = tsne_map(one.space.items, seed=seed)
            panel = panels[0][column]
            if points is None:
                say_empty(panel, "too few items for a map")
            else:
                panel.scatter(*points[number < 0].T, s=3, color="#CCCCCC", linewidths=0)
                for own in range(number.max() + 1):
                    panel.scatter(*points[number == own].T, s=16, color=palette(own % 20), linewidths=0)
                panel.set_xticks([])
                panel.set_yticks([])
                panel.set_aspect("equal", adjustable="datalim")
            panel.set_title(f"{name}: t-SNE of items, {number.max() + 1} sequences in colour", fontsize=10)
        unit = one.space.items / np.maximum(np.linalg.norm(one.space.items, axis=1, keepdims=True), 1e-12)
        unit, number = unit[number >= 0], number[number >= 0]
        cosine, upper = unit @ unit.T, np.triu(np.ones((len(unit), len(unit)), dtype=bool), 1)
        same = number[:, None] == number[None, :]
        panel = panels[-1][column]
        densities(panel, {"one sequence": cosine[upper & same], "different sequences": cosine[upper & ~same]}, trim=0)
        known = space["cohesion_sequences"], space["cohesion_chance"]
        measured = "" if None in known else f"\nall sequences {known[0]:.3f}, items dealt at random {known[1]:.3f}"
        dress(panel, f"{name}: how alike are items of a sequence?{measured}", "cosine of two items")
    return figure


def _maps(panels: Any, maps: list[Array | None]) -> None:
    """Scatter plots coloured by density (Gaussian kernels in the plane, relative to the run's mean), on one scale."""
    kernel = extra("scipy.stats").gaussian_kde
    densities = [None if points is None else kernel(points.T)(points.T) for points in maps]
    top = max((float((one / one.mean()).max()) for one in densities if one is not None), default=1.0)
    shown = None
    for panel, points, density in zip(panels, maps, densities, strict=True):
        if points is None or density is None:
            say_empty(panel, "too few users for a map")
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
