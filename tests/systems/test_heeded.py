"""What data say about missing entries and row weights is heeded, or refused by name; never passed over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from phlogiston import systems
from phlogiston.errors import DataError
from phlogiston.systems.base import System

RNG = np.random.default_rng(0)
TABLE = {"x": RNG.normal(size=(60, 2))}
STEPS = {"x": RNG.normal(size=(20, 6, 3)).astype("float32"), "length": np.full(20, 6)}
STEPS["x"][..., 2] = 0
VIDEO = RNG.random((8, 4, 1, 16, 16)).astype("float32")
DATA: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "drmm": (TABLE, {"num_layers": 1, "num_components": 2}),
    "mdn": (TABLE, {"num_components": 2}),
    "sequence": (STEPS, {"hidden": 8}),
    "sketch": (STEPS, {"hidden": 8}),
    "handwriting": ({**STEPS, "text": np.ones((20, 3), dtype="int64")}, {"hidden": 8}),
    "sqair": ({"x": np.repeat(VIDEO, 2, 1)}, {"preset": "cpu", "lengths": (3,), "shares": (1.0,)}),
    "scene": ({"images": RNG.random((4, 6, 3, 16, 16)).astype("float32"), "poses": np.zeros((4, 6, 5), "float32")}, {}),
    "vdsm": ({"frames": VIDEO}, {"preset": "cpu-demo"}),
    "world": ({"frames": VIDEO, "action": np.zeros((8, 4), dtype="int64")}, {}),
}


@pytest.mark.parametrize("what", ["mask", "weight", "length"])
@pytest.mark.parametrize("name", sorted(DATA))
def test_masks_and_weights_are_heeded_or_refused_before_training(name: str, what: str) -> None:
    assert sorted(DATA) == list(systems.names())
    kind: type[System] = systems.get(name)
    tensors, options = DATA[name]
    rows = len(next(iter(tensors.values())))
    marks = np.ones(tensors["x"].shape if "x" in tensors else (rows, 4), dtype=np.bool_)
    marks[0, 0] = False
    extra = {"mask": marks, "weight": np.arange(1.0, rows + 1), "length": np.arange(1, rows + 1)}[what]
    if what in kind.HEEDS:
        return  # that it is heeded is tested with the system
    with pytest.raises(DataError, match=f"'{what}' .*{name}"):
        kind(**options).fit({**tensors, what: extra}, progress="off")


def test_what_says_nothing_is_let_through_and_scoring_refuses_as_training_does() -> None:
    kind = systems.get("sequence")
    whole, even = np.ones(STEPS["x"].shape, dtype=np.bool_), np.full(20, 2.0)
    fitted = kind(hidden=8, steps=2).fit({**STEPS, "mask": whole, "weight": even}, progress="off")
    with pytest.raises(DataError, match="'mask' marks 360 entries"):
        fitted.log_prob({**STEPS, "mask": ~whole})
    with pytest.raises(DataError, match="'weight' weighs rows differently"):
        fitted.evaluate({**STEPS, "weight": np.arange(20.0)})


def test_sequences_are_fitted_as_they_are_scored() -> None:
    kind = systems.get("sequence")
    equal = kind(hidden=8, steps=2).fit(STEPS["x"], progress="off")
    ragged = kind(hidden=8, steps=2).fit([STEPS["x"][i, : 3 + i % 3] for i in range(20)], progress="off")
    for fitted in (equal, ragged):
        assert fitted.log_prob([STEPS["x"][0], STEPS["x"][1, :4]]).value.shape == (2,)
    video = systems.get("sqair")(preset="cpu", steps=1, lengths=(3,), shares=(1.0,))
    assert video.fit(np.repeat(VIDEO[:, :, 0], 2, 1), progress="off").sample(1)
