"""The front door: documented commands exist, CI runs them, no file knows the machine it was written on."""

from __future__ import annotations

import ast
import os
import re
import stat
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = ["setup", "dev", "demo", "test", "check", "format", "faults", "bench", "fuzz", "learn", "docs", "browse",
           "image", "tables", "pictures", "clean", "pretrained", "rivals"]  # fmt: skip


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("target", TARGETS)
def test_the_makefile_has_the_target_with_a_word_of_help(target: str) -> None:
    assert re.search(rf"^{target}:.*## \S", MAKEFILE, re.MULTILINE)
    assert target in re.search(r"^\.PHONY:(.*)$", MAKEFILE, re.MULTILINE).group(1).split()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_make_command_of_the_documentation_exists(page: str) -> None:
    mentioned = set(re.findall(r"(?:^|`)make ([a-z]+)", read(page), re.MULTILINE))
    assert mentioned <= set(TARGETS), f"{page} speaks of make {sorted(mentioned - set(TARGETS))}"
    assert {"demo", "test"} <= mentioned


def test_ci_runs_the_test_command_of_the_readme_and_can_be_executed() -> None:
    script = read(".ci/run")
    commands = [line.strip() for line in script.splitlines()]
    assert "make test" in commands
    assert "make check" in commands
    assert "set -euo pipefail" in commands, "a failing command must fail the run"
    if os.name == "posix":
        assert (ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR


def test_make_sets_itself_up_before_it_works() -> None:
    for target, needs in {"demo": "setup", "test": "dev", "check": "dev", "bench": "dev", "learn": "dev"}.items():
        assert re.search(rf"^{target}: {needs}\b", MAKEFILE, re.MULTILINE), f"make {target} must work in a fresh clone"


# one letter of each in brackets, so that this file does not find itself
MACHINE_PATHS = re.compile(r"/ro[o]t/|/hom[e]/[a-z]|/User[s]/[A-Za-z]|/wor[k]/|/tm[p]/w/|[A-Z]:\\User[s]")
REGISTRIES = re.compile(r"pyp[i]\.org|pythonhoste[d]\.org|anacond[a]\.org|testpyp[i]")
TEXT = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".cfg", ".cff", ".sh", ".ini", ""}


def lines_with(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    found = []
    for path in files:
        if path.suffix in TEXT and path.is_file() and not path.is_symlink():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            found += [
                f"{path.relative_to(ROOT)}:{i}: {line[:120]}" for i, line in enumerate(lines, 1) if pattern.search(line)
            ]
    return found


def test_no_file_names_a_path_of_the_machine_it_was_written_on(own_files: list[Path]) -> None:
    assert len(own_files) > 20
    assert not lines_with(MACHINE_PATHS, own_files)


def test_no_file_names_the_host_of_a_package_registry(own_files: list[Path]) -> None:
    assert not lines_with(REGISTRIES, own_files)


@pytest.mark.parametrize("folders", [("", "root", "x"), ("", "home", "ann", "data"), ("", "Users", "Ann")])
def test_the_path_check_sees_machine_paths(folders: tuple[str, ...]) -> None:
    assert MACHINE_PATHS.search(f"see {'/'.join(folders)}")


def test_no_file_of_the_repository_is_big(own_files: list[Path]) -> None:
    sizes = {str(p.relative_to(ROOT)): p.stat().st_size for p in own_files if p.is_file() and not p.is_symlink()}
    weights = {name: size for name, size in sizes.items() if "/pretrained/weights/" in name}
    assert sum(weights.values()) <= 12_000_000
    assert not {name: size for name, size in sizes.items() if size > 2_000_000 and name not in weights}


PACKAGES = sorted(p.name for p in (ROOT / "phlogiston").iterdir() if (ROOT / p.name / "__init__.py").is_file())


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_what_it_holds(package: str) -> None:
    docstring = ast.get_docstring(ast.parse(read(f"{package}/__init__.py")))
    assert docstring, f"{package}/__init__.py needs a docstring"
    assert f"`{package}/`" in read("docs/design.md"), "docs/design.md describes every package"


def test_the_map_of_the_documentation_names_every_page() -> None:
    index = read("docs/index.md")
    pages = {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")} - {"index.md"}
    missing = sorted(page for page in pages if f"({page})" not in index)
    assert not missing, f"docs/index.md does not link to {missing}"
    links = set(re.findall(r"\]\(([^)#:]+\.md)\)", index))
    assert not sorted(link for link in links if not (ROOT / "docs" / link).exists())


def test_relative_links_of_the_front_pages_lead_somewhere() -> None:
    dead = [
        f"{page}: {link}"
        for page in [
            "README.md",
            "CONTRIBUTING.md",
            "CHANGELOG.md",
            *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
        ]
        for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", read(page))
        if not link.startswith(("http:", "https:", "mailto:")) and not ((ROOT / page).parent / link).exists()
    ]
    assert not dead


def test_the_version_is_written_in_one_place_and_the_changelog_and_citation_follow() -> None:
    version = re.search(r'__version__ = "([^"]+)"', read("phlogiston/__init__.py")).group(1)
    assert 'dynamic = ["version"]' in read("pyproject.toml")
    assert f"version: {version}" in read("CITATION.cff")
    assert version in re.search(r"^## .*$", read("CHANGELOG.md"), re.MULTILINE).group(0)
