"""Requirements: pins fit the ranges, and nothing brings a second torch along."""

from __future__ import annotations

import importlib.metadata as metadata
import re
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
def test_every_pin_lies_in_the_range_of_pyproject_and_every_range_is_pinned(file: str, extra: str | None) -> None:
    lines = project()["dependencies"] if extra is None else project()["optional-dependencies"][extra]
    ranges = {canonicalize_name(r.name): r.specifier for r in map(Requirement, lines)}
    pinned = pins(file)
    assert sorted(pinned) == sorted(ranges)
    outside = {name: str(version) for name, version in pinned.items() if version not in ranges[name]}
    assert not outside


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
