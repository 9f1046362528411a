"""Rows and their order: which rows of the data step `s` of a stage gets, on which process, with which noise.

Nothing here has a state. The order of epoch `e` is a permutation drawn from (seed, stage, epoch), the noise of a step
is drawn from (seed, step, rank, rollbacks), so that a run continued from step `s` gets what an uninterrupted one gets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.permutation import Permutation
from phlogiston.errors import DataError, ShapeError

LARGE = 1 << 22
"""Rows from which the order of an epoch is computed entry by entry instead of being stored."""
Arrange = Callable[[torch.Generator, int], Sequence[Tensor]]


class Rows:
    """Tensors of equal length, indexed by row: what `fit` makes of a plain dictionary.

    Args:
        tensors: tensors or arrays with the same first dimension; floating-point arrays become float32.

    Raises:
        DataError: if there is no tensor, or no row.
        ShapeError: if the first dimensions differ.
    """

    sequences: Collection[str] = ()

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self.tensors = {name: _tensor(value) for name, value in tensors.items()}
        if not self.tensors:
            raise DataError("data: the dictionary is empty; give at least one tensor with one row per data point.")
        lengths = {name: len(value) if value.dim() else 0 for name, value in self.tensors.items()}
        if len(set(lengths.values())) > 1:
            raise ShapeError(f"data: tensors differ in their first dimension: {lengths}.")

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        if isinstance(index, Tensor) and index.dtype == torch.long:  # the engine's way; several times faster
            return {
                name: value.index_select(0, index if value.device == index.device else index.to(value.device))
                for name, value in self.tensors.items()
            }
        return {name: value[index] for name, value in self.tensors.items()}


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    out = torch.as_tensor(value)
    return out.float() if out.is_floating_point() else out


def as_rows(data: Any, argument: str = "data") -> Any:
    """Return `data` in the form the engine reads: `len(data)` rows, `data[LongTensor]` a dictionary of tensors.

    Raises:
        DataError: if it has neither form, or no row.
    """
    if isinstance(data, Mapping):
        data = Rows(data)
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__") or isinstance(data, Tensor):
        raise DataError(
            f"{argument}: a {type(data).__name__} was given; expected a dictionary of tensors with equal first "
            "dimension, or rows with len(data) and data[LongTensor] -> dict of tensors."
        )
    if len(data) == 0:
        raise DataError(f"{argument}: there is no row in it.")
    return data


def mix(*numbers: int) -> int:
    """Return a 63-bit seed that depends on every one of `numbers` and their order."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & (2**63 - 1)


class Order:
    """The rows of each step of one stage.

    Each epoch is one pass over a fresh permutation, cut into consecutive batches; the last batch of an epoch may be
    smaller. A batch of all rows keeps them in order. Rank `r` of `W` takes rows `r, r + W, ...` of each batch, possibly
    none. Rows that have a method `arrange(generator, batch_size) -> batches` order their epochs themselves, always in
    as many batches.

    Args:
        rows: number of rows in the data.
        batch_size: rows per step over all processes.
        seed: seed of the run.
        stage: index of the stage.
        rank: this process.
        world_size: number of processes.
        arrange: see above; None for permutations.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int,
        stage: int,
        rank: int = 0,
        world_size: int = 1,
        arrange: Arrange | None = None,
    ) -> None:
        self.rows = rows
        self.batch_size = min(batch_size, rows)
        self.per_epoch = -(-rows // self.batch_size)
        self._key = (seed, stage)
        self._shard = slice(rank, None, world_size)
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.long)
        self._arrange = arrange
        self._batches: Sequence[Tensor] = ()
        self._computed: Permutation | None = None

    def batch(self, step: int) -> tuple[Tensor, int]:
        """Return the row numbers of this process at `step` of the stage, and the size of the whole batch."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mix(*self._key, epoch))
            if self._arrange is None and self.per_epoch == 1:
                self._permutation = torch.arange(self.rows)
            elif self._arrange is None and self.rows >= LARGE:
                self._computed = Permutation(self.rows, (*self._key, epoch))
            elif self._arrange is None:
                self._permutation = torch.randperm(self.rows, generator=generator)
            else:
                self._batches = self._checked(self._arrange(generator, self.batch_size))
            self._epoch = epoch
        first, last = index * self.batch_size, min((index + 1) * self.batch_size, self.rows)
        if self._arrange is not None:
            whole = self._batches[index]
        elif self._computed is not None and self.per_epoch > 1:
            whole = torch.from_numpy(self._computed(np.arange(first, last)))
        else:
            whole = self._permutation[first:last]
        return whole[self._shard], len(whole)

    def _checked(self, batches: Sequence[Tensor]) -> Sequence[Tensor]:
        if len(batches) != self.per_epoch or any(not 0 < len(batch) <= self.batch_size for batch in batches):
            raise DataError(
                f"the rows' arrange() made {len(batches)} batches; expected {self.per_epoch}, none of them empty or "
                f"larger than {self.batch_size}."
            )
        return batches


def prepare(
    batch: Mapping[str, Tensor],
    device: torch.device | None,
    dtype: torch.dtype | None,
    sequences: Collection[str] = (),
    length: int | None = None,
) -> dict[str, Tensor]:
    """Cut sequences to `length` on axis 1 and move a batch to where and in what precision it is needed."""
    out = dict(batch)
    if length is not None:
        for name in sequences:
            if name in out:
                out[name] = out[name][:, :length]
    if device is not None:
        if device.type == "cuda":  # only from pinned memory do copies run beside the host
            out = {name: value.pin_memory() if value.device.type == "cpu" else value for name, value in out.items()}
        out = {name: value.to(device, non_blocking=True) for name, value in out.items()}
    if dtype is not None:
        out = {name: value.to(dtype) if value.is_floating_point() else value for name, value in out.items()}
    return out


class Ahead:
    """The rows of a step to come, gathered and copied to the accelerator while the present step computes there.

    The copies run on a stream of their own. Rows that draw random numbers when they are read draw the same ones as
    without this: the state of the generator is kept with them.

    Args:
        device: the accelerator.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._key: Hashable = None
        self._batch: dict[str, Tensor] = {}
        self._random = torch.empty(0)

    def fetch(self, key: Hashable, seed: int, read: Callable[[], dict[str, Tensor]]) -> None:
        """Begin to copy what `read` returns.

        Args:
            key: of the step that will take it.
            seed: of that step's random numbers.
            read: gathers rows and moves them, see `prepare`.
        """
        torch.default_generator.manual_seed(seed)
        with torch.cuda.stream(self._stream):
            self._batch = read()
        self._random = torch.get_rng_state()
        self._key = key

    def take(self, key: Hashable) -> dict[str, Tensor] | None:
        """Return the rows of a step, or None where they were not fetched; the device waits for the copies, not we."""
        batch, self._batch = self._batch, {}
        if key != self._key:
            return None
        self._key = None
        stream = torch.cuda.current_stream()
        stream.wait_stream(self._stream)
        for value in batch.values():
            if value.is_cuda:
                value.record_stream(stream)  # its memory is not given away before this stream has read it
        torch.set_rng_state(self._random)
        return batch
