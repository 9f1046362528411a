"""One figure of merit: the number, its error bar, how many samples it rests on, and what kind of number it is.

Every function of this package returns these, so that no figure travels without its sample size.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from phlogiston import cards
from phlogiston.errors import ConfigError, DataError

Kind = Literal["exact", "lower bound", "upper bound", "estimate"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Metric:
    """A number with its error and its sample size.

    Attributes:
        value: the number itself.
        std_error: one standard error of `value`, or None where none can be given.
        n: how many samples, rows or clips `value` rests on.
        kind: `"exact"` (each row's figure is computed exactly), `"lower bound"`, `"upper bound"` or `"estimate"`.
        higher_is_better: which way is good; None when neither is.
        detail: what one needs to quote the number properly (conventions, checksums, further sizes); JSON-able.

    Raises:
        ConfigError: an unknown kind.
        DataError: `n` or `std_error` is negative.

    Example:
        >>> print(Metric(-2.9003, 0.0121, n=1000, kind="exact", higher_is_better=True))
        -2.900 ± 0.012 (n = 1000, exact)
    """

    value: float
    std_error: float | None = None
    n: int = 1
    kind: str = "estimate"
    higher_is_better: bool | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"kind is {self.kind!r}; choose from {', '.join(KINDS)}.")
        if self.n < 0:
            raise DataError(f"n is {self.n}; a metric rests on 0 or more samples.")
        if self.std_error is not None and self.std_error < 0:
            raise DataError(f"std_error is {self.std_error}; expected 0 or more, or None.")
        object.__setattr__(self, "value", float(self.value))
        object.__setattr__(self, "n", int(self.n))
        if self.std_error is not None:
            error = float(self.std_error)
            object.__setattr__(self, "std_error", error if math.isfinite(error) else None)

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{self.text()} (n = {self.n}, {self.kind})"

    def _repr_html_(self) -> str:
        return cards.card(self.text(), f"n = {self.n:,}, {self.kind}", as_table({"": self}))

    def text(self) -> str:
        """Return `value ± std_error` with as many digits as the error bar justifies."""
        if not math.isfinite(self.value):
            return str(self.value)
        if not self.std_error:
            return f"{self.value:.4g}" if abs(self.value) < 1e4 else f"{self.value:.0f}"
        digits = max(0, 1 - math.floor(math.log10(self.std_error)))
        if digits > 10:
            return f"{self.value:.2g} ± {self.std_error:.1e}"
        return f"{self.value:.{digits}f} ± {self.std_error:.{digits}f}"

    def better_than(self, other: Metric) -> bool | None:
        """Return whether this beats `other` by more than two joint standard errors; None when that cannot be said."""
        if self.higher_is_better is None or not (math.isfinite(self.value) and math.isfinite(other.value)):
            return None
        gain = self.value - other.value if self.higher_is_better else other.value - self.value
        return gain > 2.0 * math.hypot(self.std_error or 0.0, other.std_error or 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return a dict that strict JSON can hold; a value that is not finite becomes its name, `"-inf"` for one."""
        value: float | str = self.value if math.isfinite(self.value) else str(self.value)
        return {
            "value": value,
            "std_error": self.std_error,
            "n": self.n,
            "kind": self.kind,
            "higher_is_better": self.higher_is_better,
            "detail": dict(self.detail),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Metric:
        """Rebuild a metric from what `to_json` gave.

        Raises:
            DataError: a field is missing or is no number.
        """
        try:
            return cls(
                float(content["value"]),
                None if content.get("std_error") is None else float(content["std_error"]),
                int(content["n"]),
                str(content["kind"]),
                content.get("higher_is_better"),
                dict(content.get("detail") or {}),
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise DataError(f"not a metric: {reprlib.repr(content)} ({error})") from error


def as_table(metrics: Mapping[str, Metric]) -> str:
    """Figures of merit as a table for notebooks."""
    better = {True: "higher is better", False: "lower is better", None: ""}
    rows = [
        [name.replace("_", " "), m.text(), f"{m.n:,}", m.kind, better[m.higher_is_better], _told(m.detail)]
        for name, m in metrics.items()
    ]
    head = ["figure", "value ± standard error", "n", "kind", "", "detail"]
    return cards.table(head, rows, head[1:3])


def _told(detail: Mapping[str, Any]) -> str:
    told = {
        key.replace("_", " "): f"{value:.4g}" if isinstance(value, float) else str(value)
        for key, value in detail.items()
    }
    return "; ".join(f"{key}: {text if len(text) < 100 else text[:99] + '…'}" for key, text in told.items())


def share_error(share: float, n: int) -> float:
    """Standard error of a share of n rows, never zero.

    The distance from the share to the farther end of Wilson's 95 % interval (*Probable inference, the law of
    succession, and statistical inference*, JASA 22, 1927), over 1.96: sqrt(share (1 - share) / n) in the middle,
    and 1.96 / n where all or none of the rows hit.

    Example:
        >>> round(share_error(0.5, 10_000), 5), round(share_error(1.0, 100), 4)
        (0.005, 0.0189)
    """
    z = 1.959964
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (half + abs(middle - share)) / z


def from_share(
    share: float, n: int, higher_is_better: bool | None = None, detail: Mapping[str, Any] | None = None
) -> Metric:
    """Return a share of n independent rows with its error; see `share_error`."""
    return Metric(share, share_error(share, n), n, "estimate", higher_is_better, dict(detail or {}))


def from_rows(
    rows: Any,
    kind: str = "estimate",
    higher_is_better: bool | None = None,
    detail: Mapping[str, Any] | None = None,
    weight: Any = None,
) -> Metric:
    """Average one number per independent row; the standard error is the sample deviation over sqrt(rows).
    Rows that are all 0, or all 1, are hits and misses, of which the next may be different: see `share_error`.

    With weights, a row of weight 3 is three rows and a common factor changes nothing; `n` counts the copies. Weights
    that stand for no copies (see `datasets.weights.copies`) give the weighted mean with the error
    sqrt(sum w^2 (row - mean)^2) / sum w, and `n` counts rows of positive weight.

    Args:
        rows: array or tensor (n,), n at least 1.
        kind: see `Metric`.
        higher_is_better: see `Metric`.
        detail: see `Metric`.
        weight: (n,), how much each row counts, 0 or more; equal if not given.

    Raises:
        DataError: no rows, or none of positive weight.
    """
    import numpy as np

    from phlogiston.datasets.weights import copies

    array = np.asarray(rows.detach().cpu() if hasattr(rows, "detach") else rows, dtype=np.float64).reshape(-1)
    if array.size == 0:
        raise DataError("cannot average over no rows.")
    weights = None if weight is None else np.asarray(weight, dtype=np.float64).reshape(-1)
    if weights is not None:
        if weights.shape != array.shape:
            raise DataError(f"{weights.size} weights were given for {array.size} rows.")
        if not weights.max() > 0:
            raise DataError("no row has a positive weight; there is nothing to average.")
        number = copies(weights)
        if number is None:
            return _weighted(array[weights > 0], weights[weights > 0], kind, higher_is_better, dict(detail or {}))
        array = np.repeat(array, number)
    mean = float(array.mean())
    error = float(array.std(ddof=1) / math.sqrt(array.size)) if array.size > 1 and math.isfinite(mean) else None
    if error == 0.0 and mean in (0.0, 1.0):
        error = share_error(mean, array.size)
    return Metric(mean, error, int(array.size), kind, higher_is_better, dict(detail or {}))


def _weighted(array: Any, weights: Any, kind: str, higher_is_better: bool | None, detail: dict[str, Any]) -> Metric:
    """Average rows whose weights stand for no copies."""
    import numpy as np

    share = weights / weights.sum()
    mean = float((share * array).sum())
    error = None
    if array.size > 1 and math.isfinite(mean):
        error = math.sqrt(float((np.square(share * (array - mean))).sum()) * array.size / (array.size - 1))
    return Metric(mean, error, int(array.size), kind, higher_is_better, detail)
