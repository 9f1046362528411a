"""What is missing is left out of figures, or drawn as missing: never as a zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from phlogiston import datasets
from phlogiston.datasets.preview import figure as preview
from phlogiston.errors import DataError
from phlogiston.evaluate import figures, image_figures
from phlogiston.systems.drmm.system import DRMM

RNG = np.random.default_rng(0)


def table(columns: int, rows: int = 200) -> Any:
    """Numbers about 50, a third of them missing."""
    x = RNG.normal(50.0, 1.0, (rows, columns))
    x[RNG.random(x.shape) < 0.3] = np.nan
    return x


def bars(axes: Any) -> list[tuple[float, float]]:
    return [
        (bar.get_x(), bar.get_height()) for bar in axes.patches if isinstance(bar, Rectangle) and bar.get_height() > 0
    ]


def test_histograms_hold_known_entries_alone() -> None:
    x = table(3)
    drawn = figures.histogram_matrix(x)
    for i in range(3):
        axes = drawn.axes[4 * i]
        assert min(at for at, _ in bars(axes)) > 40
        assert 0.98 <= sum(height for _, height in bars(axes)) <= 1.0 + 1e-9, "shares of known entries, less outliers"
    pairs = drawn.axes[3].collections[0].get_offsets()
    assert len(pairs) == np.isfinite(x[:, :2]).all(1).sum()


def test_points_in_the_plane_are_complete_rows() -> None:
    x = table(2)
    complete = np.isfinite(x).all(1).sum()
    drawn = figures.density_depths(x, [np.zeros((3, 2))], [lambda p: -np.square(p).sum(1)])
    assert len(drawn.axes[0].collections[0].get_offsets()) == complete
    assert f"{complete} of 200 complete" in drawn.axes[0].get_title()
    assert drawn.axes[0].get_xlim()[0] > 40
    with pytest.raises(DataError, match="no row is complete"):
        figures.density_depths(np.full((3, 2), np.nan), [np.zeros((3, 2))], [lambda p: -np.square(p).sum(1)])


@pytest.mark.parametrize("colours", [(), (3,)])
def test_unknown_pixels_have_a_colour_of_their_own(colours: tuple[int, ...]) -> None:
    images = RNG.random((4, 5, 6, *colours))
    images[1, 2, 3] = np.nan
    shown = image_figures.image_grid(images).axes[1].images[0].get_array()
    assert shown.shape == (5, 6, 3)
    assert tuple(shown[2, 3]) == image_figures.UNKNOWN
    np.testing.assert_allclose(shown[0, 0], np.broadcast_to(images[1, 0, 0], 3))
    assert image_figures.image_grids({"a": images}).axes[0].images[0].get_array().shape[-1] == 3


@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")
def test_a_model_of_incomplete_rows_draws_them_as_they_are(columns: int) -> None:
    data = datasets.load(table(columns))
    system = DRMM(steps=2).fit(data, progress="off")
    drawn = system.figures(data)
    axes = drawn["density" if columns == 2 else "columns"].axes[0]
    if columns == 2:
        assert float(np.min(axes.collections[0].get_offsets())) > 40
    else:
        assert min(at for at, _ in bars(axes)) > 40
    shown = preview(data).axes[0]
    assert (float(np.nanmin(shown.collections[0].get_offsets())) if columns == 2 else bars(shown)[0][0]) > 40


def test_missing_pixels_of_previews_are_masked() -> None:
    images = RNG.random((6, 4, 5))
    images[:4, 1, 2] = np.nan
    drawn = preview(datasets.load(images, test=0.0, valid=0.0))
    masks = [np.ma.getmaskarray(axes.images[0].get_array()) for axes in drawn.axes]
    assert sorted(mask.sum() for mask in masks) == [0, 0, 1, 1, 1, 1]
    assert all(mask[1, 2] for mask in masks if mask.any())
