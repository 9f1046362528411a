"""Questions in files: json that people can write and read, and npz for arrays."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phlogiston.datasets.untrusted import arrays
from phlogiston.datasets.untrusted.documents import read_json
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.errors import DataError, EvidenceError
from phlogiston.inference.query.book import Grids
from phlogiston.inference.query.evidence import (
    KINDS,
    Evidence,
    Question,
    normalise,
    read_piece,
    to_json,
)
from phlogiston.inference.query.text import parse


def save(path: str | Path, evidence: Question) -> Path:
    """Write a question to `.json` or `.npz`, by the name's ending; an existing file is replaced in one go."""
    from phlogiston.files import write_bytes

    target = Path(path)
    if target.suffix == ".json":
        return write_bytes(target, (json.dumps(to_json(evidence), indent=1) + "\n").encode())
    if target.suffix == ".npz":
        arrays = {
            f"{name}/{i}/{piece.kind}/{field}": value
            for name, pieces in normalise(evidence).items()
            for i, piece in enumerate(pieces)
            for field, value in piece.arrays().items()
        }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return write_bytes(target, buffer.getvalue())
    raise EvidenceError(f"evidence is written to .json or .npz; got {target.name!r}")


def load(
    path: str | Path,
    columns: Mapping[str, Sequence[str]] | None = None,
    categories: Mapping[str, Sequence[str]] | None = None,
    dates: Collection[str] = (),
    grids: Grids | None = None,
) -> dict[str, tuple[Evidence, ...]]:
    """Read a question from `.json` (saved or hand-written) or `.npz` (saved, or plain arrays).

    Plain arrays in an npz mean: `x` known values (NaN where unknown), `x_mask`, `x_lower`, `x_upper`, `x_mean`, `x_sd`.

    Args:
        path: the file.
        columns: site -> names of its entries, for hand-written statements.
        categories: categorical site -> names of its values.
        dates, grids: see `text.parse`.

    Raises:
        EvidenceError: a missing or unreadable file, or what `text.parse` raises.
    """
    source = Path(path)
    if not source.is_file():
        raise EvidenceError(f"there is no evidence file {source}")
    if source.suffix == ".npz":
        with reading(source, "evidence in an npz file", EvidenceError):
            try:
                return _from_arrays(arrays.load(source))
            except DataError as error:
                raise EvidenceError(str(error)) from error
    data = read_json(source, "evidence in JSON", EvidenceError)
    with reading(source, "evidence", EvidenceError):
        return parse(data, columns or {}, categories or {}, dates, grids)


def _from_arrays(content: Any) -> dict[str, tuple[Evidence, ...]]:
    if not isinstance(content, dict):
        raise EvidenceError("expected an npz file with named arrays")
    saved = {k: v for k, v in content.items() if k.count("/") == 3}
    pieces: dict[str, dict[int, dict[str, Any]]] = {}
    for key, value in saved.items():
        name, i, kind, field = key.split("/")
        pieces.setdefault(name, {}).setdefault(int(i), {"kind": kind})[field] = value
    result = {n: [read_piece(n, p[i]) for i in sorted(p)] for n, p in pieces.items()}
    plain = {k: v for k, v in content.items() if k not in saved}
    suffixes = {suffix for kind in KINDS.values() for suffix in kind.suffixes}
    names = {k.rsplit("_", 1)[0] if k.rsplit("_", 1)[-1] in suffixes else k for k in plain}
    for name in sorted(names):
        got = {part: plain[f"{name}_{part}"] for part in suffixes if f"{name}_{part}" in plain}
        if name in plain:
            got[""] = plain[name]
        result.setdefault(name, []).extend(piece for kind in KINDS.values() for piece in kind.from_plain(name, got))
    return {n: tuple(p) for n, p in result.items()}
