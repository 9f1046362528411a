"""All evidence about one vector site, combined entry by entry."""

from __future__ import annotations

import torch
from torch import Tensor

from phlogiston.distributions.linear_constraints import LinearEvidence, Rows
from phlogiston.distributions.normal_interval import log_normal_density
from phlogiston.errors import EvidenceError


class Vector:
    """Collects what is said about the entries of one vector site.

    Args:
        name: the site, for messages.
        dim: its number of entries.
    """

    def __init__(self, name: str, dim: int) -> None:
        start = LinearEvidence.nothing(dim)
        self.name, self.dim = name, dim
        self.known, self.values = start.known.clone(), start.values
        self.lower, self.upper, self.box_weight = start.lower, start.upper, start.box_weight
        self.rows: list[Rows] = []
        self.softs: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}  # mean, sd, fraction, weight
        self.log_constant = torch.zeros((), dtype=torch.float64)

    def entries(self, what: str, value: Tensor, row: int) -> Tensor:
        """One row of a field: (dim,) in float64."""
        if value.dim() == 2:
            value = value[row if len(value) > 1 else 0]
        if value.dim() == 0 or value.shape[-1] == 1:
            value = value.reshape(()).expand(self.dim)
        if value.shape != (self.dim,):
            raise EvidenceError(f"{what} has {value.shape[-1]} entries; the site has {self.dim}")
        return value.double()

    def fix(self, what: str, values: Tensor, exact: Tensor) -> None:
        """Fix the entries where `exact`, bool (dim,), is True to `values` (dim,)."""
        clash = exact & self.known & (values != self.values)
        if bool(clash.any()):
            raise EvidenceError(f"{what}: entry {int(torch.nonzero(clash)[0])} is fixed to two different values")
        self.values = torch.where(exact, values, self.values)
        self.known = self.known | exact

    def bound(self, low: Tensor, high: Tensor, weight: Tensor) -> None:
        """Add a box, each (dim,); sides of weight zero do not count."""
        on = (weight > 0) & (torch.isfinite(low) | torch.isfinite(high))
        self.lower = torch.where(on, torch.maximum(self.lower, low), self.lower)
        self.upper = torch.where(on, torch.minimum(self.upper, high), self.upper)
        self.box_weight = torch.where(on, weight, self.box_weight)

    def add_rows(self, what: str, a: Tensor, low: Tensor, high: Tensor, weight: Tensor) -> None:
        """Add rows `low <= a @ x <= high`: a (m, dim), the others (m,); equal sides are an equality."""
        if a.shape[1] != self.dim:
            raise EvidenceError(f"{what}: a has {a.shape[1]} entries; the site has {self.dim}")
        keep = weight > 0
        self.rows.append(Rows(a[keep], low[keep], high[keep], weight[keep]))

    def observe(self, i: int, mean: Tensor, sd: Tensor, fraction: Tensor, weight: Tensor) -> None:
        """Add a Gaussian observation of entry `i`; `fraction` and `weight` as in `LinearEvidence`."""
        if i in self.softs:
            old_mean, old_sd, old_fraction, old_weight = self.softs[i]
            if bool(fraction > 0) or bool(old_fraction > 0):
                raise EvidenceError(f"entry {i} of {self.name!r} has a fractional mask and other soft evidence")
            # two Gaussian observations are one, and the density of their difference
            total = torch.hypot(sd, old_sd)
            self.log_constant = self.log_constant + log_normal_density((mean - old_mean) / total) - total.log()
            share = (old_sd / total) ** 2
            mean, sd = mean * share + old_mean * (1 - share), sd * old_sd / total
            weight = torch.maximum(weight, old_weight)
        self.softs[i] = (mean, sd, fraction, weight)

    def finish(self) -> tuple[LinearEvidence, Tensor]:
        """All of it as linear evidence, and log factors () that hold whatever the other entries are."""
        self._close_boxes()
        for i in [i for i in self.softs if bool(self.known[i])]:
            mean, sd, fraction, _ = self.softs.pop(i)
            if bool(fraction == 0):
                z = (mean - self.values[i]) / sd
                self.log_constant = self.log_constant + log_normal_density(z) - sd.log()
        empty = torch.zeros(0, dtype=torch.float64)
        columns = [torch.stack(c) for c in zip(*self.softs.values(), strict=True)] or [empty] * 4
        return (
            LinearEvidence(
                self.known,
                self.values,
                self.lower,
                self.upper,
                self.box_weight,
                self._joined(),
                torch.tensor(list(self.softs), dtype=torch.long),
                *columns,
            ),
            self.log_constant,
        )

    def _close_boxes(self) -> None:
        """A side of width zero fixes its entry; crossed sides are impossible."""
        if bool((self.lower > self.upper).any()):
            i = int(torch.nonzero(self.lower > self.upper)[0])
            low, high = self.lower[i].item(), self.upper[i].item()
            raise EvidenceError(
                f"the evidence is impossible: entry {i} of {self.name!r} would lie between {low:g} and {high:g}"
            )
        shut = (self.lower == self.upper) & ~self.known
        self.values = torch.where(shut, self.lower, self.values)
        self.known = self.known | shut

    def _joined(self) -> Rows:
        if not any(map(len, self.rows)):
            return Rows.empty(self.dim)
        parts = zip(*((r.coefficients, r.lower, r.upper, r.weight) for r in self.rows), strict=True)
        return Rows(*(torch.cat(part) for part in parts))
