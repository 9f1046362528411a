"""Frames of videos and pictures, decoded when they are asked for, and kept.

A file in the cache folder has a place for every frame; what was never asked for is a hole in it. Worker processes fill
in segments; once a segment is there, its frames are read from the file, in this run and in later ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from phlogiston.datasets.base import Array
from phlogiston.datasets.clips.decoder import Form, Segment, Videos, decode, request
from phlogiston.datasets.clips.index import Source
from phlogiston.errors import DataError
from phlogiston.files import cache_folder, write_json

AHEAD = 2
"""Segments that a worker has at a time: one at work, one waiting."""
TOGETHER = 16
"""Pictures of one segment."""


class DecodedFrames:
    """Frames of several sources, one after another.

    Args:
        sources: the videos.
        form: in which frames are kept.
        name: what messages call them.
        workers: processes that decode; 0 for this one.

    Raises:
        DataError: sources of several sizes where `form` does not make them one, or no room on the disk.
    """

    def __init__(self, sources: Sequence[Source], form: Form, name: str, workers: int) -> None:
        shapes = {form.shape(source.size): source.name for source in sources}
        if len(shapes) > 1:
            listed = ", ".join(f"{source}: {shape[:2]}" for shape, source in list(shapes.items())[:3])
            raise DataError(f"videos have frames of different shapes ({listed}); give size=(height, width).")
        self.shape: tuple[int, ...] = next(iter(shapes))
        self.name, self.form = name, form
        self.ends = np.cumsum([source.frames for source in sources])
        self._sources = list(sources)
        self._begins, self._owner, self._within = _segments(sources)
        self._folder = self._prepared()
        self._file = os.open(self._folder / "frames", os.O_RDWR)
        weakref.finalize(self, os.close, self._file)
        self._there: Any = np.memmap(self._folder / "there", np.uint8, "r+", shape=(len(self._begins),))
        self._videos = Videos()
        self._pool = Pool(self, workers) if workers else None

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _prepared(self) -> Path:
        """The folder of these frames in the cache, made if it is not there, or may be incomplete."""
        about = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for s in self._sources for p in s.paths]
        key = json.dumps([about, asdict(self.form), self._begins.tolist()])
        folder = cache_folder() / "frames" / hashlib.sha256(key.encode()).hexdigest()[:24]
        size = len(self) * int(np.prod(self.shape))
        meta = {"name": self.name, "frames": len(self), "shape": list(self.shape), "boot": _boot()}
        if _is(folder, meta):
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        if size > shutil.disk_usage(folder.parent).free:
            raise DataError(
                f"{str(folder.parent)!r} has no room for {size / 2**30:,.1f} GiB of decoded frames. Make frames "
                "smaller by size=..., or name another folder by PHLOGISTON_CACHE."
            )
        made = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            with (made / "frames").open("wb") as file:
                file.truncate(size)
            (made / "there").write_bytes(bytes(len(self._begins)))
            write_json(made / "about.json", meta)
            if folder.is_dir() and not _is(folder, meta):  # after a power cut, marks may be there without their frames
                os.rename(folder, Path(tempfile.mkdtemp(dir=folder.parent)))
            with contextlib.suppress(OSError):  # another process was first
                os.rename(made, folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return folder

    def digest(self) -> str:
        """What tells these frames from others: a SHA-256 of the files' content and of the form they are kept in."""
        digest = hashlib.sha256(repr((self.form, self._begins.tolist(), len(self))).encode())
        for source in self._sources:
            for path in source.paths:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def read(self, numbers: Array) -> Array:
        """Return frames by number, uint8 (n, height, width, 3); what is not there is decoded first."""
        self._decode(self._missing(numbers))
        out = np.empty((len(numbers), *self.shape), np.uint8)
        size = int(np.prod(self.shape))
        cuts = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), len(numbers)]
        for first, last in pairwise(cuts):  # frames in a row are one reading, which is most of what a small one costs
            whole, done = out[first:last].reshape(-1).data, 0
            while done < len(whole):
                got = os.preadv(self._file, [whole[done:]], int(numbers[first]) * size + done)
                if not got:
                    raise DataError(f"{self.name}: the file of decoded frames in {str(self._folder)!r} is cut off.")
                done += got
        return out

    def expect(self, numbers: Array) -> None:
        """Let the workers begin with frames that will be read next."""
        if self._pool is not None:
            self._pool.submit(self._missing(numbers))

    def _missing(self, numbers: Array) -> list[int]:
        """Segments that have some of the frames and are not decoded."""
        segments = np.unique(np.searchsorted(self._begins, numbers, side="right") - 1)
        return segments[self._there[segments] == 0].tolist()

    def _decode(self, segments: list[int]) -> None:
        if not segments:
            return
        if self._pool is not None:
            self._pool.submit(segments)
            self._pool.wait(segments)
            return
        for number in segments:
            decode(self.segment(number), self.form, self._file, self.shape, self._videos)
            self.mark(number)

    def mark(self, segment: int) -> None:
        """Take note that a segment is there."""
        self._there[segment] = 1

    def segment(self, number: int) -> Segment:
        """A segment as whoever decodes it wants it."""
        source = self._sources[self._owner[number]]
        begin = int(self._begins[number])
        end = int(self._begins[number + 1]) if number + 1 < len(self._begins) else len(self)
        within, count = int(self._within[number]), end - begin
        if source.pictures:
            paths = tuple(str(path) for path in source.paths[within : within + count])
            return Segment(paths, begin, count, pictures=True)
        times = tuple(source.times[within : within + count].tolist())
        return Segment((str(source.paths[0]),), begin, count, times)

    def settings(self) -> dict[str, Any]:
        """What a worker must know."""
        return {"file": str(self._folder / "frames"), "shape": list(self.shape), "form": asdict(self.form)}


def _segments(sources: Sequence[Source]) -> tuple[Array, Array, Array]:
    """First frame of every segment, the source it belongs to, and its first frame within that."""
    begins, owners, within = [], [], []
    base = 0
    for i, source in enumerate(sources):
        own = source.begins[::TOGETHER] if source.pictures else source.begins
        begins.append(base + own)
        owners.append(np.full(len(own), i))
        within.append(own)
        base += source.frames
    return np.concatenate(begins), np.concatenate(owners), np.concatenate(within)


def _is(folder: Path, meta: dict[str, Any]) -> bool:
    """Whether a folder of the cache holds what is asked for."""
    try:
        return bool(json.loads((folder / "about.json").read_text()) == meta)
    except (OSError, ValueError):
        return False


def _boot() -> str:
    """What tells one start of the machine from another, where it says so."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class Pool:
    """Processes that decode segments of `DecodedFrames`; they start when there is something to do.

    Args:
        frames: whose segments.
        count: how many processes.
    """

    def __init__(self, frames: DecodedFrames, count: int) -> None:
        self._frames, self._count = weakref.ref(frames), count
        self._workers: list[Any] = []
        self._at_work: list[deque[int]] = []
        self._heard: list[bytes] = []
        self._waiting: deque[int] = deque()
        self._asked: set[int] = set()
        self._selector = selectors.DefaultSelector()
        self._parent = os.getpid()

    def submit(self, segments: Iterable[int]) -> None:
        """Ask for segments, without waiting for them."""
        if os.getpid() != self._parent:  # a fork: its parent's workers are not its own
            self.__init__(self._held(), self._count)  # type: ignore[misc]
        for segment in segments:
            if segment not in self._asked:
                self._asked.add(segment)
                self._waiting.append(segment)
        if self._waiting and not self._workers:
            self._start()
        self._take(0.0)
        self._give()

    def wait(self, segments: Iterable[int]) -> None:
        """Wait for segments that were asked for.

        Raises:
            DataError: one of them cannot be decoded, or its process ended.
        """
        wanted = set(segments)
        for segment in list(self._waiting):
            if segment in wanted:  # before what may be wanted later
                self._waiting.remove(segment)
                self._waiting.appendleft(segment)
        self._give()
        while wanted & self._asked:
            self._take(None)
            self._give()

    def _held(self) -> DecodedFrames:
        frames = self._frames()
        assert frames is not None
        return frames

    def _start(self) -> None:
        command = [sys.executable, "-P", "-m", "phlogiston.datasets.clips.decoder"]
        for i in range(self._count):
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
            weakref.finalize(self, _end, worker)
            self._workers.append(worker)
            self._at_work.append(deque())
            self._heard.append(b"")
            assert worker.stdout is not None
            self._selector.register(worker.stdout, selectors.EVENT_READ, i)
            self._tell(worker, json.dumps(self._held().settings()))

    def _give(self) -> None:
        """Give workers what they have room for, the least busy first."""
        while self._waiting:
            i = min(range(len(self._workers)), key=lambda i: len(self._at_work[i]))
            if len(self._at_work[i]) >= AHEAD:
                return
            segment = self._waiting.popleft()
            self._at_work[i].append(segment)
            self._tell(self._workers[i], request(self._held().segment(segment)))

    def _tell(self, worker: Any, line: str) -> None:
        try:
            content = memoryview(f"{line}\n".encode())
            while content:
                content = content[worker.stdin.write(content) :]
        except BrokenPipeError:
            raise DataError(f"{self._held().name}: a process that decodes has ended (code {worker.wait()}).") from None

    def _take(self, patience: float | None) -> None:
        """Take answers; wait for the first of them as long as told."""
        for key, _ in self._selector.select(patience):
            i = key.data
            said = os.read(key.fd, 1 << 16)
            if not said:
                name, code = self._held().name, self._workers[i].wait()
                raise DataError(f"{name}: a process that decodes has ended (code {code}).")
            *lines, self._heard[i] = (self._heard[i] + said).split(b"\n")
            for line in lines:
                segment = self._at_work[i].popleft()
                self._asked.discard(segment)
                answer = json.loads(line)
                if "error" in answer:
                    raise DataError(answer["error"])
                self._held().mark(segment)


def _end(worker: Any) -> None:
    worker.kill()
    worker.stdin.close()
    worker.stdout.close()
    worker.wait()
