"""The page on the engine: its snippets run as they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def test_the_snippets_of_the_engine_page_run_one_after_the_other(page: Any) -> None:
    engine = page("docs/engine.md")
    assert len(engine.snippets) >= 6
    engine.run()
    assert Path("runs/mine/config.json").is_file()
