"""Systems and data that others bring: announced by an entry point or registered, and never fatal when broken."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from phlogiston import systems
from phlogiston.errors import ConfigError, UnknownNameError
from phlogiston.systems import registry

CONFIG = """
from dataclasses import dataclass
SUMMARY, PAPER, PRESETS = "a system of somebody's", "none", {"default": {}}
@dataclass(frozen=True)
class Config:
    steps: int = 1
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a package with an entry point into a folder on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_registered", {})

    def write(name: str, files: dict[str, str], points: str = "") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file, text in {"__init__.py": "", **files}.items():
            (folder / file).write_text(text, encoding="utf-8")
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(points, encoding="utf-8")
        return tmp_path

    return write


def run(path: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own: what is installed is looked up once per process."""
    import phlogiston

    root = Path(phlogiston.__file__).resolve().parents[1]
    setup = f"import sys; sys.path[:0] = [{str(path)!r}]; sys.path.append({str(root)!r})\n"
    return subprocess.run([sys.executable, "-P", "-c", setup + code], capture_output=True, text=True, timeout=120)


def test_an_installed_system_is_listed_with_its_summary(package: Callable[..., Path]) -> None:
    path = package("theirs", {"config.py": CONFIG}, "[phlogiston.systems]\ntheirs = theirs\n")
    done = run(path, "from phlogiston import systems; print(systems.names(), systems.summary('theirs'))")
    assert done.returncode == 0, done.stderr
    assert "'theirs'" in done.stdout
    assert "'drmm'" in done.stdout
    assert "somebody's" in done.stdout


@pytest.mark.parametrize(
    ("config", "reason"),
    [("import no_such_module_at_all", "no_such_module_at_all"), ("SUMMARY = 'x'", "PAPER"), ("1 / 0", "ZeroDivision")],
)
def test_a_broken_system_is_reported_and_the_others_go_on(
    package: Callable[..., Path], config: str, reason: str
) -> None:
    path = package("broken", {"config.py": config}, "[phlogiston.systems]\nbroken = broken\n")
    done = run(path, "from phlogiston import systems; print(systems.names())")
    assert done.returncode == 0, done.stderr
    assert "broken" not in done.stdout
    assert "drmm" in done.stdout
    assert "broken" in done.stderr
    assert reason in done.stderr


def test_a_broken_data_module_is_reported_and_the_others_go_on(package: Callable[..., Path]) -> None:
    points = "[phlogiston.datasets]\nmine = brokendata.mine\ngood = brokendata.good\n"
    good = (
        "import numpy as np\nfrom phlogiston.datasets.base import Dataset, Info, Meta, Split\n"
        "INFO = Info('good', 'three rows', 'yours', 'none', '3', '1')\n"
        "def load(root=None, n: int = 3):\n"
        "    split = Split({'x': np.arange(float(n))[:, None]})\n"
        "    return Dataset(split, split, split, Meta('good'))\n"
    )
    path = package("brokendata", {"mine.py": "import no_such_module_at_all", "good.py": good}, points)
    code = "print(len(datasets.load('good', n=5).train), 'swissroll' in datasets.names())"
    done = run(path, f"from phlogiston import datasets; {code}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["5", "True"]
    assert "no_such_module_at_all" in done.stderr


def test_a_package_is_registered_for_this_process(package: Callable[..., Path]) -> None:
    package("registered", {"config.py": CONFIG})
    systems.register("registered")
    assert "registered" in systems.names()
    assert systems.config("registered")().steps == 1
    assert systems.presets("registered") == {"default": {}}
    with pytest.raises(ConfigError, match=r"'drmm'.*phlogiston"):
        systems.register("registered", name="drmm")


def test_what_cannot_be_registered_is_refused_by_name(package: Callable[..., Path]) -> None:
    package("empty", {"config.py": "SUMMARY = PAPER = ''"})
    with pytest.raises(ConfigError, match="Config, PRESETS"):
        systems.register("empty")
    with pytest.raises(ConfigError, match="nowhere"):
        systems.register("nowhere")
    with pytest.raises(UnknownNameError, match="drmm"):
        systems.summary("drmn")
