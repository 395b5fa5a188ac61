"""Plots of a diagnosis: what they show, that they are whole images, and that nothing global is touched."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import trapezoid

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from augrec.errors import UsageError
from augrec.experiment.diagnose import Diagnosis
from augrec.experiment.space import Space
from augrec.report import maps, plots
from augrec.report import panels as kit

NAMES = ["scores.png", "gradient.png", "norms.png", "users.png", "sequences.png", "steps.png"]


def diagnosis(*, generated=True, rows=300, users=60, dim=8):
    rng = np.random.default_rng(0)
    names = [
        "score/positive", "score/negative", "norm/query", "norm/positive", "norm/negative", "cosine/query/positive",
        "margin/without offset", "weight/without offset",
    ]  # fmt: skip
    if generated:
        names += [
            "score/generated", "norm/offset", "margin/with offset", "weight/with offset", "share/generated",
            "cosine/offset/positive", "cosine/offset/negative", "cosine/offset/query",
        ]  # fmt: skip
    samples = {name: rng.random(rows).astype(np.float32) for name in names}
    terms = ("measured", "first_order", "second_order", "predicted", "standard_error")
    line = {"mean": 0.7, "saturated": 0.1, "histogram": [0, 1, 3]}
    figures = {
        "space": {
            "dim": dim,
            "uniformity_users": -3.0,
            "uniformity_bound": -3.5,
            "cohesion_sequences": 0.4,
            "cohesion_chance": 0.1,
        },
        "generated": {"offset": {}} if generated else {},
        "ridge": dict.fromkeys(terms, 0.1) if generated else None,
        "steps": {"plugin": "adar", "drawn": line, "epochs": [{"epoch": 1, **line}]} if generated else None,
    }
    drawn = rng.normal(size=(2, users, dim)).astype(np.float32)
    sequence = np.where(np.arange(users) < users // 2, -1, np.arange(users) % 3)
    space = Space(figures=figures["space"], users=drawn[0], items=drawn[1], sequence=sequence)
    return Diagnosis(figures=figures, samples=samples, space=space)


def labels(panel):
    return panel.get_legend_handles_labels()[1]


@pytest.mark.parametrize("names", [("base",), ("base", "adar")])
def test_files_are_whole_images(names, tmp_path):
    from matplotlib.image import imread

    runs = {name: diagnosis(generated=name == "adar") for name in names}
    written = plots.write_plots(runs, tmp_path / "new")
    wanted = NAMES if "adar" in names else NAMES[:-1]
    assert (
        sorted(path.name for path in written) == sorted(wanted) == sorted(p.name for p in (tmp_path / "new").iterdir())
    )
    for path in written:
        image = imread(path)
        assert image.shape[0] > 300
        assert image.std() > 0.02  # not one colour
    first = {path.name: path.read_bytes() for path in written}
    plots.write_plots(runs, tmp_path / "new")
    assert {path.name: path.read_bytes() for path in written} == first


def test_panels_name_what_they_show():
    runs = {"base": diagnosis(generated=False), "adar": diagnosis()}
    scores = plots._scores(runs).axes
    assert labels(scores[0]) == ["positive", "negative"]
    assert labels(scores[2]) == ["positive", "negative", "generated"]
    assert labels(scores[3]) == ["without offset", "with offset"]
    gradient = plots._gradient(runs).axes
    assert len(gradient) == 6
    assert not gradient[1].axison
    assert gradient[4].get_xlim() == (0.0, 1.0)
    assert [bar.get_height() for bar in gradient[5].patches] == [0.1] * 4
    assert len(plots._gradient({"base": diagnosis(generated=False)}).axes) == 1
    steps = plots._steps(runs).axes
    assert len(steps) == 2
    assert [bar.get_height() for bar in steps[0].patches[:3]] == [0.0, 0.25, 0.75]
    norms = plots._norms(runs).axes
    assert labels(norms[2]) == ["query", "positive", "sampled negative", "generated"]
    assert norms[0].get_xlim() == norms[2].get_xlim()
    for panel in (*scores, *norms, *steps):
        assert panel.get_title()
        assert panel.get_xlabel()


def test_histograms_hold_the_values():
    figure, panels = kit.grid_of_panels(1, 2)
    values = np.linspace(1, 2, 1001).astype(np.float32)
    kit.densities(panels[0][0], {"x": values}, trim=0)
    outline = panels[0][0].patches[-1].get_xy()
    assert outline[:, 1].max() == pytest.approx(1.0, rel=0.1)  # uniform on [1, 2]
    kit.densities(panels[0][1], {"x": np.full(5, 3.0, dtype=np.float32), "none": np.empty(0)}, log=True)
    assert panels[0][1].get_xscale() == "log"
    assert figure.axes[1].patches


def test_random_directions_have_density_one():
    for dim in (3, 8, 64):
        _, panels = kit.grid_of_panels(1, 1)
        panels[0][0].set_xlim(-1, 1)
        kit.random_cosine(panels[0][0], dim)
        x, y = panels[0][0].lines[0].get_data()
        assert trapezoid(y, x) == pytest.approx(1.0, abs=0.01)
        assert trapezoid(y * x**2, x) == pytest.approx(1 / dim, rel=0.02)


def test_tsne_keeps_groups_apart_and_is_seeded():
    rng = np.random.default_rng(1)
    centre = np.repeat(np.eye(3) * 5, 20, axis=0)
    vectors = (centre + 0.1 * rng.normal(size=(60, 3))).astype(np.float32)
    found = maps.tsne_map(vectors, seed=0)
    assert found.shape == (60, 2)
    apart = np.linalg.norm(found[:, None] - found[None], axis=2)
    group = np.repeat(np.arange(3), 20)
    np.fill_diagonal(apart, np.inf)
    assert (group[apart.argmin(1)] == group).all()
    np.testing.assert_array_equal(found, maps.tsne_map(vectors, seed=0))
    # Lengths do not matter: rows are normalised first.
    np.testing.assert_allclose(found, maps.tsne_map(vectors * 4, seed=0), atol=1e-3)
    assert maps.tsne_map(vectors[:4], seed=0) is None


def test_sequences_are_told_apart():
    one = diagnosis(users=40)
    centre = np.eye(8, dtype=np.float32)[one.space.sequence] * 5
    items = np.where(one.space.sequence[:, None] < 0, one.space.items, centre + 0.1 * one.space.items)
    clustered = replace(one, space=replace(one.space, items=items))
    figure = maps.map_sequences({"base": clustered}, tsne=True, seed=0)
    shown, cosines = figure.axes
    # Items in grey, then one group of points for each of three sequences.
    assert [len(group.get_offsets()) for group in shown.collections] == [20, *np.bincount(one.space.sequence[20:])]
    assert labels(cosines) == ["one sequence", "different sequences"]
    assert "all sequences 0.400, items dealt at random 0.100" in cosines.get_title()
    ends = [patch.get_xy()[:, 0] for patch in cosines.patches if patch.get_label() in labels(cosines)]
    high = next(patch.get_xy() for patch in cosines.patches if patch.get_label() == "one sequence")
    assert len(ends) == 2
    assert high[high[:, 1] > 0][:, 0].min() > 0.8


def test_few_users_and_empty_values_are_said_so(tmp_path):
    one = diagnosis(users=3)
    one.samples["share/generated"][:] = np.nan
    written = plots.write_plots({"tiny": one}, tmp_path)
    assert len(written) == 6
    _, panels = kit.grid_of_panels(1, 1)
    kit.densities(panels[0][0], {"none": np.empty(0)})
    assert panels[0][0].texts[0].get_text() == "nothing to show"


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(UsageError, match=r'sklearn.*pip install "augrec\[report\]"'):
        maps.tsne_map(np.eye(6, dtype=np.float32), seed=0)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="matplotlib"):
        plots.write_plots({}, None)


def test_pyplot_is_never_loaded():
    code = (
        "import sys\nfrom augrec.report import panels as kit\n"
        "assert 'matplotlib' not in sys.modules and 'sklearn' not in sys.modules\n"
        "figure, _ = kit.grid_of_panels(1, 1)\nfigure.savefig('/dev/null', format='png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
