"""From the words of a question to arrays: vector sites become linear evidence, categorical sites allowed sets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from phlogiston.distributions.linear_constraints import LinearEvidence, Rows, simplify
from phlogiston.distributions.truncated_normal import log_normal_density
from phlogiston.errors import EvidenceError, unknown_name
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, OneOf, Piece, Within, unknown_message


def asked_sites(ask: Iterable[str] | None, sites: Iterable[str]) -> list[str]:
    """The sites an answer shall hold: those asked for, or all.

    Raises:
        UnknownNameError: a site asked for that is not among `sites`.
    """
    known = list(sites)
    wanted = known if ask is None else list(ask)
    for name in wanted:
        if name not in known:
            raise unknown_name("site", name, known)
    return wanted


def count_rows(question: dict[str, tuple[Piece, ...]], vectors: Iterable[str]) -> int | None:
    """How many rows of evidence a question holds; None when it holds a single one without a row axis.

    Args:
        question: normalised evidence.
        vectors: names of the sites whose last axis is their entries; the others are categorical.

    Raises:
        EvidenceError: pieces with different numbers of rows.
    """
    sizes: dict[str, int] = {}
    vector = set(vectors)
    for name, pieces in question.items():
        for piece in pieces:
            for field in ("value", "mask", "mean", "sd", "lower", "upper"):
                value = getattr(piece, field, None)
                own = 1 if name in vector else 0
                if isinstance(value, Tensor) and value.dim() > own:
                    if value.dim() > own + 1:
                        raise EvidenceError(
                            f"{name}: {piece.kind} {field} has shape {tuple(value.shape)}; too many axes"
                        )
                    sizes[f"{name} ({piece.kind})"] = len(value)
    distinct = {n for n in sizes.values() if n != 1}
    if len(distinct) > 1:
        shown = ", ".join(f"{k}: {v}" for k, v in sizes.items())
        raise EvidenceError(f"pieces hold different numbers of rows: {shown}")
    if not sizes:
        return None
    return distinct.pop() if distinct else 1


def _entries(what: str, value: Tensor, dim: int, row: int) -> Tensor:
    """One row of a field: (dim,) in float64."""
    if value.dim() == 2:
        value = value[row if len(value) > 1 else 0]
    if value.dim() == 0 or value.shape[-1] == 1:
        value = value.reshape(()).expand(dim)
    if value.shape != (dim,):
        raise EvidenceError(f"{what} has {value.shape[-1]} entries; the site has {dim}")
    return value.double()


class _Vector:
    """Collects what is said about the entries of one vector."""

    def __init__(self, name: str, dim: int) -> None:
        start = LinearEvidence.nothing(dim)
        self.name, self.dim = name, dim
        self.known, self.values = start.known.clone(), start.values
        self.lower, self.upper, self.box_weight = start.lower, start.upper, start.box_weight
        self.rows: list[HalfSpace] = []
        self.softs: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}  # mean, sd, fraction, weight
        self.log_constant = torch.zeros((), dtype=torch.float64)

    def add(self, piece: Piece, row: int) -> None:
        what = f"evidence for {self.name!r}: {type(piece).__name__}"
        if isinstance(piece, Known):
            self._known(what, piece, row)
        elif isinstance(piece, Near):
            mean, sd, weight = (_entries(what, t, self.dim, row) for t in (piece.mean, piece.sd, piece.weight))
            for i in torch.nonzero(torch.isfinite(sd) & (weight > 0)).flatten().tolist():
                self._soft(i, mean[i], sd[i], torch.zeros((), dtype=torch.float64), weight[i])
        elif isinstance(piece, Within):
            low, high, weight = (_entries(what, t, self.dim, row) for t in (piece.lower, piece.upper, piece.weight))
            on = (weight > 0) & (torch.isfinite(low) | torch.isfinite(high))
            self.lower = torch.where(on, torch.maximum(self.lower, low), self.lower)
            self.upper = torch.where(on, torch.minimum(self.upper, high), self.upper)
            self.box_weight = torch.where(on, weight, self.box_weight)
        elif isinstance(piece, HalfSpace):
            if piece.a.shape[1] != self.dim:
                raise EvidenceError(f"{what}: a has {piece.a.shape[1]} entries; the site has {self.dim}")
            self.rows.append(piece)
        else:
            raise EvidenceError(f"{what} speaks about categories; {self.name!r} is continuous")

    def _known(self, what: str, piece: Known, row: int) -> None:
        if isinstance(piece.value, str):
            raise EvidenceError(f"{what}: {piece.value!r} is no number")
        value = _entries(what, piece.value, self.dim, row)
        mask = torch.ones(self.dim) if piece.mask is None else _entries(what, piece.mask, self.dim, row)
        for i in torch.nonzero((mask > 0) & (mask < 1)).flatten().tolist():
            self._soft(i, value[i], torch.ones(()).double(), mask[i].double(), torch.ones(()).double())
        exact = mask == 1
        clash = exact & self.known & (value != self.values)
        if bool(clash.any()):
            raise EvidenceError(f"{what}: entry {int(torch.nonzero(clash)[0])} is fixed to two different values")
        self.values = torch.where(exact, value, self.values)
        self.known = self.known | exact

    def _soft(self, i: int, mean: Tensor, sd: Tensor, fraction: Tensor, weight: Tensor) -> None:
        if i in self.softs:
            old_mean, old_sd, old_fraction, old_weight = self.softs[i]
            if bool(fraction > 0) or bool(old_fraction > 0):
                raise EvidenceError(f"entry {i} of {self.name!r} has a fractional mask and other soft evidence")
            # two Gaussian observations are one, and the density of their difference
            total = torch.hypot(sd, old_sd)
            self.log_constant = self.log_constant + log_normal_density((mean - old_mean) / total) - total.log()
            share = (old_sd / total) ** 2
            mean, sd = mean * share + old_mean * (1 - share), sd * old_sd / total
            weight = torch.maximum(weight, old_weight)
        self.softs[i] = (mean, sd, fraction, weight)

    def finish(self) -> tuple[LinearEvidence, Tensor]:
        self._close_boxes()
        for i in [i for i in self.softs if bool(self.known[i])]:
            mean, sd, fraction, _ = self.softs.pop(i)
            if bool(fraction == 0):
                z = (mean - self.values[i]) / sd
                self.log_constant = self.log_constant + log_normal_density(z) - sd.log()
        empty = torch.zeros(0, dtype=torch.float64)
        columns = [torch.stack(c) for c in zip(*self.softs.values(), strict=True)] or [empty] * 4
        return (
            LinearEvidence(
                self.known,
                self.values,
                self.lower,
                self.upper,
                self.box_weight,
                self._half_spaces(),
                torch.tensor(list(self.softs), dtype=torch.long),
                *columns,
            ),
            self.log_constant,
        )

    def _close_boxes(self) -> None:
        """A side of width zero fixes its entry; crossed sides are impossible."""
        if bool((self.lower > self.upper).any()):
            i = int(torch.nonzero(self.lower > self.upper)[0])
            low, high = self.lower[i].item(), self.upper[i].item()
            raise EvidenceError(
                f"the evidence is impossible: entry {i} of {self.name!r} would lie between {low:g} and {high:g}"
            )
        shut = (self.lower == self.upper) & ~self.known
        self.values = torch.where(shut, self.lower, self.values)
        self.known = self.known | shut

    def _half_spaces(self) -> Rows:
        parts = [(p.a[keep], -p.b[keep], p.weight[keep]) for p in self.rows for keep in [p.weight > 0]]
        if not parts:
            return Rows.empty(self.dim)
        a, low, weight = (torch.cat(c) for c in zip(*parts, strict=True))
        return Rows(a, low, torch.full_like(low, math.inf), weight)


def lower_vector(name: str, pieces: Sequence[Piece], dim: int, row: int = 0) -> tuple[LinearEvidence, Tensor]:
    """Turn pieces about a vector site into linear evidence.

    Args:
        name: the site, for messages.
        pieces: what is said about it.
        dim: its number of entries.
        row: which row, where pieces hold several.

    Returns:
        The evidence, and log factors (shape ()) that hold whatever the other entries are.

    Raises:
        EvidenceError: wrong sizes, categorical pieces, or statements that contradict each other.
    """
    vector = _Vector(name, dim)
    for piece in pieces:
        vector.add(piece, row)
    return vector.finish()


def lower_category(name: str, pieces: Sequence[Piece], labels: Sequence[str], row: int = 0) -> Tensor | None:
    """Turn pieces about a categorical site into the set of allowed values.

    Args:
        name: the site, for messages.
        pieces: what is said about it; a known -1 means missing.
        labels: names of its values, in order.
        row: which row, where pieces hold several.

    Returns:
        bool (V,), True where allowed; None when nothing is said.

    Raises:
        EvidenceError: values that do not exist, continuous pieces, or nothing left.
    """
    allowed = torch.ones(len(labels), dtype=torch.bool)
    said = False
    for piece in pieces:
        if isinstance(piece, OneOf):
            values = [_category(name, v, labels) for v in piece.values]
        elif isinstance(piece, Known):
            value = _known_category(piece, row)
            if value == -1:
                continue
            values = [_category(name, value, labels)]
        else:
            raise EvidenceError(f"{name!r} is categorical: use Known or OneOf, not {type(piece).__name__}")
        here = torch.zeros_like(allowed)
        here[values] = True
        allowed, said = allowed & here, True
    if not bool(allowed.any()):
        raise EvidenceError(f"the evidence is impossible: no value is left for {name!r}")
    return allowed if said else None


def lower_discrete(
    name: str, pieces: Sequence[Piece], support: Tensor, entries: int, row: int = 0
) -> tuple[Tensor, LinearEvidence | None, Tensor]:
    """Turn pieces about a site with few possible values into a table of factors.

    Args:
        name: the site, for messages.
        pieces: what is said about it; a known -1 means missing.
        support: the values of one entry (V, E): E is 1 for numbers 0 .. V-1, and V for one-hot vectors.
        entries: number of independent entries, D.
        row: which row, where pieces hold several.

    Returns:
        Log factors (D, V), `-inf` for values that are excluded; half-spaces over several entries, or None; log factors
        (shape ()) that hold whatever the entries are.

    Raises:
        EvidenceError: values that do not exist, sizes that do not fit, or nothing left.
    """
    values, width = support.shape
    labels = [str(v) for v in range(values)]
    table = torch.zeros(entries, values, dtype=torch.float64)
    rest: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, OneOf):
            chosen = [_category(name, v, labels) for v in piece.values]
        elif isinstance(piece, Known) and (isinstance(piece.value, str) or (entries == 1 and _is_number(piece, width))):
            category = _known_category(piece, row)
            if category == -1:
                continue
            chosen = [_category(name, category, labels)]
        else:
            rest.append(_without_missing(piece, width))
            continue
        outside = torch.ones(values, dtype=torch.bool)
        outside[chosen] = False
        table = table.masked_fill(outside, -math.inf)
    linear, constant = lower_vector(name, rest, entries * width, row)
    if bool((linear.soft_fraction > 0).any()):
        raise EvidenceError(f"site {name!r}: masks between 0 and 1 need a system with an exact path")
    table = table + _factors(linear, support, entries)
    if bool(torch.isneginf(table).all(1).any()):
        raise EvidenceError(
            f"the evidence is impossible: no value is left for {name!r}; its values are 0 to {values - 1}"
            + (" (one-hot)" if width > 1 else "")
        )
    if entries == 1 or not len(linear.rows):
        return table, None, constant
    nothing = LinearEvidence.nothing(linear.dim)
    coupled = LinearEvidence(nothing.known, nothing.values, linear.lower, linear.upper, nothing.box_weight, linear.rows)
    simplify(coupled)  # contradictions are found here, before anything runs
    return table, coupled, constant


def _is_number(piece: Known, width: int) -> bool:
    """A known value that names a category, rather than all entries of a one-hot vector."""
    return width == 1 or piece.value.numel() == 1


def _without_missing(piece: Piece, width: int) -> Piece:
    """Mask known entries of -1: numbers of categories are not negative."""
    if not isinstance(piece, Known) or width > 1 or not bool((piece.value == -1).any()):
        return piece
    there = (piece.value != -1).double()
    return Known(piece.value, there if piece.mask is None else there * piece.mask)


def _factors(e: LinearEvidence, support: Tensor, entries: int) -> Tensor:
    """Log factors (D, V) that linear evidence gives each value of each entry."""
    width = support.shape[1]
    known, values, lower, upper = (t.reshape(entries, 1, width) for t in (e.known, e.values, e.lower, e.upper))
    fits = torch.where(known, values == support, (support >= lower) & (support <= upper)).all(-1)
    table = torch.zeros(fits.shape, dtype=torch.float64)
    for i, mean, sd in zip(e.soft.tolist(), e.soft_mean, e.soft_sd, strict=True):
        z = (mean - support[:, i % width]) / sd
        table[i // width] += log_normal_density(z) - sd.log()
    if entries == 1 and len(e.rows):
        fits = fits & ~(e.rows.violation(support) > 0).any(1)
    return table.masked_fill(~fits, -math.inf)


def _known_category(piece: Known, row: int) -> int | str:
    if isinstance(piece.value, str):
        return piece.value

    def pick(value: Tensor) -> float:
        flat = value.reshape(-1)
        return float(flat[row if len(flat) > 1 else 0])

    if isinstance(piece.mask, Tensor) and pick(piece.mask) == 0:
        return -1
    value = pick(piece.value)
    if not value.is_integer():
        raise EvidenceError(f"a category is a whole number or a name; got {value:g}")
    return int(value)


def _category(name: str, value: int | str, labels: Sequence[str]) -> int:
    if isinstance(value, str):
        if value in labels:
            return list(labels).index(value)
        raise EvidenceError(unknown_message(f"value of {name!r}", value, labels))
    if not 0 <= value < len(labels):
        raise EvidenceError(f"{name!r} has values 0 to {len(labels) - 1}; got {value}")
    return value
