"""What is set aside of drawings that come without validation rows, and what it is good for."""

import torch

from phlogiston import datasets
from phlogiston.datasets.base import Split
from phlogiston.systems.sketch import Sketch

DATA = datasets.load("script", sizes=(10, 5, 100))
SMALL = {"hidden": 48, "encoder_hidden": 16, "latent": 4, "steps": 300, "batch_size": 10, "learning_rate": 0.01}


def test_a_few_drawings_are_not_learned_by_heart() -> None:
    scores = {}
    for hold_out in (True, False):
        rows = Split({name: DATA.train.tensors[name] for name in ("x", "length")})
        system = Sketch(**SMALL, hold_out=hold_out).fit(rows, progress="off", seed=0)
        scores[hold_out] = float(system.log_prob(DATA.test, num_particles=8).value.mean())
    assert scores[True] > scores[False] + 50.0


def test_rows_set_aside_are_validation_rows() -> None:
    seen = []

    class Look:
        def on_start(self, state: object) -> None:
            seen.append((len(state.data), len(state.valid)))  # type: ignore[attr-defined]

    rows = {name: torch.cat([DATA.train.tensors[name]] * 4) for name in ("x", "length")}
    Sketch(**SMALL | {"steps": 1}).fit(rows, progress="off", callbacks=[Look()])
    Sketch(**SMALL | {"steps": 1}).fit(DATA, progress="off", callbacks=[Look()])  # which has validation rows
    assert seen == [(32, 8), (10, 5)]
