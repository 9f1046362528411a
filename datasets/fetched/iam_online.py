"""IAM On-Line: lines of English handwriting on a whiteboard, as pen strokes with their text. Bring your own copy.

The database is free for research after registration and may not be passed on. Unpack `lineStrokes-all.tar.gz` and
`ascii-all.tar.gz` side by side, so that a folder holds `lineStrokes/a01/a01-000/a01-000u-01.xml` and
`ascii/a01/a01-000/a01-000u.txt`. Lists named `trainset.txt`, `testset_v.txt`, `testset_t.txt` or `testset_f.txt` there
divide the forms; otherwise they are divided at random, whole forms at a time.

M. Liwicki and H. Bunke, "IAM-OnDB - an on-line English sentence database acquired from handwritten text on a
whiteboard", ICDAR 2005.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np

from phlogiston.datasets.base import PARTS, Array, Dataset, Decision, Info, stream
from phlogiston.datasets.readers import sequences
from phlogiston.datasets.skipped import Skipped
from phlogiston.datasets.untrusted.documents import walk_xml
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.errors import DataError

INFO = Info(
    name="iam_online",
    title="lines of English handwriting as pen strokes, with their text",
    kind="yours",
    licence="free for non-commercial research after registration; may not be passed on",
    rows="about 12,000 lines",
    shape="points of dx, dy, pen; text",
    notes="Unpack lineStrokes-all.tar.gz and ascii-all.tar.gz side by side.",
)

_LISTS = {"train": ("trainset.txt",), "valid": ("testset_v.txt",), "test": ("testset_t.txt", "testset_f.txt")}
_LARGEST = 1 << 24  # bytes of one XML file


def load(
    root: str | PathLike[str] | None = None,
    *,
    max_length: int = 1200,
    max_text: int = 80,
    valid: float = 0.05,
    test: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Load the lines.

    Args:
        root: folder that holds `lineStrokes` and `ascii`; `iam_online` in the cache folder if not given.
        max_length: leave out lines of more points; 0 keeps all.
        max_text: leave out lines of more characters.
        valid: share of the forms set aside for validation, where there are no lists.
        test: the same for testing.
        seed: of that division.

    Returns:
        `x` float32 (rows, points, 3): dx, dy, pen; `length` int64 (rows,); `text` int64 (rows, characters): codes of
        the characters that occur, -1 after the end.

    Raises:
        DataError: folders are missing, no file is an XML of the database, or no line has a text. A file that cannot be
            read among others that can is left out with a `DataWarning`.
    """
    if max_length < 0 or max_text < 1 or not 0 <= valid + test < 1 or min(valid, test) < 0:
        raise DataError(f"max_length={max_length}, max_text={max_text}, valid={valid}, test={test}: out of range.")
    folder = sequences.folder_of("iam_online", root)
    if not (folder / "lineStrokes").is_dir() or not (folder / "ascii").is_dir():
        raise DataError(
            f"there is no lineStrokes with ascii beside it in {str(folder)!r}. Register at the site of the IAM On-Line "
            "Handwriting Database, and unpack lineStrokes-all.tar.gz and ascii-all.tar.gz there."
        )
    lines = []
    skipped, reasons = Skipped("lines"), {"no text": 0, "max_text": 0, "max_length": 0}
    for path in sorted((folder / "lineStrokes").glob("*/*/*.xml")):
        row, text = skipped.read(path.name, _strokes, path), _text(folder, path)
        if row is None:
            continue
        if not text or len(text) > max_text or 0 < max_length < len(row):
            reasons["no text" if not text else "max_text" if len(text) > max_text else "max_length"] += 1
        else:
            lines.append((path.stem.rsplit("-", 1)[0], row, text))
    decisions = list(skipped.decisions())
    limits = {
        "no text": ("have no text in ascii/", ""),
        "max_text": (f"have more than {max_text} characters", "max_text=..."),
    }
    limits["max_length"] = (f"have more than {max_length} points", "max_length=0")
    decisions += [
        Decision("left out", f"{n:,} lines {limits[key][0]}", limits[key][1]) for key, n in reasons.items() if n
    ]
    if not lines:
        raise DataError(f"no line in {str(folder)!r} has both strokes and a text within the limits.")
    alphabet = tuple(sorted({character for _, _, text in lines for character in text}))
    code = {character: i for i, character in enumerate(alphabet)}
    longest = max(len(text) for _, _, text in lines)
    parts: dict[str, list[Array]] = {part: [] for part in PARTS}
    texts: dict[str, list[Array]] = {part: [] for part in PARTS}
    part_of = _division(folder, sorted({form for form, _, _ in lines}), valid, test, seed)
    for form, row, text in lines:
        part = part_of.get(form, "train")
        parts[part].append(row)
        codes = np.full(longest, -1, dtype=np.int64)
        codes[: len(text)] = [code[character] for character in text]
        texts[part].append(codes)
    extra = {part: {"text": np.array(rows, dtype=np.int64).reshape(-1, longest)} for part, rows in texts.items()}
    options = {"max_length": max_length, "max_text": max_text, "valid": valid, "test": test, "seed": seed}
    return sequences.dataset(
        INFO, parts, sequences.STROKES, options, extra=extra, categorical={"text": alphabet}, decisions=tuple(decisions)
    )


def _strokes(path: Path) -> Array:
    strokes: list[list[tuple[float, float]]] = []
    inside = 0

    def start(name: str, attributes: Mapping[str, str]) -> None:
        nonlocal inside
        if name == "Stroke":
            strokes.append([])
            inside += 1
        elif name == "Point" and inside:
            strokes[-1].append((float(attributes["x"]), float(attributes["y"])))

    def end(name: str) -> None:
        nonlocal inside
        inside -= name == "Stroke"

    with reading(path, "an XML file of the database"):
        if path.stat().st_size > _LARGEST:
            raise DataError(f"{str(path)!r} is {path.stat().st_size:,} bytes long, far more than a line of writing.")
        walk_xml(path.read_bytes(), start, end)
        return sequences.offsets_of([np.array(stroke).reshape(-1, 2) for stroke in strokes])


def _text(folder: Path, path: Path) -> str:
    """The line's text: the n-th line after `CSR:` of the form's file."""
    form, number = path.stem.rsplit("-", 1)
    source = folder / "ascii" / path.parent.parent.name / path.parent.name / f"{form}.txt"
    if not source.is_file() or not number.isdigit():
        return ""
    _, _, after = source.read_text(encoding="utf-8", errors="replace").partition("CSR:")
    lines = [line.strip() for line in after.splitlines() if line.strip()]
    return lines[int(number) - 1] if len(number) < 9 and 0 < int(number) <= len(lines) else ""


def _division(folder: Path, forms: list[str], valid: float, test: float, seed: int) -> dict[str, str]:
    """Which part a form belongs to; lists name forms with or without their last letter."""
    part_of = {}
    for part, names in _LISTS.items():
        for name in names:
            if (folder / name).is_file():
                for entry in re.findall(
                    r"[a-z]\d\d-\d\d\d[a-z]?", (folder / name).read_text(encoding="utf-8", errors="replace")
                ):
                    part_of.update({form: part for form in forms if form in (entry, entry.rstrip("uvwxyz"))
                                  or form.rstrip("uvwxyz") == entry})  # fmt: skip
    if part_of:
        return part_of
    order = stream(seed, "iam_online").permutation(len(forms))
    cut = np.cumsum([round(valid * len(forms)), round(test * len(forms))])
    for part, chosen in zip(("valid", "test"), np.split(order, cut)[:2], strict=True):
        part_of.update({forms[i]: part for i in chosen})
    return part_of


def state() -> str:
    """Say whether the strokes are in the cache folder."""
    return "cached" if (sequences.folder_of("iam_online", None) / "lineStrokes").is_dir() else "yours"
