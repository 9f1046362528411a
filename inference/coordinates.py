"""Unbounded coordinates for the free continuous entries of a program's sites: known entries left out, supports and,
if wanted, boxes turned into the whole line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to
from torch.nn import functional

from phlogiston.distributions.linear_constraints import Rows, plan, simplify
from phlogiston.inference.program import Program, limits


@dataclass(frozen=True, eq=False)
class _Part:
    """One site: its free flattened entries between limits, or a transform of the whole site."""

    name: str
    free: Tensor  # int64 (F,)
    low: Tensor  # (F,)
    high: Tensor  # (F,)
    transform: Any = None  # for supports that are no intervals
    size: int = 0
    basis: Tensor | None = None  # (F, F): entries are basis @ what lies between the limits


class Coordinates:
    """Maps sites to one vector per particle and back.

    Args:
        program: the pair with its question.
        values: site -> (n, ...), to learn shapes from.
        box: keep entries within their boxes by the transform (otherwise only within their supports).

    Attributes:
        size: length of the vector.
        discrete: names of sites that are neither continuous nor fully determined.
    """

    def __init__(self, program: Program, values: Mapping[str, Tensor], box: bool) -> None:
        self.program = program
        self.parts: list[_Part] = []
        self.discrete: list[str] = []
        for name in program.sites:
            self._add(name, values[name], box)
        self.size = sum(p.size for p in self.parts)

    def _add(self, name: str, value: Tensor, box: bool) -> None:
        support = self.program.supports[name]
        found = self.program.evidence.get(name)
        if found is not None and (found.complete or (found.allowed is not None and int(found.allowed.sum()) == 1)):
            return
        if getattr(support, "is_discrete", False) or not value.is_floating_point():
            self.discrete.append(name)
            return
        ends = limits(support)
        entries = value[0].numel()
        linear = None if found is None else found.linear
        if ends is None:
            transform = biject_to(support)
            size = transform.inv(value).reshape(len(value), -1).shape[1]
            empty = torch.zeros(0, dtype=torch.float64)
            self.parts.append(_Part(name, torch.zeros(0, dtype=torch.long), empty, empty, transform, size))
            return
        low, high = (e.expand(entries) if e.dim() == 0 else e.reshape(-1)[:entries].expand(entries) for e in ends)
        free = torch.arange(entries)
        if linear is not None:
            free = free[~linear.known]
            if box:
                low, high = torch.maximum(low, linear.lower), torch.minimum(high, linear.upper)
        if box and linear is not None and len(linear.rows) and bool(torch.isinf(torch.cat(_flat_ends(ends))).all()):
            slanted = _slanted(simplify(linear))
            if slanted is not None:
                basis, low, high = slanted
                self.parts.append(_Part(name, free, low, high, None, len(free), basis))
                return
        self.parts.append(_Part(name, free, low[free], high[free], None, len(free)))

    def encode(self, values: Mapping[str, Tensor]) -> Tensor:
        """Coordinates (n, size) in float64 of values (n, ...)."""
        columns = []
        for part in self.parts:
            value = values[part.name].double()
            if part.transform is not None:
                columns.append(part.transform.inv(value).reshape(len(value), -1))
            else:
                flat = value.reshape(len(value), -1)[:, part.free]
                if part.basis is not None:
                    flat = torch.linalg.solve(part.basis, flat.T).T
                columns.append(_unbound(flat, part.low, part.high))
        return torch.cat(columns, 1)

    def decode(self, u: Tensor, values: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Values with coordinates `u` (n, size) put in, and the log absolute determinant of the map, (n,)."""
        result = dict(values)
        log_det = torch.zeros(len(u), dtype=torch.float64)
        start = 0
        for part in self.parts:
            own = u[:, start : start + part.size]
            start += part.size
            old = values[part.name]
            if part.transform is not None:
                shaped = own.reshape(len(u), *part.transform.inverse_shape(old.shape[1:]))
                new = part.transform(shaped)
                log_det = log_det + part.transform.log_abs_det_jacobian(shaped, new).reshape(len(u), -1).sum(1)
                result[part.name] = new.to(old.dtype)
                continue
            free, logs = _bound(own, part.low, part.high)
            if part.basis is not None:
                free = free @ part.basis.T
            flat = old.reshape(len(u), -1).index_copy(1, part.free, free.to(old.dtype))
            result[part.name] = flat.reshape(old.shape)
            log_det = log_det + logs.sum(1)
        return result, log_det


def _flat_ends(ends: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Both limits as flat tensors."""
    return [e.reshape(-1) for e in ends]


def _slanted(rows: Rows) -> tuple[Tensor, Tensor, Tensor] | None:
    """Coordinates in which independent inequalities become limits of single entries; None when rows depend on others.

    Returns:
        Basis (F, F) with x = basis @ v, and the limits of v (F,). Its determinant is constant and left out.
    """
    count, dim = rows.coefficients.shape
    if len(plan(rows.coefficients).independent) < count:
        return None
    _, _, right = torch.linalg.svd(rows.coefficients)
    basis = torch.linalg.inv(torch.cat([rows.coefficients, right[count:]]))
    open_ends = torch.full((dim - count,), math.inf, dtype=rows.lower.dtype)
    return basis, torch.cat([rows.lower, -open_ends]), torch.cat([rows.upper, open_ends])


def _bound(u: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Map the line into (low, high), entry by entry; also log |derivative|."""
    has_low, has_high = torch.isfinite(low), torch.isfinite(high)
    start, end = torch.where(has_low, low, 0.0), torch.where(has_high, high, 0.0)
    width = torch.where(has_low & has_high, end - start, 1.0)
    both = has_low & has_high
    safe = u.clamp(max=50.0)  # exp beyond this would only make infinities that `where` throws away
    value = torch.where(
        both,
        start + width * torch.sigmoid(u),
        torch.where(has_low, start + safe.exp(), torch.where(has_high, end - safe.exp(), u)),
    )
    slope = torch.where(
        both,
        width.log() + functional.logsigmoid(u) + functional.logsigmoid(-u),
        torch.where(has_low | has_high, safe, 0.0),
    )
    return value, slope


def _unbound(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Invert `_bound`; values on a limit are moved inside by a hair."""
    has_low, has_high = torch.isfinite(low), torch.isfinite(high)
    start, end = torch.where(has_low, low, 0.0), torch.where(has_high, high, 0.0)
    tiny = 1e-12
    share = ((value - start) / torch.where(has_low & has_high, end - start, 1.0)).clamp(tiny, 1 - tiny)
    above, below = (value - start).clamp_min(math.exp(-50)), (end - value).clamp_min(math.exp(-50))
    return torch.where(
        has_low & has_high,
        share.log() - torch.log1p(-share),
        torch.where(has_low, above.log(), torch.where(has_high, below.log(), value)),
    )
