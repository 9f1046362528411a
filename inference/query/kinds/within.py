"""A box."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from phlogiston.errors import EvidenceError
from phlogiston.inference.query.kinds.base import (
    Evidence,
    Statement,
    as_tensor,
    as_weight,
    check_broadcast,
    entries_of,
    number,
    only_number,
)
from phlogiston.inference.query.kinds.vector import Vector


@dataclass(frozen=True, eq=False)
class Within(Evidence):
    """A box: `lower <= x <= upper`, entry by entry.

    Args:
        lower: number or array (..., D), `-inf` where open.
        upper: number or array (..., D), `inf` where open.
        weight: as in `Near`.
    """

    lower: Any = -math.inf
    upper: Any = math.inf
    weight: Any = 1.0
    kind: ClassVar[str] = "within"
    order: ClassVar[int] = 30
    fields: ClassVar[tuple[str, ...]] = ("lower", "upper", "weight")
    suffixes: ClassVar[tuple[str, ...]] = ("lower", "upper")
    rowwise: ClassVar[tuple[str, ...]] = ("lower", "upper")
    infinite: ClassVar[Mapping[str, float]] = {"lower": -math.inf, "upper": math.inf}

    def __post_init__(self) -> None:
        lower = as_tensor(-math.inf if self.lower is None else self.lower, "Within.lower", allow_infinite=True).double()
        upper = as_tensor(math.inf if self.upper is None else self.upper, "Within.upper", allow_infinite=True).double()
        weight = as_weight(self.weight, "Within.weight")
        check_broadcast("Within.lower, upper and weight", lower, upper, weight)
        if bool((lower > upper).any()):
            raise EvidenceError("Within.lower exceeds Within.upper: no value can satisfy it")
        if bool((torch.isposinf(lower) | torch.isneginf(upper)).any()):
            raise EvidenceError("Within needs lower < inf and upper > -inf: no value can satisfy it")
        self._set(lower=lower, upper=upper, weight=weight)

    @classmethod
    def from_plain(cls, name: str, arrays: Mapping[str, np.ndarray]) -> list[Evidence]:
        """Arrays `lower` and `upper`, or one of them."""
        limits = {side: arrays[side] for side in ("lower", "upper") if side in arrays}
        return [Within(**limits)] if limits else []

    @classmethod
    def claims(cls, statement: Statement) -> bool:
        """`x >= 0.1`, an inequality of one entry."""
        return statement.relation == ">=" and len(statement.terms) == 1

    @classmethod
    def from_statements(cls, statements: Sequence[Statement]) -> list[Evidence]:
        """One box that all of them leave."""
        names = statements[0].names
        low = torch.full((len(names),), -math.inf, dtype=torch.float64)
        high = torch.full((len(names),), math.inf, dtype=torch.float64)
        for statement in statements:
            entry, slope, limit = statement.single()
            if slope > 0:
                low[entry] = max(float(low[entry]), limit)
            else:
                high[entry] = min(float(high[entry]), limit)
            if low[entry] > high[entry]:
                raise EvidenceError(
                    f"{names[entry]!r} would lie between {float(low[entry]):g} and {float(high[entry]):g}: impossible"
                )
        return [Within(low, high)]

    def about_entry(self, site: str, entry: int) -> list[Statement]:
        """`name >= lower` and `name <= upper`."""
        if only_number(self.weight, "Within.weight") != 1:
            raise EvidenceError("a weight is for evidence about a whole site")
        low, high = only_number(self.lower, "Within.lower"), only_number(self.upper, "Within.upper")
        told = [Statement(site, (), ">=", {entry: 1.0}, -low)] if low > -math.inf else []
        return told + ([Statement(site, (), ">=", {entry: -1.0}, high)] if high < math.inf else [])

    def sentences(self, names: Sequence[str], row: int) -> list[str]:
        """`lower <= name <= upper`, entry by entry."""
        told = []
        limits = (entries_of(value, len(names), row) for value in (self.lower, self.upper))
        for name, low, high in zip(names, *limits, strict=True):
            if low > -math.inf and high < math.inf:
                told.append(f"{number(low)} <= {name} <= {number(high)}")
            elif low > -math.inf or high < math.inf:
                told.append(f"{name} >= {number(low)}" if low > -math.inf else f"{name} <= {number(high)}")
        return told

    def restrict_vector(self, what: str, vector: Vector, row: int) -> None:
        """Narrow the box."""
        vector.bound(*(vector.entries(what, t, row) for t in (self.lower, self.upper, self.weight)))
