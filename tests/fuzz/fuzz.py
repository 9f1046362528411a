"""Feed damaged files to every reader and report what gets out: `make fuzz`, or

    python -P tests/fuzz/fuzz.py --inputs 100000 --seed 1
    python -P tests/fuzz/fuzz.py --replay "array npz:17"
    python -P tests/fuzz/fuzz.py --inputs 50000 --seed 1 --record docs/results/fuzz.json

Each input is known by seed, reader and number. Inputs are read in forked workers that may take 1 GiB more memory than
they start with and five seconds of processor time per input. An input is a fault where a reader raises anything but an
error of ours, runs out of memory (also where that became an error of ours on the way), takes too long, ends the
process, or starts another program, opens a connection or unpickles. `--record` puts what came of a seed into a file of
results, in the place of what an earlier reading of that seed found, and sums over all seeds there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import mmap
import os
import platform
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # Arrow's own reserves a gibibyte of addresses

MEMORY = 1 << 30
SECONDS = 5.0
CHUNK = 400
RUNNING = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class",
           "socket.connect", "os.remove", "shutil.rmtree")  # fmt: skip


REMOVING = ("os.remove", "shutil.rmtree")


class TooSlow(BaseException):
    """The time of one input is over; no reader may catch it."""


@dataclass
class Report:
    """What came of it.

    Attributes:
        inputs: how many were read.
        read: how many of them were read to the end.
        faults: kind -> how many.
        examples: kind -> reader and number of the first.
        by_target: reader -> inputs.
        slowest: processor seconds of the input that took longest.
        largest: bytes of memory that a chunk of inputs took beyond what the process starts with, at most.
    """

    inputs: int = 0
    read: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    by_target: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    largest: int = 0

    def add(self, target: str, number: int, kind: str) -> None:
        self.faults[kind] += 1
        self.examples.setdefault(kind, f"{target}:{number}")


def content_of(target: Any, seed: int, number: int) -> bytes:
    """The damaged file of one number."""
    rng = random.Random(f"{seed}/{target.name}/{number}")
    return bytes(target.change(rng, rng.choice(target.seeds)))


def kind_of(error: BaseException) -> str:
    """What kind of fault an exception is; "" where it is an error of ours."""
    from phlogiston.errors import PhlogistonError, PhlogistonWarning

    if isinstance(error, TooSlow):
        return "takes too long" + _where(error)
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__module__.startswith("av."):  # FFmpeg says so of sizes that it refuses before it takes any
            break
        if isinstance(cause, MemoryError) or "allocate memory" in str(cause) or "alloc" in str(cause)[:60].lower():
            return f"takes too much memory: {type(cause).__name__}" + _where(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    if isinstance(error, PhlogistonError | PhlogistonWarning):
        return ""
    return type(error).__name__ + _where(error)


def _where(error: BaseException) -> str:
    """The innermost line of the package on the way to an exception."""
    lines = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if "/fuzz/" not in f.filename and "phlogiston" in f.filename
    ]
    return f" at {Path(lines[-1].filename).name}:{lines[-1].lineno} {lines[-1].name}" if lines else ""


def read_one(target: Any, folder: Path, content: bytes, ran: list[str]) -> tuple[bool, str]:
    """Have one file read; return whether it was, and the kind of fault or ""."""
    file = folder / target.file
    file.write_bytes(content)
    ran.clear()
    try:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            target.read(folder, file)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except BaseException as error:
        kind = kind_of(error)
        done = False
    else:
        kind, done = "", True
    return done, f"runs {ran[0]}" if ran else kind


def lay_out(target: Any, folder: Path) -> None:
    for name, content in {**target.beside, target.file: b""}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def worker(target: Any, seed: int, numbers: range, shared: mmap.mmap, out: int) -> None:
    """Read a chunk of inputs; what is found goes to a pipe, how far it is to shared memory."""
    ran: list[str] = []
    place = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)

    def note(event: str, given: tuple[Any, ...]) -> None:
        if event in RUNNING and not (event in REMOVING and _within(given, place)):
            ran.append(event)

    sys.addaudithook(note)

    def stop(*_: Any) -> None:
        raise TooSlow

    signal.signal(signal.SIGPROF, stop)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    warnings.simplefilter("ignore")
    begun = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (begun + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        folder = Path(place)
        lay_out(target, folder)
        count, slowest = 0, 0.0
        for number in numbers:
            shared[:8] = struct.pack("<q", number)
            content = content_of(target, seed, number)
            since = time.process_time()
            done, kind = read_one(target, folder, content, ran)
            slowest = max(slowest, time.process_time() - since)
            count += done
            if kind:
                os.write(out, (json.dumps([number, kind[:2000]]) + "\n").encode())
        peak = Path("/proc/self/status").read_text().split("VmPeak:")[1].split()[0]
        shared[:] = struct.pack("<qqdq", -1, count, slowest, 1024 * int(peak) - begun)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _within(given: tuple[Any, ...], place: str) -> bool:
    """Whether what is removed lies in the folder of the inputs: a reader may clear up what it made there."""
    inside_tree = len(given) > 1 and isinstance(given[1], int) and given[1] >= 0  # of a tree that was looked at whole
    return inside_tree or str(given[0]).startswith(place)


def run_chunk(target: Any, seed: int, numbers: range, report: Report) -> None:
    """Read inputs in a child; go on behind one that ends the child."""
    while numbers:
        shared = mmap.mmap(-1, 32)
        shared[:8] = struct.pack("<q", numbers.start)
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                os.close(ours)
                worker(target, seed, numbers, shared, theirs)
                code = 0
            finally:
                os._exit(code)
        os.close(theirs)
        os.set_blocking(ours, False)
        text, at, since, used, status = b"", numbers.start, time.monotonic(), 0.0, None
        while status is None:
            found, code = os.waitpid(child, os.WNOHANG)
            status = code if found else None
            text += _drain(ours)
            now = struct.unpack("<q", shared[:8])[0]
            if now != at:
                at, since, used = now, time.monotonic(), _processor(child)
            elif status is None and (
                _processor(child) - used > 12 * SECONDS or time.monotonic() - since > 240 * SECONDS
            ):  # a busy machine may not let it run for minutes
                os.kill(child, signal.SIGKILL)
            if status is None:
                time.sleep(0.01)
        text += _drain(ours)
        os.close(ours)
        for line in text.decode().splitlines():
            number, kind = json.loads(line)
            report.add(target.name, number, kind)
        end, read, slowest, largest = struct.unpack("<qqdq", shared[:])
        finished = numbers if end == -1 else range(numbers.start, end + 1)
        report.inputs += len(finished)
        report.by_target[target.name] += len(finished)
        report.read += read
        report.slowest, report.largest = max(report.slowest, slowest), max(report.largest, largest)
        if end == -1:
            return
        why = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "an exit"
        report.add(target.name, end, f"ends the process by {why}")
        numbers = range(end + 1, numbers.stop)


def _processor(child: int) -> float:
    """Seconds of processor time of a process; 0 for one that has gone."""
    try:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _drain(pipe: int) -> bytes:
    out = b""
    try:
        while piece := os.read(pipe, 1 << 16):
            out += piece
    except BlockingIOError:
        pass
    return out


def unread(targets: Sequence[Any]) -> dict[str, str]:
    """Sound files that a reader does not read, as it must: reader and number -> what it says."""
    found = {}
    for target in targets:
        with tempfile.TemporaryDirectory() as place:
            lay_out(target, Path(place))
            for i, content in enumerate(target.seeds if target.sound else ()):
                (Path(place) / target.file).write_bytes(content)
                try:
                    target.read(Path(place), Path(place) / target.file)
                except Exception as error:
                    found[f"{target.name}:{i}"] = repr(error)
    return found


def chunks(targets: Sequence[Any], inputs: int, start: int = 0) -> Iterator[tuple[Any, range]]:
    """Share inputs out among readers, slow ones getting fewer, a chunk of each in turn."""
    shares = [1.0 / target.slow for target in targets]
    counts = [max(1, round(inputs * share / sum(shares))) for share in shares]
    at = [0] * len(targets)
    while any(done < count for done, count in zip(at, counts, strict=True)):
        for i, target in enumerate(targets):
            size = min(max(1, CHUNK // target.slow), counts[i] - at[i])
            if size > 0:
                yield target, range(start + at[i], start + at[i] + size)
                at[i] += size


def fuzz(
    inputs: int, seed: int, names: Sequence[str] = (), seconds: float = 0.0, start: int = 0, log: Path | None = None
) -> Report:
    """Read so many damaged files, or as many as fit into some seconds of processor time.

    Args:
        inputs: how many.
        seed: of the damage.
        names: readers; all by default.
        seconds: of processor time of the workers, after which no chunk begins; 0 for no limit.
        start: number of the first input of every reader.
        log: file that the report is written to after every round.
    """
    import targets as table

    chosen = [target for target in table.targets() if not names or target.name in names]
    if refused := unread(chosen):
        raise SystemExit(f"sound files are refused, so that nothing would be tested: {refused}")
    report, begun = Report(), resource.getrusage(resource.RUSAGE_CHILDREN)
    for i, (target, numbers) in enumerate(chunks(chosen, inputs, start)):
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        if seconds and used.ru_utime + used.ru_stime - begun.ru_utime - begun.ru_stime > seconds:
            break
        run_chunk(target, seed, numbers, report)
        if log is not None and i % 20 == 0:
            log.write_text(shown(report))
    if log is not None:
        log.write_text(shown(report))
    return report


def shown(report: Report) -> str:
    lines = [f"{report.inputs:,} inputs to {len(report.by_target)} readers, {report.read:,} of them read to the end; "
             f"{report.faults.total():,} faults of {len(report.faults)} kinds"]  # fmt: skip
    lines += [f"{count:8,}  {kind}  (first: {report.examples[kind]})" for kind, count in report.faults.most_common()]
    return "\n".join(lines) + "\n"


def record(report: Report, seed: int, path: Path) -> None:
    """Put what came of a seed into a file of results, beside the other seeds, and sum over them."""
    held = json.loads(path.read_text())["entries"][0]["chunks"] if path.is_file() else {}
    held[str(seed)] = {
        "inputs": report.inputs,
        "read": report.read,
        "readers": len(report.by_target),
        "faults": report.faults.total(),
        "slowest": round(report.slowest, 3),
        "largest_mib": report.largest >> 20,
    }
    summed = {name: sum(chunk[name] for chunk in held.values()) for name in ("inputs", "read", "faults")}
    most = {name: max(chunk[name] for chunk in held.values()) for name in ("readers", "slowest", "largest_mib")}
    entry = {
        "name": "campaign",
        "title": "damaged files",
        **summed,
        **most,
        "machine": f"{os.cpu_count()}-core {platform.machine()} CPU",
        "date": datetime.date.today().isoformat(),
        "command": "make fuzz",
        "chunks": dict(sorted(held.items(), key=lambda item: int(item[0]))),
    }
    path.write_text(json.dumps({"system": "fuzz", "entries": [entry]}, indent=2) + "\n")


def replay(what: str, seed: int) -> None:
    """Read one input without a net."""
    import targets as table

    name, number = what.rsplit(":", 1)
    target = next(target for target in table.targets() if target.name == name)
    with tempfile.TemporaryDirectory() as place:
        lay_out(target, Path(place))
        file = Path(place) / target.file
        file.write_bytes(content_of(target, seed, int(number)))
        print(f"{file.stat().st_size:,} bytes: {file.read_bytes()[:200]!r}")
        begun = time.process_time()
        try:
            print(target.read(Path(place), file))
        except Exception:
            traceback.print_exc()
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{time.process_time() - begun:.2f} s, {most:,.0f} MiB at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first input of every reader")
    parser.add_argument("--only", action="append", default=[], help="a reader; may be repeated")
    parser.add_argument("--seconds", type=float, default=0.0, help="of processor time")
    parser.add_argument("--log", type=Path, help="file for the report, written as it grows")
    parser.add_argument("--record", type=Path, help="file of results that the seed's report is put into")
    parser.add_argument("--replay", help="READER:NUMBER, one input without a net")
    given = parser.parse_args()
    if given.replay:
        replay(given.replay, given.seed)
        return
    report = fuzz(given.inputs, given.seed, given.only, given.seconds, given.start, given.log)
    print(shown(report), end="")
    if given.record is not None:
        record(report, given.seed, given.record)
    raise SystemExit(bool(report.faults))


if __name__ == "__main__":
    main()
