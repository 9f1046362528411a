"""A recording on disk: the frames of all games one after another, and where each game begins.

    games/recording.json    what was recorded, and how
    games/frames.npy        uint8 (frames, C, H, W), or float32 (frames, entries) of vectors
    games/action.npy        int16 (frames,), what was done at each; 0 at the last frame of a game
    games/reward.npy        float32 (frames,), what came with each; 0 at the first frame of a game
    games/ended.npy         bool (games,), whether the game came to an end, rather than to a limit
    games/offsets.npy       int64 (games + 1,), where each game's frames begin

Nothing is filled up, and frames stay on disk until they are used.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phlogiston.datasets.base import Array, Split
from phlogiston.datasets.recording.environment import GameSpec
from phlogiston.datasets.streamed import ArrayRows, Streamed
from phlogiston.datasets.untrusted import arrays
from phlogiston.datasets.untrusted.documents import read_object
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.errors import DataError
from phlogiston.files import write_json

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "phlogiston recording 1"
ABOUT = "recording.json"
SHOWN = 64
"""Games that are taken into memory where some must be: to look at, and to choose first parameters by."""


@dataclass(frozen=True)
class PlayedGames:
    """Games that were played, in order; a part of a recording.

    Attributes:
        lengths: frames of each.
        ended: whether each came to its end.
        action: what was done at each frame.
        reward: what came with it.
    """

    lengths: list[int]
    ended: list[bool]
    action: list[int]
    reward: list[float]


def write(folder: Path, frames: Path, shape: Sequence[int], vector: bool, played: PlayedGames, about: Any) -> None:
    """Write a recording into a folder.

    Args:
        folder: an empty one.
        frames: file with the bytes of all frames; it is used up.
        shape: of a frame.
        vector: whether frames are float32 vectors, rather than bytes.
        played: the games.
        about: JSON-able: what was recorded, and how.
    """
    count = sum(played.lengths)
    dtype = np.dtype(np.float32 if vector else np.uint8)
    with open(folder / "frames.npy", "wb") as out, open(frames, "rb") as raw:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count, *shape)}
        np.lib.format.write_array_header_1_0(out, header)
        shutil.copyfileobj(raw, out, 1 << 24)
        out.flush()
        os.fsync(out.fileno())
    frames.unlink()
    np.save(folder / "action.npy", np.array(played.action, dtype=np.int16))
    np.save(folder / "reward.npy", np.array(played.reward, dtype=np.float32))
    np.save(folder / "ended.npy", np.array(played.ended, dtype=np.bool_))
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(played.lengths)]).astype(np.int64))
    write_json(folder / ABOUT, {"format": FORMAT, **about})


class Recording:
    """An open recording.

    Args:
        path: its folder.

    Attributes:
        about: what `recording.json` says.
        spec: how its games are played.
        offsets: int64 (games + 1,).
        action: int64 (frames,).
        reward: float32 (frames,).
        ended: bool (games,).
        shape: of a frame as models take it, (C, H, W).
        rows: all frames, (frames, entries).

    Raises:
        DataError: there is none, or its files do not fit each other.
    """

    columns: tuple[str, ...] = ()

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.name = str(self.path)
        with reading(self.path / ABOUT, "a recording of games"):
            self.about = read_object(self.path / ABOUT, "a recording of games")
            if self.about.get("format") != FORMAT:
                raise DataError(f"the format is {self.about.get('format')!r}; this version reads {FORMAT!r}.")
            self.spec = GameSpec.read(self.about["spec"])
        self.offsets = self._array("offsets", "i")
        self.action = self._array("action", "iu").astype(np.int64)
        self.reward = self._array("reward", "f")
        self.ended = self._array("ended", "b")
        self.rows, self.shape = self._open()
        self._check()

    def __len__(self) -> int:
        return len(self.ended)

    @property
    def lengths(self) -> Array:
        """Frames of each game, int64 (games,)."""
        return np.diff(self.offsets)

    def frames(self, index: Array, spec: GameSpec | None = None) -> Array:
        """Read frames by number, int64 (n,): (n, C, H, W), bytes, or float32 in [0, 1] of vectors.

        Args:
            index: of all frames.
            spec: that of another recording of the game, whose scale counts.
        """
        rows = self.rows.read(np.asarray(index, dtype=np.int64))
        spec = self.spec if spec is None else spec
        return spec.scaled(rows) if spec.view.vector else rows.reshape(len(rows), *self.shape)

    def digest(self) -> str:
        """A hash of the games: of everything but the frames, and of frames spread over them."""
        found = hashlib.sha256(repr((self.shape, len(self))).encode())
        for array in (self.offsets, self.action, self.reward, self.ended):
            found.update(np.ascontiguousarray(array).tobytes())
        last = len(self.action) - 1
        found.update(self.frames(np.linspace(0, last, min(last + 1, 1024)).astype(np.int64)).tobytes())
        return found.hexdigest()

    def _array(self, name: str, kinds: str) -> Array:
        path = self.path / f"{name}.npy"
        array: Array = arrays.load(path)
        if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in kinds:
            raise DataError(f"{str(path)!r} is not the array of a recording; expected one axis of kind {kinds!r}.")
        return array

    def _open(self) -> tuple[ArrayRows, tuple[int, int, int]]:
        path = self.path / "frames.npy"
        with reading(path, "the frames of a recording"), open(path, "rb") as file:
            header = arrays.read_header(file, repr(str(path)))
            at = file.tell()
        vector = self.spec.view.vector
        shape, kind = header.shape[1:], np.dtype(np.float32 if vector else np.uint8)
        fits = shape == (vector,) if vector else (len(shape) == 3 and shape[0] in (1, 3) and min(shape) > 0)
        if not fits or header.dtype != kind or header.fortran or header.shape[0] != len(self.action):
            raise DataError(
                f"{str(path)!r} holds {header.dtype} {header.shape}; expected {kind} frames, {len(self.action):,}."
            )
        if path.stat().st_size - at < header.size:
            raise DataError(f"{str(path)!r} is truncated: it claims {header.size:,} bytes of frames.")
        size = int(np.prod(shape))
        table = np.memmap(path, kind, "r", at, (header.shape[0], size))
        if vector:
            if np.shape(self.spec.scale) != (2, vector):
                raise DataError(f"{self.name!r} has no scale for the {vector} entries of its frames.")
            return ArrayRows([table], self.name), (1, 1, vector)
        return ArrayRows([table], self.name), (int(shape[0]), int(shape[1]), int(shape[2]))

    def _check(self) -> None:
        games, count = len(self.ended), len(self.action)
        whole = len(self.offsets) == games + 1 and len(self.reward) == count and games > 0
        if not whole or self.offsets[0] != 0 or self.offsets[-1] != count or int(self.lengths.min()) < 2:
            raise DataError(f"{self.name!r} is damaged: games, frames, actions and rewards do not fit each other.")
        if int(self.action.min()) < 0 or int(self.action.max()) >= len(self.spec.actions):
            raise DataError(f"{self.name!r} holds an action beyond its list of {len(self.spec.actions)}.")
        if not bool(np.isfinite(self.reward).all()):
            raise DataError(f"{self.name!r} holds a reward that is no finite number.")


class SampledGames(Split):
    """Some games of a recording in memory.

    Attributes:
        whole: the games they are a sample of.
    """

    whole: RecordedGames


class RecordedGames(Streamed):
    """Some games of a recording, or of several alike; their frames stay on disk.

    Args:
        recordings: alike in frames and actions.
        games: numbers of the games, counted through all recordings; all by default.
    """

    sequences = frozenset(("frames", "action", "done", "reward"))
    by_batch = False

    def __init__(self, recordings: Sequence[Recording], games: Array | None = None) -> None:
        first = recordings[0]
        for other in recordings[1:]:
            if other.shape != first.shape or other.spec.actions != first.spec.actions:
                raise DataError(f"{other.name!r} has other frames or actions than {first.name!r}.")
        super().__init__(first.rows, stop=sum(map(len, recordings)))
        self.recordings = list(recordings)
        begins = [int(n) for n in np.cumsum([0, *(len(r.action) for r in recordings)])]
        starts = np.concatenate([r.offsets[:-1] + b for r, b in zip(recordings, begins, strict=False)])
        lengths = np.concatenate([r.lengths for r in recordings])
        chosen = np.arange(len(lengths)) if games is None else np.asarray(games, dtype=np.int64)
        self.games, self._begins = chosen, np.array(begins)
        self.starts, self.lengths = starts[chosen], lengths[chosen]
        self.ended = np.concatenate([r.ended for r in recordings])[chosen]
        self.longest = int(lengths.max())
        self._action = np.concatenate([r.action for r in recordings])
        self._reward = np.concatenate([r.reward for r in recordings])

    def __len__(self) -> int:
        return len(self.games)

    def __repr__(self) -> str:
        names = ", ".join(r.name for r in self.recordings)
        return f"RecordedGames({len(self):,} games of {names}; {int(self.lengths.sum()):,} frames {self.shape})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a frame, (C, H, W)."""
        return self.recordings[0].shape

    @property
    def spec(self) -> GameSpec:
        """How the games are played."""
        return self.recordings[0].spec

    def frames(self, game: Array, step: Array) -> Array:
        """Read single frames: of games (n,), at steps (n,), (n, C, H, W)."""
        return self._read_flat(self.starts[game] + step)

    def _read_flat(self, index: Array) -> Array:
        if len(self.recordings) == 1:
            return self.recordings[0].frames(index)
        which = np.searchsorted(self._begins, index, side="right") - 1
        out = np.empty((len(index), *self.shape), np.float32 if self.spec.view.vector else np.uint8)
        for i in np.unique(which):
            here = which == i
            out[here] = self.recordings[i].frames(index[here] - self._begins[i], self.spec)
        return out

    def labels(self, game: Array, first: Array, steps: int) -> tuple[Array, Array, Array]:
        """Actions, rewards and ends of windows: of games (n,), from steps (n,) on, so many; 0 outside of a game."""
        step = first[:, None] + np.arange(steps)
        length = self.lengths[game][:, None]
        inside = (step >= 0) & (step < length)
        index = np.where(inside, self.starts[game][:, None] + step, 0)
        done = (step == length - 1) & self.ended[game][:, None]
        return np.where(inside, self._action[index], 0), np.where(inside, self._reward[index], 0.0), done

    def digest(self) -> str:
        """A hash of the games; see `Recording.digest`."""
        parts = [r.digest() for r in self.recordings]
        return hashlib.sha256(repr(parts).encode() + self.games.tobytes()).hexdigest()

    @property
    def row_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of one game, filled up to the longest."""
        one = (self.longest,)
        return {"frames": (*one, *self.shape), "action": one, "done": one, "length": (), "reward": one}

    def split(self, index: Any) -> SampledGames:
        """Read the games that `index` selects into memory, zeros behind the end of each."""
        chosen = np.arange(len(self))[index] if isinstance(index, slice) else np.atleast_1d(np.asarray(index))
        action, reward, done = self.labels(chosen, np.zeros(len(chosen), dtype=np.int64), self.longest)
        kind = np.float32 if self.spec.view.vector else np.uint8
        frames = np.zeros((len(chosen), self.longest, *self.shape), kind)
        for row, game in enumerate(chosen.tolist()):
            length = int(self.lengths[game])
            frames[row, :length] = self._read_flat(self.starts[game] + np.arange(length))
        tensors: dict[str, Tensor | Array] = {"frames": frames, "action": action, "done": done, "reward": reward}
        tensors["length"] = self.lengths[chosen]
        sampled = SampledGames(tensors, sequences=self.sequences)
        sampled.whole = self
        return sampled

    def sample(self, rows: int = SHOWN, seed: int = 0) -> SampledGames:
        """Read some games, evenly spaced: at most `SHOWN`, however many are asked for."""
        return self.split(np.linspace(0, len(self) - 1, min(rows, SHOWN, len(self))).astype(np.int64))

    def select(self, games: Iterable[int] | Array) -> RecordedGames:
        """Some of these games."""
        return RecordedGames(self.recordings, self.games[np.asarray(games, dtype=np.int64)])

    def narrowed(self, keep: Collection[str] = ()) -> RecordedGames:
        """The same: there is no float64 in it."""
        return self
