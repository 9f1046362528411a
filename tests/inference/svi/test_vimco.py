"""VIMCO against enumeration, against the importance-weighted bound, and against itself."""

import itertools
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from phlogiston.distributions.presampled import PreSampled
from phlogiston.errors import ConfigError, PhlogistonError, ShapeError, UnknownNameError
from phlogiston.inference.svi import objectives
from phlogiston.inference.svi.handlers import scale_sites
from phlogiston.inference.svi.vimco import VIMCO, leave_one_out, log_weights

X = 3.0
TABLE = torch.tensor([[[0.3, -1.0], [1.2, 0.4]], [[-0.5, 0.9], [0.1, -2.0]]], dtype=torch.float64)


class Switches(nn.Module):
    """Three coins behind one number; the guide's coins are independent."""

    def __init__(self, guide: bool, masked: bool = False) -> None:
        super().__init__()
        start = [0.4, -0.3, 0.8] if guide else [0.1, 0.2, -0.5]
        self.logits = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.guide = guide
        self.masked = masked

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = []
            for i in range(3):
                law: Any = dist.Bernoulli(logits=self.logits[i])
                if self.masked and i == 2:
                    law = law.mask(z[0].bool())  # the third coin counts only where the first shows heads
                z.append(pyro.sample(f"z{i}", law))
            if not self.guide:
                loc = score_of(z[0], z[1], z[2] * z[0] if self.masked else z[2])
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def score_of(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return TABLE[a.long(), b.long(), c.long()]


def exact_gradient(particles: int, x: float) -> tuple[Tensor, Tensor]:
    """Gradient of E[L] by enumerating every tuple of K particles of 8 states each."""
    model, guide = Switches(False), Switches(True)
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)

    def log_bernoulli(logits: Tensor) -> Tensor:
        return (states * logsigmoid(logits) + (1 - states) * logsigmoid(-logits)).sum(1)

    log_q = log_bernoulli(guide.logits)
    like = dist.Normal(score_of(*states.T), 1.0).log_prob(torch.tensor(x, dtype=torch.float64))
    weights = log_bernoulli(model.logits) + like - log_q
    grid = torch.cartesian_prod(*[torch.arange(8)] * particles)
    bound = weights[grid].logsumexp(1) - math.log(particles)
    (log_q[grid].sum(1).exp() * bound).sum().backward()
    assert guide.logits.grad is not None
    assert model.logits.grad is not None
    return guide.logits.grad, model.logits.grad


def draws(objective: VIMCO, rows: int, masked: bool = False) -> tuple[Tensor, Tensor]:
    """One gradient per row: rows are independent draws of the same estimate."""
    model, guide = Switches(False, masked), Switches(True, masked)
    guide.logits = nn.Parameter(guide.logits.detach().expand(rows, 3).clone().T)  # a parameter per row
    model.logits = nn.Parameter(model.logits.detach().expand(rows, 3).clone().T)
    objective.loss_and_grads(model, guide, torch.full((rows,), X, dtype=torch.float64))
    assert guide.logits.grad is not None
    assert model.logits.grad is not None
    return -guide.logits.grad, -model.logits.grad


@pytest.mark.parametrize("particles", [2, 3])
@pytest.mark.parametrize("baseline", ["geometric", "arithmetic", "none"])
def test_gradient_meets_enumeration(particles: int, baseline: str) -> None:
    exact = exact_gradient(particles, X)
    found = draws(VIMCO(particles, baseline=baseline, max_plate_nesting=1), 40_000)
    for truth, sample in zip(exact, found, strict=True):
        error = sample.std(1) / math.sqrt(sample.shape[1])
        assert ((sample.mean(1) - truth).abs() < 4 * error + 1e-9).all(), (truth, sample.mean(1), error)


def test_the_signal_of_published_code_is_biased_which_is_why_it_is_not_the_default() -> None:
    truth, _ = exact_gradient(3, X)
    sample, _ = draws(VIMCO(3, signal="elbo", max_plate_nesting=1), 40_000)
    error = sample.std(1) / math.sqrt(sample.shape[1])
    assert ((sample.mean(1) - truth).abs() > 6 * error).any()


@pytest.mark.parametrize("particles", [2, 4])
def test_the_other_particles_take_most_of_the_variance_away(particles: int) -> None:
    plain, _ = draws(VIMCO(particles, baseline="none", max_plate_nesting=1), 20_000)
    better, _ = draws(VIMCO(particles, max_plate_nesting=1), 20_000)
    assert better.var(1).sum() < 0.5 * plain.var(1).sum()


def test_masked_draws_have_no_say() -> None:
    """Where the mask is off the coin's law must get no gradient at all."""
    model, guide = Switches(False, True), Switches(True, True)
    with torch.no_grad():
        guide.logits[0] = -60.0  # never heads: the third coin never counts
    for _ in range(20):
        VIMCO(3, max_plate_nesting=1).loss_and_grads(model, guide, torch.full((50,), 0.7, dtype=torch.float64))
    assert guide.logits.grad is not None
    assert guide.logits.grad[2] == 0.0
    assert model.logits.grad is not None
    assert model.logits.grad[2] == 0.0


class Line(nn.Module):
    """A conjugate Normal pair; `whole` is the number of rows the batch stands for."""

    def __init__(self, guide: bool, whole: int | None = None) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.4 if guide else 0.0, dtype=torch.float64))
        self.guide, self.whole = guide, whole

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", self.whole or len(x), subsample=torch.arange(len(x))):
            if self.guide:
                pyro.sample("z", dist.Normal(self.slope * x, 0.8))
            else:
                z = pyro.sample("z", dist.Normal(self.slope, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_without_discrete_sites_it_is_the_importance_weighted_bound_with_its_gradient() -> None:
    x = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    found = []
    renyi: Any = RenyiELBO(alpha=0, num_particles=6, vectorize_particles=True, max_plate_nesting=1)
    for objective in (renyi, VIMCO(6, max_plate_nesting=1)):
        model, guide = Line(False), Line(True)
        torch.manual_seed(3)
        pyro.clear_param_store()
        if objective is renyi:
            loss = objective.loss_and_grads(
                lambda x, m=model: (pyro.module("m", m), m(x)), lambda x, g=guide: (pyro.module("g", g), g(x)), x
            )
            pyro.clear_param_store()
        else:
            loss = objective.loss_and_grads(model, guide, x)
        found.append((loss, model.slope.grad, guide.slope.grad))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(torch.as_tensor(theirs), torch.as_tensor(ours), rtol=1e-9, atol=1e-12)


def test_a_subsampled_plate_scales_the_bound_and_not_what_stands_inside_it() -> None:
    """RenyiELBO raises the weights to the power N/B, a "bound" above the evidence."""
    torch.manual_seed(0)
    x = torch.randn(10, dtype=torch.float64) * 1.4
    torch.manual_seed(1)
    plain = VIMCO(50, max_plate_nesting=1).loss(Line(False), Line(True), x)
    torch.manual_seed(1)
    scaled = VIMCO(50, max_plate_nesting=1).loss(Line(False, 100), Line(True, 100), x)
    assert scaled == pytest.approx(10.0 * plain, rel=1e-9)
    evidence = -dist.Normal(0.0, math.sqrt(2.0)).log_prob(x).sum()
    assert 10.0 * float(evidence) <= scaled < 10.0 * float(evidence) + 20.0


def test_a_weight_on_one_site_stays_inside_the_bound_and_leaves_the_score_alone() -> None:
    x = torch.full((4,), 0.7, dtype=torch.float64)
    model, guide = Switches(False), Switches(True)
    objective = VIMCO(3, max_plate_nesting=1)
    with scale_sites({"z0": 0.25}):
        torch.manual_seed(2)
        found = objective.weigh(model, guide, x)
    torch.manual_seed(2)
    plain = objective.weigh(model, guide, x)
    assert found.score is not None
    assert plain.score is not None
    torch.testing.assert_close(found.score, plain.score)
    assert (found.log_weights - plain.log_weights).abs().max() > 0.01


def test_looped_and_vectorised_particles_agree_given_the_same_noise() -> None:
    x = torch.tensor([0.3, -1.2], dtype=torch.float64)
    noise = torch.randn(5, 2, dtype=torch.float64)
    order = iter(noise)

    class Fixed(nn.Module):
        def __init__(self, whole: bool) -> None:
            super().__init__()
            self.whole = whole
            self.scale = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                value = 0.4 * x + self.scale * (noise if self.whole else next(order))
                law = dist.Normal((0.4 * x).expand(value.shape), self.scale)
                pyro.sample("z", PreSampled(law, value))

    together = VIMCO(5, max_plate_nesting=1).log_weights(Line(False), Fixed(True), x)
    apart = VIMCO(5, max_plate_nesting=1, vectorize_particles=False).log_weights(Line(False), Fixed(False), x)
    torch.testing.assert_close(together, apart)


def test_many_particles_go_another_way_to_the_same_baseline() -> None:
    weights = 30.0 * torch.randn(101, 3, dtype=torch.float64)
    for j in (0, 57, 100):
        changed = weights.clone()
        changed[j] = (weights.sum(0) - weights[j]) / 100
        wanted = changed.logsumexp(0) - math.log(101)
        torch.testing.assert_close(leave_one_out(weights)[j], wanted)
    torch.testing.assert_close(leave_one_out(weights[:5])[2], leave_one_out(torch.cat([weights[:5]]))[2])


def test_evaluation_in_chunks_estimates_the_evidence() -> None:
    x = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    weights = log_weights(Line(False), Line(True), {"x": x}, 4001, chunk=500)
    assert weights.shape == (4001, 3)
    bound = weights.logsumexp(0) - math.log(4001)
    torch.testing.assert_close(bound, dist.Normal(0.0, math.sqrt(2.0)).log_prob(x).double(), atol=0.05, rtol=0)


def test_enumerated_sites_and_single_particles_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_particles=1"):
        objectives.make("vimco", num_particles=1)
    with pytest.raises(UnknownNameError, match="geometric"):
        VIMCO(3, baseline="geometrical")
    with pytest.raises(UnknownNameError, match="iwae"):
        VIMCO(3, signal="iwea")

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            for i in range(3):
                pyro.sample(f"z{i}", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})

    with pytest.raises(ConfigError, match="enum"):
        VIMCO(3, max_plate_nesting=1).loss(Switches(False), guide, torch.zeros(2, dtype=torch.float64))


def test_a_presampled_value_is_its_own_draw_with_the_density_and_gradient_of_its_base() -> None:
    loc = torch.tensor([0.5, -1.0], requires_grad=True)
    base = dist.Normal(loc, 0.3)
    value = base.rsample()
    law = PreSampled(base, value)
    assert law.has_rsample
    assert law.rsample() is value
    assert not law.sample().requires_grad
    masked = law.mask(torch.tensor([True, False]))
    torch.testing.assert_close(masked.log_prob(value), base.log_prob(value) * torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(law.to_event(1).log_prob(value), base.log_prob(value).sum())
    repeated = law.expand((4, 2))
    assert repeated.rsample().shape == (4, 2)
    assert repeated.log_prob(value).shape == (4, 2)
    (gradient,) = torch.autograd.grad(law.rsample().sum(), loc)
    torch.testing.assert_close(gradient, torch.ones(2))
    assert not PreSampled(dist.Bernoulli(0.5), torch.ones(())).has_rsample
    with pytest.raises(ShapeError, match="shape"):
        PreSampled(base, torch.zeros(3))
    with pytest.raises(PhlogistonError, match="one draw"):
        law.rsample((3,))
