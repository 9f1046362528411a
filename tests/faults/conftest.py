"""The fault suite: what may go wrong around a run, done to it for real, and what must come of it.

`make test` runs the quick ones; `make faults` all of them, and writes what was observed to docs/results/faults.json,
from which docs/engine.md has its table.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from phlogiston.files import write_json

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "faults.json"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str
    seconds: float


class Server:
    """Forks children out of a process that has imported everything; see `fork_server.py`.

    Attributes:
        small: folder on a file system of 2 MiB, None where none can be mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        script = [sys.executable, "-P", str(Path(__file__).parent / "fork_server.py")]
        small = folder / "small"
        small.mkdir()
        mounted = shutil.which("unshare") is not None and (
            subprocess.run(
                ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs -o size=2m tmpfs '{small}'"], capture_output=True
            ).returncode
            == 0
        )
        if mounted:
            inside = f"mount -t tmpfs -o size=2m tmpfs '{small}' && exec \"$@\""
            script = ["unshare", "-rm", "sh", "-c", inside, "sh", *script]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        self._answer()
        self.small = Path(f"/proc/{self.process.pid}/root") / str(small).lstrip("/") if mounted else None
        self.inside = str(small)

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.folder / "log").read_text()
        return dict(json.loads(line))

    def __call__(self, **request: Any) -> Outcome:
        out, err = self.folder / "out", self.folder / "err"
        streams = {"1": str(out), "2": str(err), **request.pop("streams", {})}
        for path in (out, err):
            path.write_text("")
        assert self.process.stdin is not None
        print(json.dumps({"cwd": str(self.folder), "streams": streams, **request}), file=self.process.stdin, flush=True)
        answer = self._answer()
        return Outcome(answer["code"], out.read_text(), err.read_text(), answer["seconds"])

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(60)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("faults"))
    yield started
    started.close()


@pytest.fixture
def observed() -> Callable[[str, str, str, str], None]:
    """Note a fault: name, what is done, what must come of it, and what did. `make faults` has it written down."""

    def note(name: str, title: str, expected: str, found: str) -> None:
        path = os.environ.get("PHLOGISTON_FAULTS")
        if path:
            record(RESULTS if path == "1" else Path(path), name, title=title, expected=expected, observed=found)

    return note


def record(target: Path, name: str, **entry: str) -> None:
    """Put an entry into the results, in the place of the one of its name or at the end."""
    about = {
        "versions": {"torch": torch.__version__.partition("+")[0]},
        "machine": f"{os.cpu_count()}-core {platform.machine()} CPU",
        "date": datetime.date.today().isoformat(),
        "command": "make faults",
    }
    entries = json.loads(target.read_text())["entries"] if target.is_file() else []
    by_name = {old["name"]: old for old in entries}
    by_name[name] = {"name": name, **entry, **about}
    write_json(target, {"system": "faults", "entries": list(by_name.values()), **about})
