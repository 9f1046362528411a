"""What objects look like in a notebook: tables and small pictures as HTML, for `_repr_html_`.

    card("title", "a remark", facts([("rows", 3)]), table(["column", "share"], rows, numbers=["share"]))

The pieces are put together by jinja2 from `cards.html`, which escapes every text: names of columns come from files of
others. A card is well-formed XML, holds no script, and takes its colours from the theme around it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from phlogiston.console import visible

BINS = 24
"""Bars of a histogram."""
POINTS = 200
"""Points of a curve that are drawn."""


@cache
def _macros() -> Any:
    import jinja2

    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=folder, autoescape=True, undefined=jinja2.StrictUndefined, finalize=_characters, trim_blocks=True
    )
    environment.globals["zip"] = zip
    return environment.get_template("cards.html").module


def _characters(value: Any) -> Any:
    """A text without the characters that XML cannot hold or that turn the direction of others."""
    return visible(value) if type(value) is str else value


def card(title: str, note: str, *blocks: str) -> str:
    """A whole card.

    Args:
        title: what it shows.
        note: a remark beside the title; "" for none.
        blocks: what `facts`, `table`, `histogram`, `curve` gave; empty ones are left out.
    """
    return str(_macros().card(title, note, blocks))


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """A table of names and values."""
    return _macros().facts(list(pairs))


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Collection[str] = (), caption: str = ""
) -> str:
    """A table.

    Args:
        columns: its head.
        rows: one cell per column each.
        numbers: columns that hold numbers, which are set flush right.
        caption: a line above it.
    """
    return _macros().table(columns, list(rows), numbers, caption)


def histogram(values: Any, weights: Any = None, label: str = "") -> str:
    """A small histogram, dark from the 5 % to the 95 % quantile; "" where nothing is finite.

    It reaches from the 0.2 % to the 99.8 % quantile: a few draws of little weight would flatten all others.

    Args:
        values: (n,).
        weights: (n,), how much each counts; equal if not given.
        label: its alternative text.
    """
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64).reshape(-1)
    finite = np.isfinite(x) & (w > 0)
    x, w = x[finite], w[finite]
    if not len(x):
        return ""
    order = np.argsort(x)
    x, w = x[order], w[order]
    reached = np.cumsum(w) / w.sum()
    ends = np.minimum(np.searchsorted(reached, (0.002, 0.998)), len(x) - 1)
    low, high = (float(x[end]) for end in ends)
    if not low < high:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(x, BINS, (low, high), weights=w)
    below = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    inner = (below[1:] > 0.05) & (below[:-1] < 0.95)
    return _macros().bars((counts / counts.max()).tolist(), inner.tolist(), label)


def share(value: float, label: str = "") -> str:
    """A bar as long as a share from 0 to 1."""
    return _macros().share(min(1.0, max(0.0, value)), label)


def curve(lines: Sequence[tuple[Any, Any]], parts: Iterable[tuple[str, float]] = (), label: str = "") -> str:
    """One or two curves over a common axis; "" where none has two finite points.

    Args:
        lines: (x, y), each (n,). The scale of y leaves the highest 3 % of the first curve out: the first steps of a
            training would flatten all that follow.
        parts: name and begin of the parts that the axis falls into, marked where there are several.
        label: the alternative text.
    """
    drawn = [_finite(*line) for line in lines]
    drawn = [(x, y) for x, y in drawn if len(x) > 1]
    if not drawn:
        return ""
    left = min(float(x[0]) for x, _ in drawn)
    right = max(float(x[-1]) for x, _ in drawn)
    bottom = min(float(y.min()) for _, y in drawn)
    top = max(float(np.quantile(drawn[0][1], 0.97)), *(float(y[-1]) for _, y in drawn))
    if not bottom < top:
        bottom, top = bottom - 0.5, top + 0.5

    def across(x: Any) -> Any:
        return 60 + 355 * (x - left) / max(right - left, 1e-12)

    def points(x: Any, y: Any) -> str:
        down = 125 - 115 * (np.clip(y, bottom, top) - bottom) / (top - bottom)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across(x), down, strict=True))

    begun = [(name, float(across(max(at, left)))) for name, at in parts]
    paths = [points(x, y) for x, y in drawn]
    low, high = apart(bottom, top - bottom), apart(top, top - bottom)
    return _macros().curve(paths, f"{left:,.0f}", f"{right:,.0f}", low, high, begun if len(begun) > 1 else [], label)


def picture(name: str, caption: str, *, svg: str = "", png: bytes = b"", alt: str = "") -> str:
    """A picture with its caption.

    Args:
        name: the title.
        caption: a sentence that says what to look for.
        svg: the picture as SVG made by code of ours, which stands in the page as it is; what is not filled otherwise
            takes the colour of text.
        png: or as PNG.
        alt: alternative text.
    """
    title = name[:1].upper() + name[1:].replace("_", " ")
    return str(_macros().picture(title, caption, svg, base64.b64encode(png).decode(), alt))


def _finite(x: Any, y: Any) -> tuple[Any, Any]:
    """Finite points, thinned out to those that can be told apart."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = x[keep], y[keep]
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(int)) if len(x) else slice(0)
    return x[chosen], y[chosen]


def apart(value: float, width: float) -> str:
    """Write a number with the digits that tell it from others of its distribution, `width` apart: 4 or more."""
    far = abs(value) / width if width > 0 and math.isfinite(width) else 1.0
    return f"{value:.{min(17, 4 + max(0, math.ceil(math.log10(max(far, 1.0)))))}g}"


def levels(values: Sequence[float], unit: str = "") -> list[str]:
    """Write numbers of one distribution, with the digits that tell them apart.

    Args:
        values: such as quantiles.
        unit: of them; those in "days since 1970-01-01" become dates.
    """
    width = float(max(values) - min(values)) if len(values) else 0.0
    if unit.startswith("days since ") and all(math.isfinite(value) for value in values):
        first = np.datetime64(unit.split()[2], "m")
        moments = first + np.round(np.asarray(values, dtype=np.float64) * 1440).astype("timedelta64[m]")
        return [
            str(moment).replace("T", " ") for moment in moments.astype("datetime64[D]" if width >= 3 else moments.dtype)
        ]
    return [apart(float(value), width) for value in values]
