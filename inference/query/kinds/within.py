"""A box."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from phlogiston.errors import EvidenceError
from phlogiston.inference.query.kinds import base
from phlogiston.inference.query.kinds.vector import Vector


@dataclass(frozen=True, eq=False)
class Within(base.Evidence):
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
        lower, upper = (
            base.as_tensor(open_side if value is None else value, f"Within.{name}", allow_infinite=True).double()
            for name, value, open_side in (("lower", self.lower, -math.inf), ("upper", self.upper, math.inf))
        )
        weight = base.as_weight(self.weight, "Within.weight")
        base.check_broadcast("Within.lower, upper and weight", lower, upper, weight)
        if bool((lower > upper).any()):
            raise EvidenceError("Within.lower exceeds Within.upper: no value can satisfy it")
        if bool((torch.isposinf(lower) | torch.isneginf(upper)).any()):
            raise EvidenceError("Within needs lower < inf and upper > -inf: no value can satisfy it")
        self._set(lower=lower, upper=upper, weight=weight)

    @classmethod
    def from_plain(cls, name: str, arrays: Mapping[str, np.ndarray]) -> list[base.Evidence]:
        """Arrays `lower` and `upper`, or one of them."""
        limits = {side: arrays[side] for side in ("lower", "upper") if side in arrays}
        return [Within(**limits)] if limits else []

    @classmethod
    def claims(cls, statement: base.Statement) -> bool:
        """`x >= 0.1`, an inequality of one entry."""
        return statement.relation == ">=" and len(statement.terms) == 1

    @classmethod
    def from_statements(cls, statements: Sequence[base.Statement]) -> list[base.Evidence]:
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

    def about_entry(self, site: str, entry: int) -> list[base.Statement]:
        """`name >= lower` and `name <= upper`."""
        if base.only_number(self.weight, "Within.weight") != 1:
            raise EvidenceError("a weight is for evidence about a whole site")
        low, high = base.only_number(self.lower, "Within.lower"), base.only_number(self.upper, "Within.upper")
        told = [base.Statement(site, (), ">=", {entry: 1.0}, -low)] if low > -math.inf else []
        return told + ([base.Statement(site, (), ">=", {entry: -1.0}, high)] if high < math.inf else [])

    def sentences(self, names: Sequence[str], row: int) -> list[str]:
        """`lower <= name <= upper`, entry by entry."""
        told = []
        limits = (base.entries_of(value, len(names), row) for value in (self.lower, self.upper))
        for name, low, high in zip(names, *limits, strict=True):
            if low > -math.inf and high < math.inf:
                told.append(f"{base.number(low)} <= {name} <= {base.number(high)}")
            elif low > -math.inf or high < math.inf:
                told.append(f"{name} >= {base.number(low)}" if low > -math.inf else f"{name} <= {base.number(high)}")
        return told

    def restrict_vector(self, what: str, vector: Vector, row: int) -> None:
        """Narrow the box."""
        vector.bound(*(vector.entries(what, t, row) for t in (self.lower, self.upper, self.weight)))
