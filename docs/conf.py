"""The documentation site: the pages of `docs/` and the front matter as they are, and a reference made of docstrings.

    make docs        build/site/index.html; warnings are errors

The source folder is the repository's, so that links between pages read the same here and in the repository. Snippets
and notebooks run while the site is built; what they gave is kept below `build/` and reused while nothing they need
changes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from api_pages import write_pages  # noqa: E402
from site_files import write_front, write_llms  # noqa: E402

from phlogiston import __version__  # noqa: E402

project = "phlogiston"
author = "the phlogiston developers"
copyright = "the phlogiston developers, Apache-2.0"
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "executed", "mathml"]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/**.md",
    "docs/notebooks/*.ipynb",
    "docs/api/*.rst",
]
exclude_patterns = ["build", ".venv", "runs", "**.ipynb_checkpoints"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
html_math_renderer = "mathml"

nb_execution_mode = "cache"  # a notebook runs again only when its code cells change; `make clean` forgets all
nb_execution_cache_path = str(ROOT / "build" / "notebooks")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"  # in the lists of arguments, linked; signatures of this house are long enough
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_maximum_signature_line_length = 90
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "code"
suppress_warnings = ["ref.python"]  # attributes of equal name in several classes

html_theme = "furo"
html_title = f"phlogiston {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
pygments_style = (
    "a11y-high-contrast-light"  # of accessible-pygments, which furo brings: every colour is readable on its ground
)
pygments_dark_style = "a11y-high-contrast-dark"
html_theme_options = {
    "light_css_variables": {"color-api-keyword": "#4a5568", "color-foreground-muted": "#51596b"},
    "dark_css_variables": {"color-foreground-muted": "#a9afbb", "color-api-keyword": "#a9afbb"},
}

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

CHAPTERS = {
    "First steps": ["/README", "cheatsheet", "gallery", "your-data", "explore"],
    "Tutorials": sorted(f"notebooks/{path.stem}" for path in (ROOT / "docs" / "notebooks").glob("*.ipynb")),
    "Systems": ["drmm", "drmm-queries", "mdn", "sequences", "sqair", "vdsm", "scene", "world"],
    "Anybody's models": [
        "how-far-to-trust-an-answer",
        "bring-your-own-pair",
        "own-system",
        "engine",
        "clusters",
        "evaluation",
    ],
    "Figures": ["speed", "comparison", "checklist", "results/README"],
    "Project": ["design", "api/index", "/CONTRIBUTING", "/CHANGELOG", "citing"],
}


def contents(app: Any, name: str, source: list[str]) -> None:
    """Give the start page the site's table of contents; read as a file it has none, its tables do that."""
    if name != root_doc:
        return
    for chapter, pages in CHAPTERS.items():
        if pages:
            listed = "\n".join(pages)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {chapter}\n\n{listed}\n```\n"


def signatures(app: Any, name: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Make plain blocks of the lines of long signatures, which Sphinx writes as a definition list without terms."""
    if "body" in context:
        context["body"] = LINES.sub(
            lambda found: f'<div class="sig-lines">{found[1].replace("dd>", "div>")}</div>', context["body"]
        )


LINES = re.compile(r"<dl>\n((?:<dd>.*</dd>\n)+)</dl>")


def finish(app: Any, error: Exception | None) -> None:
    """Write what is not a page: the way in at the top, and `llms.txt`."""
    if error is None and app.builder.name == "html":
        write_front(Path(app.outdir), root_doc)
        write_llms(Path(app.outdir), ROOT, CHAPTERS, version)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", contents)
    app.connect("autodoc-process-docstring", plain_characters, priority=400)
    app.connect("html-page-context", signatures)
    app.connect("build-finished", finish)
