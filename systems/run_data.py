"""The data of a run: those it was trained on, or others, read as they were."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phlogiston import datasets, systems
from phlogiston.datasets.base import Dataset
from phlogiston.errors import ConfigError, PhlogistonError


def is_other(run: Path, rows: Dataset) -> bool:
    """Whether data are a file or folder of the user's that the run was not trained on."""
    content = systems.read_config(run)
    own = content.get("config", content).get("data") or {}
    return rows.meta.kind == "yours" and rows.meta.name != own.get("name")


def data_of(run: Path, data: str | None, data_options: Mapping[str, str], schema: Mapping[str, Any]) -> Dataset:
    """Load the data a run was trained on, or other data; of another table the columns that the run was trained on."""
    content = systems.read_config(run)
    own = content.get("config", content).get("data") or {}
    if data is not None:
        options = datasets.read_options(data, data_options)
        if datasets.reader(data) == "array" and own.get("name") != str(data) and schema.get("columns"):
            options = {**_same_columns(own.get("options") or {}, schema), **options}
        return datasets.load(data, **options)
    if own.get("name") is None:
        raise ConfigError(f"{run} does not say what it was trained on; give --data.")
    try:
        return datasets.load(
            own["name"], **{**own.get("options", {}), **datasets.read_options(own["name"], data_options)}
        )
    except PhlogistonError as error:
        raise type(error)(f"{error} The run was trained on it; give --data for other data.") from error


def _same_columns(trained: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Options by which another table is read as the one of training was."""
    if schema.get("image_shape") or list(schema["columns"]) == [f"x{i}" for i in range(len(schema["columns"]))]:
        return {}
    weight = trained.get("weight")
    columns = [*schema["columns"], *(schema.get("categorical") or {}), *([weight] if weight else [])]
    categorical = tuple(trained.get("categorical") or ())
    return {"columns": tuple(dict.fromkeys(columns)), "categorical": categorical, "weight": weight}
