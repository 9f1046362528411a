"""The page on scenes: its snippets run as they stand, its pictures are there."""

from __future__ import annotations

from typing import Any

import pytest

PAGE = "docs/scene.md"


@pytest.mark.slow
def test_the_snippets_of_the_page_run_one_after_the_other(page: Any) -> None:
    scene = page(PAGE)
    assert len(scene.snippets) == 2
    scene.run()


def test_the_pictures_of_the_page_are_there(page: Any) -> None:
    assert page(PAGE).pictures_are_there()
