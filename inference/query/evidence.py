"""The words of a question: what is known about a site, hard or soft, and how it is written to files.

    Known(value, mask=None)     exactly these entries
    Near(mean, sd)              soft: a Gaussian observation of the entries
    Within(lower, upper)        a box
    HalfSpace(a, b)             a.x + b >= 0, one or many
    OneOf({3, 8})               a categorical restricted to some of its values

A question maps site names to one piece or a list of pieces; plain numbers and arrays mean `Known`, sets mean `OneOf`:

    {"x": [Known(v, m), Within(lo, hi)], "label": {3, 8}}

Pieces know no model. Leading axes before the last are rows: one row of evidence serves all, several are several
questions. `inference.query.text` reads what a person would write, `inference.query.files` keeps
questions in json or npz.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from phlogiston.errors import EvidenceError

FORMAT = "phlogiston evidence 1"


def _tensor(value: Any, what: str, *, allow_infinite: bool = False) -> Tensor:
    """Turn numbers, lists, arrays into a tensor (floats become float64); refuse NaN and, mostly, infinity."""
    try:
        tensor = value.detach() if isinstance(value, Tensor) and not value.requires_grad else value
        tensor = tensor if isinstance(tensor, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise EvidenceError(f"{what} must be a number or an array of numbers; got {value!r}") from error
    if tensor.is_complex():
        raise EvidenceError(f"{what} must be real; got {tensor.dtype}")
    if tensor.is_floating_point():
        tensor = tensor.double()
        bad = torch.isnan(tensor) if allow_infinite else ~torch.isfinite(tensor)
        if bool(bad.any()):
            need = "a number" if allow_infinite else "a finite number"
            raise EvidenceError(f"{what} holds {tensor[bad][0].item()}; every entry must be {need}")
    return tensor


def _weight(value: Any, what: str) -> Tensor:
    weight = _tensor(value, what, allow_infinite=True).double()
    if bool((weight < 0).any()):
        raise EvidenceError(f"{what} must not be negative; got {weight.min().item()}")
    return torch.where(torch.isinf(weight), 1.0, weight)  # "infinitely hard" is simply hard


def _broadcast(what: str, *tensors: Tensor) -> None:
    try:
        torch.broadcast_shapes(*(t.shape for t in tensors))
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
        raise EvidenceError(f"{what} do not fit together: shapes {shapes} do not broadcast") from error


class Piece:
    """Base of all pieces of evidence."""

    kind: ClassVar[str] = ""
    fields: ClassVar[tuple[str, ...]] = ()

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def arrays(self) -> dict[str, np.ndarray]:
        """The piece's fields as arrays, those that are None left out."""
        values = {name: getattr(self, name) for name in self.fields}
        return {
            name: np.asarray(v.detach() if isinstance(v, Tensor) else v) for name, v in values.items() if v is not None
        }


@dataclass(frozen=True, eq=False)
class Known(Piece):
    """Entries that are exactly known.

    Args:
        value: number or array (..., D); integer for categorical sites (or a label's name, where the system has names).
        mask: broadcastable with `value`; True or 1 where known, False or 0 where not. A fraction m between 0 and 1 is
            soft: the entry counts as observed with noise of sd `s sqrt(1 / m^2 - 1)`, s being the spread the model
            gives it (systems with an exact path only).

    Raises:
        EvidenceError: known entries that are not finite, a mask outside [0, 1], shapes that do not broadcast.
    """

    value: Any
    mask: Any = None
    kind: ClassVar[str] = "known"
    fields: ClassVar[tuple[str, ...]] = ("value", "mask")

    def __post_init__(self) -> None:
        if isinstance(self.value, str):
            return
        if self.mask is None:
            self._set(value=_tensor(self.value, "Known.value"))
            return
        value = (
            _tensor(self.value if isinstance(self.value, Tensor) else np.asarray(self.value), "Known.value")
            if not _has_nan(self.value)
            else torch.as_tensor(self.value, dtype=torch.float64)
        )
        mask = _tensor(self.mask, "Known.mask")
        if bool(((mask < 0) | (mask > 1)).any()):
            raise EvidenceError("Known.mask must lie between 0 (unknown) and 1 (known)")
        _broadcast("Known.value and Known.mask", value, mask)
        value, mask = torch.broadcast_tensors(value, mask)
        # what is not known may hold anything, NaN included; it must not leak into arithmetic
        if value.is_floating_point():
            value = torch.where(mask > 0, value, 0.0)
        if bool((~torch.isfinite(value)).any()):
            raise EvidenceError("Known.value holds NaN or infinity where the mask says it is known")
        self._set(value=value, mask=mask if mask.is_floating_point() and _fractional(mask) else mask > 0)


def _has_nan(value: Any) -> bool:
    try:
        return bool(np.isnan(np.asarray(value.detach() if isinstance(value, Tensor) else value, dtype=float)).any())
    except (TypeError, ValueError):
        return False


def _fractional(mask: Tensor) -> bool:
    return bool(((mask > 0) & (mask < 1)).any())


@dataclass(frozen=True, eq=False)
class Near(Piece):
    """Soft evidence: the entries were observed as `mean` with Gaussian noise of standard deviation `sd`.

    Multiplying the model by this factor is also what a Gaussian prior on the entries does.

    Args:
        mean: number or array (..., D).
        sd: positive, broadcastable; `inf` where nothing is said.
        weight: not negative; 0 switches the piece off. Other values than 1 ease or sharpen proposals only, unless the
            system is asked to temper.
    """

    mean: Any
    sd: Any
    weight: Any = 1.0
    kind: ClassVar[str] = "near"
    fields: ClassVar[tuple[str, ...]] = ("mean", "sd", "weight")

    def __post_init__(self) -> None:
        mean = _tensor(self.mean, "Near.mean").double()
        sd = _tensor(self.sd, "Near.sd", allow_infinite=True).double()
        weight = _weight(self.weight, "Near.weight")
        if bool((sd <= 0).any()):
            raise EvidenceError(f"Near.sd must be positive; got {sd.min().item()} (use Known for exact values)")
        _broadcast("Near.mean, sd and weight", mean, sd, weight)
        self._set(mean=mean, sd=sd, weight=weight)


@dataclass(frozen=True, eq=False)
class Within(Piece):
    """A box: `lower <= x <= upper`, entry by entry.

    Args:
        lower: number or array (..., D), `-inf` where open.
        upper: number or array (..., D), `inf` where open.
        weight: as in `Near`.
    """

    lower: Any = -math.inf
    upper: Any = math.inf
    weight: Any = 1.0
    kind: ClassVar[str] = "within"
    fields: ClassVar[tuple[str, ...]] = ("lower", "upper", "weight")

    def __post_init__(self) -> None:
        lower = _tensor(-math.inf if self.lower is None else self.lower, "Within.lower", allow_infinite=True).double()
        upper = _tensor(math.inf if self.upper is None else self.upper, "Within.upper", allow_infinite=True).double()
        weight = _weight(self.weight, "Within.weight")
        _broadcast("Within.lower, upper and weight", lower, upper, weight)
        if bool((lower > upper).any()):
            raise EvidenceError("Within.lower exceeds Within.upper: no value can satisfy it")
        if bool((torch.isposinf(lower) | torch.isneginf(upper)).any()):
            raise EvidenceError("Within needs lower < inf and upper > -inf: no value can satisfy it")
        self._set(lower=lower, upper=upper, weight=weight)


@dataclass(frozen=True, eq=False)
class HalfSpace(Piece):
    """Linear inequalities `a . x + b >= 0`.

    Args:
        a: (D,) for one inequality, (m, D) for m; need not have unit length.
        b: number or (m,).
        weight: number or (m,), as in `Near`.
    """

    a: Any
    b: Any = 0.0
    weight: Any = 1.0
    kind: ClassVar[str] = "halfspace"
    fields: ClassVar[tuple[str, ...]] = ("a", "b", "weight")

    def __post_init__(self) -> None:
        a = _tensor(self.a, "HalfSpace.a").double()
        b = _tensor(self.b, "HalfSpace.b").double()
        weight = _weight(self.weight, "HalfSpace.weight")
        if a.dim() not in (1, 2) or a.shape[-1] == 0:
            raise EvidenceError(f"HalfSpace.a must have shape (D,) or (m, D); got {tuple(a.shape)}")
        a = a.reshape(-1, a.shape[-1])
        if b.numel() not in (1, len(a)) or weight.numel() not in (1, len(a)):
            raise EvidenceError(f"HalfSpace has {len(a)} inequalities, but b has shape {tuple(b.shape)}")
        self._set(a=a, b=b.reshape(-1).expand(len(a)), weight=weight.reshape(-1).expand(len(a)))


@dataclass(frozen=True, eq=False)
class OneOf(Piece):
    """A categorical site restricted to some of its values.

    Args:
        values: category numbers, or names where the system knows names; not empty.
    """

    values: Any
    kind: ClassVar[str] = "oneof"
    fields: ClassVar[tuple[str, ...]] = ("values",)

    def __post_init__(self) -> None:
        given = [self.values] if isinstance(self.values, str | int) else list(self.values)
        plain = [v.item() if isinstance(v, Tensor | np.generic) else v for v in given]
        if not plain:
            raise EvidenceError("OneOf needs at least one value: an empty set is impossible")
        for v in plain:
            if isinstance(v, bool) or not (isinstance(v, int | str) or (isinstance(v, float) and v.is_integer())):
                raise EvidenceError(f"OneOf takes category numbers or names; got {v!r}")
        unique = {v if isinstance(v, str) else int(v) for v in plain}
        self._set(values=tuple(sorted(unique, key=lambda v: (isinstance(v, str), v))))


KINDS: dict[str, type[Piece]] = {c.kind: c for c in (Known, Near, Within, HalfSpace, OneOf)}

Evidence = Mapping[str, Any]


def normalise(evidence: Evidence | None, sites: Iterable[str] | None = None) -> dict[str, tuple[Piece, ...]]:
    """Bring a question into one form: site name -> pieces.

    Args:
        evidence: site -> piece, list of pieces, or plain values (`Known`; sets mean `OneOf`).
        sites: valid names, when they are known.

    Raises:
        EvidenceError: not a mapping, an unknown site (with the nearest valid name), or something that is no evidence.
    """
    if evidence is None:
        return {}
    if not isinstance(evidence, Mapping):
        raise EvidenceError(f"evidence must map site names to pieces; got {type(evidence).__name__}")
    valid = None if sites is None else list(sites)
    result: dict[str, tuple[Piece, ...]] = {}
    for name, given in evidence.items():
        if valid is not None and name not in valid:
            raise EvidenceError(unknown_message("site", name, valid))
        result[name] = _pieces(name, given)
    return result


def _pieces(name: str, given: Any) -> tuple[Piece, ...]:
    if isinstance(given, Piece):
        return (given,)
    if isinstance(given, set | frozenset):
        return (OneOf(given),)
    if isinstance(given, Sequence) and not isinstance(given, str) and any(isinstance(g, Piece) for g in given):
        return tuple(piece for g in given for piece in _pieces(name, g))
    if isinstance(given, Sequence) and len(given) == 0:
        return ()
    try:
        return (Known(given),)
    except EvidenceError as error:
        raise EvidenceError(f"evidence for {name!r}: {error}") from error


def unknown_message(kind: str, name: object, choices: Iterable[str]) -> str:
    """Say that a name is unknown, and which valid one is nearest."""
    known = list(choices)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return f"unknown {kind} {name!r}.{hint} Choose from: {shown}."


def to_json(evidence: Evidence) -> dict[str, Any]:
    """Turn a question into plain JSON data; open limits become null."""
    sites = {
        name: [{"kind": p.kind, **{k: _plain(v) for k, v in p.arrays().items()}} for p in pieces]
        for name, pieces in normalise(evidence).items()
    }
    return {"format": FORMAT, "sites": sites}


def _plain(array: np.ndarray) -> Any:
    def open_limits(value: Any) -> Any:
        if isinstance(value, list):
            return [open_limits(v) for v in value]
        return None if isinstance(value, float) and math.isinf(value) else value

    return open_limits(array.tolist())


_OPEN = {"lower": -math.inf, "upper": math.inf, "sd": math.inf}


def from_json(data: Mapping[str, Any]) -> dict[str, tuple[Piece, ...]]:
    """Read what `to_json` made.

    Raises:
        EvidenceError: another format, an unknown kind of evidence or field.
    """
    if data.get("format") != FORMAT:
        raise EvidenceError(f'this is not saved evidence: expected "format": "{FORMAT}"')
    result: dict[str, tuple[Piece, ...]] = {}
    for name, pieces in data.get("sites", {}).items():
        result[name] = tuple(read_piece(name, dict(piece)) for piece in pieces)
    return result


def read_piece(name: str, fields: dict[str, Any]) -> Piece:
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise EvidenceError(f"site {name!r}: " + unknown_message("kind of evidence", kind, KINDS))
    cls = KINDS[kind]
    for field in fields:
        if field not in cls.fields:
            raise EvidenceError(f"site {name!r}: " + unknown_message(f"field of {kind}", field, cls.fields))

    def close(value: Any, limit: float) -> Any:
        if isinstance(value, list):
            return [close(v, limit) for v in value]
        return limit if value is None else value

    return cls(**{k: close(v, _OPEN[k]) if k in _OPEN else v for k, v in fields.items()})
