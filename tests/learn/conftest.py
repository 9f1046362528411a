"""Fixtures of the full recipes, which `make learn` runs: `record` writes what they reach to docs/results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .recorder import Entry

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def parse_seeds(text: str) -> list[int]:
    """Read `0,1,2`."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise pytest.UsageError(
            f"--seeds takes whole numbers with commas between them, such as 0,1,2; got {text!r}"
        ) from None
    if len(set(seeds)) < len(seeds):
        raise pytest.UsageError(f"--seeds names a seed twice: {text!r}")
    return seeds


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("learn", "full recipes")
    group.addoption("--seeds", default="0,1,2", help="seeds of the full recipes (default: 0,1,2)")
    group.addoption("--runs", type=Path, default=None, help="folder to keep long runs in, and to go on with them from")
    group.addoption("--results", type=Path, default=RESULTS, help="folder for the results (default: docs/results)")


@pytest.fixture(scope="session")
def seeds(request: pytest.FixtureRequest) -> list[int]:
    """The seeds given by `--seeds`."""
    return parse_seeds(request.config.getoption("--seeds", default="0,1,2"))


@pytest.fixture
def kept(request: pytest.FixtureRequest) -> Callable[[str, int], Path | None]:
    """A function `kept(name, seed)`: the run folder of a long recipe, or None where runs are not kept.

    A recipe that was interrupted goes on from there; `run.stop(folder)` adds up the time of finished parts.
    """
    folder = request.config.getoption("--runs", default=None)
    return lambda name, seed: None if folder is None else Path(folder) / f"{name}-{seed}"


@pytest.fixture
def record(request: pytest.FixtureRequest, seeds: list[int]) -> Callable[..., Entry]:
    """A function `record(system, name, **fields)` that begins an entry; tests/learn/recorder.py shows a recipe."""
    folder = request.config.getoption("--results", default=RESULTS)

    def begin(system: str, name: str, **fields: Any) -> Entry:
        return Entry(Path(folder) / f"{system}.json", system, name, seeds, **fields)

    return begin
