"""Row weights in table systems: weight 3 is three rows, weight 0 none, a common factor nothing; in every verb."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from phlogiston.datasets.base import Dataset, Meta, Split
from phlogiston.evaluate.metric import from_rows
from phlogiston.systems.drmm.system import DRMM
from phlogiston.systems.mdn.system import MDN


def rows(kind: type[Any], unit: float) -> tuple[Dataset, Dataset]:
    """The same data, with weights and written out."""
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(60, 2, generator=generator), torch.randn(60, 2, generator=generator) + 4])
    number = torch.randint(0, 4, (120,), generator=generator)
    label = (x[:, 0] > 2).long()
    x[number == 0] = 1e6
    tensors: dict[str, torch.Tensor] = {"x": x, "label": label} if kind is DRMM else {"x": x[:, 1:], "y": x[:, :1]}
    written = {name: value.repeat_interleave(number, 0) for name, value in tensors.items()}
    parts = Split({**tensors, "weight": unit * number}), Split(written)
    meta = Meta("w", categorical={"label": ("no", "yes")} if kind is DRMM else {})
    weighted, repeated = (Dataset(part, part, part, meta) for part in parts)
    return weighted, repeated


@pytest.mark.parametrize("unit", [1.0, 0.1])
@pytest.mark.parametrize("kind", [DRMM, MDN])
def test_a_weight_of_three_is_three_rows(kind: type[Any], unit: float) -> None:
    weighted, repeated = rows(kind, unit)
    options = {"num_components": 2, "steps": 30, "batch_size": 1000}
    options |= {"num_layers": 2, "frame": "tril"} if kind is DRMM else {}
    one, two = kind(options).fit(weighted), kind(options).fit(repeated)
    for name, value in two.model.state_dict().items():
        if name != "inputs":  # which inputs are kept is drawn
            torch.testing.assert_close(one.model.state_dict()[name], value, atol=1e-4, rtol=1e-4)
    logged = [system.history.records[-1].get("valid_loss_of_best", 0.0) for system in (one, two)]
    assert logged[0] == pytest.approx(logged[1], abs=1e-4)
    found, expected = one.evaluate(weighted), one.evaluate(repeated)
    assert found.keys() == expected.keys()
    for name, metric in expected.items():
        close = {"rel": 1e-6, "abs": 1e-6} if name != "mse_of_draw" else {"rel": 0.3}  # draws differ from row to row
        assert found[name].value == pytest.approx(metric.value, **close), name
        assert found[name].n == metric.n, name
        if metric.std_error is not None and name != "mse_of_draw":
            assert found[name].std_error == pytest.approx(metric.std_error, rel=1e-5), name
    score = one.log_prob(weighted).mean()
    assert (score.value, score.n) == (pytest.approx(one.log_prob(repeated).mean().value), len(repeated.test))


def test_averages_over_weights_that_are_no_copies_have_the_error_of_a_weighted_mean() -> None:
    rng = np.random.default_rng(0)
    weight = rng.exponential(size=200)
    found = from_rows(rng.normal(size=200), weight=weight)
    means = [from_rows(rng.normal(size=200), weight=weight).value for _ in range(2000)]
    assert found.n == 200
    assert found.std_error == pytest.approx(np.std(means), rel=0.2)  # 200 rows tell a spread to some 7 %
    assert from_rows(rng.normal(size=200), weight=3 * weight).std_error == pytest.approx(np.std(means), rel=0.25)
