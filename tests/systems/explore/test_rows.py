"""Held-out rows of generated data: the page makes few of them, and they are those that all of the data hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from phlogiston import datasets
from phlogiston.systems.explore.panels import rows


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("courts", {"sizes": (5, 2, 50)}),
        ("figures", {"characters": (3, 0, 6), "size": 16, "frames": 2}),
        ("touches", {"sizes": (5, 2, 50)}),
        ("script", {"sizes": (5, 50, 0)}),
        ("dodge", {"sizes": (50, 0, 0), "limit": 20}),
    ],
)
def test_few_rows_are_the_first_of_all(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    whole = datasets.load(name, **options)
    written = json.loads(json.dumps({"system": "world", "data": {"name": name, "options": dict(whole.meta.options)}}))
    (tmp_path / "config.json").write_text(json.dumps(written), encoding="utf-8")
    few = rows.held_out(str(tmp_path))
    split = next(part for part in (whole.test, whole.valid, whole.train) if part is not None and len(part))
    assert len(few.split) < len(split)
    for key, value in few.split.tensors.items():
        other = split.tensors[key][: len(few.split)]
        corner = tuple(slice(0, min(a, b)) for a, b in zip(value.shape, other.shape, strict=True))  # of padding
        assert torch.equal(value[corner], other[corner]), key
    space: dict[str, Any] = {}
    exec(f"import phlogiston as ph\n{few.line}\nfound = {few.text}", space)  # the program has all of the rows
    assert len(space["found"]) == len(split)
