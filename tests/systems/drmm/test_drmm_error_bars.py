"""What a grown DRMM answer says of itself: its effective sample size and its error bar against the exact answer."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch

from phlogiston.errors import QueryWarning
from phlogiston.inference.query.answer import UNEVEN, judge_error
from phlogiston.inference.query.evidence import HalfSpace, Known
from phlogiston.models.drmm import DRMM
from phlogiston.systems.drmm.paths import Thinning, thinning_error
from phlogiston.systems.drmm.query import DRMMQuery


def spread_out(seed: int, frame: str = "diag", layers: int = 4, components: int = 8) -> DRMMQuery:
    torch.manual_seed(seed)
    model = DRMM(3, layers, components, frame=frame)  # type: ignore[arg-type]
    with torch.no_grad():
        for i, f in enumerate(model.frames):
            f.mean.normal_().mul_(1.0 if i == 0 else 0.7)
            f.log_scale.normal_().mul_(0.3).add_(-0.4)
        for p in model.prior.parameters():
            p.normal_().mul_(0.7)
    return DRMMQuery(model)


QUESTIONS: dict[str, Any] = {
    "centre": {"x": Known([0.0, 0.0, 0.0], [1, 0, 0])},
    "tail": {"x": Known([3.0, 0.0, 0.0], [1, 0, 0])},
    "half-space": {"x": HalfSpace([1.0, -1.0, 0.5], -2.0)},
}


@pytest.mark.parametrize("particles", [16, 64])
@pytest.mark.parametrize("name", QUESTIONS)
def test_samples_of_grown_tuples_are_worth_what_their_effective_size_says(name: str, particles: int) -> None:
    query, runs = spread_out(1), 40
    exact = query.ask(QUESTIONS[name], num_samples=20_000, method="exact", seed=0)
    sd = exact.variance("x").sqrt()[1].item()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QueryWarning)
        found = [
            query.ask(QUESTIONS[name], num_samples=400, method="smc", num_particles=particles, seed=r)
            for r in range(runs)
        ]
    means = torch.stack([a.mean("x")[1] for a in found])
    ess = torch.stack([a.ess for a in found]).median().item()
    # the spread of 40 means is known to a tenth; twice that of so many draws is a quarter of the ESS
    assert means.std().item() < 2 * sd / math.sqrt(ess)
    ratio = torch.stack([a.log_evidence for a in found]).sub(exact.log_evidence).exp()  # type: ignore[misc]
    assert abs(ratio.mean().item() - 1) < 5 * ratio.std().item() / math.sqrt(runs) + 1e-6


@pytest.mark.parametrize("seed", [1, 2])
def test_error_bars_of_grown_tuples_cover_the_exact_log_evidence(seed: int) -> None:
    """Of 60 answers some 57 are covered; fewer than 48 by chance less than once in 10,000 runs."""
    query, inside = spread_out(seed), 0
    exact = query.ask(QUESTIONS["centre"], num_samples=10, method="exact").log_evidence
    for r in range(60):
        answer = query.ask(QUESTIONS["centre"], num_samples=10, method="smc", num_particles=64, seed=r)
        assert answer.log_evidence_error is not None
        assert answer.log_evidence_error > 0
        inside += int((answer.log_evidence - exact).abs() < 1.96 * answer.log_evidence_error)  # type: ignore[operator]
    assert inside >= 48


def test_too_few_prefixes_tell_no_error_and_say_so() -> None:
    with pytest.warns(QueryWarning, match="effective sample size"):
        answer = spread_out(1).ask(QUESTIONS["centre"], num_samples=400, method="smc", num_particles=16, seed=0)
    assert answer.log_evidence_error is None
    assert "prefixes" in answer.details["log_evidence_error"]
    assert answer.ess < 40


def test_nothing_left_out_costs_nothing() -> None:
    error, ess = thinning_error([Thinning(torch.arange(3), torch.ones(3))], torch.full((3,), 1 / 3))
    assert error == 0
    assert ess > 1e9


def test_many_tuples_left_out_at_random_cost_what_a_random_sample_does() -> None:
    # 100 of 1,000 tuples of equal prior mass were kept; what each turned out to be worth varies by half
    shares = (1 + 0.5 * torch.randn(100, dtype=torch.float64)).clamp_min(0.0)
    shares = shares / shares.sum()
    error, ess = thinning_error([Thinning(torch.arange(100), torch.full((100,), 0.1))], shares)
    want = math.sqrt(0.9) * shares.std().item() * 10  # finite population, mean of 100
    assert error is not None
    assert error.item() == pytest.approx(want, rel=0.1)
    assert ess.item() == pytest.approx(1 / (0.9 * shares.square().sum().item()))


def test_an_error_bar_is_judged() -> None:
    assert judge_error(torch.tensor(0.1), "") == (torch.tensor(0.1), {})
    assert judge_error(None, "too few draws") == (None, {"log_evidence_error": "too few draws"})
    for bad in (UNEVEN, math.nan, math.inf):
        error, why = judge_error(torch.tensor(bad), "")
        assert error is None
        assert "uneven" in why["log_evidence_error"]
