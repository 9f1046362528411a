"""What the tests of the harness share: a pair with known evidence and posterior, and Inception with made-up weights."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from phlogiston.evaluate.inception import Inception

from .pairs import LinearGaussian

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def linear_gaussian() -> LinearGaussian:
    return LinearGaussian()


def made_up(key: str, shape: tuple[int, ...], dtype: str) -> Tensor:
    """Pseudo-random weights that depend on the key alone; the features in the fixture were computed with them."""
    draw = np.random.RandomState(zlib.crc32(key.encode()))
    if key == "fc.weight":
        values = draw.standard_normal(shape) / np.sqrt(2048)
    elif key.endswith("conv.weight"):
        values = draw.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    elif key.endswith("bn.weight"):
        values = np.ones(shape)
    elif key.endswith(("bn.bias", "running_mean", "fc.bias")):
        values = 0.1 * draw.standard_normal(shape)
    elif key.endswith("running_var"):
        values = 0.5 + draw.uniform(0.0, 1.0, shape)
    else:
        values = np.zeros(shape)
    return torch.tensor(np.asarray(values).astype(dtype))


@pytest.fixture(scope="session")
def layout() -> list[tuple[str, tuple[int, ...], str]]:
    """Name, shape and dtype of every tensor of the official file."""
    content = json.loads((FIXTURES / "inception_layout.json").read_text())
    return [(key, tuple(shape), dtype) for key, shape, dtype in content]


@pytest.fixture(scope="session")
def made_up_weights(layout: list[tuple[str, tuple[int, ...], str]]) -> dict[str, Tensor]:
    return {key: made_up(key, shape, dtype) for key, shape, dtype in layout}


@pytest.fixture(scope="session")
def made_up_inception(made_up_weights: dict[str, Tensor]) -> Inception:
    network = Inception()
    network.load_state_dict(made_up_weights)
    return network.requires_grad_(False)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test an empty cache folder, and no weights lying about."""
    monkeypatch.setenv("PHLOGISTON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("PHLOGISTON_INCEPTION", raising=False)
