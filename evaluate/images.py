"""Images from anywhere, a block at a time: folders, npz and npy files, video folders, arrays, or a sampler.

Every source yields uint8 tensors (block, channels, height, width), or (1, time, channels, height, width) when clips are
asked for, and holds no more than a few blocks in memory. Floats are taken as [0, 1] and rounded to eight bits, so that
real and generated images are quantised alike. Integers that are 0 and 1 throughout are black and white; what else they
may mean is decided once for a whole source, or said by `value_range`.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets import pictures
from phlogiston.datasets.pixels import BYTES, Range, Values
from phlogiston.datasets.skipped import Skipped
from phlogiston.datasets.untrusted import arrays, media
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.datasets.untrusted.limits import check_memory, check_packed
from phlogiston.datasets.untrusted.packed import read_exactly
from phlogiston.errors import ConfigError, DataError, ShapeError

BLOCK = 256
_KEYS = ("images", "x", "frames", "samples", "arr_0")


class Source(Protocol):
    """A stream of images that can be read more than once.

    Attributes:
        name: what messages call it.
    """

    name: str

    def count(self, clips: bool) -> int:
        """Return how many images (or clips) there are."""

    def blocks(self, clips: bool) -> Iterator[Tensor]:
        """Yield uint8 (block, channels, height, width), or (block, time, channels, height, width) for clips."""

    def fingerprint(self) -> str | None:
        """Return a checksum of the content, or None where caching makes no sense."""


def open_source(
    images: Any,
    *,
    key: str | None = None,
    shape: Sequence[int] | None = None,
    name: str = "",
    value_range: tuple[float, float] | None = None,
) -> Source:
    """Make a source of whatever the user has.

    Args:
        images: a folder (of images, of videos, or of folders of frames), an .npz or .npy file, an array or tensor, or
            a source already.
        key: which array of an .npz; found by name (images, x, frames, samples) or by being alone, if not given.
        shape: (height, width) or (height, width, channels) of flattened rows; squares are recognised.
        name: what messages call it.
        value_range: values of black and white in arrays; found out by default.

    Raises:
        DataError: nothing there, or nothing that could be images.
    """
    if hasattr(images, "blocks") and hasattr(images, "fingerprint"):
        return images
    if isinstance(images, str | Path):
        path = Path(images).expanduser()
        if path.is_dir():
            return Folder(path)
        if not path.exists():
            raise DataError(f"{str(path)!r} does not exist; expected a folder of images, or an .npz or .npy file.")
        if path.suffix in (".npz", ".npy"):
            return ArrayFile(path, key, shape, value_range)
        raise DataError(f"{str(path)!r} is neither a folder nor an .npz or .npy file.")
    return Rows(images, shape, name or "the array", value_range)


class Rows:
    """Images in memory: (n, [time,] height, width[, channels]), channels first or last, or flattened rows."""

    def __init__(
        self,
        values: Any,
        shape: Sequence[int] | None = None,
        name: str = "the array",
        value_range: tuple[float, float] | None = None,
    ):
        self.name = name
        self.shape = shape
        self.value_range = value_range
        self.values = values if isinstance(values, Tensor) else np.asarray(values)

    def count(self, clips: bool) -> int:
        if clips or len(self.values) == 0:
            return len(self.values)
        return sum(len(block) for block in self.blocks(clips)) if self.values.ndim == 5 else len(self.values)

    def blocks(self, clips: bool) -> Iterator[Tensor]:
        parts = (self.values[start : start + BLOCK] for start in range(0, len(self.values), BLOCK))
        pixels = decide(parts, self.name, self.value_range)
        for start in range(0, len(self.values), BLOCK):
            part = self.values[start : start + BLOCK]
            yield from _as_asked(to_uint8(part, self.shape, self.name, start, pixels), clips, self.name)

    def fingerprint(self) -> str | None:
        values = np.ascontiguousarray(
            self.values.detach().cpu().numpy() if isinstance(self.values, Tensor) else self.values
        )
        text = f"{values.dtype}{values.shape}{self.shape}{self.value_range or ''}"
        return hashlib.sha256(text.encode() + hashlib.sha256(values.data).digest()).hexdigest()


class Draws:
    """Images drawn as they are needed, so that any number of samples takes the memory of one block.

    Args:
        draw: function of a number of images that returns them as an array or tensor.
        number: how many to draw in all.
        shape: of flattened rows; see `open_source`.
        name: what messages call it.
    """

    def __init__(
        self, draw: Callable[[int], Any], number: int, shape: Sequence[int] | None = None, name: str = "draws"
    ):
        self.draw, self.number, self.shape, self.name = draw, number, shape, name

    def count(self, clips: bool) -> int:
        return self.number

    def blocks(self, clips: bool) -> Iterator[Tensor]:
        for start in range(0, self.number, BLOCK):
            part = self.draw(min(BLOCK, self.number - start))
            yield from _as_asked(to_uint8(part, self.shape, self.name, start), clips, self.name)

    def fingerprint(self) -> str | None:
        return None


class ArrayFile:
    """One array of an .npz or .npy file, read through in blocks without ever being whole in memory."""

    def __init__(
        self,
        path: Path,
        key: str | None = None,
        shape: Sequence[int] | None = None,
        value_range: tuple[float, float] | None = None,
    ):
        self.path, self.shape, self.name, self.value_range = path, shape, str(path), value_range
        self.key = _choose_key(path, key) if path.suffix == ".npz" else None
        with self._open() as (file, size):
            header = arrays.read_header(file, self.name)
            self.array_shape, self._fortran, self.dtype = header.shape, header.fortran, header.dtype
            if self.dtype.kind not in "biuf" or self.dtype.itemsize > 8:
                what = "Python objects" if self.dtype.hasobject else self.dtype
                raise DataError(f"{self.name} holds {what}; expected numbers.")
            if header.size > size - file.tell():
                raise DataError(
                    f"{self.name} claims {header.size:,} bytes of pixels and holds {size:,}; it is truncated."
                )

    @contextmanager
    def _open(self) -> Iterator[tuple[IO[bytes], int]]:
        """The file or the member of the archive that holds the array, and its size."""
        if self.key is None:
            with reading(self.path, "an npy file"), self.path.open("rb") as file:
                yield file, self.path.stat().st_size
        else:
            with arrays.open_arrays(self.path) as archive, archive.file.open(archive[self.key]) as member:
                size = archive[self.key].file_size
                check_packed(size, self.path.stat().st_size, self.name)
                yield member, size

    def count(self, clips: bool) -> int:
        if len(self.array_shape) == 5 and not clips:
            return self.array_shape[0] * self.array_shape[1]
        return self.array_shape[0] if self.array_shape else 0

    def blocks(self, clips: bool) -> Iterator[Tensor]:
        start = 0
        pixels = decide(self._arrays(), self.name, self.value_range)
        for part in self._arrays():
            yield from _as_asked(to_uint8(part, self.shape, self.name, start, pixels), clips, self.name)
            start += len(part)

    def _arrays(self) -> Iterator[np.ndarray]:
        row = int(np.prod(self.array_shape[1:], dtype=np.int64)) * self.dtype.itemsize
        with self._open() as (file, _):
            arrays.read_header(file, self.name)
            if self._fortran:  # stored column by column: rows cannot be streamed, the whole must come in
                check_memory(row * self.array_shape[0], self.name)
                flat = np.frombuffer(read_exactly(file, row * self.array_shape[0], self.name), self.dtype)
                whole = flat.reshape(self.array_shape, order="F")
                yield from (whole[start : start + BLOCK] for start in range(0, len(whole), BLOCK))
                return
            for start in range(0, self.array_shape[0], BLOCK):
                rows = min(BLOCK, self.array_shape[0] - start)
                content = read_exactly(file, rows * row, self.name)
                yield np.frombuffer(content, self.dtype).reshape(rows, *self.array_shape[1:])

    def fingerprint(self) -> str | None:
        return _digest([self.path], f"{self.key}{self.shape}{self.value_range or ''}")


class Folder:
    """Pictures or videos below a folder, in the order of their names; a GIF is a video where it moves.

    With `clips`, each video is one, and where there are no videos each folder of pictures is one. Files that
    cannot be read among others that can are left out with a `DataWarning`.
    """

    def __init__(self, path: Path):
        self.path, self.name = path, str(path)
        self.pictures = sorted(file for file in path.rglob("*") if pictures.is_picture(file))
        self.videos = pictures.videos_of(path)
        if self.pictures and self.videos:
            raise DataError(
                f"{self.name} holds pictures ({len(self.pictures)}) and videos ({len(self.videos)}); separate them."
            )
        if not self.pictures and not self.videos:
            raise DataError(
                f"{self.name} holds no images; looked for {' '.join((*pictures.PICTURES, *pictures.VIDEOS))}."
            )

    def count(self, clips: bool) -> int:
        if self.pictures:
            return len({file.parent for file in self.pictures}) if clips else len(self.pictures)
        return len(self.videos) if clips else sum(len(block) for block in self.blocks(False))

    def blocks(self, clips: bool) -> Iterator[Tensor]:
        skipped = Skipped(f"{'videos' if self.videos else 'clips' if clips else 'pictures'} of {self.name!r}")
        if self.videos:
            for clip in _ahead(read_video, self.videos, most=2, skipped=skipped):
                yield clip.unsqueeze(0) if clips else clip
        elif clips:
            for folder in sorted({file.parent for file in self.pictures}):
                frames = skipped.read(str(folder), self._clip, folder)
                if frames is not None:
                    yield frames.unsqueeze(0)
        else:
            yield from _group(_ahead(read_picture, self.pictures, most=32, skipped=skipped))
        skipped.decisions()

    def _clip(self, folder: Path) -> Tensor:
        frames = [read_picture(file) for file in self.pictures if file.parent == folder]
        if len({frame.shape for frame in frames}) > 1:
            raise DataError(f"the frames of the clip {str(folder)!r} differ in size or colours.")
        return torch.stack(frames)

    def fingerprint(self) -> str | None:
        return _digest(self.pictures or self.videos, "", self.path)


def read_picture(path: Path) -> Tensor:
    """Read one picture as uint8 (channels, height, width): grey stays one channel, transparency is dropped.

    The rotation a camera noted is followed; of 16 bits per channel the upper 8 are kept.

    Raises:
        DataError: it cannot be read.
    """
    values = pictures.to_bytes(pictures.read(path), path)
    return torch.from_numpy(values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0).copy())


def read_video(path: Path) -> Tensor:
    """Read one video as uint8 (time, 3, height, width).

    Raises:
        DataError: it cannot be read, or has no frames.
    """
    frames = media.read_video(path)
    frames = np.repeat(frames, 3, -1) if frames.shape[-1] == 1 else frames
    return torch.from_numpy(np.moveaxis(frames, -1, 1).copy())


def decide(parts: Iterable[Any], name: str, value_range: tuple[float, float] | None = None) -> Range | None:
    """Decide what the numbers of a source mean, from all of its blocks.

    Args:
        parts: its blocks.
        name: what messages call it.
        value_range: values of black and white, where the user says so.

    Returns:
        The range of integers, or the one given; None for booleans and for floats, which are taken as [0, 1].

    Raises:
        DataError: integers that are no pixels, or values outside `value_range`.
    """
    values = Values(name)
    for part in parts:
        array = part.detach().cpu().numpy() if isinstance(part, Tensor) else np.asarray(part)
        if value_range is None and array.dtype.kind not in "iu":
            return None
        values.see(array)
        if value_range is None and array.dtype == np.uint8 and array.size and array.max() > 1:
            return BYTES
    result = list(values.ranges(value_range).by_kind.values())
    return result[0] if result else None


def to_uint8(
    values: Any,
    shape: Sequence[int] | None = None,
    name: str = "the array",
    start: int = 0,
    pixels: Range | None = None,
) -> Tensor:
    """Bring a block of images to uint8 (n, [time,] channels, height, width).

    Args:
        values: uint8 or bool, integers in 0..255, or floats in [0, 1].
        shape: (height, width) or (height, width, channels) of flattened rows.
        name: what messages call it.
        start: number of the first row, for messages.
        pixels: which values are black and white; by default as above.

    Raises:
        ShapeError: not a batch of images.
        DataError: NaN, or values out of range.
    """
    tensor = values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(_readable(np.array(values)))
    tensor = _channels_first(tensor, shape, name)
    if pixels is not None:
        return torch.from_numpy(np.ascontiguousarray(pixels.to_bytes(tensor.numpy())))
    if tensor.dtype == torch.uint8:
        return tensor.contiguous()
    if tensor.dtype == torch.bool:
        return tensor.to(torch.uint8) * 255
    low, high = (0.0, 0.0) if tensor.numel() == 0 else (float(tensor.min()), float(tensor.max()))
    if not tensor.is_floating_point():
        if low < 0 or high > 255:
            raise DataError(f"{name} holds integers from {low:.0f} to {high:.0f}; pixels are 0 to 255.")
        return tensor.to(torch.uint8)
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        row = start + int((~finite).flatten(1).any(1).nonzero()[0])
        raise DataError(f"{name} holds NaN or infinite pixels in image {row}.")
    if low < -0.01 or high > 1.01:
        raise DataError(
            f"{name} holds floats from {low:.3g} to {high:.3g}; pixels are 0 to 1. Rescale them, give uint8, or say "
            "which values are black and white: evaluate.images.open_source(..., value_range=(0, 255))."
        )
    return (tensor.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)


def _readable(values: np.ndarray) -> np.ndarray:
    """Numbers of a type torch can hold."""
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def _channels_first(tensor: Tensor, shape: Sequence[int] | None, name: str) -> Tensor:
    if tensor.ndim == 2:
        height, width, channels = _unflatten(tensor.shape[1], shape, name)
        return tensor.reshape(len(tensor), height, width, channels).movedim(-1, 1)
    if tensor.ndim == 3:
        return tensor.unsqueeze(1)
    if tensor.ndim in (4, 5):
        if tensor.shape[-1] in (1, 3):
            return tensor.movedim(-1, -3)
        if tensor.shape[-3] in (1, 3):
            return tensor
        if tensor.shape[-1] == 4:
            return tensor[..., :3].movedim(-1, -3)
    raise ShapeError(
        f"{name} has shape {tuple(tensor.shape)}; expected (n, height, width), (n, height, width, 1 or 3), or the "
        "channels first, or one more axis for time."
    )


def _unflatten(size: int, shape: Sequence[int] | None, name: str) -> tuple[int, int, int]:
    if shape is not None:
        full = (*shape, 1) if len(shape) == 2 else tuple(shape)
        if len(full) != 3 or int(np.prod(full)) != size:
            raise ShapeError(f"{name} has rows of {size} values; they do not make images of shape {tuple(shape)}.")
        return int(full[0]), int(full[1]), int(full[2])
    for channels in (1, 3):
        side = round((size / channels) ** 0.5)
        if side * side * channels == size:
            return side, side, channels
    raise ShapeError(f"{name} has rows of {size} values, which make no square image; say the shape (height, width).")


def _as_asked(block: Tensor, clips: bool, name: str) -> Iterator[Tensor]:
    if clips and block.ndim == 4:
        raise ShapeError(
            f"{name} holds single images; these features are those of clips (n, time, height, width, ...)."
        )
    yield block.flatten(0, 1) if block.ndim == 5 and not clips else block


def _group(images: Iterable[Tensor]) -> Iterator[Tensor]:
    """Stack neighbours of equal size; grey ones beside coloured ones are repeated to three channels."""
    waiting: list[Tensor] = []
    for picture in images:
        if waiting and (picture.shape[1:] != waiting[0].shape[1:] or len(waiting) == BLOCK):
            yield _stack(waiting)
            waiting = []
        waiting.append(picture)
    if waiting:
        yield _stack(waiting)


def _stack(images: list[Tensor]) -> Tensor:
    if len({len(image) for image in images}) > 1:
        images = [image.expand(3, -1, -1) for image in images]
    return torch.stack(images)


def _ahead(read: Callable[[Path], Tensor], files: Sequence[Path], most: int, skipped: Skipped) -> Iterator[Tensor]:
    """Read files in their order, a few of them ahead of the one in use; those that cannot be read are left out."""

    def taken(file: Path, future: Future[Tensor]) -> Iterator[Tensor]:
        result = skipped.read(str(file), future.result)
        return iter(() if result is None else (result,))

    with ThreadPoolExecutor(max_workers=4) as pool:
        waiting: deque[tuple[Path, Future[Tensor]]] = deque()
        for file in files:
            waiting.append((file, pool.submit(read, file)))
            if len(waiting) > most:
                yield from taken(*waiting.popleft())
        while waiting:
            yield from taken(*waiting.popleft())


def _choose_key(path: Path, key: str | None) -> str:
    with arrays.open_arrays(path) as archive:
        keys = list(archive)
    if key is not None:
        if key not in keys:
            raise ConfigError(f"{str(path)!r} has no array {key!r}; it has {', '.join(keys) or 'none'}.")
        return key
    result = [name for name in _KEYS if name in keys] or (keys if len(keys) == 1 else [])
    if not result:
        raise ConfigError(f"{str(path)!r} has arrays {', '.join(keys) or '(none)'}; say which one holds the images.")
    return result[0]


def _digest(files: Sequence[Path], more: str, root: Path | None = None) -> str:
    """Return the SHA-256 of files' names (below `root`) and bytes."""
    total = hashlib.sha256(more.encode())
    for file in files:
        if root is not None:
            total.update(str(file.relative_to(root)).encode())
        with file.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()
