"""Rows as data frames again: columns by name, categories by label, dates as dates, in the library they came from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.grid import rounded
from phlogiston.datasets.moments import as_they_were
from phlogiston.errors import DataError, ShapeError

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("pandas", "polars", "pyarrow")
TEXT_LABELS = "text"
"""Unit of categories that came as text and stay it, though they look like numbers or truth values."""


@dataclass(frozen=True)
class Names:
    """What the tensors of a system are called in a table.

    Attributes:
        columns: site -> names of its entries.
        categories: categorical site -> its labels.
        units: column -> unit of its numbers; those of `moments` become dates and spans of time. Of categories,
            `TEXT_LABELS` where they are text whatever they look like.
        frame: library of the data frame that came in.
        whole: columns of whole numbers.
        steps: column -> the step that all its values in training are multiples of, None for none: 0.01 for cents,
            1 for whole numbers and for days. What is made up is rounded to it; answers are not, for the bounds of a
            question may lie between.
    """

    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    frame: str = "pandas"
    whole: Collection[str] = frozenset()
    steps: Mapping[str, float | None] = field(default_factory=dict)

    def table(self, tensors: Mapping[str, Tensor], made_up: bool = False) -> dict[str, Any]:
        """Columns by name.

        Args:
            tensors: site -> (n, entries) or (n,).
            made_up: round numbers to the steps of training.

        Raises:
            ShapeError: a site whose rows are no list of numbers.
        """
        found: dict[str, Any] = {}
        for site, tensor in tensors.items():
            values = tensor.detach().cpu().numpy()
            if values.ndim == 1 and site in self.categories:
                found[site] = self.labelled(site, values)
                continue
            if values.ndim > 2:
                raise ShapeError(f"{site!r} has shape {values.shape}; a data frame holds one number per row and column")
            wide = values[:, None] if values.ndim == 1 else values
            names = list(self.columns.get(site) or ())
            if len(names) != wide.shape[1]:
                names = [site] if wide.shape[1] == 1 else [f"{site}_{i}" for i in range(wide.shape[1])]
            for j, name in enumerate(names):
                found[name] = self.column(name, wide[:, j], made_up)
        return self._labels_together(found)

    def column(self, name: str, values: Array, made_up: bool = False) -> Any:
        """Numbers of a column as what they stand for: whole numbers where all are, dates, or spans of time."""
        values = self.made_up(name, values) if made_up else values
        if (
            (name in self.whole or (made_up and self.steps.get(name) == 1.0))
            and not self.units.get(name)
            and (values == np.round(values)).all()
        ):
            return values.astype(np.int64)
        return self.dated(name, values)

    def made_up(self, name: str, values: Array) -> Array:
        """Numbers of a column rounded as those of training are."""
        step = self.steps.get(name)
        return values if step is None else rounded(values, step)

    def dated(self, name: str, values: Array) -> Any:
        """Numbers of a column, as dates or spans of time where they stand for such."""
        return as_they_were(values, self.units.get(name, ""))

    def _labels_together(self, found: dict[str, Any]) -> dict[str, Any]:
        """One column per category in place of one per label."""
        for name, labels in self.categories.items():
            single = [f"{name}={label}" for label in labels]
            if name not in found and all(column in found for column in single):
                codes = np.stack([found.pop(column) for column in single], 1).argmax(1)
                found[name] = self.labelled(name, codes)
        return found

    def labelled(self, site: str, codes: Array) -> list[Any]:
        """Codes of a categorical site as labels, None where they are -1."""
        labels = self.categories[site]
        return self.labels(site, [None if code < 0 else labels[code] for code in codes.tolist()])

    def labels(self, site: str, entries: Sequence[str | None]) -> list[Any]:
        """Labels of a categorical site as what they came as: whole numbers, truth values or text."""
        return (
            list(entries) if self.units.get(site) == TEXT_LABELS else labels_as_they_are(entries, self.categories[site])
        )


def labels_as_they_are(entries: Sequence[str | None], labels: Sequence[str]) -> list[Any]:
    """Labels as whole numbers or truth values, where all of a column's are written as such; else as text.

    "01234", a post code, is written as no number is, and stays text.
    """
    if set(labels) <= {"True", "False"}:
        return [None if entry is None else entry == "True" for entry in entries]
    if all(label.isascii() and label.lstrip("-").isdigit() and str(int(label)) == label for label in labels):
        return [None if entry is None else int(entry) for entry in entries]
    return list(entries)


def make_frame(table: Mapping[str, Any], kind: str = "pandas") -> Any:
    """A data frame of columns.

    Args:
        table: name -> array or list, None where missing.
        kind: "pandas", "polars" or "pyarrow".

    Raises:
        DataError: another library, or one that is not installed.
    """
    import narwhals

    if kind not in KINDS:
        raise DataError(f"data frames are made as {', '.join(KINDS)}; got {kind!r}")
    try:
        return narwhals.from_dict(dict(table), backend=kind).to_native()  # type: ignore[arg-type]
    except ImportError as error:
        raise DataError(f"{kind} is not installed: pip install {kind}") from error


class Framed:
    """What can become a data frame; `table` gives its columns."""

    def table(self) -> dict[str, Any]:
        """Columns by name."""
        raise NotImplementedError

    def _kind(self) -> str:
        return "pandas"

    def to_frame(self, kind: str | None = None) -> Any:
        """A data frame of the kind that came in (pandas otherwise), or of the kind asked for.

        Raises:
            ShapeError: rows that are no list of numbers, such as videos.
            DataError: a library that is unknown or not installed.
        """
        return make_frame(self.table(), kind or self._kind())

    def to_pandas(self) -> Any:
        """A data frame of pandas."""
        return self.to_frame("pandas")

    def to_polars(self) -> Any:
        """A data frame of polars."""
        return self.to_frame("polars")

    def to_arrow(self) -> Any:
        """An Arrow table."""
        return self.to_frame("pyarrow")


class Rows(dict[str, "Tensor"], Framed):
    """Tensors by site, (n, ...) each, that know their names.

    Args:
        tensors: site -> tensor.
        names: of their entries.
    """

    def __init__(self, tensors: Mapping[str, Tensor], names: Names) -> None:
        super().__init__(tensors)
        self.names = names

    def table(self) -> dict[str, Any]:
        """Columns by name."""
        return self.names.table(self)

    def _kind(self) -> str:
        return self.names.frame
