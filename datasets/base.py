"""What every source of data hands over: three `Split`s of equal rows and a `Meta` that says what they are.

Tabular batches hold `x` (batch, features), float64 for tables of the user's and float32 otherwise; optionally `mask`
bool (batch, features), True where the entry is known (`x` holds 0.0 where it is not); one int64 tensor (batch,) per
categorical stream, -1 where missing; optionally `weight` float32 (batch,), the row weights. Images are flattened into
`x` and `Meta.image_shape` folds them back.

This module loads numpy only. Torch comes in with the first `Split`, so that listing the data sets stays instant.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias

import numpy as np

from phlogiston.arrays import tensor_of
from phlogiston.datasets import dataset_card
from phlogiston.errors import DataError, ShapeError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

LEAST_STEPS = 1e-3
"""Share of a column's width that a step of float32 may be."""

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
PARTS = ("train", "valid", "test")
Kind: TypeAlias = Literal["built in", "fetched", "yours"]
LogDensity: TypeAlias = Callable[[Array], Array]
ConditionalLogDensity: TypeAlias = Callable[[Array, Array], Array]
_Arguments = ParamSpec("_Arguments")


@dataclass(frozen=True)
class Info:
    """What a source says about itself before anything is generated, read or fetched.

    Attributes:
        name: the registered name; equal to the name of the source's file.
        title: one line for a table.
        kind: `"built in"` (generated, or shipped inside a dependency), `"fetched"`, or `"yours"`.
        licence: under which terms the data may be used.
        rows: numbers of rows as a person would write them: `"5,000 / 1,000 / 2,000"` for train / valid / test.
        shape: the shape of one row, in words: `"2"`, `"28 x 28, label of 10"`.
        notes: what a user should know, in a few sentences.
        options: name -> default of every option that `load` takes; filled in by the registry.
        state: `"built in"`, `"cached"`, `"must be fetched"` or `"yours"`; filled in by the registry.
    """

    name: str
    title: str
    kind: Kind
    licence: str
    rows: str
    shape: str
    notes: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    state: str = ""


@dataclass(frozen=True)
class Decision:
    """One thing a source decided about data of the user's, for the whole collection, and how to decide otherwise.

    Attributes:
        topic: what it is about: `"values"`, `"axes"`, `"missing"`, `"labels"`, `"skipped"`, ...
        found: what was found and done, in words: `"0 and 1 (uint8): black and white"`.
        option: the option of `load` that changes it, with an example: `"scale=255"`; "" where nothing does.
    """

    topic: str
    found: str
    option: str = ""


@dataclass(frozen=True)
class Meta:
    """What is known about a loaded data set.

    Attributes:
        name: the registered name, or the path the data came from.
        title: one line for a table or a heading.
        kind: `"built in"`, `"fetched"` or `"yours"`.
        licence: under which terms the data may be used.
        shapes: tensor name -> shape of one row (without the batch axis).
        columns: names of `x`'s columns, or () where they have none.
        categorical: stream name -> its category labels; the code in the batch indexes them.
        units: column -> unit of its numbers, where the source knows it: dates are "days since 1970-01-01".
        frame: kind of data frame the data came as, such as `"polars"`; "" for other containers.
        options: every option `load` used, defaults included, as JSON can hold them.
        truth: the true log density of a row, x (n, features) -> (n,) in nats, or None where it is unknown.
        notes: what a user should know.
        image_shape: (height, width) or (height, width, channels) when a row of `x` is a flattened image.
        conditional_truth: where rows have targets `y`, the true log p(y | x), called with y (n, targets) and x (n,
            features) -> (n,) in nats, or None.
        decisions: what the source decided about the user's data (value range, axes, labels, files skipped), for people.
        cells: columns whose values the source rounded to a grid and filled up with noise again: lower edge of one cell,
            and the width of the cells.
    """

    name: str
    title: str = ""
    kind: Kind = "yours"
    licence: str = ""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    categorical: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    frame: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    truth: LogDensity | None = field(default=None, compare=False)
    notes: str = ""
    image_shape: tuple[int, ...] | None = None
    conditional_truth: ConditionalLogDensity | None = field(default=None, compare=False)
    decisions: tuple[Decision, ...] = ()
    cells: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class Split:
    """Rows held in memory, read batch by batch.

    Args:
        tensors: name -> tensor or array; all with the same first dimension. Floats become float32, integers int64
            (uint8 stays, so that pictures stay small), bools stay.
        sequences: names whose axis 1 is time.
        columns: names of `x`'s columns, used in messages only.
        double: names whose numbers keep the digits of float64: integers and bools become float64, too. Tables need it,
            for the columns of a table may lie anywhere (Julian dates, unix times), and are standardised later.

    An empty split is allowed (a user may ask for no validation rows) and counts as false: `if dataset.valid: ...`.

    Raises:
        ShapeError: first dimensions differ, or `mask` / `weight` do not fit `x`.
        DataError: no tensors at all, entries that are NaN or infinite, object arrays, or negative weights.

    Example:
        >>> split = Split({"x": np.zeros((4, 2)), "label": np.arange(4)})
        >>> len(split), tuple(split[:3]["x"].shape), split[[0, 3]]["label"].tolist()
        (4, (3, 2), [0, 3])
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor | Array],
        sequences: Collection[str] = (),
        columns: Sequence[str] = (),
        double: Collection[str] = (),
    ) -> None:
        if not tensors:
            raise DataError("a split needs at least one tensor, for example {'x': array of shape (rows, features)}.")
        self.double: frozenset[str] = frozenset(double)
        self.tensors: dict[str, Tensor] = {
            name: _as_tensor(name, value, name in self.double) for name, value in tensors.items()
        }
        self.sequences: frozenset[str] = frozenset(sequences)
        for name in self.sequences - self.tensors.keys():
            raise unknown_name("sequence", name, self.tensors)
        _check_rows(self.tensors)
        for name, tensor in self.tensors.items():
            _check_finite(name, tensor, columns if name == "x" else ())
        _check_companions(self.tensors)

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        """Return the rows `index` selects: a LongTensor, a bool mask, a slice, a sequence, or one int (batch of 1)."""
        import torch

        if isinstance(index, slice):
            chosen: Any = index
        elif isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(f"row {index} of a split with {len(self)} rows")
            chosen = torch.tensor([int(index) % len(self)])
        else:
            chosen = torch.as_tensor(index)
        if isinstance(chosen, torch.Tensor) and chosen.dtype == torch.long and chosen.ndim == 1:
            chosen = torch.where(chosen < 0, chosen + len(self), chosen)  # index_select counts from the start alone
            return {name: tensor.index_select(0, chosen) for name, tensor in self.tensors.items()}  # twice as fast
        return {name: tensor[chosen] for name, tensor in self.tensors.items()}

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}: {tuple(t.shape)} {str(t.dtype)[6:]}" for name, t in self.tensors.items())
        return f"Split({len(self)} rows; {inside})"

    def _repr_html_(self) -> str:
        return dataset_card.of_split(self)

    def numpy(self, name: str = "x") -> Array:
        """Return one tensor as a numpy array that shares its memory."""
        if name not in self.tensors:
            raise unknown_name("tensor of this split", name, self.tensors)
        return self.tensors[name].numpy()

    def select(self, index: Any) -> Split:
        """Return a split of the rows `index` selects (see `__getitem__`)."""
        chosen = Split.__new__(Split)  # rows of rows that were checked need no second check
        chosen.tensors, chosen.sequences, chosen.double = self[index], self.sequences, self.double
        return chosen

    def narrowed(self, keep: Collection[str] = ()) -> Split:
        """Return the split with float64 in the tensors named in `keep` only, and float32 in place of it elsewhere."""
        if not self.double - set(keep):
            return self
        return Split(self.tensors, self.sequences, double=self.double & set(keep))


@dataclass
class Dataset:
    """Training, validation and test rows of one source; `valid` and `test` may be empty, `train` may not.

    The training rows of a table larger than memory are a `streamed.Streamed`, which is read batch by batch.
    """

    train: Split
    valid: Split
    test: Split
    meta: Meta

    def __post_init__(self) -> None:
        if not len(self.train):
            raise DataError(f"data {self.meta.name!r}: the training split is empty. Give it at least one row.")
        wanted = row_shapes(self.train)
        for part, split in (("valid", self.valid), ("test", self.test)):
            shapes = row_shapes(split)
            if set(shapes) != set(wanted):
                raise ShapeError(f"{part} has {sorted(shapes)}, train has {sorted(wanted)}: they must agree.")
            for name, shape in shapes.items():
                if shape != wanted[name]:
                    raise ShapeError(f"{part}: rows of {name!r} have shape {shape}, train {wanted[name]}.")
        for part, rows in (("train", self.train), ("valid", self.valid), ("test", self.test)):
            if isinstance(rows, Split):
                _check_codes(part, rows, self.meta.categorical)

    @classmethod
    def of(
        cls, info: Info, parts: Iterable[Split], options: Mapping[str, Any] = MappingProxyType({}), **known: Any
    ) -> Dataset:
        """Put the parts of a source together with what it says about itself.

        Args:
            info: of the source.
            parts: train, valid and test.
            options: every option the source was loaded with, defaults included; with `recorded`, those that differ
                from the arguments of `load`.
            known: further attributes of `Meta`, or others than `info` says.
        """
        train, valid, test = parts
        said: dict[str, Any] = {
            "name": info.name,
            "title": info.title,
            "kind": info.kind,
            "licence": info.licence,
            "shapes": row_shapes(train),
            "options": dict(options),
            "notes": info.notes,
        }
        return cls(train, valid, test, Meta(**{**said, **known}))

    def __repr__(self) -> str:
        return f"Dataset({self.meta.name!r}: {len(self.train)} / {len(self.valid)} / {len(self.test)} rows)"

    def _repr_html_(self) -> str:
        return dataset_card.of_dataset(self)


def _check_codes(part: str, rows: Split, categorical: Mapping[str, Sequence[str]]) -> None:
    """Refuse codes of categories that name none.

    Raises:
        DataError: no whole numbers, or none of -1 (missing) up to the number of categories, without that.
    """
    for name, labels in categorical.items():
        codes = rows.tensors.get(name)
        if codes is None or not codes.numel():
            continue
        if codes.is_floating_point():
            raise DataError(f"{part}: {name!r} has categories, whose codes are whole numbers; got {codes.dtype}.")
        low, high = int(codes.min()), int(codes.max())
        if low < -1 or high >= len(labels):
            raise DataError(
                f"{part}: {name!r} has codes from {low} to {high}; there are {len(labels)} categories, counted from 0, "
                "and -1 is missing."
            )


def recorded(*without: str) -> Callable[[Callable[_Arguments, Dataset]], Callable[_Arguments, Dataset]]:
    """Decorate the `load` of a source: its arguments go to `Meta.options`, unless the source put others there.

    Args:
        without: arguments that no file of settings can hold; `root` never goes there.
    """

    def decorate(load: Callable[_Arguments, Dataset]) -> Callable[_Arguments, Dataset]:
        signature = inspect.signature(load)

        @functools.wraps(load)
        def loaded(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Dataset:
            data = load(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            used = {name: value for name, value in bound.arguments.items() if name not in ("root", *without)}
            data.meta = replace(data.meta, options={**used, **data.meta.options})
            return data

        return loaded

    return decorate


def row_shapes(split: Any) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of one row, as `Meta.shapes` wants it."""
    if not isinstance(split, Split):
        return dict(split.row_shapes)
    return {name: tuple(tensor.shape[1:]) for name, tensor in split.tensors.items()}


def stream(seed: int, *names: str) -> np.random.Generator:
    """Return the random stream that belongs to `seed` and `names`, independent of every other name.

    A generator of data draws each quantity from a stream of its own with one call, and numpy fills arrays row after
    row. Hence the first m rows of n are the m rows one would have got by asking for m: item i does not depend on how
    many were asked for. Philox is counter based and its bits are fixed by its definition.

    Example:
        >>> few, many = stream(3, "angle").random(2), stream(3, "angle").random(5)
        >>> bool((few == many[:2]).all())
        True
    """
    if seed < 0:
        raise DataError(f"seed is {seed}; it must be 0 or more.")
    words = [seed, *(int.from_bytes(name.encode(), "little") for name in names)]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def sized_parts(sizes: Sequence[int], what: str = "rows") -> list[tuple[str, int]]:
    """Pair the names of the parts with the requested numbers.

    Args:
        sizes: how many of train, valid and test.
        what: what is counted.

    Raises:
        DataError: not three numbers, or negative ones.
    """
    if len(sizes) != 3 or min(sizes) < 0:
        raise DataError(f"sizes is {sizes}; expected three numbers of {what}, for train, valid and test.")
    return list(zip(PARTS, sizes, strict=True))


def part_rows(rows: int, *, valid: int, test: int, what: str) -> int:
    """Return how many of `rows` are left for training once `valid` and `test` are set aside.

    Raises:
        DataError: a part is negative, or nothing is left to train on.
    """
    train = rows - valid - test
    if valid < 0 or test < 0 or train < 1:
        raise DataError(f"{what} has {rows} rows; valid={valid} and test={test} leave {train} to train on.")
    return train


def _as_tensor(name: str, value: Any, double: bool = False) -> Tensor:
    """Convert to a tensor of one of the few dtypes batches are made of."""
    import torch

    tensor = tensor_of(name, value).cpu()
    if tensor.ndim == 0:
        raise ShapeError(f"{name!r} is a single number; expected one entry per row.")
    if double and (tensor.dtype == torch.float64 or not tensor.is_floating_point()):
        return tensor.to(torch.float64)
    if tensor.is_floating_point():
        return to_float32(name, tensor)
    return tensor if tensor.dtype in (torch.bool, torch.uint8) else tensor.to(torch.int64)


def to_float32(name: str, tensor: Tensor) -> Tensor:
    """Convert to float32.

    Args:
        name: of the tensor, for messages.
        tensor: (rows, ...), of any real type; the last of several axes counts as that of the columns.

    Raises:
        DataError: finite values that only float64 can hold, or columns so far from zero for their width that float32
            would leave fewer than a thousand different values of them.
    """
    import torch

    narrow = tensor.to(torch.float32)
    if tensor.dtype not in (torch.float64, torch.int64) or not tensor.numel():
        return narrow
    if bool((torch.isfinite(tensor) & ~torch.isfinite(narrow)).any()):
        raise DataError(f"{name!r} holds values beyond {torch.finfo(torch.float32).max:.3g}. Rescale them.")
    columns = tensor.reshape(-1, tensor.shape[-1] if tensor.ndim > 1 else 1)
    low = torch.full((columns.shape[1],), torch.inf, dtype=torch.float64)
    high = -low
    for part in columns.split(1 << 16):  # zeros pad sequences, and would widen columns that are far away
        there, values = part != 0, part.double()
        low = torch.minimum(low, torch.where(there, values, torch.inf).amin(0))
        high = torch.maximum(high, torch.where(there, values, -torch.inf).amax(0))
    width, far = high - low, torch.maximum(low.abs(), high.abs())
    # what differs by rounding in float64 alone counts as constant
    lost = (torch.finfo(torch.float32).eps * far > LEAST_STEPS * width) & (width > 1e-12 * far) & far.isfinite()
    if bool(lost.any()):
        i = int(lost.nonzero()[0])
        raise DataError(
            f"{name!r} lies between {float(low[i]):.17g} and {float(high[i]):.17g}"
            f"{f' in column {i}' if len(lost) > 1 else ''}: float32, which it is kept in, cannot tell such values "
            "apart. Subtract an offset."
        )
    return narrow


def _check_rows(tensors: Mapping[str, Tensor]) -> None:
    lengths = {name: len(tensor) for name, tensor in tensors.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ShapeError(f"all tensors of a split need the same number of rows, got {counts}.")


def _check_finite(name: str, tensor: Tensor, columns: Sequence[str]) -> None:
    """Refuse NaN and infinity, naming the first row and column that has one."""
    if not tensor.is_floating_point():
        return
    if bool(tensor.sum().isfinite()):  # one NaN or infinity is seen in the sum, which takes a fraction of the time
        return
    bad = ~tensor.isfinite()
    if not bool(bad.any()):
        return
    first = bad.nonzero()[0].tolist()
    row, rest = first[0], first[1:]
    value = tensor[tuple(first)].item()
    where = ""
    if rest:
        label = columns[rest[0]] if len(rest) == 1 and rest[0] < len(columns) else rest[0] if len(rest) == 1 else rest
        where = f", column {label!r}"
    gaps = " Fill it in, or put 0 there and mark it in a bool 'mask' if the system takes gaps (tables, clips)."
    advice = gaps if value != value else " Remove or clip it."
    what = "NaN" if value != value else "an infinite value"
    raise DataError(f"{name!r} holds {what} in row {row}{where} ({int(bad.sum())} such entries in all).{advice}")


def _check_companions(tensors: Mapping[str, Tensor]) -> None:
    """Check `mask` and `weight`, whose meaning is fixed for every data set."""
    import torch

    mask, x, weight = tensors.get("mask"), tensors.get("x"), tensors.get("weight")
    if mask is not None and x is not None:
        if mask.dtype != torch.bool:
            raise DataError(f"'mask' holds {mask.dtype} values; expected bool, True where the entry is known.")
        if mask.shape != x.shape:
            raise ShapeError(f"'mask' has shape {tuple(mask.shape)}; expected that of 'x', {tuple(x.shape)}.")
    if weight is not None:
        if weight.ndim != 1:
            raise ShapeError(f"'weight' has shape {tuple(weight.shape)}; expected one number per row.")
        if bool((weight < 0).any()):
            row = int((weight < 0).nonzero()[0])
            raise DataError(f"'weight' is negative in row {row}; row weights must be 0 or more.")
