"""From the words of a question to arrays: vector sites become linear evidence, categorical sites allowed sets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from phlogiston.distributions.linear_constraints import LinearEvidence, simplify
from phlogiston.distributions.mixtures.conditioned_rows import Entries
from phlogiston.distributions.normal_interval import log_normal_density
from phlogiston.errors import EvidenceError, unknown_name
from phlogiston.inference.query.evidence import Evidence
from phlogiston.inference.query.kinds.known import Known
from phlogiston.inference.query.kinds.near import Near
from phlogiston.inference.query.kinds.vector import Vector


def asked_sites(ask: Iterable[str] | None, sites: Iterable[str]) -> list[str]:
    """The sites an answer is to hold: the requested ones (one name alone, too), or all.

    Raises:
        EvidenceError: no names.
        UnknownNameError: a requested site that is not among `sites`.
    """
    known = list(sites)
    if not isinstance(ask, Iterable | None):
        raise EvidenceError(f"ask is {ask!r}; expected names of sites: {', '.join(known)}")
    requested = known if ask is None else [ask] if isinstance(ask, str) else list(ask)
    for name in requested:
        if name not in known:
            raise unknown_name("site", name, known)
    return requested


def count_rows(question: Mapping[str, tuple[Evidence, ...]], vectors: Iterable[str]) -> int | None:
    """How many rows of evidence a question holds; None when it holds a single one without a row axis.

    Args:
        question: normalised evidence.
        vectors: names of the sites whose last axis is their entries; the others are categorical.

    Raises:
        EvidenceError: evidence with different numbers of rows, or with none.
    """
    sizes: dict[str, int] = {}
    vector = set(vectors)
    for name, pieces in question.items():
        for piece in pieces:
            for field in piece.rowwise:
                value = getattr(piece, field)
                own = 1 if name in vector else 0
                if isinstance(value, Tensor) and value.dim() > own:
                    if value.dim() > own + 1:
                        raise EvidenceError(
                            f"{name}: {piece.kind} {field} has shape {tuple(value.shape)}; too many axes"
                        )
                    sizes[f"{name} ({piece.kind})"] = len(value)
    for what, size in sizes.items():
        if not size:
            raise EvidenceError(f"evidence about {what} has no rows; at least one is needed")
    distinct = {n for n in sizes.values() if n != 1}
    if len(distinct) > 1:
        shown = ", ".join(f"{k}: {v}" for k, v in sizes.items())
        raise EvidenceError(f"evidence holds different numbers of rows: {shown}")
    if not sizes:
        return None
    return distinct.pop() if distinct else 1


def compile_vector(
    name: str, pieces: Sequence[Evidence], dim: int, row: int = 0, *, equalities: bool = False
) -> tuple[LinearEvidence, Tensor]:
    """Turn evidence about a vector site into linear evidence.

    Args:
        name: the site, for messages.
        pieces: the evidence about it.
        dim: its number of entries.
        row: which row, where the evidence holds several.
        equalities: equalities of several entries can be answered; otherwise they are refused.

    Returns:
        The evidence, and log factors (shape ()) that hold whatever the other entries are.

    Raises:
        EvidenceError: wrong sizes, categorical evidence, or statements that contradict each other.
    """
    vector = Vector(name, dim)
    for piece in pieces:
        piece.restrict_vector(f"evidence for {name!r}: {type(piece).__name__}", vector, row)
    linear, constant = vector.finish()
    if not equalities and bool((linear.rows.lower == linear.rows.upper).any()):
        raise EvidenceError(
            f"evidence for {name!r}: an equality of several entries needs a system that conditions on it exactly; say "
            "HalfSpace on either side of it instead"
        )
    return linear, constant


def compile_category(name: str, pieces: Sequence[Evidence], labels: Sequence[str], row: int = 0) -> Tensor | None:
    """Turn evidence about a categorical site into the set of allowed values.

    Args:
        name: the site, for messages.
        pieces: the evidence about it; a known -1 means missing.
        labels: names of its values, in order.
        row: which row, where the evidence holds several.

    Returns:
        bool (V,), True where allowed; None when nothing is said.

    Raises:
        EvidenceError: values that do not exist, continuous evidence, or nothing left.
    """
    allowed = torch.ones(len(labels), dtype=torch.bool)
    said = False
    for piece in pieces:
        values = piece.restrict_category(name, labels, row)
        if values is None:
            continue
        here = torch.zeros_like(allowed)
        here[values] = True
        allowed, said = allowed & here, True
    if not bool(allowed.any()):
        raise EvidenceError(f"the evidence is impossible: no value is left for {name!r}")
    return allowed if said else None


def compile_discrete(
    name: str, pieces: Sequence[Evidence], support: Tensor, entries: int, row: int = 0
) -> tuple[Tensor, LinearEvidence | None, Tensor]:
    """Turn evidence about a site with few possible values into a table of factors.

    Args:
        name: the site, for messages.
        pieces: the evidence about it; a known -1 means missing.
        support: the values of one entry (V, E): E is 1 for numbers 0 .. V-1, and V for one-hot vectors.
        entries: number of independent entries, D.
        row: which row, where the evidence holds several.

    Returns:
        Log factors (D, V), `-inf` for values that are excluded; half-spaces over several entries, or None; log factors
        (shape ()) that hold whatever the entries are.

    Raises:
        EvidenceError: values that do not exist, sizes that do not fit, or nothing left.
    """
    values, width = support.shape
    labels = [str(v) for v in range(values)]
    table = torch.zeros(entries, values, dtype=torch.float64)
    rest: list[Evidence] = []
    for piece in pieces:
        if not piece.is_categorical(entries, width):
            rest.append(piece if width > 1 else piece.without_missing())
            continue
        chosen = piece.restrict_category(name, labels, row)
        if chosen is None:
            continue
        outside = torch.ones(values, dtype=torch.bool)
        outside[chosen] = False
        table = table.masked_fill(outside, -math.inf)
    linear, constant = compile_vector(name, rest, entries * width, row)
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
    simplify(coupled)  # contradictions are refused here, before anything runs
    return table, coupled, constant


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


def compile_entries(pieces: Sequence[Evidence], dim: int, rows: int) -> Entries | None:
    """What pieces say about the entries of a vector site, all rows of evidence at once.

    Args:
        pieces: what is said about it.
        dim: its number of entries.
        rows: how many rows of evidence.

    Returns:
        The entries known and soft, or None where the pieces say more than that, the same entry is spoken of twice, or
        they do not fit the site: `compile_vector` has words for it.
    """
    known = torch.zeros(rows, dim, dtype=torch.bool)
    value = torch.zeros(rows, dim, dtype=torch.float64)
    sd = torch.full((rows, dim), math.inf, dtype=torch.float64)
    for piece in pieces:
        if type(piece) is Known and isinstance(piece.value, Tensor):
            mask = torch.ones((), dtype=torch.bool) if piece.mask is None else piece.mask
            parts = (piece.value, mask, torch.zeros((), dtype=torch.float64))
        elif type(piece) is Near and bool((piece.weight == 1).all()):
            parts = (piece.mean, torch.isfinite(piece.sd), piece.sd)
        else:
            return None
        if parts[1].dtype != torch.bool or not all(_fits(part, dim, rows) for part in parts):
            return None
        new, said, spread = (p.expand(rows, dim) for p in parts)
        if bool((said & (sd < math.inf)).any()):
            return None
        known |= said & (spread == 0)
        value = torch.where(said, new.double(), value)
        sd = torch.where(said, spread, sd)
    return Entries(known, value, sd)


def whole_cells(
    about: LinearEvidence, edges: tuple[Tensor, Tensor], on_grid: Tensor, names: Sequence[str]
) -> LinearEvidence:
    """Evidence whose bounds are the edges of the cells of all values of a grid between those given.

    Args:
        about: what is said of D entries.
        edges: lower and upper (D,), as `Grid.enclose` finds them.
        on_grid: bool (D,), True for entries on a grid.
        names: of the entries.

    Raises:
        EvidenceError: an interval that holds no value of its grid.
    """
    lower, upper = edges
    for i in torch.nonzero((lower >= upper) & on_grid & ~about.known).squeeze(1).tolist():
        raise EvidenceError(
            f"the evidence is impossible: no value on the grid of {names[i]!r} lies between "
            f"{float(about.lower[i]):g} and {float(about.upper[i]):g}"
        )
    return replace(about, lower=lower, upper=upper)


def _fits(part: Tensor, dim: int, rows: int) -> bool:
    """Whether a field holds one number per entry, or one for all, of one row or of all; and takes no gradient."""
    shape = (1, 1, *part.shape)[-2:]
    return not part.requires_grad and part.dim() <= 2 and shape[0] in (1, rows) and shape[1] in (1, dim)
