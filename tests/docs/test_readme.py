"""The README's Python runs as printed, and its commands exist with the options it names."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from phlogiston.cli.main import app

from .reading import pages, shortened


def test_the_python_of_the_readme_runs_as_printed(page: Any, capsys: pytest.CaptureFixture[str]) -> None:
    readme = page("README.md")
    assert len(readme.snippets) >= 2
    with shortened(steps=40):
        readme.run()
    assert "exact over 256 component paths" in capsys.readouterr().out
    assert Path("swissroll-model/config.json").is_file()


def test_the_readme_has_its_commands(page: Any) -> None:
    assert len(page("README.md").commands) >= 10


@pytest.mark.parametrize("name", pages())
def test_every_printed_command_exists_with_its_options(page: Any, name: str) -> None:
    for line in page(name).commands:
        words = shlex.split(line, comments=True)
        if words.pop(0) != "phlogiston":
            continue
        if words[0] == "systems" and len(words) > 1 and name.endswith("own-system.md"):
            continue
        command = get_command(app)
        while hasattr(command, "commands"):
            assert words[0] in command.commands, f"{name}: {line}"
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, f"{name}: {line}"
