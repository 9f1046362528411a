"""The page on SQAIR: its snippets run as they stand, its pictures are there."""

from __future__ import annotations

from typing import Any

PAGE = "docs/sqair.md"


def test_the_snippets_of_the_page_run_one_after_the_other(page: Any) -> None:
    sqair = page(PAGE)
    assert len(sqair.snippets) == 1
    sqair.run()


def test_the_pictures_of_the_page_are_there(page: Any) -> None:
    assert page(PAGE).pictures_are_there()
