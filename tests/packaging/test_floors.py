"""The floors: imports go down only and through `phlogiston`, and each package keeps its promises."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# what each package may import from the others, besides itself and what SHARED names; docs/design.md draws the picture
GROUND = {"networks", "distributions", "datasets"}
MAY_IMPORT: dict[str, set[str]] = {
    "networks": set(),
    "distributions": {"networks"},  # a density may be parametrised by a block; never the other way round
    "datasets": set(),
    "models": GROUND,
    "guides": GROUND | {"models"},
    "inference": GROUND,
    "evaluate": GROUND,
    "systems": GROUND | {"models", "guides", "inference", "evaluate"},
    "cli": GROUND | {"models", "guides", "inference", "evaluate", "systems"},
}
# of phlogiston itself; they import no package
SHARED = {"arrays", "cards", "console", "errors", "files", "lazy", "__version__"}
NO_PYRO = {"networks", "datasets", "cli"}


def modules(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py") if "__pycache__" not in path.parts)


def imports(tree: ast.AST) -> Iterator[tuple[int, str, int]]:
    """Yield (line, dotted name, level) of every import, `from a import b` giving `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, f"{node.module or ''}.{alias.name}".strip("."), node.level


def faults(package: str, source: str, depth: int = 1) -> list[str]:
    """Return what is wrong with the imports of a module that lies `depth` folders deep (1: directly in its package)."""
    found = []
    for line, name, level in imports(ast.parse(source)):
        head, *rest = name.split(".")
        if level > depth:
            found.append(f"{line}: climbs out of {package}/ by a relative import of {name!r}")
        elif level == 0 and head in MAY_IMPORT:
            found.append(f"{line}: bare `import {head}` makes a second copy of every class; write phlogiston.{name}")
        elif level == 0 and head == "phlogiston" and rest:
            if rest[0] not in MAY_IMPORT.get(package, set()) | SHARED | {package}:
                found.append(f"{line}: {package} may not import {name}")
        elif level == 0 and head == "pyro" and package in NO_PYRO:
            found.append(f"{line}: {package} knows no Pyro")
    return found


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_go_down_only(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{fault}"
        for path in modules(package)
        for fault in faults(package, path.read_text(encoding="utf-8"), depth=len(path.relative_to(ROOT).parts) - 1)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("models", "from phlogiston.guides.drmm import Guide"),
        ("inference", "import phlogiston.systems"),
        ("inference", "def f():\n    from phlogiston.models import drmm"),
        ("evaluate", "from phlogiston import guides"),
        ("evaluate", "from phlogiston.inference import engine"),
        ("networks", "from phlogiston.distributions.paths import Paths"),
        ("distributions", "from phlogiston.datasets.base import Split"),
        ("networks", "import pyro.distributions as dist"),
        ("datasets", "from pyro import sample"),
        ("systems", "from phlogiston.cli.main import main"),
        ("guides", "import models"),
        ("cli", "from evaluate.score import Score"),
        ("models", "from ..networks import frames"),
    ],
)
def test_the_floor_check_sees_each_kind_of_fault(package: str, source: str) -> None:
    assert len(faults(package, source)) == 1


def test_the_floor_check_lets_rightful_imports_pass() -> None:
    source = "import torch\nfrom . import base\nfrom phlogiston import errors\nfrom phlogiston.models.drmm import DRMM"
    assert faults("guides", source) == []


def test_every_folder_linked_into_the_package_is_one_of_its_packages() -> None:
    linked = {path.name for path in (ROOT / "phlogiston").iterdir() if (ROOT / path.name / "__init__.py").is_file()}
    assert linked == set(MAY_IMPORT)
    for package in sorted(linked):
        link = ROOT / "phlogiston" / package
        if link.is_symlink():  # a checkout without links has text files here
            assert str(link.readlink()) == f"../{package}", "links are relative, so that a clone can be moved"


def system_names() -> list[str]:
    """Names of systems, but for those that are first of all words of everybody's (`world_size`, a sequence)."""
    stems = [path.parent.name for path in sorted((ROOT / "systems").glob("*/config.py"))]
    return [stem for stem in stems if stem not in ("sequence", "world")]


def words(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every name and every string that is not a docstring."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in docstrings:
                yield node.lineno, text
            case ast.Name(id=text) | ast.Attribute(attr=text):
                yield node.lineno, text
            case ast.FunctionDef(name=text) | ast.ClassDef(name=text):
                yield node.lineno, text


@pytest.mark.parametrize("package", ["inference", "evaluate"])
def test_the_shared_packages_name_no_system(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text!r}"
        for path in modules(package)
        for line, text in words(ast.parse(path.read_text(encoding="utf-8")))
        for name in system_names()
        if name in text.lower().replace("-", "_").split("_") or name == text.lower()
    ]
    assert not found, "\n".join(found)
