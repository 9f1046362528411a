"""The cheat-sheet: its Python runs as printed; test_commands.py runs its commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .reading import shortened


@pytest.mark.filterwarnings("ignore::phlogiston.errors.PhlogistonWarning")
def test_the_python_of_the_cheat_sheet_runs_as_printed(page: Any) -> None:
    sheet = page("docs/cheatsheet.md")
    with shortened(steps=20):
        names = sheet.run()
    assert (names["answer"].samples["x"][:, 0] >= 0.5).all()
    assert (names["answer"].samples["x"][:, 2] == 1.0).all()
    assert Path("my-system/config.json").is_file()
