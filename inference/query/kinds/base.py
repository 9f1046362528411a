"""What every kind of evidence has: fields that are arrays, readers of text and files, and two ways to restrict a site.

A kind is a subclass of `Evidence` in a file of its own here, where `inference.query.evidence` finds it. It may
override, where it has something to say:

    claims, from_statements     which statements of the text form it reads, and what they mean together
    from_plain                  what it reads of plain arrays in an npz file
    restrict_vector             what it says about the entries of a vector site
    restrict_category           which values of a categorical site it leaves
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from phlogiston.arrays import tensor_of
from phlogiston.distributions.shapes import joint_shape
from phlogiston.errors import EvidenceError
from phlogiston.inference.query.kinds.vector import Vector


@dataclass(frozen=True)
class Statement:
    """One statement of the text form about one site.

    Attributes:
        site: the site it is about.
        names: of the site's entries, or of the values of a categorical site.
        relation: `"="` and `">="` compare `terms . x + constant` with zero, `"~"` says that it is zero up to Gaussian
            noise of standard deviation `sd`, `"in"` restricts a categorical site to `values`.
        terms: coefficient by entry, none of them zero.
        constant: what is added to the terms.
        sd: positive, for `"~"`.
        values: numbers of categories, for `"in"`.
    """

    site: str
    names: Sequence[str]
    relation: Literal["=", ">=", "~", "in"]
    terms: Mapping[int, float] = field(default_factory=dict)
    constant: float = 0.0
    sd: float = 0.0
    values: frozenset[int] = frozenset()

    def single(self) -> tuple[int, float, float]:
        """The only entry, its coefficient, and the value at which the expression is zero."""
        ((entry, slope),) = self.terms.items()
        return entry, slope, -self.constant / slope + 0.0

    def row(self) -> Tensor:
        """The coefficients of all entries, float64 (D,)."""
        a = torch.zeros(len(self.names), dtype=torch.float64)
        for entry, slope in self.terms.items():
            a[entry] = slope
        return a


class Evidence:
    """Evidence about one site; the base of all kinds.

    Attributes:
        kind: its name in files.
        order: where its statements come among those of other kinds about one site.
        fields: its arguments, as they are written to files.
        rowwise: those of them that may hold several rows of evidence.
        infinite: field -> what null stands for in JSON.
        suffixes: of the names of plain arrays in npz files that it reads.
        couples: it may tie entries of a vector to each other.
    """

    kind: ClassVar[str] = ""
    order: ClassVar[int] = 0
    fields: ClassVar[tuple[str, ...]] = ()
    rowwise: ClassVar[tuple[str, ...]] = ()
    infinite: ClassVar[Mapping[str, float]] = {}
    suffixes: ClassVar[tuple[str, ...]] = ()
    couples: ClassVar[bool] = False

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields as arrays, those that are None left out."""
        values = {name: getattr(self, name) for name in self.fields}
        return {
            name: np.asarray(v.detach() if isinstance(v, Tensor) else v) for name, v in values.items() if v is not None
        }

    def to_json(self) -> dict[str, Any]:
        """Its kind and fields as plain JSON data; infinite numbers become null."""
        return {"kind": self.kind, **{name: _plain(value.tolist()) for name, value in self.arrays().items()}}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Evidence:
        """Make one of fields read from a file, where null stands for infinity."""
        for name in fields:
            if name not in cls.fields:
                raise EvidenceError(unknown_message(f"field of {cls.kind}", name, cls.fields))
        return cls(**{k: _fill(v, cls.infinite[k]) if k in cls.infinite else v for k, v in fields.items()})

    @classmethod
    def from_plain(cls, name: str, arrays: Mapping[str, np.ndarray]) -> list[Evidence]:
        """Read plain arrays of an npz file: `""` is the one named as the site, the others are named `site_suffix`."""
        return []

    @classmethod
    def claims(cls, statement: Statement) -> bool:
        """Whether a statement of the text form is of this kind."""
        return False

    @classmethod
    def from_statements(cls, statements: Sequence[Statement]) -> list[Evidence]:
        """Make evidence of the statements about one site that this kind claims; refuses contradictions among them."""
        raise NotImplementedError

    def restrict_vector(self, what: str, vector: Vector, row: int) -> None:
        """Add what this says about the entries to a vector site; `what` begins messages."""
        raise EvidenceError(f"{what} speaks about categories; {vector.name!r} is continuous")

    def restrict_category(self, name: str, labels: Sequence[str], row: int) -> list[int] | None:
        """The values of a categorical site that this leaves; None where it says nothing."""
        raise EvidenceError(f"{name!r} is categorical: use Known or OneOf, not {type(self).__name__}")

    def about_entry(self, site: str, entry: int) -> list[Statement]:
        """The same about one entry of a vector site, where it holds single numbers.

        Raises:
            EvidenceError: it cannot be said of one column.
        """
        raise EvidenceError(f"{type(self).__name__} is about a site, not about one column of it")

    def sentences(self, names: Sequence[str], row: int) -> list[str]:
        """What it says about the entries of a vector site, as statements of the text form; `names` stand in them."""
        raise NotImplementedError

    def is_categorical(self, entries: int, width: int) -> bool:
        """Whether this speaks about the categories of a discrete site, not about its entries as numbers.

        Args:
            entries: number of independent entries.
            width: 1 for numbers, the number of values for one-hot vectors.
        """
        return False

    def without_missing(self) -> Evidence:
        """The same about a site of category numbers, of which -1 means missing."""
        return self


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def _fill(value: Any, limit: float) -> Any:
    if isinstance(value, list):
        return [_fill(v, limit) for v in value]
    return limit if value is None else value


def category(name: str, value: int | str, labels: Sequence[str]) -> int:
    """The number of a category given by number or name."""
    if isinstance(value, str):
        if value in labels:
            return list(labels).index(value)
        raise EvidenceError(unknown_message(f"value of {name!r}", value, labels))
    if not 0 <= value < len(labels):
        raise EvidenceError(f"{name!r} has values 0 to {len(labels) - 1}; got {value}")
    return value


def as_tensor(value: Any, what: str, *, allow_infinite: bool = False) -> Tensor:
    """Turn numbers, lists, arrays into a tensor (floats become float64); refuse NaN and, mostly, infinity."""
    dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
    try:
        tensor = value if dense else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError):  # a flipped array, one of another byte order, or none at all
        try:
            tensor = tensor_of(what, value)
        except (TypeError, ValueError) as error:
            raise EvidenceError(f"{what} must be a number or an array of numbers; got {value!r}") from error
    tensor = tensor if tensor.requires_grad else tensor.detach()
    if tensor.is_complex():
        raise EvidenceError(f"{what} must be real; got {tensor.dtype}")
    if tensor.is_floating_point():
        tensor = tensor.double()
        bad = torch.isnan(tensor) if allow_infinite else ~torch.isfinite(tensor)
        if bool(bad.any()):
            need = "a number" if allow_infinite else "a finite number"
            raise EvidenceError(f"{what} holds {tensor[bad][0].item()}; every entry must be {need}")
    return tensor


def as_weight(value: Any, what: str) -> Tensor:
    weight = as_tensor(value, what, allow_infinite=True).double()
    if bool((weight < 0).any()):
        raise EvidenceError(f"{what} must not be negative; got {weight.min().item()}")
    return torch.where(torch.isinf(weight), 1.0, weight)  # "infinitely hard" is simply hard


def check_broadcast(what: str, *tensors: Tensor) -> None:
    if all(t.shape == tensors[0].shape for t in tensors):
        return
    try:
        joint_shape(*(t.shape for t in tensors))
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
        raise EvidenceError(f"{what} do not fit together: shapes {shapes} do not broadcast") from error


def entries_of(value: Tensor, size: int, row: int) -> list[float]:
    """One number per entry of a vector site: those of a row of evidence, where there are several."""
    wide = value.double().broadcast_to(*value.shape[:-1], size) if value.dim() else value.double().expand(size)
    flat = wide.reshape(-1, size)
    return flat[row if len(flat) > 1 else 0].tolist()


def only_number(value: Tensor, what: str) -> float:
    """The number of evidence about one column."""
    if value.numel() != 1:
        raise EvidenceError(f"{what} has shape {tuple(value.shape)}; evidence about one column holds one number")
    return float(value)


def number(value: float) -> str:
    """A number in the fewest digits that bring it back."""
    return f"{value:.15g}" if float(f"{value:.15g}") == value else repr(value)


def linear(terms: Sequence[float], names: Sequence[str]) -> str:
    """Coefficients and names as a sum: `2*x - y`."""
    text = ""
    for slope, name in zip(terms, names, strict=True):
        if slope:
            size = name if abs(slope) == 1 else f"{number(abs(slope))}*{name}"
            text += (" - " if slope < 0 else " + ") + size if text else ("-" if slope < 0 else "") + size
    return text


def unknown_message(kind: str, name: object, choices: Iterable[str]) -> str:
    """Say that a name is unknown, and which valid one is nearest."""
    known = list(choices)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return f"unknown {kind} {name!r}.{hint} Choose from: {shown}."
