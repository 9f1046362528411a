"""Frames of zeros and ones are black and white or refused, never almost black."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from phlogiston import datasets, systems
from phlogiston.errors import DataError
from phlogiston.systems.base import System


@pytest.mark.parametrize(
    ("name", "data", "key"),
    [
        ("vdsm", ("figures", {"characters": (3, 0, 2), "size": 16, "frames": 4}), "frames"),
        ("sqair", ("moving_digits", {"sizes": (4, 2, 2)}), "x"),
        ("world", ("dodge", {"sizes": (4, 2, 2), "limit": 12}), "frames"),
        ("scene", ("courts", {"sizes": (4, 2, 2), "views": 12, "size": 16}), "images"),
    ],
)
def test_bytes_of_zeros_and_ones_are_refused_before_training(name: str, data: tuple[str, Any], key: str) -> None:
    source, options = data
    tensors = datasets.load(source, **options).train.tensors
    kind: type[System] = systems.get(name)
    with pytest.raises(DataError, match="bytes of 0 and 1 only"):
        kind().fit({**tensors, key: (tensors[key] > 127).to(torch.uint8)}, progress="off")
