"""Islands of particles: unbiased evidence, error bars that hold, effective sizes that count common ancestors."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from phlogiston.distributions.mixtures.diagonal import DiagMixture
from phlogiston.distributions.warped import Warped
from phlogiston.errors import EvidenceError, QueryWarning
from phlogiston.inference.query.evidence import Known, Near, Within
from phlogiston.inference.query.islands import Islands
from phlogiston.models.stepwise import Prediction, Stepwise
from phlogiston.systems.particle_filter import filter_particles

INF = math.inf
STEPS, PULL, NOISE = 6, 0.8, 0.5


class Memory(NamedTuple):
    last: Tensor


class Walk(Stepwise):
    """x_t ~ N(0.8 x_(t-1), 0.5^2) from x_0 = 0: everything about it is Gaussian and known."""

    targets, pen_states, num_components = 1, 0, 1

    def start(self, rows: int) -> Memory:
        return Memory(torch.zeros(rows, 1))

    def predict(self, state: Memory) -> tuple[Prediction, Memory]:
        loc = (PULL * state.last).unsqueeze(1)
        base = DiagMixture(torch.zeros(len(loc), 1), loc, torch.full_like(loc, NOISE))
        return Prediction(Warped(base, torch.zeros(1), torch.ones(1), torch.zeros(1, dtype=torch.bool))), state

    def observe(self, state: Memory, value: Tensor) -> Memory:
        return Memory(value)


def covariance() -> Tensor:
    """Of x_1 .. x_6."""
    root = torch.zeros(STEPS, STEPS, dtype=torch.float64)
    for t in range(STEPS):
        root[t, : t + 1] = NOISE * PULL ** torch.arange(t, -1, -1, dtype=torch.float64)
    return root @ root.T


def ask(evidence: Any, n: int = 1000, seed: int = 0) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QueryWarning)
        return filter_particles(Walk(), {"x": evidence}, None, n, STEPS, STEPS, seed)


MASK = torch.tensor([0.0, 0, 1, 0, 0, 1]).unsqueeze(1)
VALUE = torch.tensor([0.0, 0, 0.9, 0, 0, -0.4], dtype=torch.float64).unsqueeze(1)


def exact_known() -> tuple[float, Tensor, Tensor]:
    """Log density of the known steps, and mean and standard deviation of the others given them."""
    cov, known = covariance(), MASK[:, 0] > 0
    inner, cross = cov[known][:, known], cov[~known][:, known]
    law = torch.distributions.MultivariateNormal(torch.zeros(2).double(), inner)
    gain = cross @ torch.linalg.inv(inner)
    sd = (cov[~known][:, ~known] - gain @ cross.T).diagonal().sqrt()
    return float(law.log_prob(VALUE[known, 0])), gain @ VALUE[known, 0], sd


def test_evidence_error_and_effective_size_of_a_filter_hold_against_the_closed_form() -> None:
    """Of 60 answers some 57 are covered; fewer than 48 by chance less than once in 10,000 runs."""
    log_evidence, mean, sd = exact_known()
    found = [ask(Known(VALUE, MASK), seed=r) for r in range(60)]
    inside = [abs(float(a.log_evidence) - log_evidence) < 1.96 * float(a.log_evidence_error) for a in found]
    assert sum(inside) >= 48
    means = torch.stack([a.mean("x")[MASK[:, 0] == 0, 0] for a in found])
    ess = torch.stack([a.ess for a in found]).mean().item()
    spread = means.std(0) / sd
    assert ((means.mean(0) - mean).abs() < 5 * means.std(0) / 60**0.5 + 0.01 * sd).all()
    # the worst of the open steps is worth what the effective size says, within the accuracy of 60 runs
    assert 0.5 < ess * spread.max().item() ** 2 < 2.0


@pytest.mark.parametrize("kind", ["near", "within", "known and within"])
def test_other_evidence_has_the_right_probability(kind: str) -> None:
    cov = covariance()
    last = cov[5, 5].item()
    low, high = torch.full((STEPS, 1), -INF), torch.full((STEPS, 1), INF)
    normal = torch.distributions.Normal(0.0, 1.0)
    if kind == "near":
        mean, sd = torch.zeros(STEPS, 1), torch.full((STEPS, 1), INF)
        mean[5], sd[5] = 1.0, 0.3
        evidence: Any = Near(mean, sd)
        want = float(torch.distributions.Normal(0.0, math.sqrt(last + 0.09)).log_prob(torch.tensor(1.0)))
    elif kind == "within":
        low[5], high[5] = 0.5, 1.5
        evidence = Within(low, high)
        a, b = (torch.tensor(v / math.sqrt(last)) for v in (0.5, 1.5))
        want = math.log(float(normal.cdf(b) - normal.cdf(a)))
    else:
        low[5], mask = 0.2, torch.zeros(STEPS, 1)
        mask[2] = 1
        evidence = [Known(VALUE, mask), Within(low, high)]
        gain = cov[5, 2] / cov[2, 2]
        rest = math.sqrt(last - float(gain) * float(cov[5, 2]))
        want = float(torch.distributions.Normal(0.0, cov[2, 2].sqrt()).log_prob(VALUE[2, 0]))
        want += math.log(1 - float(normal.cdf(torch.tensor((0.2 - float(gain) * 0.9) / rest))))
    answer = ask(evidence, 4000)
    assert abs(float(answer.log_evidence) - want) < 4.5 * float(answer.log_evidence_error)
    x = answer.samples["x"]
    assert bool(((x >= low) & (x <= high)).all())


def test_few_particles_tell_no_error_and_say_so() -> None:
    answer = ask(Known(VALUE, MASK), n=20)
    assert answer.log_evidence_error is None
    assert "20 particles" in answer.details["log_evidence_error"]


def test_what_is_wholly_known_has_no_error() -> None:
    answer = ask(Known(VALUE), n=2)
    assert float(answer.log_evidence_error) == 0
    step = torch.distributions.Normal(0.0, NOISE)
    gaps = VALUE[:, 0] - PULL * torch.cat([torch.zeros(1).double(), VALUE[:-1, 0]])
    assert float(answer.log_evidence) == pytest.approx(float(step.log_prob(gaps).sum()), abs=1e-4)


def test_particles_with_common_ancestors_count_once() -> None:
    generator = torch.Generator().manual_seed(0)
    islands = Islands(64, generator)
    islands.remember()
    islands.log_weights[::8] = 8.0  # in each island of 8 one particle is worth all others
    index = islands.resample()
    assert index is not None
    assert bool((index % 8 == 0).all())
    assert islands.log_weights.std() < 1e-9
    assert float(islands.effective_size()) == pytest.approx(8.0)
    islands.remember()  # each draws anew: that alone is worth 64
    assert float(islands.effective_size()) == pytest.approx(8.0)


def test_an_island_of_zero_weight_stays_and_counts() -> None:
    islands = Islands(64, torch.Generator().manual_seed(0))
    islands.remember()
    islands.log_weights[:8] = -INF
    islands.resample()
    assert bool(torch.isneginf(islands.log_weights[:8]).all())
    assert float(islands.log_evidence()) == pytest.approx(math.log(56 / 64))


def test_a_step_far_from_anything_particles_expect_is_named() -> None:
    value = VALUE.clone()
    value[2] = 1e9
    with pytest.warns(QueryWarning, match=r"column 'pace' of step 2"):
        filter_particles(Walk(), {"x": Known(value, MASK)}, None, 200, STEPS, STEPS, 0, columns=["pace"])


def test_rows_are_as_many_questions_each_with_an_evidence_and_error_of_its_own() -> None:
    """Row 0 knows two steps, row 1 nothing, row 2 everything, row 3 a box; rows stand in one walk."""
    masks = torch.stack([MASK, torch.zeros_like(MASK), torch.ones_like(MASK), torch.zeros_like(MASK)])
    low = torch.full((4, STEPS, 1), -INF, dtype=torch.float64)
    low[3, 2] = 0.0
    answer = ask([Known(VALUE.expand(4, -1, -1), masks), Within(low, INF)], n=2000)
    assert answer.samples["x"].shape == (2000, 4, STEPS, 1)
    log_density, mean, sd = exact_known()
    step = torch.distributions.Normal(0.0, NOISE)
    gaps = VALUE[:, 0] - PULL * torch.cat([torch.zeros(1).double(), VALUE[:-1, 0]])
    exact = torch.tensor([log_density, 0.0, float(step.log_prob(gaps).sum()), math.log(0.5)])
    errors = [answer.row(r).log_evidence_error for r in range(4)]
    assert [float(errors[r]) for r in (1, 2)] == [pytest.approx(0.0, abs=1e-12)] * 2
    assert bool(((answer.log_evidence - exact).abs() <= 5 * torch.stack(errors) + 1e-4).all())
    left = MASK[:, 0] == 0
    spread = 5 * sd / answer.row(0).ess.sqrt()
    assert bool(((answer.mean("x")[0, left, 0] - mean).abs() <= spread).all())
    assert bool((answer.samples["x"][:, 3, 2] >= 0).all())
    assert bool((answer.samples["x"][:, 2] == VALUE).all())
    free = answer.samples["x"][:, 1, :, 0]
    assert torch.allclose(free.var(0), covariance().diagonal(), rtol=0.2)


def test_many_rows_walk_in_parts_and_an_impossible_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from phlogiston.systems import particle_filter

    monkeypatch.setattr(particle_filter, "_TOGETHER", 600)  # three rows of 200 at once
    offset = torch.arange(7.0).double().reshape(7, 1, 1) / 10
    answer = ask(Known(VALUE + offset, MASK), n=200)
    assert answer.log_evidence.shape == (7,)
    for r in range(7):
        alone = ask(Known(VALUE + offset[r], MASK), n=2000)
        assert float(alone.log_evidence) == pytest.approx(float(answer.log_evidence[r]), abs=0.3)
    with pytest.raises(EvidenceError, match="step 0: none of 200 draws"):
        ask(Within(torch.tensor([-INF, 1e5]).double().reshape(2, 1, 1).expand(2, STEPS, 1), INF), n=200)
    with pytest.raises(EvidenceError, match=r"expected \(steps, 1\) or \(rows, steps, 1\)"):
        ask(Known(torch.zeros(2, 2, STEPS, 1)), n=200)
