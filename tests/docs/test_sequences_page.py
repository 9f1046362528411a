"""The page on sequences: its snippets run as they stand, its pictures are there."""

from __future__ import annotations

from typing import Any

from phlogiston.errors import PhlogistonWarning

PAGE = "docs/sequences.md"


def test_the_snippets_of_the_page_run_one_after_the_other(page: Any) -> None:
    sequences = page(PAGE)
    assert len(sequences.snippets) == 3
    sequences.run(ignore=PhlogistonWarning)  # so few steps teach a latent little


def test_the_pictures_of_the_page_are_there(page: Any) -> None:
    assert page(PAGE).pictures_are_there()
