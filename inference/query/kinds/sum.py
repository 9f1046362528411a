"""Linear equalities of several entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from phlogiston.errors import EvidenceError
from phlogiston.inference.query.kinds.base import Evidence, Statement, as_tensor, linear, number
from phlogiston.inference.query.kinds.vector import Vector


@dataclass(frozen=True, eq=False)
class Sum(Evidence):
    """Linear equalities `a . x = b`, answered by systems that condition on them exactly, refused by name by others.

    The evidence is the density of `a . x` at b. Samples satisfy it up to a relative rounding error of 1e-12.

    Args:
        a: (D,) for one equality, (m, D) for m; none all zeros.
        b: number or (m,).

    Raises:
        EvidenceError: shapes that do not fit, coefficients that are all zero.
    """

    a: Any
    b: Any = 0.0
    kind: ClassVar[str] = "sum"
    order: ClassVar[int] = 45
    couples: ClassVar[bool] = True
    fields: ClassVar[tuple[str, ...]] = ("a", "b")

    def __post_init__(self) -> None:
        a, b = as_tensor(self.a, "Sum.a").double(), as_tensor(self.b, "Sum.b").double()
        if a.dim() not in (1, 2) or a.numel() == 0:
            raise EvidenceError(f"Sum.a must have shape (D,) or (m, D); got {tuple(a.shape)}")
        a = a.reshape(-1, a.shape[-1])
        if b.numel() not in (1, len(a)):
            raise EvidenceError(f"Sum has {len(a)} equalities, but b has shape {tuple(b.shape)}")
        if bool((a == 0).all(1).any()):
            raise EvidenceError("Sum.a holds only zeros: no entry is part of the sum")
        self._set(a=a, b=b.reshape(-1).expand(len(a)))

    @classmethod
    def claims(cls, statement: Statement) -> bool:
        """`2*x - y = 0.3`, an equality of several entries."""
        return statement.relation == "=" and len(statement.terms) > 1

    @classmethod
    def from_statements(cls, statements: Sequence[Statement]) -> list[Evidence]:
        """One equality for each."""
        return [Sum(torch.stack([s.row() for s in statements]), [-s.constant for s in statements])]

    def sentences(self, names: Sequence[str], row: int) -> list[str]:
        """A sum of columns and its value, one by one."""
        return [f"{linear(a, names)} = {number(b)}" for a, b in zip(self.a.tolist(), (self.b).tolist(), strict=True)]

    def restrict_vector(self, what: str, vector: Vector, row: int) -> None:
        """Add the equalities; they are the same for all rows of evidence."""
        vector.add_rows(what, self.a, self.b, self.b, torch.ones_like(self.b))
