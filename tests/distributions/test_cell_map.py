"""The maps of columns on a grid: inverse, slope, cells, and what lies beyond the outermost knots."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from phlogiston.datasets.grid import describe_cells
from phlogiston.distributions.cell_map import CellMap

ROWS = 400


@pytest.fixture
def cells() -> CellMap:
    """Counts with a heavy zero, a rounded measurement, and a column of many cells."""
    random = np.random.default_rng(0)
    x = np.stack(
        [
            random.poisson(0.4, ROWS).astype(float),
            np.round(5.0 + random.standard_normal(ROWS), 1),
            random.integers(0, 70, ROWS) * 3.0 + 1e6,
        ],
        1,
    )
    described = describe_cells(x, ["count", "rounded", "many"])
    assert described["columns"] == [0, 1, 2]
    assert len(described["knots"][2]) < 70  # thinned
    return CellMap(**described)


def points(cells: CellMap) -> torch.Tensor:
    """Inside every knot's interval and far outside on both sides: (N, 3)."""
    columns = []
    for knots, last in zip(cells.knots, cells.last, strict=True):
        edge = knots[: last + 1]
        inside = (edge[:-1] + torch.tensor([0.1, 0.7]).double()[:, None] * edge.diff()).flatten()
        outside = torch.stack([edge[0] - 7 * edge[0].abs() - 1, edge[0] - 0.01, edge[-1] + 0.01, edge[-1] + 50])
        columns.append(torch.cat([outside, inside])[torch.arange(60) % (len(inside) + 4)])
    return torch.stack(columns, -1)


def test_the_map_increases_and_its_inverse_undoes_it(cells: CellMap) -> None:
    x = points(cells)
    torch.testing.assert_close(cells.inverse(cells(x)), x, rtol=1e-12, atol=1e-9)
    ordered = x.sort(0).values
    assert bool((cells(ordered).diff(dim=0)[ordered.diff(dim=0) > 0] > 0).all())


def test_the_slope_is_the_derivative_by_autograd_and_by_finite_differences(cells: CellMap) -> None:
    x = points(cells).requires_grad_()
    (slope,) = torch.autograd.grad(cells(x).sum(), x)
    torch.testing.assert_close(cells.log_slope(x).exp(), slope, rtol=1e-9, atol=0)
    step = 1e-5 * cells.step
    finite = (cells(x.detach() + step) - cells(x.detach() - step)) / (2 * step)
    torch.testing.assert_close(finite, slope, rtol=1e-4, atol=0)


def test_the_inverse_has_the_reciprocal_slope(cells: CellMap) -> None:
    x = points(cells)
    u = cells(x).detach().requires_grad_()
    (slope,) = torch.autograd.grad(cells.inverse(u).sum(), u)
    torch.testing.assert_close(slope.log(), -cells.log_slope(x), rtol=1e-6, atol=1e-6)


def test_training_rows_that_fill_their_cells_come_out_normal(cells: CellMap) -> None:
    random = np.random.default_rng(0)
    x = torch.zeros(ROWS, 3).double()
    x[:, 0] = torch.from_numpy(random.poisson(0.4, ROWS).astype(float))
    u = cells(cells.redraw(x.repeat(20, 1), torch.Generator().manual_seed(1)))[:, 0]
    normal = torch.special.ndtr(u).sort().values
    assert float((normal - (torch.arange(len(u)) + 0.5) / len(u)).abs().max()) < 0.02


def test_redrawn_rows_stay_in_their_cells_and_other_columns_as_they_are(cells: CellMap) -> None:
    x = torch.tensor([[0.0, 4.9, 1e6 + 6, -3.25], [2.0, 5.0, 1e6, 7.5]]).double()
    low, high = cells.cells(x[:, :3])
    torch.testing.assert_close(0.5 * (low + high), x[:, :3], rtol=0, atol=1e-6)
    for seed in range(5):
        drawn = cells.redraw(x, torch.Generator().manual_seed(seed))
        assert torch.equal(drawn[:, 3], x[:, 3])
        assert bool(((drawn[:, :3] >= low) & (drawn[:, :3] <= high)).all())


def test_far_outside_the_map_is_no_steeper_than_one_deviation_a_cell(cells: CellMap) -> None:
    low, high = cells.knots[:, 0], cells.knots.gather(1, cells.last[:, None])[:, 0]
    for end, away in ((high, 100.0), (low, -100.0)):
        distance = (cells(end + away * cells.step) - cells(end)).abs()
        assert bool((distance <= 100.0 + 1e-6).all())
        assert bool((distance > 0).all())


def test_it_tells_which_columns_are_mapped() -> None:
    cells = CellMap([3, 1], [0.0, 0.0], [1.0, 1.0], [[0.0, 4.0]] * 2, [[0.01, 0.99]] * 2)
    assert cells.mapped(5).tolist() == [False, True, False, True, False]
