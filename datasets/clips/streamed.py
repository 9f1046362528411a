"""Clips of frames that stay on disk: the training rows of videos larger than memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from typing import Any, Protocol

import numpy as np

from phlogiston.datasets.base import Array, Split
from phlogiston.datasets.permutation import Permutation
from phlogiston.datasets.streamed import Streamed

HELD = 1 << 26
"""Bytes of clips that are read into memory at once: a sample, the validation part, the test part."""


class Frames(Protocol):
    """Where frames come from.

    Attributes:
        name: what messages call it.
        shape: of a frame, (height, width, colours).
    """

    name: str
    shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def read(self, numbers: Array) -> Array:
        """Return frames by number, int64 (n,), as (n, height, width, colours)."""

    def expect(self, numbers: Array) -> None:
        """Get ready for frames that will be read next."""


Finish = Callable[[Array, Array], Array]
"""Makes of frames (clips, time, height, width, colours) and the numbers of their first ones what a model reads."""


class StreamedClips(Streamed):
    """Clips cut out of frames on disk; a row is a clip.

    Args:
        frames: where they come from.
        starts: number of the first frame of each clip, int64 (clips,).
        length: frames per clip.
        finish: what is done to clips when they are read; see `Finish`.
        name: of the tensor that holds them, `"x"` or `"frames"`.
        step: distance of a clip's frames.
        about: what tells `finish` from others, for `digest`.
    """

    def __init__(
        self,
        frames: Frames,
        starts: Array,
        length: int,
        finish: Finish,
        name: str = "frames",
        step: int = 1,
        about: str = "",
    ) -> None:
        self.about = about
        self.frames, self.starts, self.length, self.finish, self.name, self.step = (
            frames, np.asarray(starts, dtype=np.int64), length, finish, name, step,
        )  # fmt: skip
        self.start, self.stop, self.order = 0, len(self.starts), None
        self.sequences = frozenset([name])
        self._row = self._read(np.arange(1, dtype=np.int64)).tensors[name].shape[1:] if len(self.starts) else ()

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self._row))
        return f"StreamedClips({len(self):,} clips of {self.frames.name}; {self.name}: {shape})"

    def _numbers(self, rows: Array) -> Array:
        """The frames of clips, (clips, length)."""
        return self.starts[rows][:, None] + self.step * np.arange(self.length)

    def _read(self, rows: Array) -> Split:
        numbers = self._numbers(rows)
        distinct, places = np.unique(numbers, return_inverse=True)  # in the order they have on disk, each once
        clips = self.frames.read(distinct)[places.reshape(numbers.shape)]
        return Split({self.name: self.finish(clips, numbers[:, 0])}, sequences=(self.name,))

    def expect(self, rows: Any) -> None:
        """Get ready for clips that will be read next, without waiting for them."""
        self.frames.expect(np.unique(self._numbers(np.asarray(rows, dtype=np.int64))))

    def digest(self) -> str | None:
        """What tells these clips from others without reading them; None where their frames cannot tell."""
        of_frames = getattr(self.frames, "digest", None)
        if of_frames is None:
            return None
        digest = hashlib.sha256(repr((of_frames(), self.length, self.step, self.name, self.about)).encode())
        digest.update(self.starts.tobytes())
        return digest.hexdigest()

    @property
    def row_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of one row."""
        return {self.name: tuple(self._row)}

    def sample(self, rows: int = 256, seed: int = 0) -> Split:
        """Read clips drawn from the whole part, 64 MiB at most; all of a short one."""
        rows = min(rows, held(self._row))
        if rows >= len(self):
            return self.split(slice(None))
        return self.split(np.sort(Permutation(len(self), (seed, 1))(np.arange(rows, dtype=np.int64))))

    def narrowed(self, keep: Collection[str] = ()) -> Streamed:
        """The part itself: its pixels are bytes."""
        return self

    def some(self, starts: Array) -> Split:
        """Read the clips that begin at some frames, 64 MiB of them at most."""
        kept = np.asarray(starts[: held(self._row)], dtype=np.int64)
        if len(kept):
            return StreamedClips(self.frames, kept, self.length, self.finish, self.name, self.step).split(slice(None))
        return Split({self.name: np.zeros((0, *self._row), np.uint8)}, sequences=(self.name,))


def held(row: tuple[int, ...]) -> int:
    """How many clips of a shape, of bytes, may be in memory at once; one at least."""
    return max(1, HELD // max(1, int(np.prod(row))))
