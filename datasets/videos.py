"""Videos: clips of your own, from npz files or folders of films.

    datasets.load("clips.npz")                        frames (rows, T, H, W, C), bytes or floats in [0, 1]; and labels
    datasets.load("films/", size=64, length=16)       films/walk/a.mp4, films/run/b.gif: folders are actions

An npz holds `frames` and optionally `action` (rows,), `identity` (rows,) or (rows, attributes), `group` (rows,), which
clips show one individual, `mask` (rows, T), and `names`, a JSON text {label: [names]}. Clips of unequal length, an
array of arrays, are filled up and marked in `mask`; such arrays are read without running what a pickle may say. A
folder may hold train.npz, valid.npz and test.npz, or films.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from phlogiston.datasets import object_arrays
from phlogiston.datasets.base import PARTS, Array, Dataset, Info, Split, part_rows, stream
from phlogiston.errors import DataError, ShapeError

INFO = Info(
    name="videos",
    title="your own clips: an npz with frames, or a folder of films; pass the path instead of a name",
    kind="yours",
    licence="yours",
    rows="yours",
    shape="T frames x C x size x size, labels where there are some",
    notes="Clips of unequal length are filled up and marked in 'mask'. by='group' keeps individuals apart.",
)

FILMS = (".gif", ".mp4", ".avi", ".mov", ".webm", ".mkv", ".m4v")


def accepts(data: Any) -> bool:
    """Say whether data of the user's are clips: a film, a folder of films, or an npz (or mapping) with `frames`."""
    if isinstance(data, Mapping):
        return "frames" in data
    if not isinstance(data, str | PathLike):
        return False
    path = Path(data).expanduser()
    if path.is_dir():
        return _holds_frames(path / "train.npz") or any(p.suffix.lower() in FILMS for p in path.rglob("*"))
    return path.suffix.lower() in FILMS or _holds_frames(path)


def _holds_frames(path: Path) -> bool:
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return "frames.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def load(
    root: str | PathLike[str] | None = None,
    *,
    data: Any = None,
    valid: float = 0.0,
    test: float = 0.2,
    by: str = "clip",
    size: int = 0,
    length: int = 0,
    every: int = 1,
    seed: int = 0,
) -> Dataset:
    """Read clips.

    Args:
        root: folder that relative paths start from.
        data: a path or a mapping, see above.
        valid: share of the clips (or individuals) for validation.
        test: the same for testing; where a folder brings parts of its own, both are ignored.
        by: "clip" divides clips at random, "group" individuals, so that those tested on are new.
        size: cut the middle square out and scale it to so many pixels; 0 leaves frames as they are.
        length: keep so many frames of each clip, from the first on; 0 keeps all.
        every: take every so manieth frame.
        seed: of the division.

    Returns:
        `frames` uint8 (rows, T, C, size, size), `mask` bool (rows, T) where clips differ in length, int64 (rows,) per
        label, and `group`.

    Raises:
        DataError: no clips, a damaged file, or values that are no pixels.
        ShapeError: clips of different sizes.
    """
    if data is None:
        raise DataError("no data given. Pass a path instead of a name: datasets.load('clips.npz').")
    if by not in ("clip", "group"):
        raise DataError(f"by is {by!r}; choose 'clip' or 'group'.")
    if every < 1 or length < 0 or size < 0:
        raise DataError(f"every={every}, length={length}, size={size}; expected 1 or more, 0 or more, 0 or more.")
    options = {"size": size, "length": length, "every": every}
    name, tables, labels = _read(data, root)
    longest = max(_longest(table["frames"], every, length) for table in tables.values())
    ragged = any("mask" in table or _is_ragged(table["frames"], every, length, longest) for table in tables.values())
    ready = {part: _tidy(table, longest, ragged, options) for part, table in tables.items()}
    if set(ready) == {"all"}:
        ready = _divide(ready["all"], valid, test, by, seed)
    first = ready["train"]
    parts = [ready.get(part) or {k: v[:0] for k, v in first.items()} for part in PARTS]
    splits = (Split(part, sequences=("frames",)) for part in parts)
    return Dataset.of(
        INFO,
        splits,
        {"valid": valid, "test": test, "by": by, **options, "seed": seed},
        name=name,
        title=Path(name).name,
        notes="",
        categorical=labels,
    )


# ---- reading


def _read(data: Any, root: Any) -> tuple[str, dict[str, dict[str, Any]], dict[str, tuple[str, ...]]]:
    """Return the data's name, tables by part ("all" where there are none), and the names of labels."""
    if isinstance(data, Mapping):
        table, labels = _table({key: np.asarray(value) for key, value in data.items()}, "the mapping")
        return "clips", {"all": table}, labels
    path = Path(data).expanduser()
    path = Path(root) / path if root is not None and not path.is_absolute() else path
    if path.is_dir() and (path / "train.npz").is_file():
        tables, labels = {}, {}
        for part in PARTS:
            if (path / f"{part}.npz").is_file():
                tables[part], found = _table(_npz(path / f"{part}.npz"), str(path / f"{part}.npz"))
                labels = {**found, **labels}
        return str(path), tables, labels
    if path.suffix.lower() == ".npz":
        table, labels = _table(_npz(path), str(path))
        return str(path), {"all": table}, labels
    table, labels = _films(path)
    return str(path), {"all": table}, labels


def _npz(path: Path) -> dict[str, Any]:
    """Read an npz; arrays of arrays become lists."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except ValueError:
        return dict(object_arrays.read(path))
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{str(path)!r} cannot be read: {error}") from error


def _table(arrays: dict[str, Any], source: str) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """Keep what is known: frames, mask, group and labels; name the labels' values."""
    if "frames" not in arrays:
        raise DataError(f"{source} holds {sorted(arrays)}; clips need an array 'frames' (rows, T, H, W, C).")
    names: dict[str, Sequence[str]] = {}
    if "names" in arrays:
        try:
            names = json.loads(str(np.asarray(arrays["names"]).reshape(-1)[0]))
        except json.JSONDecodeError as error:
            raise DataError(f"{source}: 'names' is no JSON text: {error}") from error
    table: dict[str, Any] = {"frames": arrays["frames"]}
    rows = len(arrays["frames"])
    for key, value in arrays.items():
        if key in ("frames", "names"):
            continue
        array = np.asarray(value)
        if len(array) != rows:
            raise ShapeError(f"{source}: {key!r} has {len(array)} rows, 'frames' {rows}.")
        if key == "mask":
            table[key] = array.astype(bool)
        elif array.dtype.kind in "iu" and array.ndim == 2 and key == "identity":
            table.update({f"identity_{i}": array[:, i].astype(np.int64) for i in range(array.shape[1])})
            table.setdefault("group", np.unique(array, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64))
        elif array.dtype.kind in "iu" and array.ndim == 1:
            table[key] = array.astype(np.int64)
            if key == "identity":
                table.setdefault("group", table[key])
    labels = {
        key: tuple(str(n) for n in names.get(key, range(int(value.max(initial=-1)) + 1)))
        for key, value in table.items()
        if key not in ("frames", "mask", "group")
    }
    return table, labels


def _films(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """Read one film, or those of a folder; names of folders inside are actions."""
    import imageio.v3 as iio

    if not path.exists():
        raise DataError(f"there is no file or folder {str(path)!r}.")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in FILMS)
    if not files:
        raise DataError(f"{str(path)!r} holds no films; readable: {', '.join(FILMS)}.")
    clips = []
    for file in files:
        try:
            film = np.asarray(iio.imread(file, plugin="pillow" if file.suffix.lower() == ".gif" else "pyav"))
        except Exception as error:  # each format has errors of its own
            raise DataError(f"{str(file)!r} is no readable film: {error}") from error
        film = film[..., None] if film.ndim == 3 else film
        clips.append(np.ascontiguousarray(film[..., :3]))
    kinds = sorted({file.parent.name for file in files})
    if path.is_file() or len(kinds) < 2:
        return {"frames": clips}, {}
    return {"frames": clips, "action": np.array([kinds.index(f.parent.name) for f in files])}, {"action": tuple(kinds)}


# ---- bringing into form


def _kept(clip: Array, every: int, length: int) -> Array:
    clip = clip[::every]
    return clip[:length] if length else clip


def _longest(clips: Any, every: int, length: int) -> int:
    if not len(clips):
        raise DataError("there are no clips.")
    if isinstance(clips, np.ndarray):
        return len(_kept(np.empty(clips.shape[1]), every, length)) if clips.ndim > 1 else 0
    return max(len(_kept(clip, every, length)) for clip in clips)


def _is_ragged(clips: Any, every: int, length: int, longest: int) -> bool:
    if isinstance(clips, np.ndarray):
        return _longest(clips, every, length) < longest
    return any(len(_kept(clip, every, length)) < longest for clip in clips)


def _tidy(table: dict[str, Any], longest: int, ragged: bool, options: Mapping[str, int]) -> dict[str, Array]:
    """Scale, cut, fill up and move channels to the front."""
    every, length, size = options["every"], options["length"], options["size"]
    frames: Array | None = None
    known = np.zeros((len(table["frames"]), longest), dtype=bool)
    for row, clip in enumerate(table["frames"]):
        ready = scaled(_bytes(_kept(np.asarray(clip), every, length), row), size)
        if frames is None:
            frames = np.zeros((len(known), longest, *ready.shape[1:]), dtype=np.uint8)
        if not len(ready):
            raise DataError(f"clip {row} has no frames.")
        if ready.shape[1:] != frames.shape[2:]:
            raise ShapeError(
                f"clip {row} has frames of {ready.shape[1:]}, clip 0 of {frames.shape[2:]}. Scale them by size=..."
            )
        frames[row, : len(ready)] = ready
        known[row, : len(ready)] = True
        if "mask" in table:
            known[row, : len(ready)] &= _kept(table["mask"][row], every, length)[: len(ready)]
    assert frames is not None
    out = {"frames": np.ascontiguousarray(np.moveaxis(frames, -1, 2))}
    out.update({key: value for key, value in table.items() if key not in ("frames", "mask")})
    if ragged:
        out["mask"] = known
    return out


def _bytes(clip: Array, row: int) -> Array:
    """One clip as bytes (T, H, W, C)."""
    if clip.ndim == 3:
        clip = clip[..., None]
    if clip.ndim != 4 or clip.shape[-1] not in (1, 3):
        raise ShapeError(f"clip {row} has shape {clip.shape}; expected (T, H, W) or (T, H, W, C) with 1 or 3 channels.")
    if clip.dtype == np.uint8:
        return clip
    if clip.dtype.kind not in "iufb" or not np.isfinite(clip).all():
        raise DataError(f"clip {row} holds values that are no pixels.")
    low, high = float(clip.min(initial=0)), float(clip.max(initial=0))
    if low < 0 or high > 255 or (clip.dtype.kind != "f" and clip.dtype.kind != "b" and high > 255):
        raise DataError(f"clip {row} holds values from {low:g} to {high:g}; pixels are 0 to 255, or 0 to 1.")
    scale = 255.0 if clip.dtype.kind == "b" or (clip.dtype.kind == "f" and high <= 1.0) else 1.0
    return np.round(clip * scale).astype(np.uint8)


def scaled(clip: Array, size: int) -> Array:
    """Cut the middle square out and scale it."""
    if not size or clip.shape[1:3] == (size, size):
        return clip
    from PIL import Image

    height, width = clip.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = clip[:, top : top + side, left : left + side]
    out = np.empty((len(clip), size, size, clip.shape[-1]), dtype=np.uint8)
    how = Image.Resampling.BOX if side > size else Image.Resampling.BILINEAR
    for t, picture in enumerate(square):
        image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
        out[t] = np.asarray(image.resize((size, size), how)).reshape(size, size, -1)
    return out


def _divide(table: dict[str, Array], valid: float, test: float, by: str, seed: int) -> dict[str, dict[str, Array]]:
    rows = len(table["frames"])
    if by == "group" and "group" not in table:
        raise DataError("by='group' needs to know who is who: give 'group' or 'identity' in the npz.")
    who = table["group"] if by == "group" else np.arange(rows)
    people = np.unique(who)
    counts = [round(share * len(people)) if share < 1 else int(share) for share in (valid, test)]
    part_rows(len(people), valid=counts[0], test=counts[1], what="the data")
    order = people[stream(seed, "videos").permutation(len(people))]
    chosen = dict(zip(("test", "valid", "train"), np.split(order, [counts[1], sum(counts)]), strict=True))
    return {part: {k: v[np.isin(who, names)] for k, v in table.items()} for part, names in chosen.items()}
