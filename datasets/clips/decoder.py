"""Decoding a segment into a file of frames; as a program, one segment after another, until there are no more.

    python -P -m phlogiston.datasets.clips.decoder

reads one JSON object per line from stdin: first where frames go and in which form, then a segment each. It answers
every segment with `{}` or `{"error": ...}`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phlogiston.datasets import pictures
from phlogiston.datasets.base import Array
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.datasets.untrusted.media import open_video, video_frames
from phlogiston.errors import DataError, PhlogistonError


@dataclass(frozen=True)
class Form:
    """How frames are kept.

    Attributes:
        crop: y, x, height, width of the part to keep, or None.
        size: height and width to scale to, or None.
        square: cut the middle square out and scale it to so many pixels; 0 for not.
    """

    crop: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None
    square: int = 0

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """The shape of frames that were of a size."""
        if self.square:
            return (self.square, self.square, 3)
        height, width = self.size or (self.crop[2:] if self.crop is not None else size)
        return (height, width, 3)

    def of(self, frame: Array) -> Array:
        """A frame uint8 (height, width[, 1 or 3]) in this form, (height, width, 3).

        Raises:
            DataError: the part to keep lies outside of it.
        """
        from PIL import Image

        frame = frame[..., None] if frame.ndim == 2 else frame[..., :3]
        frame = np.repeat(frame, 3, -1) if frame.shape[-1] == 1 else frame
        if self.crop is not None:
            y, x, h, w = self.crop
            if min(y, x) < 0 or min(h, w) < 1 or y + h > frame.shape[0] or x + w > frame.shape[1]:
                raise DataError(f"crop={self.crop} lies outside frames of {frame.shape[:2]}.")
            frame = frame[y : y + h, x : x + w]
        target = self.size
        if self.square:
            side = min(frame.shape[:2])
            top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
            frame, target = frame[top : top + side, left : left + side], (self.square, self.square)
        if target is None or tuple(target) == frame.shape[:2]:
            return frame
        how = Image.Resampling.BOX if self.square and side > self.square else Image.Resampling.BILINEAR
        return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize(target[::-1], how))


@dataclass(frozen=True)
class Segment:
    """Frames that are decoded together.

    Attributes:
        paths: the video, or the pictures.
        first: number of the first frame in the file of frames.
        count: how many.
        times: of the frames; () for a video that is decoded from its beginning, and for pictures.
        pictures: whether they are pictures.
    """

    paths: tuple[str, ...]
    first: int
    count: int
    times: tuple[int, ...] = ()
    pictures: bool = False

    def frames(self, videos: Videos) -> Iterator[tuple[int, Array]]:
        """Decode; yield each frame with its place in the segment.

        Args:
            videos: keeps the video open for the next segment.

        Raises:
            DataError: a file is damaged, or holds fewer frames than it announces.
        """
        if self.pictures:
            for i, path in enumerate(self.paths):
                yield i, pictures.to_bytes(pictures.read(Path(path)), Path(path))
            return
        found: set[int] = set()
        for seek in (True, False) if self.times else (False,):
            for i, frame in self._decoded(seek, videos):
                if i not in found:
                    found.add(i)
                    yield i, frame
                if len(found) == self.count:
                    return
        raise DataError(f"{self.paths[0]!r} announces {self.count - len(found)} frames more than can be decoded.")

    def _decoded(self, seek: bool, videos: Videos) -> Iterator[tuple[int, Array]]:
        path = self.paths[0]
        if not self.times:
            yield from enumerate(video_frames(path))
            return
        places = {time: i for i, time in enumerate(self.times)}
        with reading(path, "a video"), videos.opened(path, anew=not seek) as (container, stream):
            if seek:
                container.seek(self.times[0], stream=stream)
            for frame in container.decode(stream):
                if frame.pts in places:
                    yield places[frame.pts], frame.to_ndarray(format="rgb24")
                elif frame.pts is not None and frame.pts > self.times[-1]:
                    return


class Videos:
    """Videos that are open: opening a long one takes longer than decoding a segment of it."""

    MOST = 4

    def __init__(self) -> None:
        self._open: dict[str, tuple[ExitStack, Any, Any]] = {}

    @contextmanager
    def opened(self, path: str, anew: bool = False) -> Iterator[tuple[Any, Any]]:
        """A video's container and stream of pictures; closed if something goes wrong with it.

        Args:
            path: the video.
            anew: begin at its beginning.
        """
        if anew:
            self._close(path)
        if path not in self._open:
            while len(self._open) >= self.MOST:
                self._close(next(iter(self._open)))
            stack = ExitStack()
            container, stream = stack.enter_context(open_video(path))
            stream.codec_context.thread_count = 1  # the segments are what is shared out
            self._open[path] = (stack, container, stream)
        try:
            yield self._open[path][1:]
        except BaseException as error:
            if not isinstance(error, GeneratorExit):  # whoever has all frames reads no further
                self._close(path)
            raise

    def _close(self, path: str) -> None:
        if path in self._open:
            self._open.pop(path)[0].close()


def decode(segment: Segment, form: Form, file: int, shape: Sequence[int], videos: Videos) -> None:
    """Decode a segment into a file of frames.

    Args:
        segment: what to decode.
        form: in which frames are kept.
        file: descriptor, open for writing.
        shape: that every frame must have.
        videos: those that are open.

    Raises:
        DataError: see `Segment.frames`; or a frame of another shape.
    """
    size = int(np.prod(shape))
    for i, frame in segment.frames(videos):
        ready = form.of(frame)
        if ready.shape != tuple(shape):
            path = segment.paths[i if segment.pictures else 0]
            raise DataError(
                f"{path!r} has frames of {ready.shape[:2]} pixels, others of {tuple(shape[:2])}. Scale them by size=..."
            )
        content = np.ascontiguousarray(ready).tobytes()
        if os.pwrite(file, content, (segment.first + i) * size) != size:
            raise DataError("there is no room left for decoded frames.")


def request(segment: Segment) -> str:
    """A segment as a line."""
    return json.dumps(asdict(segment))


def work() -> None:
    """Decode what is asked for; see the head of this file."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # nothing else may write among the answers
    settings = json.loads(sys.stdin.readline())
    kept: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in settings["form"].items()}
    form = Form(**kept)
    file, videos = os.open(settings["file"], os.O_WRONLY), Videos()
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        segment = Segment(**{**asked, "paths": tuple(asked["paths"]), "times": tuple(asked["times"])})
        said = {}
        try:
            decode(segment, form, file, settings["shape"], videos)
        except PhlogistonError as error:
            said["error"] = str(error)
        except OSError as error:
            said["error"] = f"decoded frames cannot be kept in {settings['file']!r}: {error.strerror}."
        print(json.dumps(said), file=answers)


if __name__ == "__main__":
    work()
