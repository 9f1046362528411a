"""Schedules: plain functions of progress that give the value of a number during training.

A schedule maps progress `p` in [0, 1] (0 at the first step of a stage, 1 at its last) to a float. What the float means
is decided by the key under which a `Stage` holds it: a factor on the learning rate, the weight of a site, an attribute
of a handler or of an objective. Schedules are small frozen objects, so that a run folder can describe them in JSON and
two runs can be compared.

    >>> linear(0.0, 1.0)(0.25)
    0.25
    >>> hold_then(linear(1.0, 0.0), hold=0.5)(0.75)
    0.5
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from phlogiston.errors import ConfigError, unknown_name


@dataclass(frozen=True)
class Schedule:
    """Base of all schedules: a callable from progress in [0, 1] to a float."""

    def __call__(self, progress: float) -> float:
        """Return the value at `progress`, which is clamped to [0, 1]."""
        return self.value(min(1.0, max(0.0, float(progress))))

    def value(self, progress: float) -> float:
        """Return the value at a `progress` known to lie in [0, 1]; subclasses implement this."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return the schedule as JSON-able data: its kind and its numbers."""
        out: dict[str, Any] = {"schedule": type(self).__name__.lower().lstrip("_")}
        for field in fields(self):
            value = getattr(self, field.name)
            out[field.name] = value.describe() if isinstance(value, Schedule) else value
        return out


@dataclass(frozen=True)
class _Constant(Schedule):
    level: float

    def value(self, progress: float) -> float:
        return self.level


@dataclass(frozen=True)
class _Linear(Schedule):
    start: float
    end: float

    def value(self, progress: float) -> float:
        return self.start + (self.end - self.start) * progress


@dataclass(frozen=True)
class _Cosine(Schedule):
    start: float
    end: float

    def value(self, progress: float) -> float:
        return self.end + (self.start - self.end) * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class _Exponential(Schedule):
    start: float
    end: float

    def value(self, progress: float) -> float:
        return self.start * (self.end / self.start) ** progress


@dataclass(frozen=True)
class _Piecewise(Schedule):
    points: tuple[tuple[float, float], ...]

    def value(self, progress: float) -> float:
        right = bisect.bisect_right([p for p, _ in self.points], progress)
        if right == 0:
            return self.points[0][1]
        if right == len(self.points):
            return self.points[-1][1]
        (p0, v0), (p1, v1) = self.points[right - 1], self.points[right]
        return v0 + (v1 - v0) * (progress - p0) / (p1 - p0)


@dataclass(frozen=True)
class _Warmup(Schedule):
    fraction: float
    then: Schedule
    start: float

    def value(self, progress: float) -> float:
        if progress < self.fraction:
            top = self.then(0.0)
            return self.start * top + (1.0 - self.start) * top * progress / self.fraction
        return self.then((progress - self.fraction) / (1.0 - self.fraction))


@dataclass(frozen=True)
class _HoldThen(Schedule):
    then: Schedule
    hold: float

    def value(self, progress: float) -> float:
        return self.then(0.0 if progress <= self.hold else (progress - self.hold) / (1.0 - self.hold))


@dataclass(frozen=True)
class _HalfCosine(Schedule):
    start: float
    end: float
    fraction: float
    epochs: int

    def value(self, progress: float) -> float:
        if self.epochs < 1:  # by the step
            return self.end + (self.start - self.end) * 0.5 * (
                1.0 + math.cos(math.pi * min(1.0, progress / self.fraction))
            )
        epoch = min(int(progress * self.epochs), self.epochs - 1)
        length = self.epochs * self.fraction
        rising = math.ceil(length - 1e-9)
        if epoch >= rising:
            return self.end
        share = (1.0 + math.cos(math.pi * (rising - 1 - epoch) / length)) / 2.0
        return self.start + (self.end - self.start) * share


@dataclass(frozen=True)
class _FourPoint(Schedule):
    values: tuple[float, float, float, float]
    fractions: tuple[float, float]
    kind: str
    limits: tuple[float, float]
    epochs: int

    def value(self, progress: float) -> float:
        last = max(self.epochs - 1, 1)
        if self.epochs < 1:
            position = progress
            at: tuple[float, ...] = (0.0, *self.fractions, 1.0)
        else:
            position = float(min(int(progress * self.epochs), self.epochs - 1))
            at = (0.0, *(f * self.epochs for f in self.fractions), float(last))
        return min(self.limits[1], max(self.limits[0], float(_spline(at, self.values, self.kind)(position))))


@functools.lru_cache(maxsize=64)
def _spline(at: tuple[float, ...], values: tuple[float, ...], kind: str) -> Any:
    from scipy.interpolate import PchipInterpolator, make_interp_spline

    return PchipInterpolator(at, values) if kind == "pchip" else make_interp_spline(at, values, k=2)


def constant(level: float) -> Schedule:
    """Return the schedule that is `level` throughout."""
    return _Constant(float(level))


def linear(start: float, end: float) -> Schedule:
    """Return a straight line from `start` (progress 0) to `end` (progress 1)."""
    return _Linear(float(start), float(end))


def cosine(start: float = 1.0, end: float = 0.0) -> Schedule:
    """Return half a cosine from `start` to `end`: flat at both ends, steepest in the middle."""
    return _Cosine(float(start), float(end))


def exponential(start: float, end: float) -> Schedule:
    """Return a geometric path from `start` to `end`, a straight line in the logarithm.

    Raises:
        ConfigError: if the ends are zero or differ in sign, between which no geometric path leads.
    """
    if start * end <= 0:
        raise ConfigError(f"exponential(start={start}, end={end}): both must be non-zero and of one sign.")
    return _Exponential(float(start), float(end))


def piecewise(points: Iterable[tuple[float, float]]) -> Schedule:
    """Return straight lines through `(progress, value)` points, level before the first and after the last.

    Two points at the same progress make a jump; the later one holds from there on.

    Raises:
        ConfigError: if there is no point, or progress leaves [0, 1] or decreases.
    """
    fixed = tuple((float(p), float(v)) for p, v in points)
    at = [p for p, _ in fixed]
    if not fixed or at != sorted(at) or at[0] < 0.0 or at[-1] > 1.0:
        raise ConfigError(
            f"piecewise(points={list(fixed)}): needs at least one (progress, value), progress rising in [0, 1]."
        )
    return _Piecewise(fixed)


def half_cosine(start: float, end: float, fraction: float = 1.0, epochs: int = 0) -> Schedule:
    """Return a rise (or fall) along half a cosine over the first `fraction` of the stage, level afterwards.

    Args:
        start: value at the beginning; in epochs, the value of the first one is a little beyond it.
        end: value from `fraction` on.
        fraction: share of the stage the change takes, in (0, 1].
        epochs: cut the stage into so many epochs with one value each: for epoch k below n = ceil(epochs fraction) the
            value is start + (end - start) (1 + cos(pi (n - 1 - k) / (epochs fraction))) / 2, then `end`. 0 changes it
            at every step.

    Raises:
        ConfigError: if `fraction` is not in (0, 1], or epochs are negative.

    Example:
        >>> round(half_cosine(1.0, 10.0, 0.5, epochs=200)(50.5 / 200), 4)
        5.6413
    """
    if not 0.0 < fraction <= 1.0 or epochs < 0:
        raise ConfigError(f"half_cosine(fraction={fraction}, epochs={epochs}): fraction in (0, 1], epochs from 0 on.")
    return _HalfCosine(float(start), float(end), float(fraction), int(epochs))


def four_point(
    start: float,
    first: float,
    second: float,
    end: float,
    fractions: tuple[float, float] = (0.5, 0.8),
    kind: str = "quadratic",
    limits: tuple[float, float] = (0.005, 80.0),
    epochs: int = 0,
) -> Schedule:
    """Return a smooth curve through four values: at the beginning, at two points between, and at the end.

    Args:
        start, first, second, end: the values.
        fractions: where the two in the middle lie, as shares of the stage, rising.
        kind: "quadratic" is the interpolating spline, which overshoots (below zero between low points, where it is
            clipped); "pchip" never leaves the range of neighbouring values.
        limits: values are clipped to them.
        epochs: cut the stage into so many epochs with one value each, the last one at `epochs - 1`; 0 changes the value
            at every step.

    Raises:
        ConfigError: if fractions do not rise between 0 and 1, or the kind is unknown.
    """
    if kind not in ("quadratic", "pchip"):
        raise unknown_name("kind of curve", kind, ("quadratic", "pchip"))
    if not 0.0 < fractions[0] < fractions[1] < 1.0 or (epochs and fractions[1] * epochs >= epochs - 1) or epochs < 0:
        raise ConfigError(f"four_point(fractions={tuple(fractions)}, epochs={epochs}): must rise between 0 and 1.")
    values = (float(start), float(first), float(second), float(end))
    places = (float(fractions[0]), float(fractions[1]))
    return _FourPoint(values, places, kind, (float(limits[0]), float(limits[1])), int(epochs))


def warmup(fraction: float = 0.05, then: Schedule | None = None, start: float = 0.0) -> Schedule:
    """Return a linear rise over the first `fraction` of the stage, then another schedule over the rest.

    Args:
        fraction: share of the stage the rise takes, in (0, 1).
        then: what follows, run over its whole progress in the remaining time; a constant 1 by default.
        start: where the rise begins, as a share of the value `then` begins with.

    Raises:
        ConfigError: if `fraction` is not inside (0, 1).
    """
    if not 0.0 < fraction < 1.0:
        raise ConfigError(f"warmup(fraction={fraction}): must lie between 0 and 1, both excluded.")
    return _Warmup(float(fraction), then if then is not None else constant(1.0), float(start))


def hold_then(schedule: Schedule, hold: float = 0.5) -> Schedule:
    """Return a schedule that keeps the first value of `schedule` until progress `hold`, then runs through it.

    Raises:
        ConfigError: if `hold` is not in [0, 1).
    """
    if not 0.0 <= hold < 1.0:
        raise ConfigError(f"hold_then(hold={hold}): must be at least 0 and less than 1.")
    return _HoldThen(schedule, float(hold))
