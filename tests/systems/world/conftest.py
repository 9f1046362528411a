"""Recordings and the models trained on them, once for all files."""

from __future__ import annotations

from pathlib import Path

import pytest

from phlogiston import datasets
from phlogiston.systems.world.system import WorldModel


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of `Catch`."""
    from .recorded import Catch

    path = tmp_path_factory.mktemp("games") / "catch"
    datasets.record(Catch(), path, episodes=24, size=0, policy="sticky:0.5")
    return path


@pytest.fixture(scope="session")
def system(folder: Path) -> WorldModel:
    """Trained on it."""
    from .recorded import SMALL

    return WorldModel(SMALL).fit(datasets.load(folder), progress="off")


@pytest.fixture(scope="session")
def pole(tmp_path_factory: pytest.TempPathFactory) -> WorldModel:
    """Trained on vectors."""
    from .recorded import SMALL

    path = tmp_path_factory.mktemp("games") / "pole"
    return WorldModel(SMALL).fit(datasets.record("CartPole-v1", path, episodes=20), progress="off")
