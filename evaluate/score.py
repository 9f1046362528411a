"""Log densities of rows, together with what they are: exact, a lower bound, or an estimate with its error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phlogiston import cards
from phlogiston.datasets.frames import Framed
from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.evaluate.metric import Metric, from_rows

KINDS = ("exact", "lower bound", "estimate")


@dataclass(frozen=True)
class Score(Framed):
    """Log density of each row, in nats.

    Attributes:
        value: (n,) log densities; -inf where the model excludes a row.
        kind: `"exact"`, `"lower bound"` (in expectation), or `"estimate"`.
        std_error: (n,) Monte Carlo standard error of each row's value, or None when there is no Monte Carlo in it.
        weight: (n,) how much each row counts in averages, or None for equal weights.
        frame: library of the data frame the rows came as, for `to_frame`.

    Raises:
        ConfigError: an unknown kind.
        ShapeError: `value` has not one axis, or `std_error` or `weight` another shape.
        DataError: a NaN, or +inf.

    Example:
        >>> print(Score(torch.tensor([-1.0, -2.0, -3.0]), "exact").mean())
        -2.00 ± 0.58 (n = 3, exact)
    """

    value: Tensor
    kind: str = "exact"
    std_error: Tensor | None = None
    weight: Tensor | None = None
    frame: str = "pandas"

    def table(self) -> dict[str, Any]:
        """`log_prob`, and `std_error` where there is one."""
        table: dict[str, Any] = {"log_prob": self.value.detach().cpu().numpy()}
        return table if self.std_error is None else {**table, "std_error": self.std_error.detach().cpu().numpy()}

    def _kind(self) -> str:
        return self.frame

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"kind is {self.kind!r}; choose from {', '.join(KINDS)}.")
        if self.value.ndim != 1:
            raise ShapeError(f"value has shape {tuple(self.value.shape)}; expected one log density per row, (n,).")
        if self.std_error is not None and self.std_error.shape != self.value.shape:
            raise ShapeError(
                f"std_error has shape {tuple(self.std_error.shape)}; expected that of value, {tuple(self.value.shape)}."
            )
        if self.weight is not None and self.weight.shape != self.value.shape:
            raise ShapeError(
                f"weight has shape {tuple(self.weight.shape)}; expected that of value, {tuple(self.value.shape)}."
            )
        bad = torch.isnan(self.value) | (self.value == float("inf"))
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise DataError(f"the log density of row {row} is {self.value[row].item()} ({int(bad.sum())} such rows).")

    def __len__(self) -> int:
        return len(self.value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The values (n,), for numpy and whatever takes its arrays."""
        return np.array(self.value.detach().cpu().numpy(), dtype=dtype, copy=copy)

    def _repr_html_(self) -> str:
        shown = cards.histogram(self.value.detach().cpu(), label="log densities of the rows") if len(self) else ""
        told = [("mean", f"{self.mean()} nats per row")] if len(self) else []
        told += [("rows", shown)] if shown else []
        return cards.card("Score", f"{len(self):,} rows, {self.kind}", cards.facts(told))

    def mean(self) -> Metric:
        """Average over rows, by their weights where they have some.

        The standard error covers the choice of rows *and* the Monte Carlo noise of each (both show in the spread
        between rows); the noise alone is in `detail["monte_carlo_std_error"]`. One row with no density makes the mean
        -inf: `detail["impossible_rows"]` counts them.

        Returns:
            The mean in nats per row, of the score's kind.

        Raises:
            DataError: no rows.
        """
        if len(self) == 0:
            raise DataError("the score has no rows; there is nothing to average.")
        detail: dict[str, object] = {"unit": "nats per row"}
        counts = torch.ones(len(self), dtype=torch.float64) if self.weight is None else self.weight.double()
        impossible = int((torch.isneginf(self.value) & (counts > 0)).sum())
        if impossible:
            detail["impossible_rows"] = impossible
        if self.std_error is not None:
            detail["monte_carlo_std_error"] = float(
                (counts * self.std_error.double()).square().sum().sqrt() / counts.sum()
            )
        return from_rows(self.value, self.kind, higher_is_better=True, detail=detail, weight=self.weight)

    def bits_per_dimension(self, features: int, bin_width: float = 1.0) -> Metric:
        """Turn log densities of dequantised data into bits per dimension: -(log p(x) + D log w) / (D log 2).

        Args:
            features: entries per row, D.
            bin_width: width w of one quantisation step in the units of x: 1/256 for 8-bit pixels scaled to [0, 1).

        Returns:
            Bits per dimension, lower is better. A lower bound on the density is an upper bound here, and says so.

        Raises:
            ConfigError: `features` or `bin_width` is not positive.
            DataError: no rows.
        """
        if features < 1 or bin_width <= 0:
            raise ConfigError(f"features is {features} and bin_width {bin_width}; both must be positive.")
        mean = self.mean()
        scale = features * math.log(2.0)
        return Metric(
            -(mean.value + features * math.log(bin_width)) / scale,
            None if mean.std_error is None else mean.std_error / scale,
            mean.n,
            "upper bound" if self.kind == "lower bound" else self.kind,
            higher_is_better=False,
            detail={"unit": "bits per dimension", "features": features, "bin_width": bin_width},
        )
