"""Figures of merit and pictures by name, as dictionaries that a notebook shows as tables and pictures."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from phlogiston import cards
from phlogiston.evaluate import metric, report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST = 2_000_000
"""Bytes of an SVG from which on a picture is shown as PNG."""


class Metrics(dict[str, metric.Metric]):
    """Figures of merit by name."""

    def _repr_html_(self) -> str:
        return cards.card("Figures of merit", "", metric.as_table(self))


class Figures(dict[str, "Figure"]):
    """Pictures by name; what to look for in each is in `captions`.

    Args:
        drawn: name -> figure. Each of them displays itself in a notebook, too.
        captions: name -> sentence.
    """

    def __init__(self, drawn: Mapping[str, Figure], captions: Mapping[str, str]) -> None:
        super().__init__(drawn)
        self.captions = {name: captions[name] for name in drawn if name in captions}
        for name, figure in drawn.items():  # matplotlib's own shows nothing without pyplot
            figure._repr_html_ = _Shown(name, figure, self.captions.get(name, ""))  # type: ignore[method-assign]

    def _repr_html_(self) -> str:
        return "\n".join(inline(name, figure, self.captions.get(name, "")) for name, figure in self.items())


class _Shown:
    """`_repr_html_` of one figure; a class, so that figures can still be pickled."""

    def __init__(self, name: str, figure: Figure, caption: str) -> None:
        self.arguments = (name, figure, caption)

    def __call__(self) -> str:
        return inline(*self.arguments)


def inline(name: str, figure: Figure, caption: str) -> str:
    """A figure as HTML: an SVG whose black is the colour of the text around it, in light and in dark themes."""
    text = report.svg(figure, themes=False).decode()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text[text.index("<svg") :], flags=re.S)
    if len(text) <= LARGEST:
        return cards.picture(name, caption, svg=text, alt=str(figure.get_label() or name))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, facecolor="white")
    return cards.picture(name, caption, png=buffer.getvalue(), alt=str(figure.get_label() or name))
