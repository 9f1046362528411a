"""Clips of videos and pictures that are decoded when they are asked for: how they are cut, and what is done to them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np

from phlogiston.datasets import pictures
from phlogiston.datasets.base import Array, Dataset, Decision, Info, Split
from phlogiston.datasets.clips import index
from phlogiston.datasets.clips.decoded import DecodedFrames
from phlogiston.datasets.clips.decoder import Form
from phlogiston.datasets.clips.index import Source
from phlogiston.datasets.clips.streamed import HELD, StreamedClips
from phlogiston.datasets.skipped import Skipped
from phlogiston.errors import DataError

LARGE = 1 << 30
"""Bytes of decoded frames from which they stay on disk unasked."""
SMALL = 1 << 19
"""Bytes of files that cannot come to so many, and are not looked into."""
SAMPLED = 64
"""Frames of a video that its background is found from."""
_KEPT = 1000  # backgrounds


@dataclass(frozen=True)
class Plan:
    """How videos are cut into clips, and what is done to frames; see `readers.video_folder.load`."""

    length: int
    stride: int
    every: int
    colour: bool
    subtracted: bool
    contrast: float
    valid: float
    test: float
    tensor: str


def sources(path: Path, wanted: bool | None) -> list[Source] | None:
    """Find the videos of a folder, or one video, without decoding any.

    Args:
        path: a folder or a file.
        wanted: whether they are to be decoded on demand; None for where there is much of them.

    Returns:
        What there is; None where it is to be read into memory.

    Raises:
        DataError: on demand is wanted, and there are arrays, or no videos.
    """
    inside = [path] if path.is_file() else sorted(path.iterdir())
    arrays = [p.name for p in inside if p.suffix.lower() in (".npy", ".npz")]
    if arrays:
        if wanted:
            raise DataError(f"stream: {arrays[0]} holds arrays, which are not decoded. Leave stream out.")
        return None
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    if not wanted and sum(file.stat().st_size for file in files) < SMALL:
        return None
    skipped, found = Skipped("videos"), []
    for entry in [path, *inside] if path.is_dir() else inside:
        source = skipped.read(entry.name, _source, entry)
        found += [source] if source is not None else []
    if wanted and not found:
        skipped.decisions()
        raise DataError(f"no videos in {str(path)!r}: expected {', '.join(pictures.VIDEOS)}, or folders of pictures.")
    size = sum(source.frames * source.size[0] * source.size[1] * 3 for source in found)
    if not found or not (wanted or size >= LARGE):
        return None
    skipped.decisions()  # warns of those that are left out
    return found


def _source(entry: Path) -> Source | None:
    """A video, the pictures of a folder, or None for anything else."""
    if entry.is_dir():
        files = sorted(p for p in entry.iterdir() if pictures.is_picture(p))
        return index.pictures(entry.name, files) if files else None
    if entry.suffix.lower() in pictures.VIDEOS and not pictures.is_picture(entry):
        return index.video(entry)
    return None


def streamed(info: Info, path: Path, found: Sequence[Source], form: Form, plan: Plan, workers: int | None) -> Dataset:
    """Cut videos into clips that are decoded when they are read.

    Args:
        info: of the source of data.
        path: of the videos.
        found: what there is.
        form: in which frames are kept.
        plan: how they are cut.
        workers: processes that decode; None for one less than there are cores, 4 at most.

    Raises:
        DataError: videos too short, of unlike frames, or no room on the disk.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = max(1, min(4, cores - 1)) if workers is None else workers
    frames = DecodedFrames(found, form, str(path), workers)
    parts: list[list[Array]] = [[], [], []]
    short = 0
    for source, end in zip(found, frames.ends, strict=True):
        used = -(-source.frames // plan.every)
        clips = end - source.frames + plan.every * np.arange(0, used - plan.length + 1, plan.stride)
        short += not len(clips)
        cut = len(clips) - round(plan.test * len(clips))
        before = cut - round(plan.valid * len(clips))
        for chosen, own in zip(parts, np.split(clips, [before, cut]), strict=True):
            chosen.append(own)
    train, valid, test = (np.concatenate(part) for part in parts)
    if not len(train):
        raise DataError(f"no video in {str(path)!r} has {plan.length} frames left. Choose a smaller length.")
    finish = Finisher(frames, [source.frames for source in found], plan)
    part = StreamedClips(frames, train, plan.length, finish, plan.tensor, plan.every, repr(asdict(plan)))
    told = [Decision("memory", f"{len(frames):,} frames are decoded when they are asked for", "stream=false")]
    if plan.subtracted:
        told.append(Decision("background", f"the median of {SAMPLED} frames of each video at most", "background=none"))
    held = part.some(valid), part.some(test)
    if len(held[0]) < len(valid) or len(held[1]) < len(test):
        told.append(Decision("parts", f"{HELD >> 20} MiB of validation and of test clips at most are used"))
    told += left_out(short, len(found), plan.length)
    options = {"data": str(path.absolute())}
    title = f"videos of {path.name}"
    return Dataset.of(info, (cast(Split, part), *held), options, title=title, notes="", decisions=tuple(told))


def left_out(short: int, videos: int, length: int) -> list[Decision]:
    """What is told of videos that leave no clip."""
    if not short:
        return []
    return [Decision("left out", f"{short:,} of {videos:,} videos shorter than {length} frames", "length=...")]


class Finisher:
    """What is done to clips when they are read: background away, contrast, colours, axes.

    Args:
        frames: where they come from.
        counts: frames of each video.
        plan: what is to be done.
    """

    def __init__(self, frames: DecodedFrames, counts: Sequence[int], plan: Plan) -> None:
        self._frames, self._counts, self.plan = frames, counts, plan
        self._backgrounds: dict[int, Array] = {}

    def __call__(self, clips: Array, first: Array) -> Array:
        """Clips uint8 (clips, time, height, width, 3) as a model reads them; `first` are their first frames."""
        if not self.plan.subtracted and not self.plan.contrast and self.plan.colour:
            return np.moveaxis(clips, -1, 2)
        unit = clips.astype(np.float32) / np.float32(255.0)
        behind = None
        if self.plan.subtracted:
            owners = np.searchsorted(self._frames.ends, first, side="right")
            behind = np.stack([self._background(int(owner)) for owner in owners])[:, None]
            behind = np.broadcast_to(behind, clips.shape).reshape(-1, *clips.shape[2:])
        flat = unit.reshape(-1, *clips.shape[2:])
        ready = finished(flat, behind, self.plan.colour, self.plan.contrast)
        shaped = ready.reshape(*clips.shape[:2], *ready.shape[1:])
        return with_colours(shaped) if self.plan.tensor == "frames" else shaped

    def _background(self, owner: int) -> Array:
        """The median of some frames of a video, floats."""
        if owner not in self._backgrounds:
            if len(self._backgrounds) >= _KEPT:
                self._backgrounds.clear()
            count, end = self._counts[owner], int(self._frames.ends[owner])
            used = -(-count // self.plan.every)
            some = np.unique(np.linspace(0, used - 1, min(used, SAMPLED)).round().astype(np.int64))
            frames = self._frames.read(end - count + self.plan.every * some)
            self._backgrounds[owner] = np.median(frames.astype(np.float32) / np.float32(255.0), 0)
        return self._backgrounds[owner]


def finished(frames: Array, background: Array | None, colour: bool, contrast: float) -> Array:
    """Take the background away and bring frames into the form a model reads: uint8 (frames, [3,] height, width).

    Args:
        frames: floats in [0, 1], (frames, height, width, colours).
        background: to show the difference from, of the shape of a frame or of all; None leaves frames alone.
        colour: keep three channels.
        contrast: divide by the standard deviation within so many pixels; 0 for not at all.
    """
    if background is not None:
        frames = np.abs(frames - background)
    if contrast > 0:
        from scipy.ndimage import uniform_filter

        window = (1, int(contrast), int(contrast), 1)
        spread = np.sqrt(np.clip(uniform_filter(frames**2, window) - uniform_filter(frames, window) ** 2, 0, None))
        frames = frames / (spread + 0.1)
    if not colour:
        frames = frames.max(-1, keepdims=True) if background is not None else frames.mean(-1, keepdims=True)
    elif frames.shape[-1] == 1:
        frames = np.repeat(frames, 3, -1)
    pixels = np.round(255 * np.clip(frames, 0, 1)).astype(np.uint8)
    return np.moveaxis(pixels, -1, 1) if colour else pixels[..., 0]


def with_colours(clips: Array) -> Array:
    """Clips with an axis of colours, (clips, time, colours, height, width)."""
    return clips if clips.ndim == 5 else clips[:, :, None]
