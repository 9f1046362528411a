"""Write docs/checklist.md from docs/checklist.json: every feature, and the test or example that holds us to it.

    python docs/checklist.py            rewrite the page
    python docs/checklist.py --check    change nothing; exit with 1 when the page is out of date

A line of the json says `what` a user can do, and what it is `held_by`: tests as `tests/FILE.py::test_name`, scripts as
`examples/NAME.py` (each runs in the suite at a small size). A line with nothing to hold it says what is `missing`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "docs" / "checklist.json"
PAGE = ROOT / "docs" / "checklist.md"
HEAD = """# What it can do, and what says so

Every feature of the systems, with the tests and examples that would fail if it were not so. Tests in `tests/learn` are
full recipes (`make learn`), the others and all examples, at a small size, run in `make test`. Written by
`python docs/checklist.py` from [checklist.json](checklist.json); a test checks that everything named here exists.
"""


def link(held_by: str) -> str:
    """Return a Markdown link to a test, an example or a page."""
    path, _, name = held_by.partition("::")
    if path.startswith("docs/"):
        return f"[{path.removeprefix('docs/')}]({path.removeprefix('docs/')})"
    words = name.removeprefix("test_").replace("_", " ") or path.removeprefix("examples/")
    return f"[{words}](../{path})"


def page(content: dict[str, Any]) -> str:
    """Return the whole page."""
    parts = [HEAD]
    for system in content.values():
        rows = [
            f"| {line['what']} | {'<br>'.join(map(link, line['held_by'])) or '*' + line['missing'] + '*'} |"
            for line in system["lines"]
        ]
        parts.append("\n".join([f"## {system['title']}", "", "| one can | held by |", "|---|---|", *rows, ""]))
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    """Rewrite or check the page; return the exit code."""
    text = page(json.loads(SOURCE.read_text(encoding="utf-8")))
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    if "--check" in arguments:
        print("docs/checklist.md is out of date; run `make tables`")
        return 1
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
