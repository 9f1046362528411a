"""Films of your own: a folder of videos or of frames, or arrays, cut into clips with the background taken away.

A film is a video file (mp4, avi, mov, webm, mkv, gif), a sub-folder of pictures in the order of their names, or an
array (frames, height, width[, 3]) in an npy file or under any name in an npz file. The background is the median over
time of each film: what does not move vanishes, what moves stays as the difference from it. Training, validation and
test clips are divided by time, the last ones being tested: neighbouring clips of one film are too alike to be divided
at random.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np

from phlogiston.datasets.base import Array, Dataset, Info, Split
from phlogiston.errors import DataError

INFO = Info(
    name="video_folder",
    title="your own films: a folder of videos or frames, background subtracted, cut into clips",
    kind="yours",
    licence="yours",
    rows="yours",
    shape="clips of your frames",
    notes="pass data=FOLDER (on the command line --data-option data=FOLDER).",
)

VIDEOS = {".mp4", ".avi", ".mov", ".webm", ".mkv", ".gif"}
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
ARRAYS = {".npz", ".npy"}


def load(
    root: str | PathLike[str] | None = None,
    *,
    data: str | None = None,
    length: int = 10,
    stride: int = 10,
    every: int = 1,
    size: tuple[int, int] | None = None,
    crop: tuple[int, int, int, int] | None = None,
    colour: bool = False,
    background: Literal["median", "none"] = "median",
    contrast: float = 0.0,
    valid: float = 0.1,
    test: float = 0.1,
) -> Dataset:
    """Read films and cut them into clips.

    Args:
        root: folder that a relative path starts from.
        data: a folder of films, or one film.
        length: frames per clip.
        stride: frames between the beginnings of clips.
        every: use every so many frames.
        size: height and width to scale frames to; as they are by default.
        crop: y, x, height, width of the part of the frames to use, before scaling.
        colour: keep three channels.
        background: `"median"` shows the difference from each film's median over time, `"none"` leaves films alone.
        contrast: divide by the standard deviation within so many pixels; 0 for not at all.
        valid: share of each film's clips for validation.
        test: share of each film's clips, its last ones, for test.

    Returns:
        Splits with `x` uint8 (clips, length, [3,] height, width).

    Raises:
        DataError: no such folder, no films in it, films of unlike frames, or too short ones.
    """
    if data is None:
        raise DataError("video_folder reads films of yours: give data=FOLDER.")
    if length < 1 or stride < 1 or every < 1 or valid < 0 or test < 0 or valid + test >= 1:
        raise DataError(f"length={length}, stride={stride}, every={every}, valid={valid}, test={test}: out of range.")
    path = Path(root or ".") / Path(data).expanduser()
    if not path.exists():
        raise DataError(f"no file or folder {str(path)!r}.")
    parts: dict[str, list[Array]] = {"train": [], "valid": [], "test": []}
    shapes: dict[tuple[int, ...], str] = {}
    for name, film in read_films(path):
        ready = prepare(film[::every], size, crop, colour, background, contrast)
        shapes.setdefault(ready.shape[1:], name)
        starts = range(0, len(ready) - length + 1, stride)
        clips = [ready[start : start + length] for start in starts]
        last = round(test * len(clips))
        before = round(valid * len(clips))
        cut = len(clips) - last
        parts["train"] += clips[: cut - before]
        parts["valid"] += clips[cut - before : cut]
        parts["test"] += clips[cut:]
    if len(shapes) > 1:
        told = ", ".join(f"{name}: {shape}" for shape, name in shapes.items())
        raise DataError(f"films have frames of different shapes ({told}); give size=(height, width).")
    if not parts["train"]:
        raise DataError(
            f"no film in {str(path)!r} has {length} frames"
            + (f" left after taking every {every}." if every > 1 else ".")
            + " Choose a smaller length."
        )
    empty = np.zeros((0, *parts["train"][0].shape), np.uint8)
    splits = [Split({"x": np.stack(p) if p else empty}, sequences=("x",)) for p in parts.values()]
    return Dataset.of(
        INFO,
        splits,
        {
            "data": str(path.absolute()),
            "length": length,
            "stride": stride,
            "every": every,
            "size": None if size is None else list(size),
            "crop": None if crop is None else list(crop),
            "colour": colour,
            "background": background,
            "contrast": contrast,
            "valid": valid,
            "test": test,
        },
        title=f"films of {path.name}",
        notes="",
    )


def read_films(path: Path) -> list[tuple[str, Array]]:
    """Read all films of a folder, or one film: name and frames (frames, height, width[, 3]), uint8 or float.

    Raises:
        DataError: nothing there that is a film.
    """
    if path.is_file():
        return [(path.name, film) for film in _read(path)]
    films: list[tuple[str, Array]] = []
    if any(p.suffix.lower() in PICTURES for p in path.iterdir()):
        films.append((path.name, _frames(path)))
    for place in sorted(path.iterdir()):
        if place.is_dir() and any(p.suffix.lower() in PICTURES for p in place.iterdir()):
            films.append((place.name, _frames(place)))
        elif place.suffix.lower() in VIDEOS | ARRAYS:
            films += [(place.name, film) for film in _read(place)]
    if not films:
        kinds = ", ".join(sorted(VIDEOS | ARRAYS))
        raise DataError(f"no films in {str(path)!r}: expected {kinds} files, or folders of pictures.")
    return films


def _frames(folder: Path) -> Array:
    from PIL import Image

    frames = []
    for place in sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES):
        with Image.open(place) as picture:
            frames.append(np.asarray(picture.convert("RGB")))
    if len({frame.shape for frame in frames}) > 1:
        raise DataError(f"the pictures in {str(folder)!r} have different sizes.")
    return np.stack(frames)


def _read(path: Path) -> list[Array]:
    suffix = path.suffix.lower()
    if suffix in ARRAYS:
        try:
            content = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{str(path)!r} cannot be read: {error}") from None
        found = [content[name] for name in content.files] if suffix == ".npz" else [content]
        films = [film for array in found for film in (array if _is_many(array) else [array]) if _is_film(film)]
        if not films:
            raise DataError(f"{str(path)!r} holds no array of shape (frames, height, width) or with 3 colours behind.")
        return films
    if suffix not in VIDEOS:
        raise DataError(f"{str(path)!r} is no film: expected one of {', '.join(sorted(VIDEOS | ARRAYS))}.")
    import imageio.v3 as iio

    try:
        return [np.asarray(iio.imread(path, plugin="pillow" if suffix == ".gif" else "pyav"))]
    except Exception as error:
        raise DataError(f"{str(path)!r} cannot be decoded: {error}") from None


def _is_many(array: Array) -> bool:
    """Films, not one film: (films, frames, height, width[, 3])."""
    return array.ndim == 5 or (array.ndim == 4 and array.shape[-1] not in (3, 4))


def _is_film(array: Array) -> bool:
    return array.ndim == 3 or (array.ndim == 4 and array.shape[-1] in (3, 4))


def prepare(
    film: Array,
    size: tuple[int, int] | None = None,
    crop: tuple[int, int, int, int] | None = None,
    colour: bool = False,
    background: str = "median",
    contrast: float = 0.0,
) -> Array:
    """Turn one film into what a model reads: uint8 (frames, [3,] height, width).

    Args:
        film: (frames, height, width[, 3 or 4]), uint8, or floats in 0 .. 1.
        size: see `load`; as are the others.
        crop: see `load`.
        colour: see `load`.
        background: see `load`.
        contrast: see `load`.

    Raises:
        DataError: NaN, or a part that lies outside the frames.
    """
    frames = np.asarray(film, np.float32)
    if not np.isfinite(frames).all():
        bad = int((~np.isfinite(frames)).reshape(len(frames), -1).any(1).argmax())
        raise DataError(f"frame {bad} of a film holds NaN or infinity.")
    if film.dtype.kind in "ui" or frames.max(initial=0.0) > 1.5:
        frames = frames / 255.0
    frames = frames[..., None] if frames.ndim == 3 else frames[..., :3]
    if crop is not None:
        y, x, h, w = crop
        if min(y, x) < 0 or min(h, w) < 1 or y + h > frames.shape[1] or x + w > frames.shape[2]:
            raise DataError(f"crop={crop} lies outside frames of {frames.shape[1:3]}.")
        frames = frames[:, y : y + h, x : x + w]
    if size is not None and tuple(size) != frames.shape[1:3]:
        frames = _scaled(frames, size)
    if background == "median":
        frames = np.abs(frames - np.median(frames, 0))
    if contrast > 0:
        from scipy.ndimage import uniform_filter

        window = (1, int(contrast), int(contrast), 1)
        spread = np.sqrt(np.clip(uniform_filter(frames**2, window) - uniform_filter(frames, window) ** 2, 0, None))
        frames = frames / (spread + 0.1)
    if not colour:
        frames = frames.max(-1, keepdims=True) if background == "median" else frames.mean(-1, keepdims=True)
    elif frames.shape[-1] == 1:
        frames = np.repeat(frames, 3, -1)
    pixels = np.round(255 * np.clip(frames, 0, 1)).astype(np.uint8)
    return np.moveaxis(pixels, -1, 1) if colour else pixels[..., 0]


def _scaled(frames: Array, size: tuple[int, int]) -> Array:
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, 1)))
    small = interpolate(pixels, size=tuple(size), mode="bilinear", antialias=True, align_corners=False)
    return np.moveaxis(small.numpy(), 1, -1)
