"""Scene files of other programs: official GQN TFRecords, and the `.pt` and `.pt.gz` files made of them.

`.pt` files are what `torch.save` wrote of a namedtuple (or pair, or dictionary) of pictures and camera numbers, or of a
list of such; pictures are JPEG strings or arrays. A pickle may run any code when it is loaded; here pickles are read
without running them (`datasets.readers.torch_files`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.pixels import Ranges, range_of
from phlogiston.datasets.readers import tfrecord
from phlogiston.datasets.readers.pickle_notes import Call, to_bytes, to_list
from phlogiston.datasets.readers.torch_files import TorchFile, refuse_calls
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.datasets.untrusted.limits import check_unpacked
from phlogiston.datasets.untrusted.media import open_picture
from phlogiston.datasets.untrusted.packed import read_file, read_gzip
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
        frames: encoded pictures (JPEG, PNG), or pictures (height, width, 3) or (3, height, width) of numbers.
        cameras: float32 (views, 5): x, y, z, yaw, pitch.
    """

    frames: tuple[bytes | Array, ...]
    cameras: Array

    def images(
        self, size: int | None = None, views: Sequence[int] | None = None, ranges: Ranges | None = None
    ) -> Array:
        """Decode frames: uint8 (views, size, size, 3).

        Args:
            size: resize to so many pixels a side (bilinear, antialiased); None leaves them.
            views: decode these only.
            ranges: of frames that are numbers, where more than this scene is to decide it.

        Raises:
            DataError: a frame is no picture.
        """
        from PIL import Image

        chosen = range(len(self.frames)) if views is None else views
        ranges = ranges or range_of(self.arrays(), "the scene")
        out = []
        packed = sum({id(frame): len(frame) for frame in self.frames if isinstance(frame, bytes)}.values())
        decoded = 0
        for i in chosen:
            frame = self.frames[i]
            if isinstance(frame, np.ndarray):
                with reading(f"frame {i}", "a picture", name=f"frame {i}"):
                    shown = Image.fromarray(_coloured(ranges.of(frame).to_bytes(frame)))
            else:
                with open_picture(frame, f"frame {i}") as picture:
                    decoded += 3 * picture.width * picture.height  # one picture may be named as every frame
                    check_unpacked(decoded, packed, "the frames of this scene", "video")
                    shown = picture.convert("RGB")
            if size is not None and shown.size != (size, size):
                shown = shown.resize((size, size), Image.Resampling.BILINEAR)
            out.append(np.asarray(shown, dtype=np.uint8))
        if len({picture.shape for picture in out}) > 1:
            raise DataError("the frames of this scene differ in size; give the size to bring them to.")
        return np.stack(out) if out else np.zeros((0, size or 0, size or 0, 3), dtype=np.uint8)

    def arrays(self) -> list[Array]:
        """The frames that are numbers."""
        return [frame for frame in self.frames if isinstance(frame, np.ndarray)]


def _coloured(picture: Array) -> Array:
    """A picture as (height, width, 3), with the colours last."""
    if picture.ndim == 3 and picture.shape[-1] not in (1, 3, 4) and picture.shape[0] in (1, 3, 4):
        picture = np.moveaxis(picture, 0, -1)
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.ndim != 3 or picture.shape[-1] not in (1, 3, 4):
        raise DataError(f"a frame has shape {picture.shape}; expected (height, width, 3).")
    return np.ascontiguousarray(np.broadcast_to(picture[..., :3], (*picture.shape[:2], 3)))


def read(path: str | PathLike[str]) -> Iterator[RawScene]:
    """Yield the scenes of a file, by its suffix one of `SUFFIXES`.

    Raises:
        DataError: another suffix, or a file that is damaged, truncated, or asks for more than data.
    """
    name = str(path)
    with reading(path, "a scene file", name=Path(path).name):
        if name.endswith(".tfrecord"):
            yield from _from_records(Path(path))
        elif name.endswith((".pt", ".pt.gz")):
            file = TorchFile(read_gzip(path) if name.endswith(".gz") else read_file(path))
            yield from _scenes(file, file.content)
        else:
            raise DataError(f"{Path(path).name}: scene files end in {', '.join(SUFFIXES)}.")


def _from_records(path: Path) -> Iterator[RawScene]:
    for number, payload in enumerate(tfrecord.records(path)):
        result = tfrecord.example(payload)
        missing = {"frames", "cameras"} - result.keys()
        if missing:
            raise DataError(f"{path.name}, record {number}: holds {sorted(result)}, but no {sorted(missing)[0]!r}.")
        yield _scene(f"{path.name}, record {number}", result["frames"], result["cameras"])


def _scene(where: str, frames: Any, cameras: Any) -> RawScene:
    flat = (
        list(np.asarray(frames).reshape(-1))
        if isinstance(frames, np.ndarray) and frames.dtype == object
        else list(frames)
    )
    if not flat or not all(isinstance(f, bytes | np.ndarray) for f in flat):
        raise DataError(f"{where}: its frames are neither byte strings nor pictures.")
    numbers = np.asarray(cameras)
    if numbers.dtype.kind != "f" or numbers.size != 5 * len(flat):
        raise DataError(f"{where}: {len(flat)} frames need 5 camera numbers each; found {numbers.shape}.")
    numbers = numbers.astype(np.float32).reshape(-1, 5)
    if not np.isfinite(numbers).all():
        raise DataError(f"{where}: its camera numbers hold NaN or infinity.")
    return RawScene(tuple(flat), numbers)


# ---- files of torch.save

_FRAMES, _CAMERAS = ("frames", "images"), ("cameras", "viewpoints", "poses")


def _scenes(file: TorchFile, node: Any) -> list[RawScene]:
    """The scene of a namedtuple, pair or dictionary of frames and cameras; or those of a list of such."""
    parts = _pair(file, node)
    if parts is not None:
        return [_scene("its scene", _frames(file, parts[0]), file.array(parts[1]))]
    if isinstance(node, list | tuple) and node and all(_pair(file, entry) is not None for entry in node):
        return [scene for entry in node for scene in _scenes(file, entry)]
    refuse_calls(node)
    raise DataError(f"it holds a {type(node).__name__}, not a scene: frames and cameras.")


def _pair(file: TorchFile, node: Any) -> tuple[Any, Any] | None:
    """Frames and cameras of what may be a scene."""
    if isinstance(node, Call) and node.name.split(" ")[-1] in ("Scene", "Context"):
        if len(node.arguments) != 2:
            raise DataError(f"its scene has {len(node.arguments)} parts; expected frames and cameras.")
        return node.arguments[0], node.arguments[1]
    if isinstance(node, dict):
        result = [next((node[key] for key in keys if key in node), None) for keys in (_FRAMES, _CAMERAS)]
        return (result[0], result[1]) if result[0] is not None and result[1] is not None else None
    if isinstance(node, list | tuple) and len(node) == 2 and _are_numbers(file, node[1]):
        return node[0], node[1]
    return None


def _are_numbers(file: TorchFile, node: Any, depth: int = 0) -> bool:
    """Say whether a part could be cameras: numbers, and neither calls of others nor scenes."""
    file.budget.visit(depth)
    if not isinstance(node, list | tuple):
        return isinstance(node, int | float) or file.is_array(node)
    if not node or not all(_are_numbers(file, entry, depth + 1) for entry in node):
        return False
    try:
        return bool(file.array(node).size)
    except ValueError:  # arrays of different shapes: pictures and cameras of a scene
        return False


def _frames(file: TorchFile, node: Any) -> list[Any]:
    """Encoded pictures, or pictures as arrays."""
    if file.is_array(node):
        result = _array_or_none(file, node)
        if result is not None and result.dtype.kind == "S":
            return list(result.reshape(-1).tolist())
        if result is not None and result.ndim >= 3:
            return list(result.reshape(-1, *result.shape[-3:]))
    entries = to_list(node)
    if len(entries) == 1 and isinstance(entries[0], list | tuple):  # a batch of one scene
        entries = list(entries[0])
    return [file.array(entry) if file.is_array(entry) else to_bytes(entry) for entry in entries]


def _array_or_none(file: TorchFile, node: Any) -> Array | None:
    """An array of numbers or byte strings; None for one of Python objects."""
    try:
        result = file.array(node)
    except DataError:
        return None
    return result if isinstance(result, np.ndarray) else None
