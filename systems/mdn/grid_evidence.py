"""Evidence about targets on grids, as evidence about the real numbers that are rounded to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from phlogiston.distributions.cell_map import Grid
from phlogiston.distributions.linear_constraints import LinearEvidence, Rows
from phlogiston.distributions.resampling import log_mean
from phlogiston.errors import EvidenceError
from phlogiston.inference.query.compilation import whole_cells

ROUNDING = 1e-12


class GridEvidence:
    """What a question says of targets, of which some lie on grids.

    A known value is its cell, and bounds hold whole cells. An inequality of one target is a bound. One of several
    targets has no closed form: their real numbers are drawn from the half-space moved outwards by half a step a target,
    which holds every cell whose value counts, and draws are kept whose rounded values count.

    Args:
        about: evidence about D targets as they are written.
        grid: the grids.
        names: of the targets.

    Attributes:
        reals: evidence about the real numbers, from which they are drawn.
        plain: the evidence as it is written, without inequalities of several targets on grids.
        several: these inequalities.

    Raises:
        EvidenceError: an equality of several entries among targets on grids, or an interval without a value.
    """

    def __init__(self, about: LinearEvidence, grid: Grid, names: Sequence[str]) -> None:
        rows, open_entries = about.rows, ~about.known
        touched = (rows.coefficients[:, grid.used & open_entries] != 0).any(1)
        equal = torch.nonzero(touched & (rows.lower == rows.upper)).flatten().tolist()
        if equal:
            first = torch.nonzero((rows.coefficients[equal[0]] != 0) & grid.used & open_entries)[0]
            raise EvidenceError(
                f"evidence for 'y': an equality of several entries takes targets that are real numbers; "
                f"{names[int(first)]!r} lies on a grid. Say HalfSpace on either side of it instead"
            )
        single = touched & ((rows.coefficients[:, open_entries] != 0).sum(1) == 1)
        others, self.several = rows.select(~touched), rows.select(touched & ~single)
        lower, upper = _bounds(about, rows.select(single))
        self.plain = replace(about, lower=lower, upper=upper, rows=others)
        reach = self.several.coefficients.abs() @ torch.where(grid.used & open_entries, grid.step / 2, 0.0)
        wide = replace(self.several, lower=self.several.lower - reach, upper=self.several.upper + reach)
        joined = Rows(*(torch.cat([getattr(others, f), getattr(wide, f)]) for f in Rows.__dataclass_fields__))
        held = about.known & grid.used
        cells = replace(self.plain, rows=joined.given(held, about.values)).as_intervals(held)
        self.reals = whole_cells(cells, grid.enclose(cells.lower, cells.upper), grid.used, names)

    def holds(self, y: Tensor) -> Tensor:
        """Whether rounded targets (n, D) satisfy the inequalities of several of them, up to rounding: bool (n,)."""
        rows = self.several
        slack = ROUNDING * (y.abs() @ rows.coefficients.abs().T)
        return (rows.violation(y) <= slack).all(1)

    def log_evidence(self, drawn: Tensor, kept: Tensor, error: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The log evidence and its standard error, both (), given log weights (n,) before and after the draws' check.

        Args:
            drawn: as the reals were drawn.
            kept: `-inf` for draws that do not count.
            error: of the reals' log evidence; None where it is not known.
        """
        if not len(self.several):
            return log_mean(drawn), error
        share = (kept.logsumexp(0) - drawn.logsumexp(0)).exp()
        chance = ((1 - share).clamp_min(0.0) / (share * len(drawn))).sqrt()
        return log_mean(kept), None if error is None else torch.hypot(error, chance)


def _bounds(about: LinearEvidence, rows: Rows) -> tuple[Tensor, Tensor]:
    """The bounds of all entries, those that inequalities of one open entry (R, D) give included: (D,) each."""
    rows = rows.given(about.known, about.values)
    lower, upper = about.lower.clone(), about.upper.clone()
    for row, low, high in zip(rows.coefficients, rows.lower, rows.upper, strict=True):
        at = int(row.abs().argmax())
        ends = low / row[at], high / row[at]
        lower[at], upper[at] = torch.maximum(lower[at], min(ends)), torch.minimum(upper[at], max(ends))
    return lower, upper
