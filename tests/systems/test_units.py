"""Units change nothing: fitted to a x + b instead of x, a table system says the same things in other units.

What is compared with: the same system fitted to x. Numbers agree to 1e-6, or to what float64 holds of a x + b.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from phlogiston.datasets.base import Split
from phlogiston.errors import DataError, DataWarning
from phlogiston.inference.query import text as evidence_text
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, Within
from phlogiston.inference.svi import checkpoints
from phlogiston.systems.drmm.system import DRMM
from phlogiston.systems.mdn.system import MDN

UNITS = [(1e-30, 0.0), (1e30, 0.0), (3.7, 1e6), (1e-30, 1e12), (1e30, -1e12)]  # factor, and shift in sds
DRMM_OPTIONS: dict[str, Any] = {"num_layers": 1, "num_components": 2, "frame": "tril", "steps": 15}
MDN_OPTIONS: dict[str, Any] = {"num_components": 2, "steps": 15}


def table() -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 2))
    x[:, 1] += 0.7 * x[:, 0]
    x[:70] += 3
    return x


def regression() -> dict[str, np.ndarray]:
    x = table()
    return {"x": x, "y": np.sin(x[:, :1]) + np.random.default_rng(1).normal(0, 0.1, (len(x), 1))}


@pytest.fixture(scope="module")
def drmm() -> DRMM:
    return DRMM(DRMM_OPTIONS).fit(table())


@pytest.fixture(scope="module")
def mdn() -> MDN:
    return MDN(MDN_OPTIONS).fit(regression())


def tolerance(shift: float) -> float:
    return 1e-6 + 4e-15 * abs(shift)  # of the data's standard deviation: some 20 steps of float64 at the shift


@pytest.mark.parametrize(("factor", "shift"), UNITS)
def test_a_mixture_in_other_units(factor: float, shift: float, drmm: DRMM) -> None:
    x, b, close = table(), factor * shift, tolerance(shift)
    other = DRMM(DRMM_OPTIONS).fit(factor * x + b)
    gap = other.log_prob(factor * x + b).value + 2 * math.log(factor) - drmm.log_prob(x).value
    assert float(gap.abs().max()) < close
    drawn = other.sample(50, seed=0)["x"].numpy()
    np.testing.assert_allclose((drawn - b) / factor, drmm.sample(50, seed=0)["x"].numpy(), atol=close)
    questions = [
        (Known([0.5, 0.0], [1, 0]), Known([0.5 * factor + b, 0.0], [1, 0]), -math.log(factor)),
        (Within([-1.0, 0.0], [1.0, 1.0]), Within([b - factor, b], [b + factor, b + factor]), 0.0),
        (Near([0.0, 0.0], [0.5, 0.5]), Near([b, b], [0.5 * factor, 0.5 * factor]), -2 * math.log(factor)),
        (HalfSpace([1.0, -1.0], 0.3), HalfSpace([1.0, -1.0], 0.3 * factor), 0.0),
    ]
    for mine, yours, jacobian in questions:
        one = drmm.query({"x": mine}, num_samples=20, seed=0)
        two = other.query({"x": yours}, num_samples=20, seed=0)
        assert float(two.log_evidence) == pytest.approx(float(one.log_evidence) + jacobian, abs=close)
        np.testing.assert_allclose((two.samples["x"].numpy() - b) / factor, one.samples["x"].numpy(), atol=close)


@pytest.mark.parametrize(("factor", "shift"), UNITS)
def test_a_regression_in_other_units(factor: float, shift: float, mdn: MDN) -> None:
    rows, b, close = regression(), factor * shift, tolerance(shift)
    there = {name: factor * value + b for name, value in rows.items()}
    other = MDN(MDN_OPTIONS).fit(there)
    gap = other.log_prob(there).value + math.log(factor) - mdn.log_prob(rows).value
    assert float(gap.abs().max()) < close
    one, two = mdn.predictive(rows["x"][:9]), other.predictive(there["x"][:9])
    y, y_there = torch.tensor(rows["y"][:9]), torch.tensor(there["y"][:9])
    np.testing.assert_allclose((two.mean - b) / factor, one.mean, atol=close)
    np.testing.assert_allclose(two.crps(y_there) / factor, one.crps(y), atol=close)
    np.testing.assert_allclose(two.cdf(y_there), one.cdf(y), atol=close)
    evidence: list[tuple[Any, Any, float]] = [
        (Within([-0.5], [0.5]), Within([b - 0.5 * factor], [b + 0.5 * factor]), 0.0),
        (Near([0.3], [0.2]), Near([0.3 * factor + b], [0.2 * factor]), -math.log(factor)),
    ]
    for mine, yours, jacobian in evidence:
        first = mdn.query({"x": Known(rows["x"][0]), "y": mine}, num_samples=20, seed=0)
        second = other.query({"x": Known(there["x"][0]), "y": yours}, num_samples=20, seed=0)
        assert float(second.log_evidence) == pytest.approx(float(first.log_evidence) + jacobian, abs=close)
        np.testing.assert_allclose((second.samples["y"].numpy() - b) / factor, first.samples["y"].numpy(), atol=close)


def test_text_evidence_is_in_the_units_of_the_data() -> None:
    x = np.column_stack([2_460_000.5 + np.random.default_rng(0).random(200), np.full(200, 1.7e9)])
    system = DRMM(DRMM_OPTIONS).fit(x)
    question = evidence_text.parse(["x0 >= 2460000.75"], *system.vocabulary())
    answer = system.query(question, num_samples=50, seed=0)
    assert 0.6 < math.exp(float(answer.log_evidence)) < 0.9  # three quarters of the day
    assert bool((answer.samples["x"][:, 0] >= 2_460_000.75).all())
    off = x[:2] + np.array([[0.0, 0.0], [0.0, 500.0]])  # 3e-7 of the constant: more than rounding
    assert torch.isneginf(system.log_prob(off).value).tolist() == [False, True]


@pytest.mark.parametrize("kind", [DRMM, MDN])
def test_what_the_number_format_cannot_hold_is_refused_by_column(kind: type[DRMM] | type[MDN]) -> None:
    x = np.random.default_rng(0).random((50, 2))
    with pytest.raises(DataError, match=r"column 'x0' of x varies by .* float64 counts in steps"):
        kind(steps=5).fit(x + [2e15, 0.0])
    with pytest.raises(DataError, match=r"column 'x0' of x varies by .* Pass float64"):
        kind(steps=5).fit((x + [2_460_000.5, 0.0]).astype(np.float32))
    with pytest.raises(DataError, match=r"column 'x0' of x has values up to .* another unit"):
        kind(steps=5).fit(x * [1e-120, 1.0])


@pytest.mark.parametrize("value", [1e10, -1e10])
def test_one_wild_cell_is_told_and_does_not_own_the_scale(value: float) -> None:
    x = table()
    wild = x.copy()
    wild[17, 1] = value
    with pytest.warns(DataWarning, match=r"column 'x1', row 17: -?1e\+10 is .*e\+09 standard deviations"):
        system = DRMM({**DRMM_OPTIONS, "steps": 60}).fit(wild)
    clean = DRMM({**DRMM_OPTIONS, "steps": 60}).fit(x)
    kept = np.delete(np.arange(len(x)), 17)
    gap = system.log_prob(x[kept]).mean().value - clean.log_prob(x[kept]).mean().value
    assert abs(gap) < 0.05
    assert float(system.log_prob(wild[17:18]).value) < -1e6
    rows = regression()
    rows["y"][3] = value
    with pytest.warns(DataWarning, match=r"column 'y', row 3"):
        regressor = MDN(MDN_OPTIONS).fit(rows)
    assert regressor.schema["y"]["scale"][0] < 1.0


@pytest.mark.parametrize("kind", [DRMM, MDN])
def test_models_saved_with_float32_locations_are_read(kind: type[DRMM] | type[MDN], tmp_path: Any) -> None:
    data = Split({"x": table().astype(np.float32)})
    system = kind(steps=5).fit(data)
    system.save(tmp_path / "new")
    path = tmp_path / "new" / "parameters.safetensors"
    tensors, state = checkpoints.read(path)
    checkpoints.write(path, {name: value.float() for name, value in tensors.items()}, state)
    old = kind.load(tmp_path / "new")
    torch.testing.assert_close(old.log_prob(data).value, system.log_prob(data).value, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("value", [1e30, 1e60, 1e300])
def test_rows_endlessly_far_out_have_no_density_and_disturb_nobody(value: float, drmm: DRMM, mdn: MDN) -> None:
    x = table()[:3]
    far = x.copy()
    far[1, 1] = value
    for method in ("auto", "importance"):
        scores = drmm.log_prob(far, method=method).value
        assert torch.isneginf(scores).tolist() == [False, True, False]
        torch.testing.assert_close(scores[::2], drmm.log_prob(x, method=method).value[::2], atol=0.3, rtol=0.0)
    hidden = drmm.log_prob(far, mask=torch.tensor([[True, True], [True, False], [True, True]])).value
    assert torch.isfinite(hidden).all()
    assert torch.isfinite(drmm.responsibilities(far)[0]).all()
    assert torch.isfinite(mdn.predictive(far).mean).all()
