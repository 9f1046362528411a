"""What every test starts from, and what it must leave as it found it."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pyro
import pytest
import torch


def pytest_configure() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)  # workers share the cores; more threads than cores only wait for each other


@pytest.fixture(autouse=True)
def clean_state() -> Iterator[None]:
    """Seed everything, switch validation on, and fail a test that leaves process-wide state changed."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - other people's code may use it
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    pyro.enable_validation(True)
    settings, dtype = pyro.settings.get(), torch.get_default_dtype()
    yield
    stored = list(pyro.get_param_store().keys())
    after, dtype_after = pyro.settings.get(), torch.get_default_dtype()
    pyro.clear_param_store()
    pyro.settings.set(**settings)
    torch.set_default_dtype(dtype)
    changed = {name: value for name, value in after.items() if value != settings[name]}
    assert not stored, f"the test left parameters in pyro's global store: {stored}"
    assert not changed, f"the test left pyro's settings changed: {changed}"
    assert dtype_after == dtype, f"the test left the default dtype at {dtype_after}"


@pytest.fixture(scope="session")
def test_data() -> Callable[[str], Path]:
    """Return a function that finds a folder of real data by name, or skips the test and says why."""

    def find(name: str) -> Path:
        given = os.environ.get("PHLOGISTON_TEST_DATA")
        beside = Path(__file__).resolve().parents[2] / "shared" / "data"
        root = Path(given) if given else beside
        if not (root / name).exists():
            pytest.skip(f"no real data {name!r} in {root}; set PHLOGISTON_TEST_DATA to the folder that holds it")
        return root / name

    return find


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """Load a file that is in no package, named by its path in the repository, as a module."""

    def load(path: str) -> ModuleType:
        file = Path(__file__).resolve().parent.parent / path
        spec = importlib.util.spec_from_file_location(f"phlogiston_{file.stem}", file)
        assert spec is not None, path
        assert spec.loader is not None, path
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load
