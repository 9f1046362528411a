"""The documentation site: the pages of `docs/` and the front matter as they are, and a reference made of docstrings.

    make docs        build/site/docs/index.html; warnings are errors

The source folder is the repository's, so that links between pages read the same here and in the repository.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from api_pages import write_pages  # noqa: E402

project = "phlogiston"
author = "the phlogiston developers"
copyright = "the phlogiston developers, Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "executed"]
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**.md", "docs/api/*.rst"]
exclude_patterns = ["build", ".venv", "runs"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures of this house are long; the docstrings say shapes and units
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "code"
suppress_warnings = ["ref.python"]  # attributes of equal name in several classes

html_theme = "furo"
html_title = "phlogiston"

write_pages(ROOT)


def plain_characters(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let stars and bars in docstrings be stars and bars: code stands in backticks here, nothing is set in italics."""
    in_example = False
    for place, line in enumerate(lines):
        text = line.strip()
        in_example = text.startswith(">>>") or (in_example and bool(text))
        if in_example or STARRED.match(line):
            continue
        parts = line.split("`")
        parts[::2] = [re.sub(r"(?<!\\)([*|])", r"\\\1", part) for part in parts[::2]]
        lines[place] = "`".join(parts)


STARRED = re.compile(r"\s*\*{1,2}\w+( \(.*\))?:")  # an argument's name, which the Google style knows


def contents(app: Any, name: str, source: list[str]) -> None:
    """Give the start page the site's table of contents; read as a file it has none, its tables do that."""
    if name != root_doc:
        return
    first = ["/README", "drmm", "drmm-queries"]
    last = [
        "own-system",
        "bring-your-own-pair",
        "how-far-to-trust-an-answer",
        "engine",
        "evaluation",
        "checklist",
        "design",
        "api/index",
        "results/README",
        "/CONTRIBUTING",
        "/CHANGELOG",
    ]
    known = {Path(page).name for page in [*first, *last]}
    others = sorted(p.stem for p in (ROOT / "docs").glob("*.md") if p.stem not in {*known, "index"})
    pages = "\n".join([*first, *others, *last])
    source[0] += f"\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", contents)
    app.connect("autodoc-process-docstring", plain_characters, priority=400)
