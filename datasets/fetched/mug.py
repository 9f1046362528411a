"""MUG: faces of 52 people making expressions, from your licensed files.

The facial expression database of the Multimedia Understanding Group, Thessaloniki, is licensed on request
(mug.ee.auth.gr/fed); nothing of it is shipped or fetched. Read is either the database as it comes, a folder of pictures
per take,

    001/happiness/take000/img_0000.jpg

of which the six basic expressions are taken and the middle square of every picture (faces are not searched for), or the
two files that circulate among researchers,

    MUG_0-255_OF_112x112_color.npz    `arr_0`: clips (length, 112, 112, 3) of cropped faces, 0 to 255
    labels.npz                        `arr_0`: (clips, 2), person and expression 0 to 8

as VDSM used them: every second frame, a window of `frames` of them, the face on a black border (a square of 160 pixels
scaled down). Expressions 2, 5 and 6 are left out and 7 and 8 renamed to 2 and 5, once, on a copy.

Aifanti, Papachristou and Delopoulos, *The MUG Facial Expression Database*, WIAMIS 2010.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from phlogiston.datasets import pictures
from phlogiston.datasets.base import Array, Dataset, Decision, Info, Split, recorded, stream
from phlogiston.datasets.fetch import cache_folder
from phlogiston.datasets.readers import object_arrays
from phlogiston.datasets.readers.videos import scaled
from phlogiston.errors import DataError

INFO = Info(
    name="mug",
    title="faces making expressions (MUG-FED): your licensed files",
    kind="yours",
    licence="on request from the Multimedia Understanding Group; not to be passed on",
    rows="yours",
    shape="20 frames x 3 x 64 x 64, action of 6, group of 52",
    notes="Give the folder of people/expressions/takes, or of the two npz files: --data-set folder=DIR. "
    "by='group' tests on new people.",
)

CLIPS, LABELS = "MUG_0-255_OF_112x112_color.npz", "labels.npz"
LEFT_OUT = (2, 5, 6)
RENAMED = {7: 2, 8: 5}
EXPRESSIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")  # names of folders, by code
ACTIONS = ("0", "1", "7", "3", "4", "8")  # the files' own numbers, by code
BORDER = 160  # side of the square the face is put on


@dataclass(frozen=True)
class Cut:
    """What is taken of a clip: how many frames, every so manieth, of which size."""

    frames: int
    every: int
    size: int

    def start(self, length: int, where: float) -> int:
        """First frame of the window that lies at `where` in [0, 1) among all that fit."""
        return int(where * (max(length - self.frames, 0) + 1))


@recorded()
def load(
    root: str | PathLike[str] | None = None,
    *,
    folder: str | None = None,
    frames: int = 20,
    size: int = 64,
    every: int = 2,
    test: float = 0.25,
    by: str = "clip",
    mirror: bool = False,
    seed: int = 0,
) -> Dataset:
    """Read the clips.

    Args:
        root: folder that relative paths start from, or that holds the files if `folder` is not given.
        folder: holds the people's folders, or the two files; `mug` in the cache folder by default.
        frames: of a clip: a window at a random place; shorter clips are filled up and marked in `mask`.
        size: of a frame.
        every: take every so manieth frame.
        test: share of the clips (or people) for testing.
        by: "clip" divides clips, "group" people.
        mirror: add every training clip in a mirror, whole clips at a time.
        seed: of windows and division.

    Returns:
        `frames` uint8 (rows, frames, 3, size, size), `mask` bool (rows, frames), `action` int64 (rows,) 0 to 5, `group`
        int64 (rows,), the person. Of folders the person is the position of theirs among all, in order of name.

    Raises:
        DataError: a file is missing, damaged or of another form.
    """
    root_folder = Path(root).expanduser() if root is not None else None
    if folder is not None:
        root_folder = (root_folder / folder if root_folder is not None else Path(folder)).expanduser()
    root_folder = root_folder if root_folder is not None else cache_folder() / "mug"
    if frames < 1 or every < 1 or size < 8 or not 0 <= test < 1:
        raise DataError(f"frames={frames}, every={every}, size={size}, test={test}; out of range.")
    if by not in ("clip", "group"):
        raise DataError(f"by is {by!r}; choose 'clip' or 'group'.")
    cut = Cut(frames, every, size)
    draws = stream(seed, "mug", "window")
    takes = [] if (root_folder / CLIPS).is_file() else _takes(root_folder)
    told: list[Decision] = []
    if takes:
        parts, person, action = _of_folders(takes, cut, draws, told)
    else:
        clips, labels = _read(root_folder)
        person, action, kept = relabel(labels)
        window = draws.random(len(clips))
        parts = [_window(clips[i], cut, window[i], i) for i in kept]
    pixels, mask = zip(*parts, strict=True)
    table = {"frames": np.stack(pixels), "mask": np.stack(mask), "action": action, "group": person}
    who = person if by == "group" else np.arange(len(action))
    people = np.unique(who)
    order = people[stream(seed, "mug", "parts").permutation(len(people))]
    testing = np.isin(who, order[: round(test * len(people))])
    train, held = ({k: v[rows] for k, v in table.items()} for rows in (~testing, testing))
    if mirror:
        train = {
            k: np.concatenate([v, v[..., ::-1] if k == "frames" else v]) for k, v in train.items()
        }  # a clip, never a frame, is turned
    splits = [Split(part, sequences=("frames",)) for part in (train, {k: v[:0] for k, v in train.items()}, held)]
    return Dataset.of(
        INFO,
        splits,
        {"folder": str(root_folder.absolute())},
        categorical={"action": EXPRESSIONS if takes else ACTIONS},
        decisions=tuple(told),
    )


def relabel(labels: Array) -> tuple[Array, Array, Array]:
    """Leave expressions out and rename others; the argument is left as it is.

    Args:
        labels: int (clips, 2), person and expression 0 to 8.

    Returns:
        Person and action int64 (kept,), and the numbers of the clips kept.

    Raises:
        DataError: labels of another form.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.shape[1] != 2 or labels.dtype.kind not in "iuf":
        raise DataError(f"labels have shape {labels.shape}; expected (clips, 2), person and expression.")
    if labels.min(initial=0) < 0 or labels[:, 1].max(initial=0) > 8:
        raise DataError(f"expressions reach from {labels[:, 1].min()} to {labels[:, 1].max()}; expected 0 to 8.")
    kept = np.flatnonzero(~np.isin(labels[:, 1], LEFT_OUT))
    old = labels[kept, 1].astype(np.int64)
    action = old.copy()
    for before, after in RENAMED.items():
        action[old == before] = after
    return labels[kept, 0].astype(np.int64), action, kept


def _read(folder: Path) -> tuple[list[Array], Array]:
    for name in (CLIPS, LABELS):
        if not (folder / name).is_file():
            raise DataError(
                f"{str(folder / name)!r} is missing. The database is licensed on request (mug.ee.auth.gr/fed); give "
                f"its folder (001/happiness/take000/...), or one that holds {CLIPS} and {LABELS}, as folder=..."
            )
    clips = object_arrays.read(folder / CLIPS).get("arr_0")
    labels = object_arrays.read(folder / LABELS).get("arr_0")
    if clips is None or labels is None:
        raise DataError(f"{CLIPS} and {LABELS} must hold an array 'arr_0' each.")
    if len(clips) != len(labels):
        raise DataError(f"{CLIPS} holds {len(clips)} clips, {LABELS} {len(labels)} labels.")
    return list(clips), np.asarray(labels)


def _takes(folder: Path) -> list[Path]:
    """Folders `person/expression/take` that hold pictures, by name."""
    return [p for p in sorted(folder.glob("*/*/*")) if p.is_dir() and any(map(pictures.is_picture, p.iterdir()))]


def _of_folders(
    takes: Sequence[Path], cut: Cut, draws: np.random.Generator, told: list[Decision]
) -> tuple[list[tuple[Array, Array]], Array, Array]:
    """Read takes: what `_window` gives of each, person and action int64 (rows,).

    Raises:
        DataError: none shows one of the expressions, or a picture cannot be read.
    """
    people = sorted({take.parents[1].name for take in takes})
    known = [take for take in takes if take.parent.name.lower() in EXPRESSIONS]
    others = Counter(take.parent.name for take in takes if take.parent.name.lower() not in EXPRESSIONS)
    if not known:
        raise DataError(
            f"{str(takes[0].parents[2])!r} holds {', '.join(sorted(others))}; expected person/expression/take with "
            f"expressions {', '.join(EXPRESSIONS)}."
        )
    if others:
        left_out = ", ".join(f"{count} of {name}" for name, count in sorted(others.items()))
        told.append(Decision("left out", f"takes of other expressions: {left_out}"))
    person = np.array([people.index(take.parents[1].name) for take in known], dtype=np.int64)
    action = np.array([EXPRESSIONS.index(take.parent.name.lower()) for take in known], dtype=np.int64)
    parts = [_take(take, cut, where) for take, where in zip(known, draws.random(len(known)), strict=True)]
    return parts, person, action


def _take(folder: Path, cut: Cut, where: float) -> tuple[Array, Array]:
    """Read the pictures of a take that a window shows; the others are not opened."""
    files = sorted(path for path in folder.iterdir() if pictures.is_picture(path))[:: cut.every]
    start = cut.start(len(files), where)
    out = np.zeros((cut.frames, 3, cut.size, cut.size), dtype=np.uint8)
    shown = files[start : start + cut.frames]
    for t, file in enumerate(shown):
        picture = pictures.to_bytes(pictures.read(file), file)
        coloured = np.repeat(picture[..., None], 3, -1) if picture.ndim == 2 else picture
        out[t] = np.moveaxis(scaled(coloured[None], cut.size)[0], -1, 0)
    return out, np.arange(cut.frames) < len(shown)


def _window(clip: Array, cut: Cut, where: float, row: int) -> tuple[Array, Array]:
    """Cut a window out of a clip: uint8 (frames, 3, size, size), and which frames are there."""
    clip = np.asarray(clip)
    if clip.ndim != 4 or clip.shape[-1] != 3 or not len(clip) or max(clip.shape[1:3]) > BORDER:
        raise DataError(f"clip {row} has shape {clip.shape}; expected (length, 112, 112, 3).")
    clip = clip[:: cut.every]
    start = cut.start(len(clip), where)
    part = np.clip(np.round(clip[start : start + cut.frames]), 0, 255).astype(np.uint8)
    framed = np.zeros((len(part), BORDER, BORDER, 3), dtype=np.uint8)
    top, left = (BORDER - part.shape[1]) // 2, (BORDER - part.shape[2]) // 2
    framed[:, top : top + part.shape[1], left : left + part.shape[2]] = part
    out = np.zeros((cut.frames, 3, cut.size, cut.size), dtype=np.uint8)
    out[: len(part)] = np.moveaxis(scaled(framed, cut.size), -1, 1)
    return out, np.arange(cut.frames) < len(part)
