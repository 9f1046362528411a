"""The words of a question: what is known about a site, hard or soft, and how it is written to files.

    Known(value, mask=None)     exactly these entries
    Near(mean, sd)              soft: a Gaussian observation of the entries
    Within(lower, upper)        a box
    HalfSpace(a, b)             a.x + b >= 0, one or many
    Sum(a, b)                   a.x = b, one or many, where a system conditions on it exactly; in `kinds.sum`
    OneOf({3, 8})               a categorical restricted to some of its values

A question maps site names to one of them or a list; plain numbers and arrays mean `Known`, sets mean `OneOf`:

    {"x": [Known(v, m), Within(lo, hi)], "label": {3, 8}}

They depend on no model. Leading axes before the last are rows: one row of evidence serves all, several are several
questions. `inference.query.text` reads what a person would write, `inference.query.files` keeps
questions in json or npz.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from phlogiston.errors import EvidenceError
from phlogiston.inference.query import kinds
from phlogiston.inference.query.kinds.base import Evidence, unknown_message
from phlogiston.inference.query.kinds.half_space import HalfSpace
from phlogiston.inference.query.kinds.known import Known
from phlogiston.inference.query.kinds.near import Near
from phlogiston.inference.query.kinds.one_of import OneOf
from phlogiston.inference.query.kinds.within import Within

__all__ = [
    "FORMAT",
    "KINDS",
    "Evidence",
    "HalfSpace",
    "Known",
    "Near",
    "OneOf",
    "Question",
    "Within",
    "as_evidence",
    "from_json",
    "normalise",
    "read_piece",
    "to_json",
    "unknown_message",
]  # fmt: skip

FORMAT = "phlogiston evidence 1"


def _kinds() -> dict[str, type[Evidence]]:
    """Every kind that has a file in the folder `kinds`, in the order that statements of the text form come out."""
    for module in pkgutil.iter_modules(kinds.__path__):
        importlib.import_module(f"{kinds.__name__}.{module.name}")
    return {cls.kind: cls for cls in sorted(Evidence.__subclasses__(), key=lambda cls: cls.order)}


KINDS = _kinds()

Question = Mapping[str, Any]


def normalise(evidence: Question | None, sites: Iterable[str] | None = None) -> dict[str, tuple[Evidence, ...]]:
    """Bring evidence into one form: site name -> sequence of `Evidence`.

    Args:
        evidence: site -> an `Evidence`, a list of them, or plain values (`Known`; sets mean `OneOf`).
        sites: valid names, when they are known.

    Raises:
        EvidenceError: not a mapping, an unknown site (with the nearest valid name), or something that is no evidence.
    """
    if evidence is None:
        return {}
    if not isinstance(evidence, Mapping):
        raise EvidenceError(f"evidence must map site names to evidence; got {type(evidence).__name__}")
    valid = None if sites is None else list(sites)
    result: dict[str, tuple[Evidence, ...]] = {}
    for name, given in evidence.items():
        if valid is not None and name not in valid:
            raise EvidenceError(unknown_message("site", name, valid))
        result[name] = as_evidence(name, given)
    return result


def as_evidence(name: str, given: Any) -> tuple[Evidence, ...]:
    """What is said of a site, plain values included (`Known`; sets mean `OneOf`), as evidence.

    Raises:
        EvidenceError: something that is no evidence.
    """
    if isinstance(given, Evidence):
        return (given,)
    if isinstance(given, set | frozenset):
        return (OneOf(given),)
    if isinstance(given, Sequence) and not isinstance(given, str) and any(isinstance(g, Evidence) for g in given):
        return tuple(piece for g in given for piece in as_evidence(name, g))
    if isinstance(given, Sequence) and len(given) == 0:
        return ()
    try:
        return (Known(given),)
    except EvidenceError as error:
        raise EvidenceError(f"evidence for {name!r}: {error}") from error


def to_json(evidence: Question) -> dict[str, Any]:
    """Turn a question into plain JSON data; open limits become null."""
    sites = {name: [piece.to_json() for piece in pieces] for name, pieces in normalise(evidence).items()}
    return {"format": FORMAT, "sites": sites}


def from_json(data: Mapping[str, Any]) -> dict[str, tuple[Evidence, ...]]:
    """Read what `to_json` made.

    Raises:
        EvidenceError: another format, an unknown kind of evidence or field.
    """
    if data.get("format") != FORMAT:
        raise EvidenceError(f'this is not saved evidence: expected "format": "{FORMAT}"')
    result: dict[str, tuple[Evidence, ...]] = {}
    for name, pieces in data.get("sites", {}).items():
        result[name] = tuple(read_piece(name, dict(piece)) for piece in pieces)
    return result


def read_piece(name: str, fields: dict[str, Any]) -> Evidence:
    """Make one `Evidence` about the site `name` from its kind and fields, as files hold them."""
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise EvidenceError(f"site {name!r}: " + unknown_message("kind of evidence", kind, KINDS))
    try:
        return KINDS[kind].from_fields(fields)
    except EvidenceError as error:
        raise EvidenceError(f"site {name!r}: {error}") from error
