"""The page on scoring: its snippets run as they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phlogiston.errors import SampleSizeWarning


def test_the_snippets_of_the_evaluation_page_run_one_after_the_other(
    page: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = page("docs/evaluation.md")
    assert len(evaluation.snippets) == 7
    evaluation.run(ignore=SampleSizeWarning)
    assert Path("report.html").stat().st_size > 10_000
    assert Path("comparison.html").is_file()
    printed = capsys.readouterr().out
    assert "True" in printed
    assert "False" in printed
