"""Error bars of importance sampling: they hold for light and heavy tails, or are None and say why."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from phlogiston.distributions.resampling import log_mean, pareto_tail, tail_error
from phlogiston.errors import QueryWarning
from phlogiston.inference.query.answer import judge_weights

REPEATS = 400


def normals(n: int) -> Tensor:
    return torch.randn(REPEATS, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


def log_normal(sigma: float) -> Callable[[int], Tensor]:
    """Weights of mean one; all their moments exist."""
    return lambda n: sigma * normals(n) - 0.5 * sigma**2


def student(freedom: float, scale: float = 1.0) -> Callable[[int], Tensor]:
    """A Student target under a Gaussian proposal: the weights' mean exists, no more."""
    target = torch.distributions.StudentT(torch.tensor(freedom, dtype=torch.float64))

    def weights(n: int) -> Tensor:
        x = scale * normals(n)
        return target.log_prob(x) - torch.distributions.Normal(torch.zeros(()).double(), scale).log_prob(x)

    return weights


def gaussian(width: float) -> Callable[[int], Tensor]:
    """A standard normal target under a proposal of another width; below sqrt(1/2) the weights have no variance."""
    return lambda n: 0.5 * normals(n).square() * (1.0 - width**2) + math.log(width)


def judged(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Which repeats state an error, and which of those cover the truth, zero, by 1.96 of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QueryWarning)
        errors = [judge_weights(row)[0] for row in weights]
    stated = torch.tensor([error is not None for error in errors])
    size = torch.tensor([math.nan if error is None else float(error) for error in errors], dtype=torch.float64)
    return stated, (log_mean(weights, 1).abs() <= 1.96 * size)[stated]


HOLDS: dict[str, tuple[Callable[[int], Tensor], int, float]] = {  # weights, draws, share that must state an error
    "log-normal 0.5": (log_normal(0.5), 100, 0.95),
    "log-normal 1, few": (log_normal(1.0), 100, 0.6),
    "log-normal 1": (log_normal(1.0), 1000, 0.95),
    "log-normal 2": (log_normal(2.0), 1000, 0.4),
    "wide Gaussian": (gaussian(1.5), 1000, 0.95),
    "narrow Gaussian, few": (gaussian(0.75), 100, 0.8),
    "narrow Gaussian": (gaussian(0.6), 1000, 0.9),
    "Student under a wide Gaussian": (student(3.0, 2.0), 1000, 0.9),
}


@pytest.mark.parametrize("name", HOLDS)
def test_stated_intervals_cover_the_truth(name: str) -> None:
    """95 % nominally; below 0.9 by chance less than once in 10,000 runs where the true rate is 0.95."""
    make, n, share = HOLDS[name]
    stated, covered = judged(make(n))
    assert float(stated.double().mean()) > share
    assert 0.9 <= float(covered.double().mean()) <= 0.999


@pytest.mark.parametrize("make", [student(3.0), gaussian(0.5)])
def test_tails_without_a_variance_are_held_nearly_as_well(make: Callable[[int], Tensor]) -> None:
    """The spread of the weights alone covers 0.51 and 0.67 of these."""
    _, covered = judged(make(1000))
    assert float(covered.double().mean()) > 0.85


@pytest.mark.parametrize(("make", "n"), [(log_normal(2.0), 100), (log_normal(3.0), 1000), (student(1.0), 100)])
def test_weights_too_uneven_state_no_error(make: Callable[[int], Tensor], n: int) -> None:
    stated, _ = judged(make(n))
    assert float(stated.double().mean()) < 0.15


@pytest.mark.filterwarnings("ignore::phlogiston.errors.QueryWarning")
def test_the_reason_is_given() -> None:
    error, why = judge_weights(log_normal(3.0)(1000)[0])
    assert error is None
    assert "effective samples" in why["log_evidence_error"]
    reasons = {judge_weights(row)[1].get("log_evidence_error", "")[:32] for row in student(1.0)(300)[:50]}
    assert "the tail of the weights has no m" in reasons


def test_heavy_tails_are_a_warning() -> None:
    row = next(row for row in gaussian(0.5)(1000) if 0.72 < tail_error(row)[1] < 0.95)
    with pytest.warns(QueryWarning, match="Pareto shape 0"):
        judge_weights(row)
    with warnings.catch_warnings():
        warnings.simplefilter("error", QueryWarning)
        judge_weights(log_normal(0.5)(1000)[0])


def test_few_or_equal_weights_have_no_tail() -> None:
    assert pareto_tail(torch.rand(20)) is None
    assert math.isnan(tail_error(torch.zeros(20))[0])
    assert tail_error(torch.zeros(1000)) == (0.0, -1.0)
    alive = torch.where(torch.arange(1000) < 300, 0.0, -math.inf)  # a constraint that 300 of 1000 draws meet
    assert tail_error(alive)[0] == pytest.approx(math.sqrt((1.0 / 0.3 - 1.0) / 1000.0), rel=1e-6)


def test_scale_and_shape_of_an_exact_tail_are_recovered() -> None:
    uniform = torch.rand(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    k, sigma = 0.3, 2.0
    tail = pareto_tail(sigma * (uniform.pow(-k) - 1.0) / k)
    assert tail is not None
    assert tail.shape == pytest.approx(k, abs=0.1)
    # above any threshold the tail is a generalised Pareto again, of the scale sigma + k * threshold
    assert tail.scale == pytest.approx(sigma + k * tail.threshold, rel=0.15)
