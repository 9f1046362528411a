"""Log densities of rows, together with what they are: exact, a lower bound, or an estimate with its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from phlogiston.errors import ConfigError, DataError, ShapeError

if TYPE_CHECKING:
    from phlogiston.evaluate.metric import Metric

KINDS = ("exact", "lower bound", "estimate")


@dataclass(frozen=True)
class Score:
    """Log density of each row, in nats.

    Attributes:
        value: (n,) log densities; -inf where the model excludes a row.
        kind: `"exact"`, `"lower bound"` (in expectation), or `"estimate"`.
        std_error: (n,) Monte Carlo standard error of each row's value, or None when there is no Monte Carlo in it.
        weight: (n,) how much each row counts in averages, or None for equal weights.

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

    def mean(self) -> Metric:
        """Average over rows with a standard error; see `evaluate.likelihood.log_likelihood`."""
        from phlogiston.evaluate.likelihood import log_likelihood

        return log_likelihood(self)

    def bits_per_dimension(self, features: int, bin_width: float = 1.0) -> Metric:
        """Express the mean in bits per dimension; see `evaluate.likelihood.bits_per_dimension`."""
        from phlogiston.evaluate.likelihood import bits_per_dimension

        return bits_per_dimension(self, features, bin_width)
