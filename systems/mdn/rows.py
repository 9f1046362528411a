"""How a mixture density network reads rows: which columns are inputs, which are targets, and in what units.

The schema is plain JSON: `columns` of `x`; `target`, positions of those to predict where the data have no `y` (else
None); `targets`, their names, and `grids`, a value and the step of those that lie on one (else None); `categorical`,
labels by stream; `x` and `y`, location and scale by column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from phlogiston.datasets.base import Meta, Split
from phlogiston.datasets.grid import grid_of
from phlogiston.datasets.standardise import standardise, tell_wild
from phlogiston.distributions.cell_map import Grid
from phlogiston.errors import ConfigError, DataError, EvidenceError, ShapeError, unknown_name
from phlogiston.inference.query.compilation import count_rows
from phlogiston.inference.query.evidence import as_evidence, normalise
from phlogiston.inference.query.kinds.known import Known
from phlogiston.systems.inputs import number_held_out
from phlogiston.systems.mdn.config import Config
from phlogiston.systems.table_rows import categories, copies


def describe(tensors: Mapping[str, Tensor], meta: Meta | None, target: Sequence[str] = ()) -> dict[str, Any]:
    """Learn the schema from training rows.

    Args:
        tensors: `x` (rows, columns), perhaps `y` (rows, targets), and int64 (rows,) per categorical stream.
        meta: names of columns and labels, where they are known.
        target: names (or positions, as text) of the columns of `x` to predict; see `Config.target`.

    Raises:
        ShapeError: no inputs, or targets that are no table of real numbers.
        DataError: no rows, or nothing to predict, or nothing to predict it from.
        ConfigError: a target is named, and the data have targets of their own.
        UnknownNameError: a target that is no column.
    """
    if "x" not in tensors or tensors["x"].ndim != 2:
        raise ShapeError("MDN needs inputs: a tensor 'x' of shape (rows, features) in the training data")
    if not len(tensors["x"]):
        raise DataError("x has no rows; MDN needs at least one to fit")
    columns = list(meta.columns) if meta is not None and meta.columns else []
    columns = columns or [f"x{i}" for i in range(tensors["x"].shape[1])]
    schema: dict[str, Any] = {"columns": columns, "target": None, "categorical": {}}
    if "y" not in tensors:
        schema["target"] = _positions(columns, target)
    elif target:
        raise ConfigError("the data have targets 'y' of their own; leave option target empty")
    schema["categorical"] = categories(tensors, meta, "MDN", numbers=("y",))
    if "y" in schema["categorical"]:
        schema["target_values"] = _values(schema["categorical"].pop("y"))
    x, y = inputs(schema, tensors), targets(schema, tensors)
    if not x.shape[1]:
        raise DataError(f"no input is left beside the target {columns[schema['target'][0]]!r}")
    own = schema["target"]
    schema["targets"] = [columns[i] for i in own] if own is not None else _names(y.shape[1])
    schema["x"] = _location_and_scale(x, tensors, input_names(schema), "x")
    schema["y"] = _location_and_scale(y, tensors, schema["targets"], "y" if own is None else "x")
    found = (grid_of(column[np.isfinite(column)]) for column in y.double().numpy().T)
    schema["grids"] = [None if grid is None else [grid[0] + 0.5 * grid[1], grid[1]] for grid in found]
    return schema


def input_names(schema: Mapping[str, Any]) -> list[str]:
    """Names of the inputs: continuous columns, then the labels of categories one by one."""
    target = set(schema["target"] or ())
    names = [name for i, name in enumerate(schema["columns"]) if i not in target]
    return names + [f"{name}={label}" for name, labels in schema["categorical"].items() for label in labels]


def with_categories(schema: Mapping[str, Any], evidence: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Evidence with categorical inputs as entries of `x`, where the network has one per label.

    Raises:
        EvidenceError: several labels, for the network has no distribution of its inputs.
    """
    given = {name: evidence[name] for name in schema["categorical"] if evidence and name in evidence}
    if not given or evidence is None:
        return evidence
    names = input_names(schema)
    told = normalise(given)
    rows = count_rows(told, ())
    values, mask = torch.zeros(rows or 1, len(names)).double(), torch.zeros(rows or 1, len(names), dtype=torch.bool)
    for name, said in told.items():
        labels = schema["categorical"][name]
        for row in range(rows or 1):
            left = [codes for one in said if (codes := one.restrict_category(name, labels, row)) is not None]
            if any(len(codes) > 1 for codes in left):
                raise EvidenceError(f"{name!r} is an input, which has no distribution here: give it one value")
            for code in [codes[0] for codes in left]:
                first = names.index(f"{name}={labels[0]}")
                mask[row, first : first + len(labels)] = True
                values[row, first + code] = 1.0
    known = Known(values, mask) if rows else Known(values[0], mask[0])
    rest = {name: said for name, said in evidence.items() if name not in given}
    return {**rest, "x": [*as_evidence("x", rest.get("x", ())), known]}


def inputs(schema: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    """Continuous inputs, then one column per label of every categorical stream: (rows, features).

    Raises:
        ShapeError: another number of columns than the schema's.
        DataError: a missing input.
    """
    x = tensors["x"]
    if x.ndim != 2:
        raise ShapeError(f"x has shape {tuple(x.shape)}; expected (rows, features)")
    target = set(schema["target"] or ())
    own = [i for i in range(len(schema["columns"])) if i not in target]
    if x.shape[1] == len(schema["columns"]):
        used = own
    elif target and x.shape[1] == len(own):  # rows to predict from: the targets are not there
        used = list(range(len(own)))
    else:
        raise ShapeError(
            f"x has {x.shape[1]} columns; this model was fitted on {len(schema['columns'])} "
            f"({', '.join(schema['columns'][:4])}{', ...' if len(schema['columns']) > 4 else ''})"
        )
    if "mask" in tensors and not bool(tensors["mask"][:, used].all()):
        row = int((~tensors["mask"][:, used].all(1)).nonzero()[0])
        raise DataError(f"x has a missing input in row {row}; MDN needs complete rows. Fill it in, or query with Near")
    parts = [x[:, used] if x.is_floating_point() else x[:, used].double()]
    for name, labels in schema["categorical"].items():
        if name not in tensors:
            raise DataError(f"the categorical input {name!r} is missing from the rows")
        codes = tensors[name].to(torch.int64)
        one_hot = functional.one_hot(codes.clamp(min=0), max(len(labels), int(codes.max()) + 1))
        parts.append((one_hot[:, : len(labels)] * (codes >= 0).unsqueeze(1)).to(parts[0].dtype))
    return torch.cat(parts, 1)


def targets(schema: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    """Targets, (rows, targets).

    Raises:
        ShapeError: no targets, or targets of another shape or type.
        DataError: a missing target.
    """
    if schema["target"] is not None:
        if tensors["x"].shape[1] != len(schema["columns"]):
            raise ShapeError("the rows hold no targets: give x with the target columns, too")
        if "mask" in tensors and not bool(tensors["mask"][:, schema["target"]].all()):
            raise DataError("a target is missing; leave rows without target out")
        return tensors["x"][:, schema["target"]]
    if "y" not in tensors:
        raise ShapeError("the rows hold no targets 'y'")
    y = tensors["y"]
    if y.dtype == torch.int64 and y.ndim == 1 and schema.get("target_values"):
        y = _decoded(y, schema["target_values"])
    y = y.unsqueeze(1) if y.ndim == 1 else y
    if y.ndim != 2:
        raise ShapeError(f"y has shape {tuple(y.shape)}; expected real numbers (rows, targets)")
    y = y if y.is_floating_point() else y.double()
    want = len(schema.get("targets", [])) or y.shape[1]
    if y.shape[1] != want:
        raise ShapeError(f"y has {y.shape[1]} columns; this model was fitted on {want}")
    return y


def _positions(columns: Sequence[str], target: Sequence[str]) -> list[int]:
    """Return the positions of the named targets among the columns; the last column if none is named."""
    if len(columns) < 2:
        raise DataError("the data have no targets 'y', and x has one column only: nothing to predict it from")
    if not target:
        return [len(columns) - 1]
    positions = []
    for name in target:
        if name in columns:
            positions.append(list(columns).index(name))
        elif name.lstrip("-").isdigit() and -len(columns) <= int(name) < len(columns):
            positions.append(int(name) % len(columns))
        else:
            raise unknown_name("target column", name, columns)
    return positions


def _values(labels: Sequence[str]) -> list[float]:
    """Return the categories of a target as numbers: whole numbers and bools are read as labels unless told otherwise.

    Raises:
        DataError: some are no numbers.
    """
    try:
        return [float({"False": "0", "True": "1"}.get(label, label)) for label in labels]
    except ValueError:
        shown = ", ".join(labels[:5])
        raise DataError(f"the targets 'y' are categories ({shown}); MDN predicts real numbers") from None


def _decoded(codes: Tensor, values: Sequence[float]) -> Tensor:
    """Return the targets that codes stand for."""
    if bool((codes < 0).any()):
        raise DataError(f"the target is missing in row {int((codes < 0).nonzero()[0])}; leave rows without target out")
    return torch.tensor(values, dtype=torch.float64)[codes]


def _names(count: int) -> list[str]:
    return ["y"] if count == 1 else [f"y{i}" for i in range(count)]


def precision(schema: Mapping[str, Any], side: str) -> torch.dtype:
    """The number format in which the inputs (`"x"`) or targets (`"y"`) were fitted, and are drawn."""
    name = schema[side].get(
        "precision", "float32"
    )  # schemas of older models have no entry: they were fitted in float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _location_and_scale(
    values: Tensor, tensors: Mapping[str, Tensor], names: Sequence[str], where: str
) -> dict[str, Any]:
    """Location and scale by column, and the limits of those with wild cells; 1 where a column never varies."""
    precision = "float32" if values.dtype == torch.float32 else "float64"
    weight = tensors.get("weight")
    weights = None if weight is None else weight.numpy()
    columns = standardise(values.double().numpy(), None, weights, names, precision, where)
    tell_wild(columns.wild, names, where, left_out="these rows")
    return {
        "location": columns.location.tolist(),
        "scale": columns.scale.tolist(),
        "limits": {str(i): list(limits) for i, limits in columns.limits.items()},
        "precision": precision,
    }


def grid(targets: Sequence[str], grids: Mapping[str, tuple[float, float]]) -> Grid:
    """The grids of all targets, of which some may lie on none."""
    value, step = torch.tensor([grids.get(name, (0.0, 1.0)) for name in targets], dtype=torch.float64).T
    return Grid(value, step, torch.tensor([name in grids for name in targets]))


def tame(schema: Mapping[str, Any], x: Tensor, y: Tensor) -> Tensor:
    """Say which rows hold no wild cell: bool (rows,)."""
    keep = torch.ones(len(x), dtype=torch.bool)
    for side, values in (("x", x), ("y", y)):
        for i, (low, high) in schema[side].get("limits", {}).items():
            keep &= (values[:, int(i)] >= low) & (values[:, int(i)] <= high)
    return keep


def parted(rows: Split, config: Config) -> tuple[Split, Split]:
    """Part training rows at random, the same way each time, into those trained on and those set aside.

    Copies of a row stay together, and a row of weight 3 counts like three of them.
    """
    numbers = [rows.tensors[name].double().reshape(len(rows), -1) for name in ("x", "y") if name in rows.tensors]
    copy = copies(torch.cat(numbers, 1))
    weight = rows.tensors.get("weight")
    total = len(rows) if weight is None else max(1, round(float(weight.sum())))
    order = torch.randperm(int(copy.max()) + 1, generator=torch.Generator().manual_seed(0))
    held = order[copy] < rows_held_out(config, total) * len(order) // total
    return rows.select(~held), rows.select(held)


def rows_held_out(config: Config, rows: int) -> int:
    """How many of so many training rows are set aside where data come without validation rows."""
    if config.weights != "point":
        return 0
    if config.hold_out != "auto":
        return round(config.hold_out * rows)
    return number_held_out(rows, few=50)
