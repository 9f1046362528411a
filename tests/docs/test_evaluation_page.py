"""The page on scoring: its snippets run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


@pytest.mark.filterwarnings("ignore::phlogiston.errors.SampleSizeWarning")
def test_the_snippets_of_the_evaluation_page_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PHLOGISTON_CACHE", str(tmp_path / "cache"))
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    assert len(snippets) == 7
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert (tmp_path / "comparison.html").is_file()
    printed = capsys.readouterr().out
    assert "True" in printed
    assert "False" in printed
