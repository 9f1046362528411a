"""The page on world models: its snippets run as they stand, its pictures are there."""

from __future__ import annotations

from typing import Any

import pytest

from phlogiston.errors import PhlogistonWarning

PAGE = "docs/world.md"


def test_the_snippets_of_the_page_run_one_after_the_other(page: Any) -> None:
    pytest.importorskip("gymnasium", reason="games need phlogiston[games]")
    pytest.importorskip("cmaes", reason="bounded searches need phlogiston[games]")
    world = page(PAGE)
    assert len(world.snippets) == 5
    world.run(ignore=PhlogistonWarning)  # so few steps foresee little


def test_the_pictures_of_the_page_are_there(page: Any) -> None:
    assert page(PAGE).pictures_are_there()
