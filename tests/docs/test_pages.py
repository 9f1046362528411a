"""All pages: no link leads nowhere, every picture is there and says what it shows, nothing printed is untested."""

from __future__ import annotations

import re
from typing import Any

import pytest

from .reading import ROOT, Page, pages

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.M)


def anchors(page: Page) -> set[str]:
    """The names of a page's headings, as GitHub and the site make them."""
    text = (re.sub(r"[`*]", "", heading).lower() for heading in HEADING.findall(page.prose))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in text}


@pytest.mark.parametrize("name", pages())
def test_no_link_leads_nowhere(page: Any, name: str) -> None:
    here = page(name)
    dead = []
    for link in LINK.findall(here.prose):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        path = (here.path.parent / target).resolve() if target else here.path
        wanted = anchor if path.suffix == ".md" else ""
        if not path.exists() or (wanted and wanted not in anchors(Page(path.relative_to(ROOT).as_posix()))):
            dead.append(link)
    assert not dead, f"{name} links to what is not there: {dead}"


@pytest.mark.parametrize("name", pages())
def test_every_picture_is_there_and_says_what_it_shows(page: Any, name: str) -> None:
    here = page(name)
    assert here.pictures_are_there(), here.pictures
    poor = [target for target, alt in here.pictures.items() if len(alt.split()) < 4]
    assert not poor, f"{name}: an alternative text tells those who cannot see it what a picture shows: {poor}"
    assert "<img" not in here.prose, "the site does not carry raw images"


def test_every_picture_in_the_folder_is_shown_somewhere() -> None:
    shown = {path.rsplit("/", 1)[-1] for name in pages() for path in Page(name).pictures}
    kept = {path.name for path in (ROOT / "docs" / "images").glob("*.png")}
    assert kept == shown & kept, f"nobody shows {sorted(kept - shown)}"


def test_every_page_with_snippets_has_a_test_that_runs_them() -> None:
    tests = {path.name for path in (ROOT / "tests" / "docs").glob("test_*.py")}
    for name in pages():
        if Page(name).snippets:
            stem = Page(name).path.stem.lower().replace("-", "_")
            assert {f"test_{stem}_page.py", f"test_{stem}.py"} & tests, f"nothing runs the snippets of {name}"


@pytest.mark.parametrize("name", pages())
def test_commands_are_printed_where_they_are_tested(page: Any, name: str) -> None:
    """A `phlogiston` command stands in a `bash` block, and those are run; a block without a language is only read."""
    for block in page(name).blocks(""):
        assert not re.search(r"^phlogiston ", block, flags=re.M), f"{name}: mark this block as bash:\n{block}"
