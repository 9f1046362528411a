"""The README's Python runs as printed, and its commands exist with the options it names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from phlogiston.cli.main import app
from phlogiston.systems.configs.drmm import PRESETS

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_python_of_the_readme_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PRESETS["swissroll"], "steps", 40)  # fewer steps, the same words
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 2
    exec(compile("\n".join(blocks), str(README), "exec"), {})
    assert "exact over 256 tuples" in capsys.readouterr().out
    assert (tmp_path / "swissroll-model" / "config.json").is_file()


def test_the_commands_of_the_readme_exist_with_their_options() -> None:
    lines = re.findall(r"^phlogiston (.+?)(?:\s+#.*)?$", README.read_text(), re.MULTILINE)
    assert len(lines) >= 6
    for line in lines:
        words = shlex.split(line)
        command = get_command(app)
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, line
