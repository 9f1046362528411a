"""What the site is made with: formulas without scripts, remembered snippets, `llms.txt`, the README's template."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from .reading import ROOT, Page

FORMULA = re.compile(r"^\$\$\n(.*?)^\$\$$", re.S | re.M)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_every_formula_of_the_pages_is_understood(script: Callable[[str], ModuleType], page: Path) -> None:
    pytest.importorskip("latex2mathml", reason="the site's packages are not installed (requirements-docs.txt)")
    pytest.importorskip("sphinx", reason="the site's packages are not installed (requirements-docs.txt)")
    markup = script("docs/mathml.py").markup
    for formula in FORMULA.findall(page.read_text(encoding="utf-8")):
        drawn = markup(formula, display=True)
        assert drawn.count("<mtr>") == (formula.count(r"\\") + 1 if "&" in formula else 0), "a row for each line"
        assert not re.findall(r"\\[a-zA-Z]+|<m[io]>&</m", drawn), "a command or a column that was not understood"


def test_a_page_is_run_again_only_when_its_blocks_or_the_code_have_changed(
    script: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    executed, ran = script("docs/executed.py"), []

    def run(text: str, name: str) -> list[str]:
        ran.append(text)
        return ["said"]

    page = "words\n\n```python\nprint(1)\n```\n"
    for text, state in ((page, "a"), (f"other {page}", "a"), (page, "b"), (page.replace("1", "2"), "a")):
        assert executed.kept(text, "page", state, tmp_path, run) == ["said"]
    assert len(ran) == 3, "other words need no run; other code and another block do"
    for file in tmp_path.iterdir():
        file.write_text("cut off", encoding="utf-8")
    assert executed.kept(page, "page", "a", tmp_path, run) == ["said"]
    assert len(ran) == 4


def test_a_page_that_fails_is_not_remembered(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    executed = script("docs/executed.py")

    def fails(text: str, name: str) -> list[str]:
        raise RuntimeError("NameError")

    with pytest.raises(RuntimeError):
        executed.kept("```python\nnobody\n```\n", "page", "a", tmp_path, fails)
    assert not list(tmp_path.iterdir())


def test_the_state_of_the_code_sees_every_change(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    executed = script("docs/executed.py")
    (tmp_path / "systems").mkdir()
    (tmp_path / "systems" / "a.py").write_text("one", encoding="utf-8")
    before = executed.state_of_the_code(tmp_path)
    assert executed.state_of_the_code(tmp_path) == before
    (tmp_path / "systems" / "a.py").write_text("two", encoding="utf-8")
    assert executed.state_of_the_code(tmp_path) != before


def test_llms_txt_names_the_pages_with_a_sentence_and_brings_their_text(
    script: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    files = script("docs/site_files.py")
    files.write_llms(tmp_path, ROOT, {"First steps": ["/README", "mdn"], "Nothing": ["api/index"]}, "1.2")
    text = (tmp_path / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith("# phlogiston 1.2\n\n> Deep generative models on Pyro and PyTorch")
    assert "- [Mixture density networks](docs/mdn.md): " in text
    assert "Nothing" not in text
    assert (tmp_path / "docs" / "mdn.md").read_text(encoding="utf-8") == Page("docs/mdn.md").text


def test_the_checker_says_why_it_does_nothing_where_there_is_no_chromium(
    script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    check = script("docs/check_site.py")
    monkeypatch.delenv("PHLOGISTON_CHROMIUM", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert check.main([str(tmp_path)]) == 0
    assert "not checked: " in capsys.readouterr().out
    assert check.main([str(tmp_path / "nowhere")]) == 2


BROKEN = """<!DOCTYPE html><html lang="en"><title>A page</title><body><main><h1>Words</h1>
<div style="overflow: hidden; width: 300px"><pre>{}</pre></div>
<img src="missing.png"><script>console.error("oops")</script>
<img src="https://example.org/there.png" alt="far away"></main></body></html>"""


def test_the_checker_finds_what_a_reader_would_stumble_over(
    script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("playwright", reason="playwright is not installed (requirements-browse.txt)")
    pytest.importorskip("axe_playwright_python", reason="axe is not installed (requirements-browse.txt)")
    check = script("docs/check_site.py")
    if check.chromium() is None:
        pytest.skip("there is no Chromium here")
    (tmp_path / "bad.html").write_text(BROKEN.format("x" * 400), encoding="utf-8")
    assert check.main([str(tmp_path / "bad.html")]) == 1
    found = capsys.readouterr().out
    for words in ("code is cut", "oops", "404", "asks the network", "image-alt"):
        assert words in found


def test_the_readme_is_made_from_its_template_and_shows_no_comment() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!--" not in text
    assert "{{" not in text
    assert len(text.splitlines()) <= 132, "half as long as it was"
    assert len(Page("README.md").pictures) == 6


def test_the_template_takes_figures_and_missed_marks(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    entries = [
        {"name": "a", "title": "one", "mean": 0.5, "values": {"0": 0.5}, "must": 0.6, "baselines": {"other": 0.25}},
        {"name": "b", "title": "two", "mean": 0.7, "values": {"0": 0.7}, "must": 0.6},
    ]
    (tmp_path / "toy.json").write_text(json.dumps({"system": "toy", "entries": entries}), encoding="utf-8")
    tables = script("docs/tables.py")
    share = '{{ figure("toy/a field=baselines.other percent=yes digits=0") }}'
    text = f'{{{{ figure("toy/a digits=2") }}}}, {share}; {{{{ missed() }}}}\n'
    assert tables.fill(text, tmp_path) == "0.50, 25 %; toy 1 of 2 (one)\n"
    with pytest.raises(tables.TableError, match="template"):
        tables.fill("{{ nobody }}", tmp_path)


def test_the_packaged_description_needs_no_file_beside_it(script: Callable[[str], ModuleType]) -> None:
    tables = script("docs/tables.py")
    text = "[a](docs/a.md#b) ![p](docs/images/p.png) [c](https://example.org) [![q](docs/q.gif)](docs/c.md)"
    told = tables.described(text, "https://github.com/o/r")
    assert "[a](https://github.com/o/r/blob/main/docs/a.md#b)" in told
    assert "![p](https://raw.githubusercontent.com/o/r/main/docs/images/p.png)" in told
    assert "[c](https://example.org)" in told
    packaged = (ROOT / "docs" / "description.txt").read_text(encoding="utf-8")
    assert not re.findall(r"\]\((?!https://)[^)]*\)", packaged)
    assert packaged == tables.described((ROOT / "README.md").read_text(encoding="utf-8"), tables.repository(ROOT))
