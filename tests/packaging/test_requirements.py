"""Requirements: pins fit the ranges, and nothing brings a second torch along."""

from __future__ import annotations

import ast
import importlib.metadata as metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
# torchvision pins one torch exactly and so replaces the user's; the others carry CUDA libraries of gigabytes
UNWANTED = re.compile(r"^(torchvision|torchaudio|nvidia-.*|cuda-.*|triton|pytorch-triton)$")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(name: str) -> dict[str, Version]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    found = [Requirement(line) for line in lines if line and not line.startswith("-r ")]
    for requirement in found:
        assert [s.operator for s in requirement.specifier] == ["=="], f"{name} must pin {requirement.name}"
    return {canonicalize_name(r.name): Version(next(iter(r.specifier)).version) for r in found}


def closure(names: set[str]) -> dict[str, set[str]]:
    """Return what the installed packages in `names` need, transitively: {package: the packages that ask for it}."""
    wanted: dict[str, set[str]] = {canonicalize_name(name): {"phlogiston"} for name in names}
    queue = list(wanted)
    while queue:
        asker = queue.pop()
        try:
            requires = metadata.requires(asker) or []
        except metadata.PackageNotFoundError:
            continue  # asked for under a marker of another platform, or not installed: its name alone is judged
        for requirement in map(Requirement, requires):
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            name = canonicalize_name(requirement.name)
            if name not in wanted:
                queue.append(name)
            wanted.setdefault(name, set()).add(asker)
    return wanted


@pytest.mark.parametrize(("file", "extra"), [("requirements.txt", None), ("requirements-dev.txt", "dev")])
def test_every_range_of_pyproject_is_pinned_inside_it(file: str, extra: str | None) -> None:
    extras = project()["optional-dependencies"]
    lines = [*project()["dependencies"], *extras["video"]] if extra is None else extras[extra]  # the demo knows videos
    ranges = {canonicalize_name(r.name): r.specifier for r in map(Requirement, lines)}
    pinned = pins(file)
    assert set(ranges) <= set(pinned)
    outside = {name: str(pinned[name]) for name in ranges if pinned[name] not in ranges[name]}
    assert not outside
    unknown = sorted(set(pinned) - set(closure(set(ranges))))
    assert not unknown, f"{file} pins what nothing needs: {unknown}"


def test_setting_up_for_tests_changes_no_package_that_the_demo_runs_on() -> None:
    """`make test` installs the second file into the environment in which `make demo` may be running."""
    run, dev = pins("requirements.txt"), pins("requirements-dev.txt")
    needed = closure(set(run))
    changed = {name: str(version) for name, version in dev.items() if name in needed and run.get(name) != version}
    assert not changed, f"requirements.txt must pin these, too: {changed}"


def imported() -> dict[str, set[str]]:
    """Top-level modules of other packages that the installed code imports: name -> files."""
    own = sorted(
        path.parent for path in ROOT.glob("*/__init__.py") if (ROOT / "phlogiston" / path.parent.name).exists()
    )
    found: dict[str, set[str]] = {}
    for path in [*(ROOT / "phlogiston").glob("*.py"), *(p for folder in own for p in folder.rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                found.setdefault(name.split(".")[0], set()).add(str(path.relative_to(ROOT)))
    return {name: files for name, files in found.items() if name not in {*sys.stdlib_module_names, "phlogiston"}}


def test_every_package_that_the_code_imports_is_pinned() -> None:
    owners = metadata.packages_distributions()
    extras = {name: lines for name, lines in project()["optional-dependencies"].items() if name != "dev"}
    optional = {canonicalize_name(Requirement(line).name) for lines in extras.values() for line in lines}
    known = set(pins("requirements.txt")) | optional
    modules = imported()
    assert {"torch", "pyro", "numpy", "matplotlib", "jinja2"} <= set(modules), "the walk must see the imports"
    missing = {
        name: sorted(files)
        for name, files in modules.items()
        if not {canonicalize_name(owner) for owner in owners.get(name, [name])} & known
    }
    assert not missing


def test_requirements_dev_stands_on_requirements() -> None:
    assert "-r requirements.txt" in (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()


def test_no_requirement_but_torch_itself_asks_for_torchvision_or_cuda() -> None:
    everything = closure(set(pins("requirements.txt")) | set(pins("requirements-dev.txt")))
    assert len(everything) > 30, "the walk must reach the packages behind the packages"
    culprits = {n: sorted(by - {"torch"}) for n, by in everything.items() if UNWANTED.match(n) and by - {"torch"}}
    assert not culprits


def test_beside_a_cpu_torch_no_cuda_package_is_installed() -> None:
    if "+cpu" not in metadata.version("torch"):
        pytest.skip("this environment holds a torch with CUDA, which brings its own libraries")
    installed = {canonicalize_name(d.metadata["Name"]) for d in metadata.distributions()}
    assert not sorted(name for name in installed if UNWANTED.match(name))


def test_pyproject_asks_for_the_python_that_the_makefile_asks_for() -> None:
    assert project()["requires-python"] == ">=3.11"
    assert "(3, 11)" in (ROOT / "Makefile").read_text(encoding="utf-8")
