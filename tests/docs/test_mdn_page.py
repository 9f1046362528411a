"""The page on mixture density networks: its snippets run as they stand, its pictures are there."""

from __future__ import annotations

from typing import Any

from phlogiston.errors import QueryWarning

PAGE = "docs/mdn.md"


def test_the_snippets_of_the_page_run_one_after_the_other(page: Any) -> None:
    mdn = page(PAGE)
    assert len(mdn.snippets) == 4
    mdn.run(ignore=QueryWarning)


def test_the_pictures_of_the_page_are_there(page: Any) -> None:
    assert len(page(PAGE).pictures) == 3
    assert page(PAGE).pictures_are_there()
