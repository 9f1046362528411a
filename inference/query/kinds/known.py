"""Entries that are exactly known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from phlogiston.errors import EvidenceError
from phlogiston.inference.query.kinds.base import (
    Evidence,
    Statement,
    as_tensor,
    category,
    check_broadcast,
    entries_of,
    number,
    only_number,
)
from phlogiston.inference.query.kinds.vector import Vector


@dataclass(frozen=True, eq=False)
class Known(Evidence):
    """Entries that are exactly known.

    Args:
        value: number or array (..., D); integer for categorical sites (or a label's name, where the system has names).
        mask: broadcastable with `value`; True or 1 where known, False or 0 where not. A fraction m between 0 and 1 is
            soft: the entry counts as observed with noise of sd `s sqrt(1 / m^2 - 1)`, s being the spread the model
            gives it (systems with an exact path only).

    Raises:
        EvidenceError: known entries that are not finite, a mask outside [0, 1], shapes that do not broadcast.
    """

    value: Any
    mask: Any = None
    kind: ClassVar[str] = "known"
    order: ClassVar[int] = 10
    fields: ClassVar[tuple[str, ...]] = ("value", "mask")
    suffixes: ClassVar[tuple[str, ...]] = ("mask",)
    rowwise: ClassVar[tuple[str, ...]] = fields

    def __post_init__(self) -> None:
        if isinstance(self.value, str):
            return
        if self.mask is None:
            self._set(value=as_tensor(self.value, "Known.value"))
            return
        value = (
            as_tensor(self.value if isinstance(self.value, Tensor) else np.asarray(self.value), "Known.value")
            if not _has_nan(self.value)
            else torch.as_tensor(self.value, dtype=torch.float64)
        )
        mask = as_tensor(self.mask, "Known.mask")
        if bool(((mask < 0) | (mask > 1)).any()):
            raise EvidenceError("Known.mask must lie between 0 (unknown) and 1 (known)")
        check_broadcast("Known.value and Known.mask", value, mask)
        value, mask = torch.broadcast_tensors(value, mask)
        # what is not known may hold anything, NaN included; it must not leak into arithmetic
        if value.is_floating_point():
            value = torch.where(mask > 0, value, 0.0)
        if bool((~torch.isfinite(value)).any()):
            raise EvidenceError("Known.value holds NaN or infinity where the mask says it is known")
        self._set(value=value, mask=mask if mask.is_floating_point() and _fractional(mask) else mask > 0)

    @classmethod
    def from_plain(cls, name: str, arrays: Mapping[str, np.ndarray]) -> list[Evidence]:
        """Values (NaN where unknown) under the site's own name, and `mask`."""
        if "" not in arrays:
            return []
        value = arrays[""]
        return [Known(value, arrays.get("mask", ~np.isnan(value) if value.dtype.kind == "f" else None))]

    @classmethod
    def claims(cls, statement: Statement) -> bool:
        """`x = 2.5`, an equality of one entry."""
        return statement.relation == "=" and len(statement.terms) == 1

    @classmethod
    def from_statements(cls, statements: Sequence[Statement]) -> list[Evidence]:
        """One row of values and a mask."""
        names = statements[0].names
        fixed: dict[int, float] = {}
        for statement in statements:
            entry, _, value = statement.single()
            if fixed.setdefault(entry, value) != value:
                raise EvidenceError(f"{names[entry]!r} is said to be both {fixed[entry]:g} and {value:g}")
        values, mask = torch.zeros(len(names), dtype=torch.float64), torch.zeros(len(names), dtype=torch.bool)
        for entry, value in fixed.items():
            values[entry], mask[entry] = value, True
        return [Known(values, mask)]

    def about_entry(self, site: str, entry: int) -> list[Statement]:
        """`name = value`."""
        if isinstance(self.value, str) or self.mask is not None:
            raise EvidenceError("Known of one column is a number, without a mask")
        return [Statement(site, (), "=", {entry: 1.0}, -only_number(self.value, "Known.value"))]

    def sentences(self, names: Sequence[str], row: int) -> list[str]:
        """`name = value`, entry by entry; of a fraction of a mask it says so."""
        values = entries_of(self.value, len(names), row)
        mask = [1.0] * len(names) if self.mask is None else entries_of(self.mask, len(names), row)
        told = [(name, value, share) for name, value, share in zip(names, values, mask, strict=True) if share > 0]
        return [f"{n} = {number(v)}" + (f"  (with mask {m:g})" if m < 1 else "") for n, v, m in told]

    def restrict_vector(self, what: str, vector: Vector, row: int) -> None:
        """Fix entries; those with a fraction for a mask are observed with noise."""
        if isinstance(self.value, str):
            raise EvidenceError(f"{what}: {self.value!r} is no number")
        value = vector.entries(what, self.value, row)
        mask = torch.ones(vector.dim) if self.mask is None else vector.entries(what, self.mask, row)
        one = torch.ones((), dtype=torch.float64)
        for i in torch.nonzero((mask > 0) & (mask < 1)).flatten().tolist():
            vector.observe(i, value[i], one, mask[i].double(), one)
        vector.fix(what, value, mask == 1)

    def restrict_category(self, name: str, labels: Sequence[str], row: int) -> list[int] | None:
        """The one value; None where it is -1 or masked."""
        value = self._category(row)
        return None if value == -1 else [category(name, value, labels)]

    def is_categorical(self, entries: int, width: int) -> bool:
        """A name, or a number where the site has one entry; all entries of a one-hot vector are numbers."""
        return isinstance(self.value, str) or (entries == 1 and (width == 1 or self.value.numel() == 1))

    def without_missing(self) -> Evidence:
        """Masks entries of -1: numbers of categories are not negative."""
        if not bool((self.value == -1).any()):
            return self
        there = (self.value != -1).double()
        return Known(self.value, there if self.mask is None else there * self.mask)

    def _category(self, row: int) -> int | str:
        if isinstance(self.value, str):
            return self.value

        def pick(value: Tensor) -> float:
            flat = value.reshape(-1)
            return float(flat[row if len(flat) > 1 else 0])

        if isinstance(self.mask, Tensor) and pick(self.mask) == 0:
            return -1
        value = pick(self.value)
        if not value.is_integer():
            raise EvidenceError(f"a category is a whole number or a name; got {value:g}")
        return int(value)


def _has_nan(value: Any) -> bool:
    try:
        return bool(np.isnan(np.asarray(value.detach() if isinstance(value, Tensor) else value, dtype=float)).any())
    except (TypeError, ValueError):
        return False


def _fractional(mask: Tensor) -> bool:
    return bool(((mask > 0) & (mask < 1)).any())
