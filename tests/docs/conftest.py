"""What the tests of the pages share: a page, opened in an empty folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .reading import Page


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Page]:
    """Return a function that opens a page; the test stands in an empty folder, with an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PHLOGISTON_CACHE", str(tmp_path / ".cache"))
    return Page
