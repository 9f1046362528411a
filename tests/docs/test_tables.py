"""docs/tables.py: tables come from the recorded results, and the committed pages are in step with them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

ENTRIES = [
    {
        "name": "density/roll",
        "title": "Swiss | roll",
        "configuration": "tril 2x16",
        "figure": "held-out log-likelihood, nats",
        "values": {"0": -2.91, "1": -2.89},
        "mean": -2.90,
        "std_error": 0.01,
        "must": -2.95,
        "aim": -2.85,
        "baselines": {"mixture": -2.86, "original": None},
        "steps": 3000,
        "cpu_seconds": 301.2,
        "command": "make learn SYSTEM=toy",
        "machine": "2-core x86-64 CPU",
        "date": "2026-01-31",
        "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
    },
    {"name": "density/plain", "title": "plain", "values": {"0": 1.0}, "mean": 1.0, "must": 2.0},
    {
        "name": "error",
        "title": "error",
        "values": {"0": 0.5},
        "mean": 0.5,
        "must": 0.6,
        "higher_is_better": False,
        "seen": 0.25,
    },
]


@pytest.fixture(scope="module")
def tables(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("docs/tables.py")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "docs" / "results" / "toy.json").write_text(json.dumps({"system": "toy", "entries": ENTRIES}))
    return tmp_path


def page(site: Path, marker: str, old: str = "stale\n", name: str = "README.md") -> Path:
    path = site / name
    path.write_text(f"before\n<!-- table: {marker} -->\n{old}<!-- end table -->\nafter\n", encoding="utf-8")
    return path


def body(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    return lines[2:-2]


def test_the_committed_pages_are_in_step_with_the_committed_results() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "tables.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_table_shows_the_group_and_the_columns_it_asks_for(tables: ModuleType, site: Path) -> None:
    path = page(site, 'toy/density columns="title:data set,mean,baselines.mixture,steps,cpu_seconds,verdict" note=no')
    assert tables.main(["--root", str(site)]) == 0
    assert body(path) == [
        "| data set | ours | mixture | steps | CPU time | verdict |",
        "|---|---|---|---|---|---|",
        "| Swiss \\| roll | −2.900 ± 0.010 | −2.860 | 3,000 | 5 min | reached |",
        "| plain | 1.000 |  |  |  | **missed** |",
    ]


def test_the_note_names_command_machine_and_versions(tables: ModuleType, site: Path) -> None:
    path = page(site, "toy/density/roll columns=title,mean")
    tables.main(["--root", str(site)])
    assert body(path)[-1] == "<sub>`make learn SYSTEM=toy` on 2-core x86-64 CPU, torch 2.13.0, 2026-01-31.</sub>"


def test_a_bar_that_must_stay_below_is_judged_from_the_other_side(tables: ModuleType) -> None:
    assert tables.verdict(ENTRIES[2]) == "reached"
    assert tables.verdict(ENTRIES[2] | {"mean": 0.7}) == "**missed**"
    assert tables.verdict(ENTRIES[2] | {"aim": 0.5}) == "aim reached"


def test_check_reports_and_changes_nothing(tables: ModuleType, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = page(site, "toy", name="docs/page.md")
    before = path.read_bytes()
    assert tables.main(["--check", "--root", str(site)]) == 1
    assert "docs/page.md is out of date" in capsys.readouterr().out.replace("\\", "/")
    assert path.read_bytes() == before


def test_rewriting_twice_changes_nothing_more_and_check_agrees(tables: ModuleType, site: Path) -> None:
    path = page(site, "toy")
    tables.main(["--root", str(site)])
    once = path.read_bytes()
    assert tables.main(["--check", "--root", str(site)]) == 0
    tables.main(["--root", str(site)])
    assert path.read_bytes() == once


def test_a_system_without_results_says_how_to_make_them(tables: ModuleType, site: Path) -> None:
    path = page(site, "later/density")
    assert tables.main(["--root", str(site)]) == 0
    assert body(path) == ["*No results recorded yet; `make learn SYSTEM=later` makes them.*"]


@pytest.mark.parametrize(
    ("marker", "shown"),
    [
        ("toy/density/roll", "−2.900 ± 0.010"),
        ("toy/density/roll digits=1 error=no", "−2.9"),
        ("toy/density/roll field=baselines.mixture", "−2.860"),
        ("toy/density/roll field=steps", "3,000"),
        ("toy/error percent=yes digits=1", "50.0 %"),
        ("toy/error field=seen percent=yes digits=0", "25 %"),
        ("toy/later", "not measured yet"),
        ("later/later", "not measured yet"),
    ],
)
def test_a_figure_stands_inside_a_line_and_is_renewed(tables: ModuleType, site: Path, marker: str, shown: str) -> None:
    path = site / "README.md"
    line = "| reaches <!-- figure: {0} -->{1}<!-- end figure -->, twice <!-- figure: {0} -->{1}<!-- end figure --> |\n"
    path.write_text(line.format(marker, "an old figure"), encoding="utf-8")
    assert tables.main(["--root", str(site)]) == 0
    assert path.read_text(encoding="utf-8") == line.format(marker, shown)
    assert tables.main(["--check", "--root", str(site)]) == 0


@pytest.mark.parametrize("marker", ["toy/error field=nothing", "toy/error colour=red", "toy/error digits=many"])
def test_a_wrong_figure_is_an_error_and_no_page_is_touched(tables: ModuleType, site: Path, marker: str) -> None:
    path = site / "README.md"
    path.write_text(f"<!-- figure: {marker} -->old<!-- end figure -->\n", encoding="utf-8")
    assert tables.main(["--root", str(site)]) == 2
    assert "old" in path.read_text(encoding="utf-8")


def test_every_figure_in_a_line_of_ours_is_recorded_or_has_a_recipe(tables: ModuleType) -> None:
    recipes = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "learn").glob("test_*.py"))
    for path in tables.pages(ROOT):
        for found in tables.FIGURE.finditer(path.read_text(encoding="utf-8")):
            system, _, name = found["what"].split()[0].partition("/")
            entries = tables.load(system, ROOT / "docs" / "results") or []
            known = any(entry["name"] == name for entry in entries)
            parts = name.split("/")
            assert known or all(part in recipes for part in parts), f"{path.name}: nothing makes {system}/{name}"


def test_markers_in_code_blocks_and_line_ends_are_left_alone(tables: ModuleType, site: Path) -> None:
    text = "a\r\n```\n<!-- table: nowhere/at/all colums=x -->\n```\nb\n"
    (site / "README.md").write_bytes(text.encode())
    assert tables.main(["--root", str(site)]) == 0
    assert (site / "README.md").read_bytes() == text.encode()


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [
        ("toy/nothing", "no results named 'nothing' for toy; there are: density/roll"),
        ("toy colums=title", "unknown option 'colums'"),
        ("toy columns=title,sted_error", "has the field 'sted_error'"),
        ("toy title", "cannot read the table marker"),
    ],
)
def test_a_wrong_marker_is_one_clear_line_and_no_page_is_touched(
    tables: ModuleType, site: Path, capsys: pytest.CaptureFixture[str], marker: str, complaint: str
) -> None:
    good = page(site, "toy", name="README.md")
    page(site, marker, name="docs/wrong.md")
    before = good.read_bytes()
    assert tables.main(["--root", str(site)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert complaint in line
    assert good.read_bytes() == before


def test_a_marker_without_an_end_is_an_error_and_eats_no_text(tables: ModuleType, site: Path) -> None:
    path = site / "README.md"
    path.write_text("<!-- table: toy -->\nprecious words\n")
    assert tables.main(["--root", str(site)]) == 2
    assert path.read_text() == "<!-- table: toy -->\nprecious words\n"


def test_a_failed_write_leaves_the_old_page_and_no_litter(
    tables: ModuleType, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = page(site, "toy")
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        tables.main(["--root", str(site)])
    assert path.read_bytes() == before
    assert sorted(p.name for p in site.iterdir()) == ["README.md", "docs"]
