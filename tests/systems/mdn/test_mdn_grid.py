"""Questions about targets on grids: half-spaces count whole cells."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from torch import Tensor

from phlogiston.errors import EvidenceError
from phlogiston.inference.query.evidence import HalfSpace, Known, Within
from phlogiston.inference.query.kinds.sum import Sum
from phlogiston.systems.mdn.report import grid_crps
from phlogiston.systems.mdn.system import MDN


@pytest.fixture(scope="module")
def counts() -> MDN:
    rng = np.random.default_rng(0)
    kids = rng.poisson(2.0, 600)
    frame = pandas.DataFrame(
        {"a": rng.normal(size=600), "kids": kids, "pets": rng.binomial(kids, 0.5), "age": kids + rng.normal(size=600)}
    )
    options: dict[str, Any] = {"num_components": 4, "hidden": (8,), "steps": 150}
    return MDN(target=("kids", "pets", "age"), **options).fit(frame, seed=0, progress="off")


def cells(system: MDN) -> tuple[Tensor, Tensor, Tensor]:
    """Whole numbers, and how probable each pair of them is as (kids, pets) at a = 0."""
    joint = system.predictive([[0.0]])[0]
    values = torch.arange(-30, 60).double()
    below = torch.distributions.Normal(joint.loc[:, :2, None], joint.component_scales()[:, :2, None])
    mass = below.cdf(values + 0.5) - below.cdf(values - 0.5)
    both = torch.einsum("k,ki,kj->ij", joint.logits.softmax(-1).double(), mass[:, 0], mass[:, 1])
    kids, pets = torch.meshgrid(values, values, indexing="ij")
    return kids, pets, both


@pytest.mark.parametrize(
    ("a", "b"), [([1.0, -1.0, 0.0], 0.0), ([-1.0, -1.0, 0.0], 3.0), ([2.0, -3.0, 0.0], -1.0)], ids=str
)
def test_half_spaces_of_several_targets_hold_whole_cells(counts: MDN, a: list[float], b: float) -> None:
    kids, pets, both = cells(counts)
    inside = a[0] * kids + a[1] * pets + b >= 0
    want = float((both * inside).sum())
    answer = counts.query({"x": [0.0], "y": HalfSpace(a, b)}, num_samples=4000, seed=0)
    y = answer.samples["y"]
    assert bool((y @ torch.tensor(a).double() + b >= 0).all())
    assert torch.equal(y[:, :2], y[:, :2].round())
    error = float(answer.log_evidence_error)
    assert 0 < error < 0.1
    assert float(answer.log_evidence) == pytest.approx(math.log(want), abs=5 * error)
    on_the_edge = a[0] * y[:, 0] + a[1] * y[:, 1] + b == 0  # cells that half-spaces of the reals would cut
    share = float((both * (a[0] * kids + a[1] * pets + b == 0)).sum()) / want
    found = float((answer.log_weights.softmax(0) * on_the_edge).sum())
    assert found == pytest.approx(share, abs=5 * 0.5 / math.sqrt(float(answer.ess)))


def test_a_known_value_on_a_grid_has_the_probability_of_its_cell(counts: MDN) -> None:
    kids, pets, both = cells(counts)
    for value, mask in (([2.0, 0.0, 0.0], [1, 0, 0]), ([2.0, 1.0, 0.0], [1, 1, 0])):
        inside = (kids == value[0]) & ((pets == value[1]) | (mask[1] == 0))
        want = math.log(float((both * inside).sum()))
        answer = counts.query({"x": [0.0], "y": Known(value, mask)}, num_samples=50, seed=0)
        assert answer.method == "exact"
        assert float(answer.log_evidence) == pytest.approx(want, abs=1e-5)
        # one question and several take different ways; an open interval makes it a question about more than entries
        twice = counts.query({"x": [[0.0], [0.0]], "y": Known([value] * 2, [mask] * 2)}, num_samples=50, seed=0)
        torch.testing.assert_close(twice.log_evidence, answer.log_evidence.expand(2))
        wide = Within([-math.inf, -math.inf, -1e6], [math.inf, math.inf, math.inf])
        other = counts.query({"x": [0.0], "y": [Known(value, mask), wide]}, num_samples=50, seed=0)
        torch.testing.assert_close(other.log_evidence, answer.log_evidence)
    both_ways = [Known([2.0, 0.0, 0.0], [1, 0, 0]), HalfSpace([1.0, -1.0, 0.0], 0.0)]
    answer = counts.query({"x": [0.0], "y": both_ways}, num_samples=50, seed=0)
    want = math.log(float((both * (kids == 2) * (pets <= 2)).sum()))
    assert float(answer.log_evidence) == pytest.approx(want, abs=1e-5)
    y = answer.samples["y"]
    assert bool(((y[:, 0] == 2) & (y[:, 1] <= 2)).all())


def test_values_known_by_all_targets_score_as_log_prob_does_on_the_same_grid() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(200, 1)), rng.poisson(2.0, (200, 2)).astype(float)
    system = MDN(num_components=2, hidden=(4,), steps=20, grid=1.0).fit({"x": x, "y": y}, seed=0, progress="off")
    answer = system.query({"x": x[:5], "y": Known(y[:5])}, num_samples=2, seed=0)
    scores = system.log_prob({"x": x[:5], "y": y[:5]}).value
    torch.testing.assert_close(answer.log_evidence, scores.double(), rtol=1e-4, atol=1e-4)


def test_a_half_space_of_one_target_is_its_bound(counts: MDN) -> None:
    for plane, box in (
        (HalfSpace([2.0, 0.0, 0.0], -3.0), Within([1.5, -math.inf, -math.inf], [math.inf] * 3)),
        (HalfSpace([0.0, -1.0, 0.0], 1.0), Within([-math.inf] * 3, [math.inf, 1.0, math.inf])),
    ):
        asked = [
            counts.query({"x": [0.0], "y": piece}, num_samples=50, seed=0, method="exact") for piece in (plane, box)
        ]
        assert torch.equal(asked[0].samples["y"], asked[1].samples["y"])
        assert torch.equal(asked[0].log_evidence, asked[1].log_evidence)
    plane = HalfSpace([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], [-1.2, 1.7])
    with pytest.raises(EvidenceError, match=r"no value on the grid of 'kids' lies between 1\.2 and 1\.7"):
        counts.query({"x": [0.0], "y": plane})


def test_a_target_of_real_numbers_shares_a_half_space_with_counts(counts: MDN) -> None:
    answer = counts.query("a = 0", "age - kids >= 0.25", num_samples=3000, seed=0)
    y = answer.samples["y"]
    assert bool((y[:, 2] - y[:, 0] >= 0.25).all())
    free = counts.sample(60_000, seed=1, x=[[0.0]])["y"][:, 0].double()
    share = float((free[:, 2] - free[:, 0] >= 0.25).double().mean())
    assert float(answer.log_evidence.exp()) == pytest.approx(
        share, abs=5 * (0.5 / 60_000**0.5 + share * float(answer.log_evidence_error))
    )


def test_equalities_of_several_targets_are_refused_where_one_lies_on_a_grid(counts: MDN) -> None:
    with pytest.raises(EvidenceError, match="'kids' lies on a grid"):
        counts.query({"x": [0.0], "y": Sum([1.0, 0.0, 1.0], 3.0)})
    with pytest.raises(EvidenceError, match="no closed form"):
        counts.query({"x": [0.0], "y": HalfSpace([1.0, -1.0, 0.0])}, method="exact")


def test_the_crps_of_counts_is_that_of_the_probabilities_of_whole_numbers(counts: MDN) -> None:
    """Against the kernel form E|X - y| - E|X - X'| / 2 over every pair of whole numbers."""
    joint = counts.predictive([[0.0], [1.0]])
    values = torch.arange(-60, 80).double()
    below = joint.cdf((values + 0.5).reshape(-1, 1, 1).expand(-1, 2, 3))[..., 0].double()
    mass = below.diff(dim=0, prepend=torch.zeros(1, 2).double())
    y = torch.tensor([[3.0, 1.0, 2.5], [0.0, 0.0, 1.0]]).double()
    apart = (values.unsqueeze(1) - y[:, 0]).abs()
    spread = torch.einsum("in,jn,ij->n", mass, mass, (values.unsqueeze(1) - values).abs())
    want = (mass * apart).sum(0) - spread / 2
    whole = [found for i in (0, 1) if (found := grid_crps(joint, y, i, (0.0, 1.0))) is not None]
    torch.testing.assert_close(whole[0], want, rtol=0, atol=1e-6)
    assert grid_crps(joint, y, 2, (0.0, 1e-4)) is None  # too many values to sum
    table = pandas.DataFrame({"a": [0.0, 1.0], "kids": [3, 0], "pets": [1, 0], "age": [2.5, 1.0]})
    mean = torch.stack([*whole, joint.crps(y)[:, 2].double()]).mean()
    assert counts.evaluate(table, ["crps"])["crps"].value == pytest.approx(float(mean), abs=1e-5)


def test_intervals_of_grades_hold_shares_of_cells() -> None:
    """A grade that is sure fills its whole cell, wherever in the cell the density of the network is narrow."""
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], size=(400, 1))
    rows = {"x": x, "y": 5.0 + 3.0 * x}
    options: dict[str, Any] = {"num_components": 1, "hidden": (8,), "steps": 250, "learning_rate": 0.05}
    system = MDN(grid=1.0, **options).fit(rows, progress="off")
    mixture = system.predictive(rows["x"])
    y = torch.tensor(rows["y"])
    mass = mixture.cdf(y + 0.5) - mixture.cdf(y - 0.5)
    found = system.evaluate(rows, ["coverage"])["coverage_90"].value
    assert float(mass.mean()) > 0.97
    assert found == pytest.approx(0.9, abs=0.06)  # 400 draws of uniform places: four standard errors
