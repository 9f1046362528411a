"""Large Arrow data: Parquet, Arrow and Feather files, tables in memory, Hugging Face data sets.

None of these lets single rows be read quickly: Parquet packs columns in groups of rows, a data set comes in a hundred
thousand pieces. Their numbers are written once, a piece at a time, as an npy file in the cache, and that is mapped.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.readers import hub
from phlogiston.errors import DataError, ShapeError
from phlogiston.files import cache_folder

SUFFIXES = (".parquet", ".arrow", ".feather")
EXTRA = 'pip install "phlogiston[tables]"'
_PIECE = 1 << 16  # rows


def is_arrow(data: Any, large: int) -> bool:
    """Say whether an object is a Hugging Face data set, or an Arrow table, of so many bytes."""
    if hub.is_hub(data):
        return 8 * len(data) * len(hub.number_columns(data)) >= large
    return hasattr(data, "column_names") and hasattr(data, "to_batches") and data.nbytes >= large


def is_large(path: Path, large: int) -> bool:
    """Say whether a file is one of Arrow's that array readers do not read whole: by format, or by its numbers."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES or not path.is_file():
        return False
    if suffix != ".parquet":
        return True
    try:
        about = _pyarrow("parquet").ParquetFile(path).metadata
    except Exception:  # whoever reads it will tell
        return False
    return bool(8 * about.num_rows * about.num_columns >= large)


def as_npy(data: Any) -> tuple[Path, tuple[str, ...], tuple[str, ...]]:
    """Write the numbers of Arrow data as an npy file in the cache, unless they are there.

    Args:
        data: a path, an Arrow table, or a Hugging Face data set.

    Returns:
        The file, the names of its columns, and of those that hold no numbers and were left out.

    Raises:
        DataError: no numbers, too little room on the disk, or a file that cannot be read.
    """
    rows, schema, pieces, key = _opened(data)
    numbers = hub.number_columns(data) if hub.is_hub(data) else schema.names
    names = [field.name for field in schema if field.name in numbers and _is_number(field.type)]
    left_out = tuple(field.name for field in schema if field.name not in names)
    if not names or not rows:
        raise DataError(f"{_name(data)} has {rows} rows and the columns {', '.join(schema.names)}; expected numbers.")
    narrow = all(str(schema.field(name).type) in ("float", "halffloat") for name in names)
    dtype = np.dtype(np.float32 if narrow else np.float64)
    digest = hashlib.sha256(repr((key, names, str(dtype))).encode()).hexdigest()[:24]
    path = cache_folder() / "tables" / f"{digest}.npy"
    if not path.is_file():
        _write(path, pieces, names, (rows, len(names)), dtype)
    return path, tuple(names), left_out


def _write(path: Path, pieces: Iterator[Any], names: Sequence[str], shape: tuple[int, int], dtype: np.dtype) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = shape[0] * shape[1] * dtype.itemsize
    if size > shutil.disk_usage(path.parent).free:
        raise DataError(f"{str(path.parent)!r} has no room for {size:,} bytes. PHLOGISTON_CACHE names another folder.")
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
            written = 0
            for piece in pieces:
                block = np.column_stack([_numbers(piece.column(name), dtype) for name in names])
                file.write(np.ascontiguousarray(block, dtype=dtype).data)
                written += len(block)
            if written != shape[0]:
                raise ShapeError(f"it holds {written:,} rows and announces {shape[0]:,}.")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _numbers(column: Any, dtype: np.dtype[Any]) -> Array:
    """A column as floats, NaN where it has none."""
    values: Array = column.to_numpy(zero_copy_only=False) if not hasattr(column, "chunks") else column.to_numpy()
    if values.dtype == object:  # truth values with gaps
        values = np.array([np.nan if value is None else float(value) for value in values])
    return values.astype(dtype)


def _is_number(kind: Any) -> bool:
    types = _pyarrow("types")
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _opened(data: Any) -> tuple[int, Any, Iterator[Any], tuple[Any, ...]]:
    """Rows, schema, pieces, and what tells the data from others."""
    if isinstance(data, Path):
        about = data.stat()
        key = (str(data), about.st_size, about.st_mtime_ns)
        if data.suffix.lower() == ".parquet":
            file = _pyarrow("parquet").ParquetFile(data)
            return file.metadata.num_rows, file.schema_arrow, file.iter_batches(_PIECE), key
        table = _pyarrow("feather").read_table(data, memory_map=True)
        return table.num_rows, table.schema, iter(table.to_batches(_PIECE)), key
    if hub.is_hub(data):
        shown = data.with_format("arrow")
        return len(data), data.features.arrow_schema, shown.iter(batch_size=_PIECE), ("hub", data._fingerprint)
    digest = hashlib.sha256()
    for piece in data.to_batches(_PIECE):
        for buffer in (buffer for column in piece.columns for buffer in column.buffers() if buffer is not None):
            digest.update(buffer)
    return data.num_rows, data.schema, iter(data.to_batches(_PIECE)), ("table", digest.hexdigest())


def _name(data: Any) -> str:
    return repr(str(data)) if isinstance(data, Path) else f"the {type(data).__name__} given"


def _pyarrow(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"pyarrow.{module}")
    except ImportError:
        raise DataError(f"Arrow data need pyarrow, which is an extra: {EXTRA}") from None
