"""What there is to decode: the frames of videos and pictures, and from which of them decoding can begin.

A video is demultiplexed, not decoded: the times of its packets say how many frames it has and which are key frames. A
segment reaches from a key frame to the next one in the order of showing; whoever wants one of its frames decodes it
from its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.datasets.untrusted.media import open_picture, open_video
from phlogiston.errors import DataError

SEQUENTIAL = np.zeros(0, np.int64)
"""Times of a video whose packets do not say any: it is decoded as a whole."""


@dataclass(frozen=True)
class Source:
    """A video, or pictures that follow one another.

    Attributes:
        name: what messages call it.
        paths: of the video, or of each picture.
        frames: how many.
        size: height and width of a frame.
        times: of the frames in the order of showing, in units of the stream; `SEQUENTIAL` where there are none.
        begins: numbers of the frames that segments begin with, the first being 0.
        pictures: whether it is made of pictures.
    """

    name: str
    paths: tuple[Path, ...]
    frames: int
    size: tuple[int, int]
    times: Array
    begins: Array
    pictures: bool = False


def pictures(name: str, paths: Sequence[Path]) -> Source:
    """Pictures as the frames of a video, of the size of the first one."""
    with open_picture(paths[0]) as picture:
        size = (picture.height, picture.width)
    return Source(name, tuple(paths), len(paths), size, SEQUENTIAL, np.arange(len(paths)), pictures=True)


def video(path: Path) -> Source:
    """Find out which frames a video has.

    Raises:
        DataError: it is no video, or holds no frames.
    """
    if path.suffix.lower() == ".gif":
        with open_picture(path) as picture:
            count = int(getattr(picture, "n_frames", 1))
            return _whole(path, count, (picture.height, picture.width))
    times, keys, packets = [], [], 0
    with reading(path, "a video"), open_video(path) as (container, stream):
        size = (int(stream.height), int(stream.width))
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:
                continue
            packets += 1
            if packet.pts is not None:
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
    if not packets or min(size) < 1:
        raise DataError(f"{str(path)!r} holds no frames.")
    ordered = np.unique(np.array(times, dtype=np.int64))
    if len(ordered) < packets or not keys or min(keys) > ordered[0]:
        return _whole(path, packets, size)
    begins = np.searchsorted(ordered, np.unique(np.array(keys, dtype=np.int64)))
    return Source(path.name, (path,), packets, size, ordered, begins)


def _whole(path: Path, count: int, size: tuple[int, int]) -> Source:
    """A video that is one segment."""
    return Source(path.name, (path,), count, size, SEQUENTIAL, np.zeros(1, np.int64))
