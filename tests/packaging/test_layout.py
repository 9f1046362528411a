"""The shape of the code base: no import cycles, no crowded folders, no file too long to read in one sitting."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("networks", "distributions", "datasets", "models", "guides", "inference", "evaluate", "systems", "cli")
MOST_FILES = 25  # in one folder
MOST_LINES = 500  # in one file
MOST_FUNCTION_LINES = 80  # in one function, its docstring included


def modules() -> dict[str, Path]:
    """Every module of the package by dotted name, `__init__` files left out: they only re-export."""
    files = [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]
    files += sorted((ROOT / "phlogiston").glob("*.py"))
    names = {}
    for path in files:
        if path.name != "__init__.py" and "__pycache__" not in path.parts:
            parts = path.relative_to(ROOT).with_suffix("").parts
            names[".".join(("phlogiston", *(parts[1:] if parts[0] == "phlogiston" else parts)))] = path
    return names


def imported(source: str) -> Iterator[str]:
    """Every dotted name a module may mean by its imports, those in functions and under TYPE_CHECKING included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or on the way round."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            new = edges.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        return seen

    reached = {module: reach(module) for module in edges}
    rings = {frozenset(t for t in reached[m] if m in reached[t]) for m in edges if m in reached[m]}
    return sorted(sorted(ring) for ring in rings)


def test_no_two_files_import_each_other() -> None:
    files = modules()
    edges = {name: set(imported(path.read_text(encoding="utf-8"))) & files.keys() for name, path in files.items()}
    assert cycles({name: targets - {name} for name, targets in edges.items()}) == []


def test_the_cycle_check_sees_rings_of_any_length() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert cycles({"a": {"b"}, "b": set()}) == []
    assert set(imported("def f():\n    from phlogiston.x import y")) == {"phlogiston.x", "phlogiston.x.y"}


def test_no_folder_is_a_crowd() -> None:
    folders = [d for package in PACKAGES for d in [ROOT / package, *(ROOT / package).rglob("*")] if d.is_dir()]
    crowded = {str(d.relative_to(ROOT)): n for d in folders if (n := len(list(d.glob("*.py")))) > MOST_FILES}
    assert not crowded


def test_no_function_is_too_long() -> None:
    lengths = {
        f"{path.relative_to(ROOT)}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in modules().values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: n for name, n in lengths.items() if n > MOST_FUNCTION_LINES}


def test_no_file_is_too_long() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in modules().values()}
    assert not {name: n for name, n in lengths.items() if n > MOST_LINES}
    middle = sorted(lengths.values())[len(lengths) // 2]
    assert middle <= 200
