"""Arrays that stand beside videos in a file: labels for evaluation, cut as the videos are, and never videos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from phlogiston.datasets.base import Array, Decision

VIDEOS = ("x", "frames", "films", "video", "videos", "clips")
"""Arrays of these names are the videos of their file, and all others stand beside them."""
LABELS = frozenset(
    {"boxes", "present", "presence", "count", "counts", "ids", "where", "angle", "identity", "group", "label", "labels"}
    | {"action", "mask", "masks", "depth", "segmentation"}
)
"""Arrays of these names are no videos, whatever their shape."""


class Video(NamedTuple):
    """One video.

    Attributes:
        name: of its file.
        frames: (frames, height, width[, colours]).
        labels: what stands beside it: for each frame, (frames, ...), or once.
    """

    name: str
    frames: Array
    labels: Mapping[str, Array] = {}


def videos_with_labels(arrays: Mapping[str, Array], videos_of: Callable[[Array, str], list[Array]]) -> list[Video]:
    """Tell the videos of a file from what stands beside them.

    Args:
        arrays: of the file, by name; one without names is called "".
        videos_of: the videos in an array and its name, none where it holds something else.
    """
    named = [name for name in arrays if name.lower() in VIDEOS]
    sources = named or [name for name in arrays if name.lower() not in LABELS]
    found: list[Video] = []
    for name in sources:
        videos = videos_of(arrays[name], name)
        beside = {key: a for key, a in arrays.items() if key not in sources and a.dtype.kind in "biuf" and a.ndim}
        beside = {key: a for key, a in beside.items() if len(a) == len(videos)}
        found += [Video("", video, {key: a[i] for key, a in beside.items()}) for i, video in enumerate(videos)]
    return found


def common_labels(videos: Sequence[Video], moved: bool) -> tuple[list[str], list[Decision]]:
    """The labels that every video has, and what is told of them.

    Args:
        videos: all videos.
        moved: whether frames are scaled or cut out, so that positions in pixels no longer hold.
    """
    every = [set(video.labels) for video in videos]
    kept = sorted(set.intersection(*every)) if every else []
    lost = {name for names in every for name in names} - set(kept)
    told = [Decision("left out", f"{name}: beside some videos only") for name in sorted(lost)]
    if moved and "boxes" in kept:
        kept.remove("boxes")
        told.append(Decision("left out", "boxes: size or crop move the pixels they speak of"))
    if kept:
        told.append(Decision("labels", f"{', '.join(kept)}: kept for evaluation, not trained on"))
    return kept, told


def cut_label(label: Array, frames: int, every: int, start: int, length: int) -> Array:
    """A label of a clip: the clip's frames of it where it has one entry per frame, else the whole."""
    value = np.asarray(label)
    return value[::every][start : start + length] if value.ndim and len(value) == frames else value


def stacked(values: Sequence[Array], like: Sequence[Array]) -> Array:
    """Labels of clips as one array; an empty one has the shape of others."""
    return np.stack(values) if len(values) else np.zeros((0, *np.shape(like[0])), np.asarray(like[0]).dtype)
