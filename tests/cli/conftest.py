"""The command, called as a user calls it: in this process for speed, with what it printed and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from phlogiston.cli.main import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What stdout holds, which must be one JSON object in one line and nothing else."""
        assert self.code == 0, self.err
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        content = json.loads(lines[0])
        assert isinstance(content, dict)
        return content


Command = Callable[..., Outcome]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `phlogiston ...` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Outcome(int(left.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small DRMM on the digits: pictures and a stream of labels."""
    from phlogiston.systems import workflow

    folder = tmp_path_factory.mktemp("trained") / "digits"
    sets = {"num_layers": "2", "num_components": "4"}
    workflow.train("drmm", data="digits", sets=sets, steps=20, out=folder, progress="off")
    return folder
