"""The page on questions: its snippets run as they stand, and its evidence can be read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from phlogiston.errors import QueryWarning
from phlogiston.inference.query.text import parse

PAGE = "docs/drmm-queries.md"


def test_the_snippets_run_one_after_the_other(page: Any, capsys: pytest.CaptureFixture[str]) -> None:
    queries = page(PAGE)
    assert len(queries.snippets) == 2
    queries.run(ignore=QueryWarning)
    assert "exact over 256 component paths" in capsys.readouterr().out


def test_the_pictures_of_the_page_are_there(page: Any) -> None:
    assert len(page(PAGE).pictures) >= 3
    assert page(PAGE).pictures_are_there()


def test_the_evidence_in_json_is_evidence(page: Any) -> None:
    statements, columns = (json.loads(text) for text in page(PAGE).blocks("json"))
    labels = {"label": [str(i) for i in range(10)]}
    found = parse(statements, {"x": ["x0", "x1"]}, labels)
    assert set(found) == {"x", "label"}
    found = parse(columns, {"x": ["height", "weight", "age"]}, {"label": ["cat", "dog", "cow"]})
    assert len(found["x"]) >= 3
