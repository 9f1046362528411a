"""The page on VDSM: its snippets run as they stand, its pictures are there."""

from __future__ import annotations

from typing import Any

PAGE = "docs/vdsm.md"


def test_the_snippets_of_the_page_run_one_after_the_other(page: Any) -> None:
    vdsm = page(PAGE)
    assert len(vdsm.snippets) == 3
    vdsm.run()


def test_the_pictures_of_the_page_are_there(page: Any) -> None:
    assert len(page(PAGE).pictures) >= 1
    assert page(PAGE).pictures_are_there()
