"""Columns on a grid (pixels, counts, rounded measurements) as near-normal coordinates, exactly and reversibly.

A value on a grid stands for a cell, from half a step below it to half a step above. A map per column spreads the cells
so that the training rows come out normal: `u = Phi^-1(F(x))`, where F is a distribution function that is linear between
its knots, which lie on edges of cells. Within a cell a standard normal u therefore means a uniform x, as the noise that
fills the cell is. Beyond the outermost knots the map is a straight line.

The map is strictly increasing: intervals go to intervals, and the density of x is that of u times `exp(log_slope(x))`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from phlogiston.networks.precision import KeepsFloat64

ROUNDING = 1e-14
"""Relative error of a limit within which it counts as a value of the grid."""
DIGITS, MOST_DIGITS = 6.0, 12.0
"""Digits of a value that are kept beyond the first of the step, and at most after the point."""
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Grid:
    """The grids of C columns.

    Args:
        value: float64 (C,), one of the values of each.
        step: float64 (C,), positive.
        used: bool (C,), False for columns that lie on no grid, which are left alone.
    """

    def __init__(self, value: Tensor, step: Tensor, used: Tensor) -> None:
        self.value, self.step, self.used = value, step, used

    def rounded(self, x: Tensor) -> Tensor:
        """The nearest values of the grids: (..., C) -> (..., C)."""
        whole = ((x.double() - self.value) / self.step).round()
        # a grid of tenths is written in tenths: digits beyond what a step needs are noise
        digits = 10.0 ** (DIGITS - self.step.log10().floor()).clamp(max=MOST_DIGITS)
        nearest = ((self.value + self.step * whole) * digits).round() / digits
        return torch.where(self.used, nearest.to(x.dtype), x)

    def enclose(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The edges of the cells of all values between limits (..., C); where there are none, lower >= upper."""
        return self._edge(lower, 1.0), self._edge(upper, -1.0)

    def _edge(self, limit: Tensor, sign: float) -> Tensor:
        finite = torch.isfinite(limit)
        at = torch.where(finite, limit, 0.0).double()
        slack = ROUNDING * (at.abs() + self.value.abs()) / self.step
        inner = torch.ceil(sign * (at - self.value) / self.step - slack)
        edge = self.value + sign * (inner - 0.5) * self.step
        return torch.where(self.used & finite, edge.to(limit.dtype), limit)


class CellMap(KeepsFloat64):
    """The maps of C columns.

    Args:
        columns: positions of the mapped columns among D.
        start: the lower edge of some cell, by column.
        step: widths of the cells, by column, positive.
        knots: by column, edges in increasing order, at least two.
        shares: by column, F at the knots: increasing, strictly between 0 and 1.
        filled: by column, whether the data themselves lie anywhere in the cells, noise being part of them; false for
            all by default.

    Attributes:
        position: int64 (C,), the mapped columns.
        whole: bool (C,), True where data are the cells' centres.
        apart: bool (C,), True where the density is that of the whole cell, everywhere in it.

    Values are float64; a row's columns that are not mapped are none of this module's business.
    """

    position: Tensor
    start: Tensor
    step: Tensor
    knots: Tensor
    shares: Tensor
    last: Tensor
    slope: Tensor
    whole: Tensor
    apart: Tensor

    def __init__(
        self,
        columns: Sequence[int],
        start: Sequence[float],
        step: Sequence[float],
        knots: Sequence[Sequence[float]],
        shares: Sequence[Sequence[float]],
        filled: Sequence[bool] = (),
        apart: Sequence[bool] = (),
    ) -> None:
        super().__init__()
        most = max(len(k) for k in knots)

        def padded(rows: Sequence[Sequence[float]]) -> Tensor:
            return torch.tensor([[*row, *[math.inf] * (most - len(row))] for row in rows], dtype=torch.float64)

        self.register_buffer("position", torch.tensor(columns, dtype=torch.long), persistent=False)
        self.register_buffer("start", torch.tensor(start, dtype=torch.float64), persistent=False)
        self.register_buffer("step", torch.tensor(step, dtype=torch.float64), persistent=False)
        whole = [not noise for noise in filled] or [True] * len(columns)
        self.register_buffer("whole", torch.tensor(whole, dtype=torch.bool), persistent=False)
        gaps = list(apart) or [False] * len(columns)
        self.register_buffer("apart", torch.tensor(gaps, dtype=torch.bool), persistent=False)
        self.register_buffer("knots", padded(knots), persistent=False)
        self.register_buffer("shares", padded(shares), persistent=False)
        self.register_buffer("last", torch.tensor([len(k) - 1 for k in knots]), persistent=False)
        low, high = self._ends(self.knots)
        ends = torch.special.ndtri(self._ends(self.shares))
        # No steeper outside than on average inside, nor than one standard deviation a cell: what lies a little outside
        # the range of training is improbable, not impossible.
        self.register_buffer("slope", torch.minimum((ends[1] - ends[0]) / (high - low), 1 / self.step), False)

    @classmethod
    def from_schema(cls, schema: Mapping[str, Any] | None) -> CellMap | None:
        """The maps that `datasets.grid.describe_cells` found; None where there are none."""
        return cls(**schema) if schema else None

    def _ends(self, table: Tensor) -> Tensor:
        """First and last entry of each column's row: (2, C)."""
        return torch.stack([table[:, 0], table.gather(1, self.last.unsqueeze(1)).squeeze(1)])

    def forward(self, x: Tensor) -> Tensor:
        """Coordinates of values of the mapped columns: (..., C) -> (..., C)."""
        i, inside = self._interval(x, self.knots)
        a, b, low, high = self._around(i, x.shape)
        share = low + (high - low) * ((x - a) / (b - a))
        u = torch.special.ndtri(torch.where(inside, share, 0.5))
        end, at = self._nearest_end(x, self.knots)
        return torch.where(inside, u, torch.special.ndtri(self._ends(self.shares))[end, at] + self.slope * (
            x - self._ends(self.knots)[end, at]))  # fmt: skip

    def inverse(self, u: Tensor) -> Tensor:
        """Values of coordinates of the mapped columns: (..., C) -> (..., C)."""
        share = torch.special.ndtr(u)
        i, inside = self._interval(share, self.shares)
        a, b, low, high = self._around(i, u.shape)
        x = a + (b - a) * ((torch.where(inside, share, low) - low) / (high - low))
        end, at = self._nearest_end(share, self.shares)
        ends = torch.special.ndtri(self._ends(self.shares))
        return torch.where(inside, x, self._ends(self.knots)[end, at] + (u - ends[end, at]) / self.slope)

    def log_slope(self, x: Tensor) -> Tensor:
        """Log du/dx of values of the mapped columns: (..., C) -> (..., C)."""
        i, inside = self._interval(x, self.knots)
        a, b, low, high = self._around(i, x.shape)
        share = low + (high - low) * ((x - a) / (b - a))
        u = torch.special.ndtri(torch.where(inside, share, 0.5))
        within = ((high - low) / (b - a)).log() + 0.5 * u.square() + _HALF_LOG_2PI
        return torch.where(inside, within, self.slope.log())

    def cells(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper edges of the cells that values of the mapped columns lie in: (..., C) each."""
        low = self.start + self.step * ((x - self.start) / self.step).floor()
        return low, low + self.step

    def mapped(self, features: int) -> Tensor:
        """Which of so many columns are mapped: bool (features,)."""
        return self.by_column(torch.ones_like(self.whole), features)

    def by_column(self, values: Tensor, features: int) -> Tensor:
        """What is said of the mapped columns (C,) for so many columns (features,), 0 or False for the others."""
        return values.new_zeros(features).index_copy_(0, self.position, values)

    @property
    def grid(self) -> Grid:
        """The centres of the cells of the mapped columns, used where data lie on them."""
        return Grid(self.start + 0.5 * self.step, self.step, self.whole)

    def rounded(self, x: Tensor) -> Tensor:
        """Rows (..., D) whose mapped columns lie at the centres of their cells, where data do."""
        return x.index_copy(-1, self.position, self.grid.rounded(x.index_select(-1, self.position)))

    def enclose(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (..., D) that hold, of mapped columns, the whole cells whose centres lie between the limits given."""
        sides = self.grid.enclose(*(limit.index_select(-1, self.position) for limit in (lower, upper)))
        low, high = (
            limit.index_copy(-1, self.position, side) for limit, side in zip((lower, upper), sides, strict=True)
        )
        return low, high

    def redraw(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Rows (N, D) whose mapped columns lie anywhere in their cells: dequantisation noise, drawn anew."""
        values = x.index_select(-1, self.position)
        low, high = self.cells(values.double())
        noise = torch.rand(values.shape, dtype=low.dtype, generator=generator, device=x.device)
        return x.index_copy(-1, self.position, (low + (high - low) * noise).to(x.dtype))

    def _interval(self, value: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Between which entries of their column's row values (..., C) lie: int64 (C, N); and bool (..., C), if any."""
        flat = value.detach().reshape(-1, value.shape[-1]).T.contiguous()
        i = torch.searchsorted(table, flat, right=True) - 1
        low, high = self._ends(table)
        inside = (value.detach() >= low) & (value.detach() <= high)
        return i.clamp(min=0).minimum((self.last - 1).unsqueeze(1)), inside

    def _around(self, i: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Knots before and after, shares before and after: (..., C) each."""
        return tuple(
            table.gather(1, i + step).T.reshape(shape) for table in (self.knots, self.shares) for step in (0, 1)
        )  # type: ignore[return-value]

    def _nearest_end(self, value: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Which end, 0 or 1, values (..., C) are nearest to; and their columns, to index with."""
        low, high = self._ends(table)
        at = torch.arange(len(low), device=value.device).expand(value.shape)
        return (value.detach() > 0.5 * (low + high)).long(), at


def standardised(x: Tensor, location: Tensor, scale: Tensor, cells: CellMap | None) -> Tensor:
    """Rows (..., D) standardised by location and scale (D,), the columns on a grid by their maps."""
    u = (x - location) / scale
    if cells is None:
        return u
    return u.index_copy(-1, cells.position, cells(x.index_select(-1, cells.position).double()).to(u.dtype))


def log_slopes(x: Tensor, scale: Tensor, cells: CellMap | None) -> Tensor:
    """Log |du/dx| of the entries of rows (..., D), as `standardised` makes u: (..., D), or (D,) without maps."""
    if cells is None:
        return -scale.log()
    slope, mapped = (-scale.log()).expand(x.shape), x.index_select(-1, cells.position).double()
    return slope.index_copy(-1, cells.position, cells.log_slope(mapped).to(slope.dtype))
