"""Unbounded coordinates for the free continuous entries of a program's sites: known entries left out, supports and,
on request, boxes turned into the whole line.

A support may depend on other sites (b ~ Uniform(0, a)). Limits of such sites are computed for every particle, while
the model runs: site by site in the model's order, so that the map's determinant stays the product of the sites' own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to
from torch.nn import functional

from phlogiston.distributions.linear_constraints import Rows, plan, simplify
from phlogiston.errors import ConfigError
from phlogiston.inference.query.program import Program, limits


@dataclass(frozen=True, eq=False)
class _Part:
    """One site: its free flattened entries between limits, or a transform of the whole site."""

    name: str
    free: Tensor  # int64 (F,)
    low: Tensor  # (F,), or (n, F) where it depends on other sites
    high: Tensor
    transform: Any = None  # for supports that are no intervals
    size: int = 0
    basis: Tensor | None = None  # (F, F): entries are basis @ what lies between the limits

    def encode(self, value: Tensor) -> Tensor:
        """Coordinates (n, size) of values (n, ...)."""
        if self.transform is not None:
            inverse: Tensor = self.transform.inv(value)
            return inverse.reshape(len(value), -1)
        flat = value.reshape(len(value), -1)[:, self.free]
        if self.basis is not None:
            flat = torch.linalg.solve(self.basis, flat.T).T
        return _unbound(flat, self.low, self.high)

    def decode(self, own: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
        """Values like `old` (n, ...) with coordinates `own` put in, and the log determinant (n,)."""
        n = len(own)
        if self.transform is not None:
            shaped = own.reshape(n, *self.transform.inverse_shape(old.shape[1:]))
            new = self.transform(shaped)
            return new.to(old.dtype), self.transform.log_abs_det_jacobian(shaped, new).reshape(n, -1).sum(1)
        free, logs = _bound(own, self.low, self.high)
        if self.basis is not None:
            free = free @ self.basis.T
        flat = old.reshape(n, -1).index_copy(1, self.free, free.to(old.dtype))
        return flat.reshape(old.shape), logs.sum(1)


class Coordinates:
    """Maps sites to one vector per particle and back.

    Args:
        program: the pair with its question.
        values: site -> (n, ...), to learn shapes from.
        box: keep entries within their boxes by the transform (otherwise only within their supports).

    Attributes:
        size: length of the vector.
        discrete: names of sites that are neither continuous nor fully determined.

    Raises:
        ConfigError: a site whose support has no transform to the whole space.
    """

    def __init__(self, program: Program, values: Mapping[str, Tensor], box: bool) -> None:
        self.program, self.box = program, box
        self.parts: list[_Part] = []
        self.discrete: list[str] = []
        for name in program.state:
            self._add(name, values[name])
        self.size = sum(p.size for p in self.parts)
        self.moving = [p.name for p in self.parts if p.name in program.moving_supports]

    def _add(self, name: str, value: Tensor) -> None:
        support = self.program.supports[name]
        evidence = self.program.evidence.get(name)
        if evidence is not None and evidence.complete:
            return
        if getattr(support, "is_discrete", False) or not value.is_floating_point():
            self.discrete.append(name)
            return
        linear = None if evidence is None else evidence.linear
        ends = limits(support)
        if ends is None:
            self.parts.append(_transformed(name, support, value))
            return
        entries = value[0].numel()
        unlimited = all(bool(torch.isinf(e).all()) for e in ends)
        if (
            self.box
            and linear is not None
            and len(linear.rows)
            and unlimited
            and name not in self.program.moving_supports
        ):
            slanted = _slanted(simplify(linear))
            if slanted is not None:
                basis, low, high = slanted
                free = torch.arange(entries)[~linear.known]
                self.parts.append(_Part(name, free, low, high, None, len(free), basis))
                return
        free = torch.arange(entries) if linear is None else torch.arange(entries)[~linear.known]
        part = _Part(name, free, torch.zeros(0), torch.zeros(0), None, len(free))
        self.parts.append(self._limited(part, ends, value[0].shape))

    def _limited(self, part: _Part, ends: tuple[Tensor, Tensor], shape: torch.Size) -> _Part:
        """The part with limits of its free entries: (F,), or (n, F) where `shape` starts with the particles."""
        lead = shape[: len(shape) - len(self.program.shapes[part.name])]
        low, high = (e.expand(shape).reshape(*lead, -1) for e in ends)
        evidence = self.program.evidence.get(part.name)
        if self.box and evidence is not None and evidence.linear is not None:
            low, high = torch.maximum(low, evidence.linear.lower), torch.minimum(high, evidence.linear.upper)
        return replace(part, low=low[..., part.free], high=high[..., part.free])

    def at(self, part: _Part, support: Any, n: int) -> _Part:
        """The part with the limits that its site's support has for each of n particles."""
        ends = limits(support)
        if ends is None:
            return part
        shape = self.program.shapes[part.name]
        aligned = tuple(self.program.align(e, part.name, n) for e in ends)
        return self._limited(part, (aligned[0], aligned[1]), torch.Size((n, *shape)))

    def encode(self, values: Mapping[str, Tensor]) -> Tensor:
        """Coordinates (n, size) in float64 of values (n, ...)."""
        parts = {p.name: p for p in self.parts}
        if self.moving:
            n = len(values[self.parts[0].name])
            supports = self.program.supports_at(values)
            parts |= {name: self.at(parts[name], supports[name], n) for name in self.moving}
        return torch.cat([part.encode(values[name].double()) for name, part in parts.items()], 1)

    def decode(self, u: Tensor, values: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Values with coordinates `u` (n, size) put in, and the log absolute determinant of the map, (n,)."""
        result = dict(values)
        log_det = torch.zeros(len(u), dtype=torch.float64)
        start = 0
        waiting: dict[str, tuple[_Part, Tensor]] = {}
        for part in self.parts:
            own = u[:, start : start + part.size]
            start += part.size
            if part.name in self.moving:
                waiting[part.name] = part, own
                continue
            result[part.name], logs = part.decode(own, values[part.name])
            log_det = log_det + logs
        if waiting:
            handler = _Decode(self, waiting, result, len(u))
            self.program.walk(result, len(u), handler, skip=waiting)
            result |= handler.decoded
            log_det = log_det + handler.log_det
        return result, log_det


class _Decode(Messenger):
    """Decodes sites whose limits depend on others when the model comes to them."""

    def __init__(
        self,
        coordinates: Coordinates,
        waiting: Mapping[str, tuple[_Part, Tensor]],
        values: Mapping[str, Tensor],
        n: int,
    ) -> None:
        super().__init__()
        self.coordinates, self.waiting, self.values, self.n = coordinates, waiting, values, n
        self.decoded: dict[str, Tensor] = {}
        self.log_det = torch.zeros(n, dtype=torch.float64)

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self.waiting:
            return
        part, own = self.waiting[name]
        part = self.coordinates.at(part, msg["fn"].support, self.n)
        self.decoded[name], logs = part.decode(own, self.values[name])
        self.log_det = self.log_det + logs
        msg["value"] = self.coordinates.program.place(self.decoded[name], name, self.n)
        msg["done"] = True


def _transformed(name: str, support: Any, value: Tensor) -> _Part:
    try:
        transform = biject_to(support)
    except NotImplementedError as error:
        raise ConfigError(
            f"site {name!r}: its support, {support}, has no transform to the whole space; use method='importance'"
        ) from error
    size = transform.inv(value).reshape(len(value), -1).shape[1]
    empty = torch.zeros(0, dtype=torch.float64)
    return _Part(name, torch.zeros(0, dtype=torch.long), empty, empty, transform, size)


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
