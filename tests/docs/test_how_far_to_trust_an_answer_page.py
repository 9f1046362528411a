"""The page on error bars: its snippets run as they stand, and give what the line was drawn with."""

from __future__ import annotations

from typing import Any


def test_the_snippets_of_the_page_run_one_after_the_other(page: Any) -> None:
    trust = page("docs/how-far-to-trust-an-answer.md")
    assert len(trust.snippets) >= 2
    names = trust.run()
    assert abs(names["slope"] - 1.98) < 0.1
    assert names["answer"].log_evidence_error is not None
    assert "NUTS, 4 chains" in names["chains"].method
