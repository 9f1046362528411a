"""Rows that stay on disk: a part of a table larger than memory, read batch by batch.

A `Streamed` part is used as a `Split` is: `len(part)`, `part[index] -> dict of tensors`. What needs rows in memory
(locations and scales, the first parameters, a picture) takes `part.sample(rows)`.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from phlogiston.datasets.base import Array, Split
from phlogiston.datasets.permutation import Permutation
from phlogiston.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

SAMPLED = 1 << 16
"""Rows from which the locations, scales and first parameters of a streamed table are taken."""


class Rows(Protocol):
    """Where rows come from.

    Attributes:
        name: what messages call it.
        columns: names of the columns.
        dtype: of the entries.
    """

    name: str
    columns: tuple[str, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int: ...

    def read(self, rows: Array) -> Array:
        """Return rows by number, int64 (n,), as (n, columns)."""


class ArrayRows:
    """Rows of one or several arrays, one after another.

    Rows of memory-mapped files are read by their place in the file, not through the mapping: that takes a quarter of
    the time where they are in no order, and no page of the file stays with the process.

    Args:
        arrays: each (rows, columns), of one width and type.
        name: what messages call them.
        columns: names of the columns; `x0`, `x1`, ... by default.
    """

    def __init__(self, arrays: Sequence[Array], name: str, columns: Sequence[str] = ()) -> None:
        self.name, self._arrays = name, list(arrays)
        self.dtype = arrays[0].dtype
        self.columns = tuple(columns) or tuple(f"x{i}" for i in range(arrays[0].shape[1]))
        self._ends = np.cumsum([len(array) for array in arrays])
        self._files = [_file_of(array) for array in arrays]
        for file in self._files:
            if file is not None:
                weakref.finalize(self, os.close, file)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, rows: Array) -> Array:
        """Return rows by number."""
        if len(self._arrays) == 1:
            return self._read(0, rows)
        which = np.searchsorted(self._ends, rows, side="right")
        out = np.empty((len(rows), len(self.columns)), self.dtype)
        for i in np.unique(which):
            here = which == i
            out[here] = self._read(int(i), rows[here] - (self._ends[i - 1] if i else 0))
        return out

    def _read(self, part: int, rows: Array) -> Array:
        file, array = self._files[part], self._arrays[part]
        if file is None:
            return np.asarray(array[rows])
        out = np.empty((len(rows), len(self.columns)), self.dtype)
        width = out.shape[1] * self.dtype.itemsize
        held, at, read = memoryview(out.reshape(-1).view(np.uint8)), 0, os.preadv  # type: ignore[arg-type]
        for place in (array.offset + rows * width).tolist():  # type: ignore[attr-defined]
            if read(file, (held[at : at + width],), place) != width:
                raise DataError(f"{self.name} has become shorter since it was opened.")
            at += width
        return out


def _file_of(array: Any) -> int | None:
    """The file behind a memory-mapped array; None for a view of one, and where its entries are in another order."""
    whole = isinstance(array, np.memmap) and type(array.base).__name__ == "mmap" and array.mode == "r"
    if not whole or not array.flags.c_contiguous or array.filename is None or not hasattr(os, "preadv"):
        return None
    file = os.open(array.filename, os.O_RDONLY)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)  # reading ahead of a row would be in vain
    return file


class Streamed:
    """A part of a table that stays on disk.

    Args:
        source: the table.
        order: the part holds the rows `order(start), ..., order(stop - 1)`; None for the table's own order.
        start: see above.
        stop: see above; the end of the table by default.
        masked: whether batches have a `mask`; without one a missing entry (NaN) is an error.
        double: names that keep float64; see `Split`.
    """

    sequences: frozenset[str] = frozenset()
    by_batch: bool = True  # whether systems prepare its rows batch by batch, rather than all at once

    def __init__(
        self,
        source: Rows,
        order: Permutation | None = None,
        start: int = 0,
        stop: int | None = None,
        masked: bool = False,
        double: Collection[str] = ("x",),
    ) -> None:
        self.source, self.order, self.masked, self.double = source, order, masked, frozenset(double)
        self.start, self.stop = start, len(source) if stop is None else stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __repr__(self) -> str:
        return f"Streamed({len(self):,} rows of {self.source.name}; x: {len(self.source.columns)} {self.source.dtype})"

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        """Read the rows `index` selects: one number, a slice, or a sequence or tensor of numbers."""
        return self.split(index).tensors

    def split(self, index: Any) -> Split:
        """Read the rows `index` selects as a `Split` in memory."""
        if isinstance(index, slice):
            positions = np.arange(*index.indices(len(self)), dtype=np.int64)
        else:
            positions = np.atleast_1d(np.asarray(index, dtype=np.int64))
        if len(positions) and not (-len(self) <= positions.min() and positions.max() < len(self)):
            raise IndexError(f"rows {positions.min()} to {positions.max()} of a part with {len(self)} rows")
        positions = self.start + positions % len(self)
        return self._read(positions if self.order is None else self.order(positions))

    def _read(self, rows: Array) -> Split:
        x = self.source.read(rows)
        missing = np.isnan(x) if x.dtype.kind == "f" else np.zeros(x.shape, dtype=np.bool_)
        tensors = {"x": x}
        if self.masked:
            tensors = {"x": np.where(missing, x.dtype.type(0), x), "mask": ~missing}
        elif missing.any():
            row, column = np.argwhere(missing)[0]
            raise DataError(
                f"{self.source.name}: row {int(rows[row]):,}, column {self.source.columns[column]!r} is missing (NaN), "
                "and no entry of the sample was. Say missing=True, so that batches have a mask."
            )
        return Split(tensors, columns=self.source.columns, double=self.double)

    def expect(self, index: Any) -> None:
        """Get ready for rows that will be read next; rows of a file are not prepared."""

    def digest(self) -> str | None:
        """What tells the rows from others without reading them; None where nothing does."""
        return None

    @property
    def row_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of one row."""
        width = (len(self.source.columns),)
        return {"x": width, "mask": width} if self.masked else {"x": width}

    def sample(self, rows: int = SAMPLED, seed: int = 0) -> Split:
        """Read rows drawn from the whole part; all of a short one."""
        if rows >= len(self):
            return self.split(slice(None))
        chosen = np.arange(rows, dtype=np.int64)
        # a part in an order of its own begins with a random sample of itself
        return self.split(np.sort(Permutation(len(self), (seed, 1))(chosen)) if self.order is None else chosen)

    def narrowed(self, keep: Collection[str] = ()) -> Streamed:
        """The part with float64 in the tensors named in `keep` only; see `Split.narrowed`."""
        double = self.double & set(keep)
        return Streamed(self.source, self.order, self.start, self.stop, self.masked, double)


class Prepared:
    """Rows that are prepared when they are read: what the engine trains on in place of a prepared `Split`.

    Args:
        part: the rows on disk.
        prepare: function of a `Split` of some of them.
    """

    def __init__(self, part: Streamed, prepare: Callable[[Split], Any]) -> None:
        self.part, self._prepare = part, prepare
        self.sequences = part.sequences

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        rows = self._prepare(self.part.split(index))
        batch = dict(rows[slice(None)])
        if "row" in batch:  # the rows' numbers in this batch
            batch["row"] = index
        return batch

    def expect(self, index: Any) -> None:
        """Get ready for rows that will be read next."""
        self.part.expect(index)

    def digest(self) -> str | None:
        """See `Streamed.digest`."""
        return self.part.digest()

    def sample(self) -> Any:
        """Prepared rows drawn from the whole part."""
        return self._prepare(self.part.sample())


def in_memory(part: Split | Streamed, rows: int = SAMPLED) -> Split:
    """A split as it is; of a streamed part, a sample."""
    return part.sample(rows) if isinstance(part, Streamed) else part
