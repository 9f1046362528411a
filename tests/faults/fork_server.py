"""Runs the command, or one training, over and over in forked children that something is done to.

    python -P fork_server.py

Reads one JSON object per line, forks, waits for the child, answers with one line. Imports are paid for once. In a
request:

    argv       arguments of `phlogiston`; or
    train      name in TRAININGS, with `out`
    cwd        working folder
    streams    {"1": what stdout is, "2": what stderr is}: a file, "closed", "left" (a pipe whose reader has gone)
    limit      RLIMIT_FSIZE, bytes
    checkpoint {"nth": n, "point": ..., "then": "kill" or "full"}: what happens inside the writing of the n-th
               checkpoint, and with "full" of every later one, too
    step       {"at": n, "do": ...}: what happens at a step, see `STEPS`
    kill       seconds after which the child is killed, unless it has ended
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from phlogiston import datasets, systems
from phlogiston.cli.main import main
from phlogiston.inference.svi import checkpoints, loop

TRAININGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "drmm": ("swissroll", {"n": 300}, {"num_layers": 2, "num_components": 4, "beam": 3, "steps": 60, "batch_size": 32}),
    "mdn": ("arcsine", {"sizes": (120, 20, 20)}, {"num_components": 3, "hidden": (8,), "steps": 60, "batch_size": 32}),
    "sequence": (
        "script",
        {"sizes": (30, 6, 6), "letters": (1, 1)},
        {"hidden": 8, "layers": 1, "num_components": 2, "steps": 20, "batch_size": 6},
    ),
    "vdsm": (
        "figures",
        {"characters": (3, 0, 2), "size": 16, "frames": 5},
        {
            "experts": 4, "pose": 3, "dynamics": 5, "encoder_widths": (6, 6), "features": 16, "decoder_widths": (8, 6),
            "recurrent": 8, "steps": 12, "batch_size": 6, "warm_steps": 6, "sequence_steps": 6, "warmup": 2,
            "aggregate": 2,
        },
    ),
    "sqair": (
        "moving_digits",
        {"sizes": (8, 2, 2)},
        {"steps": 12, "lengths": (2, 3), "shares": (0.5, 0.5), "batch_size": 2, "hidden": 16, "memory": 8},
    ),
}  # fmt: skip
EVERY = {"drmm": 9, "mdn": 9, "sequence": 3, "vdsm": 3, "sqair": 3}
_data: dict[str, Any] = {}


def data_of(name: str) -> Any:
    """Return a training's data, loaded before the fork."""
    if name not in _data:
        source, options, _ = TRAININGS[name]
        _data[name] = datasets.load(source, **options)
        with tempfile.TemporaryDirectory() as folder:  # what is imported on the way, children then share
            systems.get(name)(TRAININGS[name][2]).fit(_data[name], out=f"{folder}/run", progress="off")
    return _data[name]


def train(name: str, out: str) -> int:
    system = systems.get(name)(TRAININGS[name][2])
    system.fit(data_of(name), out=out, checkpoint_every=EVERY[name], log_every=2, progress="off", tensorboard=False)
    return 0


# ---- what is done to a child


def no_room(*_: Any, **__: Any) -> Any:
    raise OSError(28, "No space left on device")


def die(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


class Half:
    """A file that takes half of what is written, and then something happens."""

    def __init__(self, file: Any, then: Any) -> None:
        self.file, self.then = file, then

    def __enter__(self) -> Half:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        self.then()


def arm_checkpoints(nth: int, point: str, then: str) -> None:
    """Let something happen inside the writing of the n-th checkpoint."""
    write, count = checkpoints.write, 0
    act = die if then == "kill" else no_room
    real_open, real = open, {"fsync": os.fsync, "replace": os.replace, "after": checkpoints.sync_folder}

    def opened(path: Any, mode: str = "r", **options: Any) -> Any:
        return Half(real_open(path, mode), act) if mode == "wb" else real_open(path, mode, **options)

    def armed(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == nth or (count > nth and then == "full"):
            if point == "open":
                act()
            elif point == "write":
                checkpoints.open = opened  # type: ignore[attr-defined]
            elif point == "after":
                checkpoints.sync_folder = act
            else:
                setattr(os, point, act)
        try:
            write(*arguments)
        finally:
            os.fsync, os.replace, checkpoints.sync_folder = real["fsync"], real["replace"], real["after"]

    checkpoints.write = armed


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def replace(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")


def fill(folder: Path) -> None:
    """Leave 4 KiB on the file system."""
    with open(folder.parent / "filler", "wb") as file:
        while (free := shutil.disk_usage(folder).free) > 8192:
            file.write(bytes(min(free - 4096, 1 << 16)))
            file.flush()


def second(folder: Path) -> None:
    """Delete the lock and try to train in the same folder."""
    (folder / ".lock").unlink()
    child = os.fork()
    if child == 0:
        try:
            train("drmm", str(folder))
        except Exception as error:
            print(f"second: {error}", file=sys.stderr, flush=True)
            os._exit(7)
        os._exit(0)
    os.waitpid(child, 0)


def limit_files(folder: Path) -> None:
    """Let no file grow beyond 4 KiB from here on, as a quota would."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


STEPS = {"quota": limit_files, "remove": remove, "replace": replace, "fill": fill, "second": second, "kill": die}


def arm_step(at: int, do: str) -> None:
    """Let something happen after a step."""
    tell = loop.Loop._tell

    def told(self: Any) -> None:
        tell(self)
        if self.step == at and self.history.run is not None:
            loop.Loop._tell = tell  # type: ignore[method-assign]
            STEPS[do](self.history.run)

    loop.Loop._tell = told  # type: ignore[method-assign]


def redirect(streams: dict[str, str]) -> None:
    for number, target in streams.items():
        descriptor = int(number)
        if target == "closed":
            os.close(descriptor)
            stream = None
        else:
            if target == "left":
                reader, writer = os.pipe()
                os.close(reader)
            else:
                writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(writer, descriptor)
            stream = open(descriptor, "w", buffering=1 if descriptor == 2 else -1, closefd=False)  # noqa: SIM115
        setattr(sys, "stdout" if descriptor == 1 else "stderr", stream)


def child(request: dict[str, Any]) -> None:
    """Do what is asked; leaves by SystemExit, so that the interpreter ends as it always does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    redirect({"0": os.devnull, **request.get("streams", {})})
    if "checkpoint" in request:
        arm_checkpoints(**request["checkpoint"])
    if "step" in request:
        arm_step(**request["step"])
    if "limit" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    if "train" in request:
        raise SystemExit(train(request["train"], request["out"]))
    sys.argv = ["phlogiston", *request["argv"]]
    main(request["argv"])


def serve() -> None:
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    data_of("drmm")
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "train" in request:
            data_of(request["train"])
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            os.close(answers.fileno())
            child(request)
        killed = False
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            if not killed and "kill" in request and time.monotonic() - began > request["kill"]:
                os.kill(pid, signal.SIGKILL)
                killed = True
            time.sleep(0.002)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"code": code, "seconds": time.monotonic() - began}), file=answers, flush=True)


if __name__ == "__main__":
    serve()
