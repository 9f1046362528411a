"""Columns that say nothing about other rows - identifiers, free text, nothing at all - and leaving them out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from phlogiston.datasets.base import Array, Decision
from phlogiston.datasets.readers.tables import Table
from phlogiston.errors import DataWarning

MOST = 50
"""So many different texts may be categories, however few rows there are."""
FEWEST = 10
"""Rows below which whole numbers that all differ need not be identifiers."""
_IDENTIFIER = re.compile(r"(?:.*[ _.-])?(?:id|ids|uuid|guid|index|key|row|rownames)|unnamed: 0|.*[a-z]I[dD]", re.I)


def columns_aside(table: Table, keep: Collection[str]) -> dict[str, str]:
    """Find the columns of a table that are left out: name -> why.

    Args:
        table: as it was read; one without names keeps all of its columns.
        keep: columns that are wanted, whatever they look like.
    """
    if table.aside is None:
        return {}
    found = dict(table.aside)
    for j, name in enumerate(table.names):
        why = _numbers(name, table.x[:, j])
        if why:
            found.setdefault(name, why)
    for name, entries in table.text.items():
        known = [entry for entry in entries if entry is not None]
        different = len(set(known))
        if not known:
            found.setdefault(name, "no known entry")
        elif different > MOST and different > len(known) / 2:
            found.setdefault(name, f"text, {different} different ones in {table.rows} rows")
    return {name: why for name, why in found.items() if name not in keep}


def without(table: Table, names: Collection[str]) -> Table:
    """The table without some of its columns."""
    if not names:
        return table
    kept = [j for j, name in enumerate(table.names) if name not in names]
    extra = dict(table.extra)
    if "mask" in extra and extra["mask"].shape == table.x.shape:
        extra["mask"] = extra["mask"][:, kept]
    return replace(
        table,
        x=table.x[:, kept],
        names=tuple(table.names[j] for j in kept),
        text={name: entries for name, entries in table.text.items() if name not in names},
        extra=extra,
        aside={},
        decisions=[d for d in table.decisions if not any(f"column {name!r}:" in d.found for name in names)],
    )


def tell_aside(found: Mapping[str, str], source: str) -> list[Decision]:
    """Warn of columns that are left out, and return the same as decisions."""
    if not found:
        return []
    shown = "; ".join(f"{name!r} ({why})" for name, why in list(found.items())[:5])
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    warnings.warn(
        f"{source}: columns that say nothing about other rows are set aside: {shown}{more}. Name the columns to use "
        "with columns=(...), or categories with categorical=(...).",
        DataWarning,
        stacklevel=4,
    )
    return [Decision("set aside", f"column {name!r}: {why}", f"categorical={name}") for name, why in found.items()]


def _numbers(name: str, values: Array) -> str:
    """Why a column of numbers is left out; "" where it is not."""
    if np.isnan(values[0]) and np.isnan(values).all():
        return "no known entry"
    if not _IDENTIFIER.fullmatch(name) or np.isnan(values).any() or (values % 1 != 0).any():
        return ""
    return "whole numbers, all different: an identifier" if len(np.unique(values)) == len(values) > FEWEST else ""
