"""Rows that are sequences: batches of like length, and long streams cut into windows that follow one another.

Both, and `Endings`, are what `fit` takes as data: `rows[LongTensor]` is a batch, and `arrange` says in which order the
rows of an epoch come, for which the engine calls rows that have it. Batches are cut to their longest sequence: time
that is padding for all rows is never computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from phlogiston.errors import DataError

POOL = 50  # batches whose rows are sorted together: a wide choice of lengths, and an order that stays random
Batch = dict[str, Tensor]


class Sequences:
    """Whole sequences, in batches of like length.

    Args:
        tensors: `x` (rows, steps, ...), `length` (rows,), and whatever else goes with a row; names in `timed` have time
            on axis 1, too, and are cut alike.
        timed: see there.
        change: applied to every batch that is drawn for training, such as noise or stretching; it may use torch's
            generator, which the engine seeds at every step.

    Raises:
        DataError: no rows, or a length beyond the padding.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        timed: tuple[str, ...] = ("x",),
        change: Callable[[Batch], Batch] | None = None,
    ) -> None:
        self.tensors, self.timed, self.change = dict(tensors), timed, change
        length = self.tensors["length"]
        self._lengths = length.numpy()  # decides on shapes: read on the host
        if not len(length):
            raise DataError("there is no sequence in the data.")
        if int(length.max()) > self.tensors["x"].shape[1] or int(length.min()) < 1:
            raise DataError(
                f"length runs from {int(length.min())} to {int(length.max())}; expected 1 to the padded "
                f"{self.tensors['x'].shape[1]}."
            )

    def __len__(self) -> int:
        return len(self.tensors["length"])

    def __getitem__(self, index: Tensor) -> Batch:
        batch = {name: value[index] for name, value in self.tensors.items()}
        longest = int(self._lengths[index.numpy()].max()) if len(index) else 0
        for name in self.timed:
            if name in batch:
                batch[name] = batch[name][:, :longest]
        return self.change(batch) if self.change is not None else batch

    def arrange(self, generator: torch.Generator, batch_size: int) -> list[Tensor]:
        """Return the batches of an epoch: random, but each of like length."""
        order = torch.randperm(len(self), generator=generator)
        batches: list[Tensor] = []
        for pool in order.split(POOL * batch_size):
            by_length = pool[self.tensors["length"][pool].argsort(stable=True)]
            batches += by_length.split(batch_size)
        return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _with_room(x: Tensor, window: int, parts: str) -> Tensor:
    """Two steps of nothing before and a window of nothing behind: (rows, 2 + steps + window, width)."""
    if not len(x) or window < 1:
        raise DataError(f"{len(x)} sequences in {parts} of {window} steps make no rows.")
    return torch.cat([x.new_zeros(len(x), 2, x.shape[2]), x, x.new_zeros(len(x), window, x.shape[2])], 1)


class Windows:
    """Long sequences cut into windows; row `r` of a batch continues where row `r` of the batch before ended.

    A batch holds `x` (rows, steps, width), `length`, and what a model that carries on needs: `last` (rows, 2, width),
    the two steps before the window, `seen` (rows,), how many there were, and `place` (rows, 2), the sequence and the
    number of the window in it. Who carries a state compares places: they follow one another but where one ends.

    Args:
        x: (rows, steps, width), padded.
        length: (rows,).
        window: steps of a window.

    Raises:
        DataError: no rows, or a window below 1.
    """

    def __init__(self, x: Tensor, length: Tensor, window: int) -> None:
        self.window = window
        self.x = _with_room(x, window, "windows")
        self.sizes = length
        self.counts = (length + window - 1).div(window, rounding_mode="floor")
        sequence = torch.repeat_interleave(torch.arange(len(x)), self.counts)
        first = torch.repeat_interleave(self.counts.cumsum(0) - self.counts, self.counts)
        self.place = torch.stack([sequence, torch.arange(len(sequence)) - first], 1)

    def __len__(self) -> int:
        return len(self.place)

    @property
    def mean_length(self) -> float:
        """Steps that count per window, on average."""
        return float(self.sizes.sum()) / len(self)

    def __getitem__(self, index: Tensor) -> Batch:
        place = self.place[index]
        return {**self.windows_of(place[:, 0], place[:, 1]), "place": place}

    def windows_of(self, sequence: Tensor, number: Tensor) -> Batch:
        """Windows by their sequence and their number in it, without a `place`."""
        start = number * self.window
        at = start.unsqueeze(1) + torch.arange(self.window + 2)
        steps = self.x[sequence.unsqueeze(1), at]
        return {
            "x": steps[:, 2:],
            "length": (self.sizes[sequence] - start).clamp(0, self.window),
            "last": steps[:, :2],
            "seen": start,
        }

    def arrange(self, generator: torch.Generator, batch_size: int) -> list[Tensor]:
        """Return the batches of an epoch: sequences in random order on `batch_size` tracks of equal length."""
        order = torch.randperm(len(self.counts), generator=generator)
        first = self.counts.cumsum(0) - self.counts
        rows = torch.cat([torch.arange(int(first[s]), int(first[s] + self.counts[s])) for s in order.tolist()])
        steps, longer = divmod(len(rows), batch_size)
        sizes = [steps + 1] * longer + [steps] * (batch_size - longer)
        tracks = rows.split(sizes)  # the longer tracks come first, so that the last batch keeps its rows in place
        whole = torch.stack([track[:steps] for track in tracks], 1) if steps else rows.new_zeros(0, batch_size)
        batches = list(whole.unbind(0))
        if longer:
            batches.append(torch.stack([track[steps] for track in tracks[:longer]]))
        return batches


class Endings:
    """Pieces that end at every step of every sequence, for models that predict one step from those before it.

    A batch is that of `Windows`, without a `place`: pieces overlap, so that nothing can be carried from one to the
    next. A piece holds the steps up to the one that is to be predicted, at most `window` of them before it, and never
    crosses the border of a sequence.

    Args:
        x: (rows, steps, width), padded.
        length: (rows,).
        window: steps before the one to be predicted, at most.

    Raises:
        DataError: no rows, or a window below 1.
    """

    def __init__(self, x: Tensor, length: Tensor, window: int) -> None:
        self.window = window
        self.x = _with_room(x, window, "pieces")
        self.sizes = length
        first = torch.repeat_interleave(length.cumsum(0) - length, length)
        self.sequence = torch.repeat_interleave(torch.arange(len(x)), length)
        self.end = torch.arange(len(self.sequence)) - first

    def __len__(self) -> int:
        return len(self.end)

    def __getitem__(self, index: Tensor) -> Batch:
        sequence, end = self.sequence[index], self.end[index]
        start = (end - self.window).clamp_min(0)
        at = start.unsqueeze(1) + torch.arange(self.window + 3)
        steps = self.x[sequence.unsqueeze(1), at]
        return {"x": steps[:, 2:], "length": end - start + 1, "last": steps[:, :2], "seen": start}
