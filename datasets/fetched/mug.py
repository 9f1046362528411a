"""MUG: faces of 52 people making expressions, from the two files that circulate among researchers.

The facial expression database of the Multimedia Understanding Group, Thessaloniki, is licensed on request
(mug.ee.auth.gr/fed); nothing of it is shipped or fetched. Read are

    MUG_0-255_OF_112x112_color.npz    `arr_0`: clips (length, 112, 112, 3) of cropped faces, 0 to 255
    labels.npz                        `arr_0`: (clips, 2), person and expression 0 to 8

as VDSM used them: every second frame, a window of `frames` of them, the face on a black border (a square of 160 pixels
scaled down). Expressions 2, 5 and 6 are left out and 7 and 8 renamed to 2 and 5, once, on a copy.

Aifanti, Papachristou and Delopoulos, *The MUG Facial Expression Database*, WIAMIS 2010.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np

from phlogiston.datasets.base import Array, Dataset, Info, Split, recorded, stream
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
    notes="Put the two npz files into a folder and give it: --data-set folder=DIR. by='group' tests on new people.",
)

CLIPS, LABELS = "MUG_0-255_OF_112x112_color.npz", "labels.npz"
LEFT_OUT = (2, 5, 6)
RENAMED = {7: 2, 8: 5}
ACTIONS = ("0", "1", "7", "3", "4", "8")  # the files' own numbers, by code
BORDER = 160  # side of the square the face is put on


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
        folder: holds the two files; `mug` in the cache folder by default.
        frames: of a clip: a window at a random place; shorter clips are filled up and marked in `mask`.
        size: of a frame.
        every: take every so manieth frame.
        test: share of the clips (or people) for testing.
        by: "clip" divides clips, "group" people.
        mirror: add every training clip in a mirror, whole clips at a time.
        seed: of windows and division.

    Returns:
        `frames` uint8 (rows, frames, 3, size, size), `mask` bool (rows, frames), `action` int64 (rows,) 0 to 5, `group`
        int64 (rows,), the person.

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
    clips, labels = _read(root_folder)
    person, action, kept = relabel(labels)
    window = stream(seed, "mug", "window").random(len(clips))
    pixels, mask = zip(*(_window(clips[i], frames, every, size, window[i], i) for i in kept), strict=True)
    table = {"frames": np.stack(pixels), "mask": np.stack(mask), "action": action, "group": person}
    who = person if by == "group" else np.arange(len(kept))
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
        categorical={"action": ACTIONS},
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
                f"{str(folder / name)!r} is missing. The database is licensed on request (mug.ee.auth.gr/fed); put "
                f"{CLIPS} and {LABELS} into one folder and give it as folder=..."
            )
    clips = object_arrays.read(folder / CLIPS).get("arr_0")
    labels = object_arrays.read(folder / LABELS).get("arr_0")
    if clips is None or labels is None:
        raise DataError(f"{CLIPS} and {LABELS} must hold an array 'arr_0' each.")
    if len(clips) != len(labels):
        raise DataError(f"{CLIPS} holds {len(clips)} clips, {LABELS} {len(labels)} labels.")
    return list(clips), np.asarray(labels)


def _window(clip: Array, frames: int, every: int, size: int, where: float, row: int) -> tuple[Array, Array]:
    """Cut a window out of a clip: uint8 (frames, 3, size, size), and which frames are there."""
    clip = np.asarray(clip)
    if clip.ndim != 4 or clip.shape[-1] != 3 or not len(clip) or max(clip.shape[1:3]) > BORDER:
        raise DataError(f"clip {row} has shape {clip.shape}; expected (length, 112, 112, 3).")
    clip = clip[::every]
    start = int(where * (max(len(clip) - frames, 0) + 1))
    part = np.clip(np.round(clip[start : start + frames]), 0, 255).astype(np.uint8)
    framed = np.zeros((len(part), BORDER, BORDER, 3), dtype=np.uint8)
    top, left = (BORDER - part.shape[1]) // 2, (BORDER - part.shape[2]) // 2
    framed[:, top : top + part.shape[1], left : left + part.shape[2]] = part
    out = np.zeros((frames, 3, size, size), dtype=np.uint8)
    out[: len(part)] = np.moveaxis(scaled(framed, size), -1, 1)
    return out, np.arange(frames) < len(part)
