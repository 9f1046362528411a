"""The page on deep residual mixtures: its snippet runs as it stands, its pictures are there."""

from __future__ import annotations

from typing import Any

PAGE = "docs/drmm.md"


def test_the_snippets_of_the_page_run_one_after_the_other(page: Any) -> None:
    drmm = page(PAGE)
    assert len(drmm.snippets) == 3
    assert drmm.run()["loss"].isfinite()


def test_the_pictures_of_the_page_are_there(page: Any) -> None:
    assert len(page(PAGE).pictures) == 4
    assert page(PAGE).pictures_are_there()
