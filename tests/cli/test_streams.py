"""Nobody listens: stdout and stderr that are closed, broken or full end no work and spoil no result."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from phlogiston.cli.main import main
from phlogiston.inference.svi import progress

SMALL = ["train", "drmm", "--data", "swissroll", "--set", "num_layers=1", "--set", "num_components=4"]
OPTIONS = ["--data-set", "n=300", "--steps", "60", "--json"]


class Broken(io.TextIOBase):
    """A stream whose reader has left after some lines, or whose disk is full."""

    def __init__(self, error: OSError, lines: int = 0) -> None:
        self.error, self.lines = error, lines

    def write(self, text: str) -> int:
        self.lines -= text.count("\n")
        if self.lines < 0:
            raise self.error
        return len(text)


LEFT, FULL = BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")


@pytest.mark.parametrize("stream", [Broken(LEFT), Broken(FULL, lines=1), None], ids=["left", "full", "closed"])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_training_ends_well_whatever_becomes_of_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: Any, name: str
) -> None:
    monkeypatch.setattr(sys, name, stream)
    with pytest.raises(SystemExit) as left:
        main([*SMALL, *OPTIONS, "--out", str(tmp_path / "run")])
    assert left.value.code == 0
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 60


def test_work_that_is_kept_nowhere_else_fails_where_stdout_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(FULL))
    with pytest.raises(SystemExit) as left:
        main(["systems"])
    assert left.value.code == 1


def test_a_closed_stream_is_no_terminal_and_a_bar_without_one_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed, Broken(LEFT)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert type(progress.make("auto", 10)) is progress.Progress
        for style in ("bar", "json"):
            shown = progress.make(style, 10)
            shown.update(1, "a", 0.5)
            shown.record({"step": 1})
            shown.say("[bold] is said as it is")
            shown.close()
