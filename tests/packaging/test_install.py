"""The package as others get it: wheel, sdist, editable install, uninstalled checkout, checkout without links.

Installed here without dependencies, which the fresh environments borrow from the environment that runs the tests;
nothing is downloaded. `phlogiston` itself must come from the fresh environment, and each test asserts that it does.
"""

from __future__ import annotations

import os
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PACKAGES = {"networks", "distributions", "datasets", "models", "guides", "inference", "evaluate", "systems", "cli"}
WHERE = (
    "import phlogiston, phlogiston.datasets, phlogiston.systems;"
    "print(phlogiston.__file__, phlogiston.datasets.__file__, phlogiston.systems.names(), sep='\\n')"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, copy_checkout: Callable[[Path], Path]) -> Path:
    """A copy of the repository's own files: building leaves traces, which must not land in the checkout."""
    return copy_checkout(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def built(source: Path) -> Path:
    """The folder with the wheel and the sdist, built once; the wheel is made from the sdist, as for a release."""
    import subprocess

    command = [sys.executable, "-P", "-m", "build", "--no-isolation", "--outdir", str(source / "dist"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return source / "dist"


class Environment:
    """A fresh virtual environment without pip; packages go in through the pip of the running environment."""

    def __init__(self, folder: Path, run: Callable) -> None:
        venv.create(folder, with_pip=False, symlinks=os.name == "posix")
        self.run = run
        self.bin = folder / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.bin / "python"
        self.packages = Path(
            run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
        )

    def install(self, *what: str | Path, **environment: str) -> None:
        pip = [
            sys.executable,
            "-P",
            "-m",
            "pip",
            "--python",
            self.python,
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
        ]
        self.run(*pip, *what, **environment)

    def borrow_dependencies(self) -> None:
        """Let the environment see the packages of the running one, behind its own.

        A line in a .pth file adds the folder to the path but does not run the .pth files in it, so that an editable
        install of phlogiston in the running environment stays invisible.
        """
        (self.packages / "borrowed.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n", encoding="utf-8")


@pytest.fixture
def environment(tmp_path: Path, run: Callable) -> Environment:
    return Environment(tmp_path / "venv", run)


def test_the_wheel_holds_phlogiston_and_nothing_else_at_its_top(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"phlogiston"}
    assert {f"phlogiston/{package}/__init__.py" for package in PACKAGES} <= set(names)
    assert {"phlogiston/py.typed", "phlogiston/errors.py", "phlogiston/sklearn.py"} <= set(names)
    assert not [name for name in names if name.split("/")[-1].startswith("test_") or name.endswith((".pyc", ".ipynb"))]


def test_the_wheel_holds_every_module_and_data_file_of_the_packages(
    built: Path, own_files: list[Path], root: Path
) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {path.relative_to(root) for path in own_files if not path.is_symlink()}
    wanted = {f"phlogiston/{path}" for path in ours if path.parts[0] in PACKAGES and path.suffix != ".md"}
    assert not sorted(wanted - names)


def test_the_sdist_can_be_built_without_links(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        members = {member.name.split("/", 1)[-1]: member for member in opened.getmembers()}
    assert not [name for name, member in members.items() if member.issym() or member.islnk()]
    assert {"pyproject.toml", "README.md", "LICENSE", "phlogiston/datasets/__init__.py"} <= set(members)


def test_the_sdist_is_the_repository(built: Path, own_files: list[Path], root: Path) -> None:
    """Documentation, examples, tests, the Makefile and its requirements: all but what only git and CI look at."""
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.split("/", 1)[-1] for name in opened.getnames()}
    ours = [path.relative_to(root) for path in own_files if not path.is_symlink()]
    moved = {f"phlogiston/{path}" if path.parts[0] in PACKAGES else str(path) for path in ours}
    assert not sorted(moved - names - {".gitignore"})
    assert not [name for name in names if name.startswith(("docs/api/", "docs/_build/", "build/", "runs/"))]


def test_the_wheel_installs_into_an_empty_environment_and_lists_the_systems(
    built: Path, environment: Environment, tmp_path: Path
) -> None:
    environment.install(next(built.glob("*.whl")))
    tops = {path.name for path in environment.packages.iterdir()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"phlogiston"}

    foreign = environment.packages / "datasets"  # another project's package of that name keeps it
    foreign.mkdir()
    (foreign / "__init__.py").write_text("owner = 'somebody else'\n", encoding="utf-8")
    environment.borrow_dependencies()
    said = environment.run(
        environment.python, "-c", f"{WHERE}; import datasets; print(datasets.owner)", cwd=tmp_path
    ).stdout
    file, package, systems, owner = said.splitlines()
    assert Path(file) == environment.packages / "phlogiston" / "__init__.py"
    assert Path(package) == environment.packages / "phlogiston" / "datasets" / "__init__.py"
    assert owner == "somebody else"

    listed = environment.run(environment.bin / "phlogiston", "systems", cwd=tmp_path).stdout
    assert "drmm" in systems
    assert "drmm" in listed
    assert environment.run(environment.python, "-m", "phlogiston", "systems", cwd=tmp_path).stdout == listed


def test_an_editable_install_serves_the_checkout(source: Path, environment: Environment, tmp_path: Path) -> None:
    tools = tmp_path / "tools"  # the build backend, and nothing else of the running environment
    tools.mkdir()
    backend = distribution("setuptools")
    for top in {Path(str(file)).parts[0] for file in backend.files or []} - {"..", "__pycache__"}:
        (tools / top).symlink_to(Path(str(backend.locate_file(top))))
    environment.install("--no-build-isolation", "--editable", source, PYTHONPATH=str(tools))
    tops = {path.name for path in environment.packages.iterdir()}
    assert not tops & PACKAGES
    environment.borrow_dependencies()
    file, package, systems = environment.run(environment.python, "-c", WHERE, cwd=tmp_path).stdout.splitlines()
    assert Path(file).resolve() == (source / "phlogiston" / "__init__.py").resolve()
    assert Path(package).resolve() == (source / "datasets" / "__init__.py").resolve()
    assert "drmm" in systems
    assert "drmm" in environment.run(environment.bin / "phlogiston", "systems", cwd=tmp_path).stdout
    bare = "import importlib.util; print([n for n in ('models', 'guides', 'systems') if importlib.util.find_spec(n)])"
    assert environment.run(environment.python, "-c", bare, cwd=tmp_path).stdout.strip() == "[]"


@pytest.mark.parametrize("links", [True, False], ids=["with-links", "links-as-text-files"])
def test_an_uninstalled_checkout_works(
    links: bool, environment: Environment, tmp_path: Path, copy_checkout: Callable[[Path], Path]
) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    if not links:  # what git leaves on a file system, or with a setting, that knows no links
        for link in [path for path in (checkout / "phlogiston").iterdir() if path.is_symlink()]:
            target = os.readlink(link)
            link.unlink()
            link.write_text(target, encoding="utf-8")
    environment.borrow_dependencies()
    file, package, _ = environment.run(environment.python, "-c", WHERE, cwd=checkout).stdout.splitlines()
    assert Path(file) == checkout / "phlogiston" / "__init__.py"
    assert Path(package).resolve() == checkout.resolve() / "datasets" / "__init__.py"
    assert "drmm" in environment.run(environment.python, "-m", "phlogiston", "systems", cwd=checkout).stdout
