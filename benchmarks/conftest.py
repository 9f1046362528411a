"""What the speed comparisons share: one thread, and the rows of their table (see `rows.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from .rows import ROOT, Rows

ROWS = pytest.StashKey[Rows]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench", "speed")
    group.addoption("--bench-results", type=Path, default=ROOT / "docs" / "results", help="folder of bench.json")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = Rows(config.getoption("--bench-results", default=ROOT / "docs" / "results") / "bench.json")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, None)
    if rows is not None and rows.entries:
        terminalreporter.section("CPU time")
        terminalreporter.write_line("\n".join(rows.table()))


@pytest.fixture
def row(request: pytest.FixtureRequest, one_thread: None) -> Rows:
    """Measures a row of the table and records it: `row(name, work=..., ours=..., alternative=..., ...)`."""
    return request.config.stash[ROWS]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Both sides of a comparison run on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
