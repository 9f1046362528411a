"""What the site holds beside its pages: a way in at the top, and `llms.txt`, the pages for programs that read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

FRONT = (
    '<!DOCTYPE html><html lang="en"><title>phlogiston</title><meta http-equiv="refresh" content="0; url={0}">'
    '<body><main><h1><a href="{0}">phlogiston</a></h1></main></body></html>\n'
)


def write_front(site: Path, root_doc: str) -> None:
    """Write `index.html` at the top, which leads to the start page."""
    (site / "index.html").write_text(FRONT.format(f"{root_doc}.html"), encoding="utf-8")


def first_words(text: str) -> tuple[str, str]:
    """Return the title of a page and its first sentence, without marks."""
    prose = re.sub(r"^```.*?^```$|^\$\$.*?^\$\$$|^[|!<].*?$", "", text, flags=re.S | re.M)
    title = next(iter(re.findall(r"^# +(.+)$", prose, re.M)), "")
    paragraphs = [part.strip() for part in re.sub(r"^#.*$", "", prose, flags=re.M).split("\n\n")]
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(next(filter(None, paragraphs), "").split()))
    return re.sub(r"[*`]", "", title), re.split(r"(?<=\.)\s", plain.replace("*", ""), maxsplit=1)[0]


def write_llms(site: Path, root: Path, chapters: Mapping[str, Sequence[str]], version: str) -> None:
    """Write `llms.txt` (llmstxt.org): what this is, and each page with a sentence; the pages' text lies beside them."""
    readme = (root / "README.md").read_text(encoding="utf-8")
    lines = [f"# phlogiston {version}", "", f"> {first_words(readme)[1]}", ""]
    for chapter, pages in chapters.items():
        listed = []
        for page in pages:
            name = page.lstrip("/") if page.startswith("/") else f"docs/{page}"
            source = root / f"{name}.md"
            if source.is_file():
                text = source.read_text(encoding="utf-8")
                (site / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, site / f"{name}.md")
                title, words = first_words(text)
                listed.append(f"- [{title}]({name}.md): {words}")
        if listed:
            lines += [f"## {chapter}", "", *listed, ""]
    (site / "llms.txt").write_text("\n".join(lines), encoding="utf-8")
