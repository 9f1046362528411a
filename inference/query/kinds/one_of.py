"""A categorical site restricted to some of its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from phlogiston.errors import EvidenceError
from phlogiston.inference.query.kinds.base import Evidence, Statement, category
from phlogiston.inference.query.kinds.known import Known


@dataclass(frozen=True, eq=False)
class OneOf(Evidence):
    """A categorical site restricted to some of its values.

    Args:
        values: category numbers, or names where the system has names; not empty.
    """

    values: Any
    kind: ClassVar[str] = "oneof"
    order: ClassVar[int] = 50
    fields: ClassVar[tuple[str, ...]] = ("values",)

    def __post_init__(self) -> None:
        given = [self.values] if isinstance(self.values, str | int) else list(self.values)
        plain = [v.item() if isinstance(v, Tensor | np.generic) else v for v in given]
        if not plain:
            raise EvidenceError("OneOf needs at least one value: an empty set is impossible")
        for v in plain:
            if isinstance(v, bool) or not (isinstance(v, int | str) or (isinstance(v, float) and v.is_integer())):
                raise EvidenceError(f"OneOf takes category numbers or names; got {v!r}")
        unique = {v if isinstance(v, str) else int(v) for v in plain}
        self._set(values=tuple(sorted(unique, key=lambda v: (isinstance(v, str), v))))

    @classmethod
    def claims(cls, statement: Statement) -> bool:
        """`label in {3, 8}`, `label = 3`, `label != 3`."""
        return statement.relation == "in"

    @classmethod
    def from_statements(cls, statements: Sequence[Statement]) -> list[Evidence]:
        """The values that all of them leave; a single one is known."""
        left = frozenset.intersection(*(s.values for s in statements))
        if not left:
            site = statements[0].site
            raise EvidenceError(f"no value is left for {site!r}: the statements about it contradict each other")
        return [Known(next(iter(left))) if len(left) == 1 else OneOf(left)]

    def restrict_category(self, name: str, labels: Sequence[str], row: int) -> list[int] | None:
        """The values."""
        return [category(name, v, labels) for v in self.values]

    def is_categorical(self, entries: int, width: int) -> bool:
        """Always."""
        return True
