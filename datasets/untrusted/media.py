"""Pictures and videos of others: their declared size is checked before a pixel is decoded.

Only formats of pictures are tried on a picture and only formats of videos on a video, whatever the file's name says:
Pillow would hand PostScript to an interpreter, and a playlist would make FFmpeg open other files.
"""

from __future__ import annotations

import importlib
import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.datasets.untrusted.limits import check_unpacked, limits
from phlogiston.datasets.untrusted.packed import read_file
from phlogiston.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "GIF")
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm"
_BYTES = {"1": 1, "L": 1, "I": 4, "F": 4, "I;16": 2, "I;16B": 2, "I;16L": 2, "LA": 2, "La": 2}


@contextmanager
def open_picture(source: str | PathLike[str] | bytes, what: str | None = None) -> Iterator[Picture]:
    """Open a picture of an allowed size; nothing is decoded yet.

    Args:
        source: a file, or its bytes.
        what: what messages call it.

    Raises:
        DataError: it is no picture, or unpacks to too much; also what goes wrong while it is open.
    """
    from PIL import Image, UnidentifiedImageError

    def opened() -> Picture:
        try:
            return Image.open(io.BytesIO(content), formats=_known())
        except UnidentifiedImageError as error:
            raise DataError(f"{what} is no readable image; formats that are read: {', '.join(_known())}.") from error

    what = what or repr(str(source))
    with reading("" if isinstance(source, bytes) else source, "an image", name=what):
        # of a file, Pillow would ask for as many bytes as a part of it claims to have, and take memory for them
        content = source if isinstance(source, bytes) else read_file(source)
        if content[:4] == b"GIF8":
            width, height = _gif_extent(content)
            check_unpacked(4 * width * height, len(content), what, "picture")
        with opened() as picture:
            size = picture.width * picture.height * _BYTES.get(picture.mode, 4)
            check_unpacked(size, len(content), what, "picture")
            yield picture


@cache
def _known() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow reads; it loads some of their readers only when it may try all it has."""
    from PIL import Image

    for name in ("Png", "Jpeg", "Bmp", "WebP", "Tiff", "Ppm", "Avif", "Gif"):
        with suppress(ImportError):  # older Pillows have no AVIF
            importlib.import_module(f"PIL.{name}ImagePlugin")
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _gif_extent(content: bytes) -> tuple[int, int]:
    """The width and height that a GIF's frames cover: one of them may reach beyond the size at its beginning."""

    def behind_blocks(at: int) -> int:
        while at < len(content) and content[at]:
            at += 1 + content[at]
        return at + 1

    def table(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 128 else 0

    if len(content) < 13:
        return 0, 0
    width, height = struct.unpack("<HH", content[6:10])
    at = 13 + table(content[10])
    while at < len(content) and content[at] != 0x3B:
        if content[at] == 0x21:
            at = behind_blocks(at + 2)
        elif content[at] == 0x2C and at + 10 <= len(content):
            x, y, w, h, flags = struct.unpack("<HHHHB", content[at + 1 : at + 10])
            width, height = max(width, x + w), max(height, y + h)
            at = behind_blocks(at + 10 + table(flags) + 1)
        else:
            at += 1  # Pillow passes over what it does not know, too
    return width, height


def moves(path: str | PathLike[str]) -> bool:
    """Say whether a picture file holds several frames; of what is no picture, whoever reads it will tell."""
    try:
        with open_picture(path) as picture:
            return bool(getattr(picture, "is_animated", False))
    except (DataError, OSError):
        return True


def video_frames(path: str | PathLike[str]) -> Iterator[Array]:
    """Yield the frames of a video or of a moving GIF, uint8 (height, width, 3) or (height, width, 1), in order.

    Raises:
        DataError: it is no video, is damaged, unpacks to too much, or what reads it is not installed.
    """
    file = Path(path)
    size, total = file.stat().st_size, 0
    gif = file.suffix.lower() == ".gif"
    if not gif:
        need_av(file)
    frames = _gif(file) if gif else _decoded(file)
    with reading(path, "a video"):
        for frame in frames:
            total += frame.nbytes
            check_unpacked(total, size, repr(str(path)), "video")
            yield frame


def read_video(path: str | PathLike[str]) -> Array:
    """Read a video whole, uint8 (time, height, width, 3 or 1); see `video_frames`."""
    frames = list(video_frames(path))
    if not frames:
        raise DataError(f"{str(path)!r} holds no frames.")
    if len({frame.shape for frame in frames}) > 1:
        raise DataError(f"{str(path)!r} holds frames of different sizes.")
    return np.stack(frames)


def _gif(path: Path) -> Iterator[Array]:
    from PIL import ImageSequence

    with open_picture(path) as picture:
        grey = picture.mode == "L"
        for frame in ImageSequence.Iterator(picture):
            grey = grey and frame.mode == "L"
            shown = np.asarray(frame.convert("L" if grey else "RGB"))
            yield shown[..., None] if grey else shown


def need_av(path: Path) -> None:
    """Check that what reads and writes videos is installed.

    Raises:
        DataError: it is not.
    """
    try:
        import av  # noqa: F401
    except ImportError:
        raise DataError(
            f'{str(path)!r}: {path.suffix} needs PyAV, which is an extra: pip install "phlogiston[video]". '
            ".gif, .npz and folders of pictures need nothing."
        ) from None


@contextmanager
def open_video(path: str | PathLike[str]) -> Iterator[tuple[Any, Any]]:
    """Open a video of an allowed format and frame size; nothing is decoded yet.

    Returns:
        The container and its first stream of pictures, of PyAV.

    Raises:
        DataError: it holds no pictures, or PyAV is not installed.
    """
    need_av(Path(path))
    import av

    found = limits()
    most = max(found.picture, found.video_ratio * Path(path).stat().st_size) // 3
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file", "max_pixels": str(min(most, 1 << 30))}
    with av.open(str(path), options=options) as container:
        if not container.streams.video:
            raise DataError("it holds no video stream.")
        stream: Any = container.streams.video[0]
        stream.codec_context.options = {"max_pixels": options["max_pixels"]}
        yield container, stream


def _decoded(path: Path) -> Iterator[Array]:
    with open_video(path) as (container, stream):
        stream.thread_type = "FRAME"
        for frame in container.decode(stream):
            yield frame.to_ndarray(format="rgb24")
