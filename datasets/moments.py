"""Dates and spans of time as numbers of days, and back as what they were.

A date with a time zone is the wall-clock time there, so that 18:00 is 18:00 in a question, a picture and a sample,
in winter as in summer; the zone stands in the unit of the column and comes back with the dates.
"""

from __future__ import annotations

import datetime
import re
import zoneinfo
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.errors import DataError

EPOCH = "days since 1970-01-01"
SPAN = "days"
"""Unit of the numbers that stand for spans of time."""
FARTHEST = 1e8
"""Days that microseconds of 64 bits can hold: 270,000 years."""
YEARS = (-719_161, 2_932_895)
"""The first and last day of `datetime`, less one: a zone may move them."""
DAY = 86_400e6
"""Microseconds of a day: they keep what float64 can hold of a day, and reach farther than nanoseconds."""


def unit_of(zone: str) -> str:
    """The unit of dates of a time zone, "" for none."""
    return f"{EPOCH} in {zone}" if zone else EPOCH


def is_date(unit: str) -> bool:
    """Whether numbers of a unit stand for dates."""
    return unit == EPOCH or unit.startswith(f"{EPOCH} in ")


def zone_of(unit: str) -> str:
    """The time zone of dates of a unit, "" for none."""
    return unit.removeprefix(EPOCH).removeprefix(" in ")


def zone_info(name: str) -> datetime.tzinfo:
    """A time zone by its name: "Europe/Berlin", "UTC", "+02:00" or "UTC+02:00".

    Raises:
        DataError: a zone this machine does not know.
    """
    offset = re.fullmatch(r"(?:UTC)?([+-])(\d\d):?(\d\d)", name)
    if offset is not None:
        sign, hours, minutes = offset.groups()
        span = datetime.timedelta(hours=int(hours), minutes=int(minutes))
        return datetime.timezone(span if sign == "+" else -span)
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise DataError(f"there is no time zone {name!r} on this machine. Convert these dates to UTC.") from error


def wall_clock(moment: datetime.datetime, zone: str) -> datetime.datetime:
    """A moment as the wall clock of a zone shows it, without zone; one that has no zone is as it is.

    Raises:
        DataError: a moment with a zone where `zone` is "".
    """
    if moment.tzinfo is None:
        return moment
    if not zone:
        raise DataError(f"{moment.isoformat()} has a time zone; the dates it is compared with have none.")
    return moment.astimezone(zone_info(zone)).replace(tzinfo=None)


def rebased(days: Array, unit: str, expected: str) -> Array:
    """Dates of one unit as those of another: the same moments, by the wall clock of the other zone.

    Dates without a zone are taken as those of the zone expected, and other numbers are as they are.

    Args:
        days: NaN where missing.
        unit: theirs.
        expected: of the dates they are put beside.

    Raises:
        DataError: dates with a zone beside dates without one.
    """
    if unit == expected or not (is_date(unit) and is_date(expected) and zone_of(unit)):
        return days
    if not zone_of(expected):
        raise DataError(f"dates in {zone_of(unit)} beside dates without a time zone. Make them alike.")
    zone = zone_of(expected)
    own = zone_info(zone_of(unit))
    moments = (moment and wall_clock(moment.replace(tzinfo=own), zone) for moment in _moments(days))
    start = datetime.datetime(1970, 1, 1)
    return np.array([np.nan if m is None else (m - start) / datetime.timedelta(days=1) for m in moments])


def as_they_were(days: Array, unit: str) -> Any:
    """Numbers of a column as dates or spans of time, where their unit says that they were such.

    Returns:
        datetime64 or timedelta64, NaT where missing; of dates with a zone a list of `datetime`, None where missing.
    """
    if unit == SPAN or is_date(unit):
        known = np.isfinite(days)
        held = np.clip(np.where(known, days, 0.0), -FARTHEST, FARTHEST)
        spans = np.round(held * DAY).astype("timedelta64[us]")
        if unit == SPAN:
            return np.where(known, spans, np.timedelta64("NaT", "us"))
        if not zone_of(unit):
            return np.where(known, spans + np.datetime64(0, "us"), np.datetime64("NaT", "us"))
        zone = zone_info(zone_of(unit))
        return [moment and moment.replace(tzinfo=zone) for moment in _moments(days)]
    return days


def _moments(days: Array) -> list[datetime.datetime | None]:
    """Days as moments, None where missing; kept to the years 1 to 9999, which `datetime` can hold."""
    held = np.clip(np.asarray(days, dtype=np.float64), YEARS[0], YEARS[1])
    moments: list[datetime.datetime | None] = as_they_were(held, EPOCH).astype(object).tolist()
    return moments


def alike(
    x: Array, columns: Sequence[str], units: Mapping[str, str], expected: Mapping[str, str], source: str
) -> Array:
    """Rows with every column of dates by the wall clock of the zone expected.

    Args:
        x: (rows, columns), left as it is.
        columns: names.
        units: column -> theirs.
        expected: column -> those of the rows they are put beside.
        source: where the rows come from, for messages.

    Raises:
        DataError: dates with a zone beside dates without one.
    """
    for j, name in enumerate(columns):
        unit, other = units.get(name, ""), expected.get(name, "")
        if unit != other and is_date(unit) and is_date(other):
            try:
                days = rebased(x[:, j], unit, other)
            except DataError as error:
                raise DataError(f"{source}, column {name!r}: {error}") from error
            x = np.concatenate([x[:, :j], days[:, None].astype(x.dtype), x[:, j + 1 :]], 1)
    return x
