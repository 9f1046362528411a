"""metrics.jsonl and the TensorBoard events: written record by record, and read by whoever does not trust them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import time
import warnings
from bisect import bisect_right, insort
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from phlogiston.errors import RunWarning

NAME = "metrics.jsonl"
_LONGEST_LINE = 1 << 20
_LARGEST_STEP = 2**53


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics file, one per step (the last written counts), in order of steps.

    A line torn by a crash is passed over; so are lines that record events. Other damaged lines are passed over with a
    `RunWarning` that counts them: a file that anyone may have edited must not stand in the way of reading a run.
    """
    records: dict[int, dict[str, Any]] = {}
    steps: list[int] = []  # sorted
    damaged: list[int] = []
    for number, line in _lines(path):
        record = _parsed(line)
        if record is None:
            if not (line.startswith(b"{") and not line.rstrip().endswith(b"}")):  # torn by a crash or a full disk
                damaged.append(number)
            continue
        step = record["step"]
        if "event" in record:
            if record["event"] in ("resume", "rollback"):  # what came after that step was done again
                later = steps[bisect_right(steps, step) :]
                del steps[len(steps) - len(later) :]
                for gone in later:
                    del records[gone]
            continue
        if step not in records:
            insort(steps, step)
        records[step] = record
    if damaged:
        count = "a damaged line is" if len(damaged) == 1 else f"{len(damaged)} damaged lines are"
        warnings.warn(f"{path}: {count} passed over, the first is line {damaged[0]}.", RunWarning, stacklevel=2)
    return [records[step] for step in steps]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield numbered lines, cut where they are longer than any record."""
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_LONGEST_LINE):
                number += 1
                whole = line.endswith(b"\n")
                while not whole and (more := file.readline(_LONGEST_LINE)):
                    whole = more.endswith(b"\n")
                yield number, line
    except OSError as error:
        warnings.warn(f"{path} cannot be read ({error}); it counts as empty.", RunWarning, stacklevel=3)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return a record or event, None for anything else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    step = record.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= _LARGEST_STEP:
        return None
    if "event" in record:
        return record if isinstance(record["event"], str) else None
    return record if all(_plain(key, value) for key, value in record.items()) else None


def _plain(key: str, value: Any) -> bool:
    if key == "stage":
        return isinstance(value, str) and len(value) < 1000
    return value is None or (isinstance(value, int | float) and abs(value) < 1e308)


class Metrics:
    """Appends records to metrics.jsonl and to TensorBoard events.

    Args:
        folder: the run folder.
        resumed: True if the run goes on.
    """

    def __init__(self, folder: Path, resumed: bool) -> None:
        self.folder = folder
        self.resumed = resumed
        self._file: IO[str] | None = None
        self._board: _Board | None = None

    def record(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl (non-finite numbers become null).

        Raises:
            OSError: the line, or part of it, was not written; the next one is written to a file opened anew.
        """
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        try:
            if self._file is None:
                self._file = self._open()
            self._file.write(json.dumps(clean) + "\n")
            self._file.flush()
        except OSError:
            file, self._file = self._file, None
            _abandon(file)
            raise

    def _open(self) -> IO[str]:
        path = self.folder / NAME
        torn = False
        with contextlib.suppress(FileNotFoundError), path.open("rb") as old:
            if old.seek(0, os.SEEK_END):
                old.seek(-1, os.SEEK_END)
                torn = old.read(1) != b"\n"
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (held as long as the run)
        if torn:
            file.write("\n")
        return file

    def board(self, step: int, record: Mapping[str, Any]) -> None:
        """Add the numbers of a record to the TensorBoard events (made at the first call).

        Raises:
            OSError: they were not written; the next ones go to a new file, for nothing after a torn entry can be read.
        """
        try:
            if self._board is None:
                self._board = _Board(self.folder, step if self.resumed else None)
            self._board.add(step, record)
        except OSError:
            board, self._board = self._board, None
            _abandon(board)
            raise

    def close(self) -> None:
        """Close the files."""
        _abandon(self._file)
        _abandon(self._board)
        self._file = self._board = None


def _abandon(file: Any) -> None:
    if file is not None:
        with contextlib.suppress(OSError):
            file.close()


class _Board:
    """A TensorBoard event file, written record by record in this thread; silently absent without tensorboard."""

    def __init__(self, folder: Path, resumed_at: int | None) -> None:
        self._writer: Any = None
        self._proto: Any = None
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            return
        self._proto = (event_pb2, summary_pb2)
        stem = f"events.out.tfevents.{time.time_ns() // 1000:017d}.{platform.node() or 'host'}.{os.getpid()}"
        self._writer = RecordWriter(open(folder / stem, "wb"))  # noqa: SIM115 (held as long as the run)
        self._write(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))
        if resumed_at is not None:  # tells the reader to drop what an interrupted start wrote after this step
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(event_pb2.Event(wall_time=time.time(), step=resumed_at, session_log=start))

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())

    def add(self, step: int, record: Mapping[str, Any]) -> None:
        if self._writer is None:
            return
        event_pb2, summary_pb2 = self._proto
        values = [
            summary_pb2.Summary.Value(tag=key, simple_value=float(value))
            for key, value in record.items()
            if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        ]
        self._write(event_pb2.Event(wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=values)))
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
