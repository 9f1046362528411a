"""Linear inequalities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from phlogiston.errors import EvidenceError
from phlogiston.inference.query.kinds.base import Evidence, Statement, as_tensor, as_weight, linear, number
from phlogiston.inference.query.kinds.vector import Vector


@dataclass(frozen=True, eq=False)
class HalfSpace(Evidence):
    """Linear inequalities `a . x + b >= 0`.

    Args:
        a: (D,) for one inequality, (m, D) for m; need not have unit length.
        b: number or (m,).
        weight: number or (m,), as in `Near`.
    """

    a: Any
    b: Any = 0.0
    weight: Any = 1.0
    kind: ClassVar[str] = "halfspace"
    order: ClassVar[int] = 40
    couples: ClassVar[bool] = True
    fields: ClassVar[tuple[str, ...]] = ("a", "b", "weight")

    def __post_init__(self) -> None:
        a = as_tensor(self.a, "HalfSpace.a").double()
        b = as_tensor(self.b, "HalfSpace.b").double()
        weight = as_weight(self.weight, "HalfSpace.weight")
        if a.dim() not in (1, 2) or a.shape[-1] == 0:
            raise EvidenceError(f"HalfSpace.a must have shape (D,) or (m, D); got {tuple(a.shape)}")
        a = a.reshape(-1, a.shape[-1])
        if b.numel() not in (1, len(a)) or weight.numel() not in (1, len(a)):
            raise EvidenceError(f"HalfSpace has {len(a)} inequalities, but b has shape {tuple(b.shape)}")
        self._set(a=a, b=b.reshape(-1).expand(len(a)), weight=weight.reshape(-1).expand(len(a)))

    @classmethod
    def claims(cls, statement: Statement) -> bool:
        """`2*x - y >= 0.3`, an inequality of several entries."""
        return statement.relation == ">=" and len(statement.terms) > 1

    @classmethod
    def from_statements(cls, statements: Sequence[Statement]) -> list[Evidence]:
        """One inequality for each."""
        return [HalfSpace(torch.stack([s.row() for s in statements]), [s.constant for s in statements])]

    def sentences(self, names: Sequence[str], row: int) -> list[str]:
        """A sum of columns and its limit, one by one."""
        return [f"{linear(a, names)} >= {number(b)}" for a, b in zip(self.a.tolist(), (-self.b).tolist(), strict=True)]

    def restrict_vector(self, what: str, vector: Vector, row: int) -> None:
        """Add the inequalities; they are the same for all rows of evidence."""
        vector.add_rows(what, self.a, -self.b, torch.full_like(self.b, math.inf), self.weight)
