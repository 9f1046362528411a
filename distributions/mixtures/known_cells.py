"""Known values on a grid, each standing for the cell around it, for many vectors at once.

Where a component's entries are independent, what is known of a vector is the product of the densities of its points and
the masses of its cells, and the other entries are drawn as if the cells were not there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from phlogiston.distributions.mixtures.conditioned_rows import Entries, Noise, RowDraws, draw_given
from phlogiston.distributions.normal_interval import log_interval_mass

_MAX_FLOATS = 2**20  # numbers of one table over rows and components


@dataclass(frozen=True, eq=False)
class KnownCells:
    """What is known of R vectors of which some entries lie on grids.

    Attributes:
        points: what is known besides the cells.
        held: bool (R, D), the entries known to lie in a cell.
        low: (R, D), lower edges of the cells; anything elsewhere.
        high: (R, D), upper edges.
    """

    points: Entries
    held: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, e: Entries, on_grid: Tensor, low: Tensor, high: Tensor) -> KnownCells | None:
        """Part the known entries that lie on grids, bool (D,), from the others; None where there are none."""
        held = e.known & on_grid
        if not bool(held.any()):
            return None
        return cls(Entries(e.known & ~held, e.value, e.sd.masked_fill(held, math.inf)), held, low, high)

    def draw_given(
        self, log_prior: Tensor, means: Tensor, scales: Tensor, noise: Noise
    ) -> Iterator[tuple[Tensor, RowDraws]]:
        """`conditioned_rows.draw_given`, where components also count by the mass they have in the cells.

        Args:
            log_prior: (R, P), log probabilities of the components.
            means: (P, D), the same for all rows, or (R, P, D).
            scales: standard deviations, like `means`.
            noise: of all rows, drawn for `points`.

        Yields:
            Positions of rows, and their draws, in which entries known to lie in a cell are drawn like unknown ones.
        """
        for rows in torch.arange(len(self.held)).split(max(1, _MAX_FLOATS // means.shape[-2])):
            m, s = (means, scales) if means.dim() == 2 else (means[rows], scales[rows])
            given = log_prior[rows] + self._log_masses(rows, m, s)
            for index, draws in draw_given(given, m, s, self.points[rows], noise.rows(rows)):
                yield rows[index], draws

    def _log_masses(self, rows: Tensor, means: Tensor, scales: Tensor) -> Tensor:
        """Log masses of the components (P) in all cells known of the vectors at `rows` (R): (R, P)."""
        total = means.new_zeros(len(rows), means.shape[-2])
        for d in torch.nonzero(self.held[rows].any(0)).flatten().tolist():
            at = torch.nonzero(self.held[rows, d]).flatten()
            edges = torch.stack([self.low[rows[at], d], self.high[rows[at], d]], 1)
            if means.dim() == 3:
                low, high = ((edges[:, end, None] - means[at, :, d]) / scales[at, :, d] for end in (0, 1))
                mass = log_interval_mass(low, high)
            else:  # most values of a count occur many times
                edges, which = edges.unique(dim=0, return_inverse=True)
                low, high = ((edges[:, end, None] - means[:, d]) / scales[:, d] for end in (0, 1))
                mass = log_interval_mass(low, high)[which]
            total.index_add_(0, at, mass)
        return total
