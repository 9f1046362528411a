"""The page on questions: its snippets run as they stand, and its evidence can be read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from phlogiston.inference.evidence_text import parse

PAGE = Path(__file__).resolve().parents[2] / "docs" / "drmm-queries.md"


@pytest.mark.filterwarnings("ignore::phlogiston.errors.QueryWarning")
def test_the_snippets_run_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    assert len(snippets) == 2
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)
    assert "exact over 256 tuples" in capsys.readouterr().out


def test_the_evidence_in_json_is_evidence() -> None:
    statements, columns = (json.loads(t) for t in re.findall(r"```json\n(.*?)```", PAGE.read_text(), flags=re.S))
    labels = {"label": [str(i) for i in range(10)]}
    found = parse(statements, {"x": ["x0", "x1"]}, labels)
    assert set(found) == {"x", "label"}
    found = parse(columns, {"x": ["height", "weight", "age"]}, {"label": ["cat", "dog", "cow"]})
    assert len(found["x"]) >= 3
