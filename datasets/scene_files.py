"""Scene files of other programs: official GQN TFRecords, and the `.pt` and `.pt.gz` files made of them.

`.pt` files are five pickles in a row, the fourth a namedtuple of JPEG strings and camera numbers. A pickle may run any
code when it is loaded; here pickles are read without running them (`datasets.pickle_notes`).
"""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np

from phlogiston.datasets import pickle_notes, tfrecord
from phlogiston.datasets.base import Array
from phlogiston.errors import DataError

SUFFIXES = (".tfrecord", ".pt", ".pt.gz")


@dataclass(frozen=True)
class Published:
    """One of DeepMind's sets.

    Attributes:
        size: height and width of its frames.
        views: frames per scene.
    """

    size: int
    views: int


PUBLISHED: dict[str, Published] = {
    "jaco": Published(64, 11),
    "mazes": Published(84, 300),
    "rooms_free_camera_with_object_rotations": Published(128, 10),
    "rooms_free_camera_no_object_rotations": Published(64, 10),
    "rooms_ring_camera": Published(64, 10),
    "shepard_metzler_5_parts": Published(64, 15),
    "shepard_metzler_7_parts": Published(64, 15),
}


@dataclass(frozen=True)
class RawScene:
    """A scene as files hold it.

    Attributes:
        frames: JPEG strings.
        cameras: float32 (views, 5): x, y, z, yaw, pitch.
    """

    frames: tuple[bytes, ...]
    cameras: Array

    def images(self, size: int | None = None, views: Sequence[int] | None = None) -> Array:
        """Decode frames: uint8 (views, size, size, 3).

        Args:
            size: resize to so many pixels a side (bilinear, antialiased); None leaves them.
            views: decode these only.

        Raises:
            DataError: a frame is no picture.
        """
        from PIL import Image, UnidentifiedImageError

        chosen = range(len(self.frames)) if views is None else views
        out = []
        for i in chosen:
            try:
                with Image.open(io.BytesIO(self.frames[i])) as picture:
                    shown = picture.convert("RGB")
            except (UnidentifiedImageError, OSError) as error:
                raise DataError(f"frame {i} is no picture: {error}.") from error
            if size is not None and shown.size != (size, size):
                shown = shown.resize((size, size), Image.Resampling.BILINEAR)
            out.append(np.asarray(shown, dtype=np.uint8))
        if len({picture.shape for picture in out}) > 1:
            raise DataError("the frames of this scene differ in size; give the size to bring them to.")
        return np.stack(out) if out else np.zeros((0, size or 0, size or 0, 3), dtype=np.uint8)


def read(path: str | PathLike[str]) -> Iterator[RawScene]:
    """Yield the scenes of a file, by its suffix one of `SUFFIXES`.

    Raises:
        DataError: another suffix, or a file that is damaged, truncated, or asks for more than data.
    """
    name = str(path)
    if name.endswith(".tfrecord"):
        yield from _from_records(Path(path))
    elif name.endswith((".pt", ".pt.gz")):
        yield _from_pickle(Path(path))
    else:
        raise DataError(f"{Path(path).name}: scene files end in {', '.join(SUFFIXES)}.")


def _from_records(path: Path) -> Iterator[RawScene]:
    for number, payload in enumerate(tfrecord.records(path)):
        found = tfrecord.example(payload)
        missing = {"frames", "cameras"} - found.keys()
        if missing:
            raise DataError(f"{path.name}, record {number}: holds {sorted(found)}, but no {sorted(missing)[0]!r}.")
        yield _scene(f"{path.name}, record {number}", found["frames"], found["cameras"])


def _scene(where: str, frames: Any, cameras: Any) -> RawScene:
    flat = np.asarray(frames, dtype=object).reshape(-1).tolist() if isinstance(frames, np.ndarray) else list(frames)
    if not flat or not all(isinstance(f, bytes) for f in flat):
        raise DataError(f"{where}: its frames are not byte strings.")
    numbers = np.asarray(cameras)
    if numbers.dtype.kind != "f" or numbers.size != 5 * len(flat):
        raise DataError(f"{where}: {len(flat)} frames need 5 camera numbers each; found {numbers.shape}.")
    numbers = numbers.astype(np.float32).reshape(-1, 5)
    if not np.isfinite(numbers).all():
        raise DataError(f"{where}: its camera numbers hold NaN or infinity.")
    return RawScene(tuple(flat), numbers)


# ---- pickles


def _from_pickle(path: Path) -> RawScene:
    with _opened(path) as file:
        try:
            *header, found = [pickle_notes.interpret(file) for _ in range(4)]
            for part in header:
                _refuse_calls(part)
            if not (isinstance(found, pickle_notes.Call) and found.name.split(" ")[-1] in ("Scene", "Context")):
                _refuse_calls(found)
                raise DataError(f"the fourth pickle holds a {type(found).__name__}, not a scene.")
            if len(found.arguments) != 2:
                raise DataError(f"its scene has {len(found.arguments)} parts; expected frames and cameras.")
            frames = [pickle_notes.to_bytes(frame) for frame in pickle_notes.to_list(found.arguments[0])]
            cameras = pickle_notes.to_array(found.arguments[1])
        except DataError as error:
            raise DataError(f"{path.name}: {error}") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path.name}: the file is truncated or damaged ({error}).") from error
        except Exception as error:  # whatever a damaged pickle may run into
            raise DataError(f"{path.name}: this is no scene file ({type(error).__name__}: {error}).") from error
    return _scene(path.name, frames, cameras)


def _refuse_calls(part: Any) -> None:
    """Nothing would be run, but a file that asks for it is not what it claims to be."""
    if isinstance(part, pickle_notes.Call | pickle_notes.Name):
        name = part.name if isinstance(part, pickle_notes.Call) else part.text
        raise DataError(f"it asks for {name.replace(' ', '.')}, which is no data.")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        if path.name.endswith(".gz"):
            with gzip.open(file, "rb") as inner:
                yield io.BufferedReader(inner)  # type: ignore[arg-type]
        else:
            yield file
