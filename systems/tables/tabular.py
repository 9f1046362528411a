"""Verbs for tables: fill in what is missing, make up rows, tell what a system is. Frames in, frames out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from phlogiston.datasets.containers import Plain, frame_columns, frame_kind, is_frame, plain
from phlogiston.datasets.frames import Names, make_frame
from phlogiston.datasets.grid import CLOCK, DECIMALS, fineness
from phlogiston.datasets.moments import SPAN, is_date, rebased
from phlogiston.datasets.readers import hub
from phlogiston.errors import DataError, ShapeError, unknown_name
from phlogiston.systems.about import summary
from phlogiston.systems.about.summary import Summary

if TYPE_CHECKING:
    from torch import Tensor

    from phlogiston.datasets.base import Meta, Split


Array = np.ndarray[Any, np.dtype[Any]]
CHUNK = 250
"""Rows that are asked about at once."""
How = Literal["mean", "draw"]


class Tabular:
    """What systems do with tables; mixed into `System`."""

    schema: dict[str, Any]

    def kept_of_table(self, train: Split, meta: Meta | None) -> dict[str, Any]:
        """What the schema keeps of a table: units of columns, and the library of a data frame."""
        found = {} if meta is None else {"units": dict(meta.units), "frame": meta.frame}
        return {key: value for key, value in found.items() if value}

    def synthesize(self: Any, n: int, *, seed: int | None = None, kind: str | None = None) -> Any:
        """Make up rows like those of training, as a data frame; numbers and dates are rounded as those of training are.

        Args:
            n: how many.
            seed: of this call; None draws from torch's generator.
            kind: "pandas", "polars" or "pyarrow"; what the system was fitted on by default.

        Raises:
            ShapeError: a system whose rows are no list of numbers.
        """
        names = self.names()
        return make_frame(names.table(self.sample(n, seed=seed), made_up=True), kind or names.frame)

    def count_parameters(self: Any) -> int:
        """How many numbers were learned."""
        modules = [module for module in self.training_pair() if module is not None]
        return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())

    def summary(self: Any) -> Summary:
        """What this system is, in lines: parameters, columns, categories, sites with their plates, data, stages, last
        figures. A notebook shows it as tables.
        """
        self._need_fit()
        return summary.of(self)

    def _repr_html_(self: Any) -> str:
        return summary.card(self)


class Imputes(Tabular):
    """Filling in tables; mixed into systems whose rows are those of tables."""

    def kept_of_table(self: Any, train: Split, meta: Meta | None) -> dict[str, Any]:
        """What the schema keeps of a table; of numbers also the steps that they are rounded to."""
        found: dict[str, Any] = Tabular.kept_of_table(self, train, meta)
        if self.schema.get("image_shape"):
            return found
        units, mask = found.get("units", {}), train.tensors.get("mask")
        steps: dict[str, float | None] = {}
        for site, names in self.vocabulary()[0].items():
            values = train.tensors.get(site)
            if values is None or values.ndim != 2 or values.shape[1] != len(names):
                continue
            known = values.numpy() if mask is None or site != "x" else np.where(mask.numpy(), values.numpy(), np.nan)
            for name, column in zip(names, known.T, strict=True):
                unit = units.get(name, "")
                steps[name] = fineness(column, CLOCK if is_date(unit) or unit == SPAN else DECIMALS)
        return found | {"steps": steps}

    def impute(self: Any, data: Any, *, how: How = "mean", num_samples: int = 200, seed: int = 0) -> Any:
        """Fill in the missing entries of a table, each row given what is known of it.

        Known entries, columns that the system does not know, names and their order come back as they were.

        Args:
            data: a data frame, a mapping of columns, an array (rows, columns) with NaN where missing, or a Hugging
                Face data set.
            how: `"mean"` fills in the mean of a number and the most probable category; `"draw"` one draw of the joint
                distribution, rounded as training's numbers are, for multiple imputation under several seeds.
            num_samples: draws per row behind a mean.
            seed: equal seeds give equal tables.

        Returns:
            The same kind of container; an Arrow table for a Hugging Face data set.

        Raises:
            DataError: no column of it is known to the system.
            EvidenceError: rows that have no probability, or a category that was not in training.
        """
        if how not in ("mean", "draw"):
            raise unknown_name("way to impute", how, ("mean", "draw"))
        names = self.names()
        data = hub.as_table(data) if hub.is_hub(data) else data
        columns = _columns(data, names)
        known = {name: value for name, value in columns.items() if _known(name, names)}
        if not known:
            raise DataError(f"the data have none of the columns of this {self.name}: {', '.join(_all(names)[:12])}.")
        given = {name: _given(name, value, names) for name, value in known.items()}
        gaps = {name: np.array([v is None or v != v for v in values.tolist()]) for name, values in given.items()}
        rows = np.flatnonzero(np.any(list(gaps.values()), 0))
        filled: dict[str, Array] = {name: values.copy() for name, values in given.items()}
        for start in range(0, len(rows), CHUNK):
            here = rows[start : start + CHUNK]
            part = {name: values[here] for name, values in given.items()}
            answer = self.query(
                {name: values for name, values in part.items() if not gaps[name][here].all()} or None,
                num_samples=num_samples if how == "mean" else 1,
                seed=seed + start,
            )
            for name, values in filled.items():
                missing = gaps[name][here]
                if missing.any():
                    values[here[missing]] = _estimate(answer, name, names, len(here), how)[missing]
        changed = {n: (values, gaps[n]) for n, values in filled.items() if gaps[n].any()}
        return _put_back(data, columns, changed, names)


def _all(names: Names) -> list[str]:
    return [*(n for own in names.columns.values() for n in own), *names.categories]


def _known(name: str, names: Names) -> bool:
    return name in names.categories or any(name in own for own in names.columns.values())


def _columns(data: Any, names: Names) -> dict[str, Any]:
    """Columns of a container by name, as they came."""
    if isinstance(data, Mapping):
        return {str(name): value for name, value in data.items()}
    if is_frame(data):
        return frame_columns(data)
    values = np.asarray(data, dtype=np.float64)
    own = next(iter(names.columns.values()), ())
    if values.ndim != 2 or values.shape[1] != len(own):
        raise ShapeError(f"the array has shape {values.shape}; expected (rows, {len(own)}): {', '.join(own[:8])}")
    return {name: values[:, j] for j, name in enumerate(own)}


def _given(name: str, value: Any, names: Names) -> Array:
    """One column as evidence by row: numbers with NaN, or labels with None."""
    found: Plain = plain(name, value, "the data")
    if name in names.categories:
        own, labels = _entries(value), set(names.categories[name])  # a category may be called NA
        return np.array([o if o in labels else e for o, e in zip(own, found.entries(), strict=True)], dtype=object)
    return rebased(found.numbers(name, "the data"), found.unit, names.units.get(name, ""))


def _entries(value: Any) -> list[Any]:
    return list(value.to_pylist() if hasattr(value, "to_pylist") else value)


def _estimate(answer: Any, name: str, names: Names, rows: int, how: How) -> Array:
    """What a column is in each row of an answer."""
    single = answer.log_weights.ndim == 1  # nothing was known in any row: one question
    if name in names.categories and name in answer.samples:
        labels = names.categories[name]
        codes = answer.samples[name]
        if how == "draw":
            best = codes[0]
        else:
            weights = answer.weights.reshape(codes.shape)
            best = weights.new_zeros(len(labels), *codes.shape[1:]).scatter_add_(0, codes, weights).argmax(0)
        picked = np.array([labels[int(code)] for code in best.reshape(-1)], dtype=object)
        return np.repeat(picked, rows) if single else picked
    site = next((site for site, own in names.columns.items() if name in own and site in answer.samples), None)
    if site is None:
        raise DataError(f"{name!r} is missing, and this system does not answer what it is")
    entry = list(names.columns[site]).index(name)
    value: Tensor = answer.samples[site][0] if how == "draw" else answer.mean(site)
    found: Array = value[..., entry].double().reshape(-1).numpy()
    found = names.made_up(name, found) if how == "draw" else found
    return np.repeat(found, rows) if single else found


def _put_back(data: Any, columns: Mapping[str, Any], filled: Mapping[str, tuple[Array, Array]], names: Names) -> Any:
    """The container with the missing entries of some columns replaced."""
    shown = {name: _merged(columns[name], *entries, name, names) for name, entries in filled.items()}
    if isinstance(data, Mapping):
        return {**data, **shown}
    if (isinstance(data, np.ndarray) and data.dtype.names is None) or not is_frame(data):
        return np.stack([np.asarray(shown.get(name, value)) for name, value in columns.items()], 1)
    if not shown:
        return data
    if frame_kind(data) == "pandas":
        return data.assign(**shown)
    import narwhals

    frame = narwhals.from_native(data, eager_only=True)
    new = narwhals.from_native(make_frame(shown, frame_kind(data)), eager_only=True)
    return frame.with_columns(*(new[name] for name in shown)).to_native()


def _merged(original: Any, values: Array, gaps: Array, name: str, names: Names) -> Any:
    """One column, its known entries as they came and the others as they were filled in."""
    if name in names.categories:
        own = _entries(original)
        new = names.labels(name, values.tolist())
        return [filler if gap else entry for entry, filler, gap in zip(own, new, gaps.tolist(), strict=True)]
    if name in names.units:
        given = np.asarray(original.to_numpy() if hasattr(original, "to_numpy") else original)
        new = names.dated(name, values)
        if isinstance(new, np.ndarray) and given.dtype.kind == new.dtype.kind:  # NaT alone may be of either kind
            return np.where(gaps, new.astype(given.dtype), given)
        if isinstance(new, list):  # dates with a time zone, which numpy does not know
            return _zoned(original, new, gaps)
        return new
    return values


def _zoned(original: Any, new: list[Any], gaps: Array) -> Any:
    """Dates as they came, gaps filled by those of the same time zone, or by wall-clock time where they have none."""
    own = _entries(original)
    zone = next((getattr(v, "tzinfo", None) for v, gap in zip(own, gaps.tolist(), strict=True) if not gap), None)
    told = [moment and (moment.astimezone(zone) if zone else moment.replace(tzinfo=None)) for moment in new]
    if hasattr(original, "isna"):
        import pandas

        return original.mask(gaps, pandas.Series(told, original.index).astype(original.dtype))
    merged = [filler if gap else entry for entry, filler, gap in zip(own, told, gaps.tolist(), strict=True)]
    return merged if zone else np.array(merged, dtype="datetime64[us]")
