"""Questions to programs as people write them: guides of every make, programs that are not vectorised, moving supports,
evidence on discrete sites, and evidence that no model knows. Right values by enumeration, quadrature or closed form."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide
from pyro.nn import PyroModule, PyroSample
from torch import Tensor

from phlogiston.distributions.pyro_modules import own_parameters
from phlogiston.errors import ConfigError, EvidenceError, QueryWarning
from phlogiston.inference.query.answer import Answer
from phlogiston.inference.query.ask import query
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, OneOf, Within

METHODS: tuple[Any, ...] = ("importance", "smc")
CENTRE, SCALE = torch.tensor([1.0, -2.0]), torch.tensor([0.3, 0.5])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def agrees(answer: Answer, name: str, mean: Any, log_evidence: float | None = None, sd: float = 1.0) -> None:
    """Mean within 5 standard errors at half the ESS; log evidence within 5 of its own, or 0.3 where it states none."""
    want = torch.as_tensor(mean, dtype=torch.float64)
    allowed = 5 * sd / math.sqrt(float(answer.ess.min()) / 2)
    assert ((answer.mean(name).reshape(want.shape) - want).abs() <= allowed).all()
    if log_evidence is not None:
        assert answer.log_evidence is not None
        if answer.log_evidence_error is None:
            assert answer.details["log_evidence_error"]
        error = 0.06 if answer.log_evidence_error is None else float(answer.log_evidence_error)
        assert abs(float(answer.log_evidence) - log_evidence) <= 5 * error + 0.02


# ----- global latents that training fitted -----------------------------------------------------------------------


def regression(x: Tensor, y: Tensor | None = None) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.deterministic("norm", w.square().sum(-1), event_dim=0)
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal((x * w).sum(-1), 0.5), obs=y)


def plain_weights(x: Tensor, y: Tensor | None = None) -> None:
    pyro.sample("w", dist.Normal(CENTRE, SCALE).to_event(1))


def fitted(kind: Any) -> Any:
    """An AutoGuide whose distribution is that of `plain_weights`, as training would leave it."""
    guide = kind(regression)
    own_parameters(regression, guide)
    guide(torch.zeros(3, 2), torch.zeros(3))
    if kind is autoguide.AutoNormal:
        guide.locs.w.data.copy_(CENTRE)
        guide.scales.w = SCALE.clone()
    else:
        guide.loc.data.copy_(CENTRE)
        guide.scale = SCALE.clone()
        if kind is autoguide.AutoMultivariateNormal:
            guide.scale_tril = torch.eye(2)
    return guide


GUIDES = [autoguide.AutoNormal, autoguide.AutoDiagonalNormal, autoguide.AutoMultivariateNormal, None]


@pytest.mark.parametrize("kind", GUIDES)
@pytest.mark.parametrize("method", METHODS)
def test_a_regression_is_asked_under_the_trained_posterior(kind: Any, method: Any) -> None:
    """One new row: w given it by Bayes' rule from the guide's Gaussian, evidence by its predictive density."""
    guide = plain_weights if kind is None else fitted(kind)
    x = torch.tensor([[1.0, 0.5]])
    variance = float((x.square() * SCALE.square()).sum() + 0.25)
    mean = float((x * CENTRE).sum())
    y = torch.tensor([mean + 1.2 * math.sqrt(variance)])
    gain = SCALE.square() * x[0] / variance
    answer = query(regression, guide, {}, batch={"x": x, "y": y}, num_samples=1500, method=method, seed=1)
    assert "trained posterior" in answer.method
    agrees(answer, "w", CENTRE + gain * (y - mean), -0.5 * 1.2**2 - 0.5 * math.log(2 * math.pi * variance), 0.5)
    assert torch.allclose(answer.samples["norm"], answer.samples["w"].square().sum(-1))


def test_predictions_use_the_trained_posterior_and_the_prior_where_asked_for() -> None:
    x = torch.tensor([[1.0, 0.5]])
    answer = query(regression, fitted(autoguide.AutoNormal), {}, ["y"], 4000, batch={"x": x}, seed=0)
    sd = math.sqrt(float((x.square() * SCALE.square()).sum() + 0.25))
    assert abs(float(answer.mean("y")) - float((x * CENTRE).sum())) < 5 * sd / math.sqrt(4000)
    assert abs(float(answer.variance("y").sqrt()) / sd - 1) < 5 / math.sqrt(8000)

    def wide(x: Tensor, y: Tensor | None = None) -> None:
        pyro.sample("w", dist.Normal(torch.zeros(2), 1.2).to_event(1))

    y = torch.tensor([0.3])
    prior = query(regression, wide, {}, batch={"x": x, "y": y}, num_samples=4000, global_latents="prior", seed=0)
    assert "posterior" not in prior.method
    agrees(prior, "w", x[0] / 1.5 * y, float(dist.Normal(0.0, math.sqrt(1.5)).log_prob(y)))


def test_evidence_about_a_fitted_global_latent_restricts_its_posterior() -> None:
    x, box = torch.tensor([[1.0, 0.5]]), Within([1.0, -9.0], [1.4, 9.0])
    inside = dist.Normal(0.0, 1.0).cdf(torch.tensor(0.4 / 0.3)) - 0.5
    for guide in (plain_weights, fitted(autoguide.AutoDiagonalNormal)):
        answer = query(regression, guide, {"w": box}, batch={"x": x}, num_samples=4000, seed=0)
        assert answer.log_evidence is not None
        assert abs(float(answer.log_evidence) - math.log(float(inside))) < 0.08
        assert ((answer.samples["w"][:, 0] >= 1.0) & (answer.samples["w"][:, 0] <= 1.4)).all()
    known = {"w": Known([1.3, 0.0], [1, 0])}
    answer = query(regression, plain_weights, known, batch={"x": x}, num_samples=2000, seed=0)
    assert answer.log_evidence is not None
    want = float(dist.Normal(CENTRE[0], SCALE[0]).log_prob(torch.tensor(1.3)))
    assert float(answer.log_evidence) == pytest.approx(want, abs=1e-4)
    with pytest.raises(EvidenceError, match=r"w: .*auxiliary"):
        query(regression, fitted(autoguide.AutoNormal), known, batch={"x": x}, num_samples=100)


def test_a_guide_that_computes_global_latents_from_the_data_is_weighed_against_the_prior() -> None:
    def amortised(x: Tensor, y: Tensor) -> None:
        pyro.sample("w", dist.Normal(y.mean() * torch.ones(2), 0.8).to_event(1))

    x, y = torch.tensor([[1.0, 0.5]]), torch.tensor([0.3])
    answer = query(regression, amortised, {}, batch={"x": x, "y": y}, num_samples=4000, seed=0)
    assert "posterior" not in answer.method
    gain = x[0] / 1.5
    agrees(answer, "w", gain * y, float(dist.Normal(0.0, math.sqrt(1.5)).log_prob(y)))


def test_point_estimates_are_no_posterior() -> None:
    x, y = torch.tensor([[1.0, 0.5]]), torch.tensor([0.3])
    for kind in (autoguide.AutoDelta, autoguide.AutoLaplaceApproximation):
        guide = kind(regression)
        own_parameters(regression, guide)
        guide(x, y)
        with pytest.raises(ConfigError, match="point estimate of w"):
            query(regression, guide, {}, batch={"x": x, "y": y}, num_samples=50)

    def chain(x: Tensor | None = None) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    for kind in (autoguide.AutoDelta, autoguide.AutoLaplaceApproximation):
        guide = kind(chain)
        own_parameters(chain, guide)
        guide(torch.tensor(1.0))
        with pytest.warns(QueryWarning, match="point estimate of z"):
            answer = query(chain, guide, {}, batch={"x": torch.tensor(1.0)}, num_samples=4000)
        assert "prior" in answer.method
        agrees(answer, "z", 0.8, float(dist.Normal(0.0, math.sqrt(1.25)).log_prob(torch.tensor(1.0))))


@pytest.mark.parametrize("method", [*METHODS, "hmc"])
def test_auxiliary_sites_count_with_their_change_of_variables(method: Any) -> None:
    """A Gamma rate under AutoNormal, whose site is the exponential of an auxiliary one."""

    def counts(x: Tensor | None = None) -> None:
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Poisson(rate), obs=x)

    guide = autoguide.AutoDiagonalNormal(counts, init_scale=0.4)
    own_parameters(counts, guide)
    guide(torch.tensor(4.0))
    guide.loc.data.fill_(1.0)
    answer = query(counts, guide, {}, batch={"x": torch.tensor(4.0)}, num_samples=300 if method == "hmc" else 2000)
    evidence = math.lgamma(6) - math.lgamma(2) - math.lgamma(5) - 6 * math.log(2)
    agrees(answer, "rate", 3.0, None if method == "hmc" else evidence, math.sqrt(1.5))


def test_auxiliary_sites_that_are_no_change_of_variables_are_refused() -> None:
    def chain(x: Tensor | None = None) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def mixed(x: Tensor | None = None) -> None:
        u = pyro.sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(u, 1.0))

    def stray(x: Tensor | None = None) -> None:
        pyro.sample("zz", dist.Normal(0.0, 1.0))

    with pytest.raises(ConfigError, match=r"\(u\) hold 1"):
        query(chain, mixed, {"x": 1.0}, num_samples=20)
    with pytest.raises(ConfigError, match="'zz'"):
        query(chain, stray, {"x": 1.0}, num_samples=20)


# ----- guides that fail ------------------------------------------------------------------------------------------


def latent(x: Tensor | None = None) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    u = pyro.sample("u", dist.Normal(z, 1.0))
    pyro.sample("x", dist.Normal(u, 0.5), obs=x)


@pytest.mark.parametrize("fault", [TypeError, RuntimeError, AttributeError, ValueError, KeyError, ZeroDivisionError])
def test_a_fault_inside_the_guide_is_an_error_with_the_site(fault: type[Exception]) -> None:
    def guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(x, 1.0))
        raise fault("broken")

    with pytest.raises(ConfigError, match=f"'z'.*{fault.__name__}"):
        query(latent, guide, {"x": 1.0}, num_samples=20)


def test_the_signature_decides_whether_a_guide_can_propose() -> None:
    def needs(x: Tensor) -> None:
        pyro.sample("u", dist.Normal(x, 0.5))

    def optional(x: Tensor | None = None) -> None:
        pyro.sample("u", dist.Normal(2 * x, 0.5))  # type: ignore[operator]

    box = {"x": Within(0.0, 1.0)}
    assert "needs x" in query(latent, needs, box, num_samples=50, seed=0).method
    assert "guide" in query(latent, needs, {"x": 1.0}, num_samples=50, seed=0).method
    with pytest.raises(ConfigError, match="does not give x"):
        query(latent, optional, box, num_samples=50)


# ----- programs that are not vectorised --------------------------------------------------------------------------


def _style(predict: Callable[[Tensor, Tensor], Any]) -> Callable[..., None]:
    def model(x: Tensor, y: Tensor | None = None) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(predict(x, w), 0.5), obs=y)

    return model


MIXED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "w @ X.T": lambda x, w: w @ x.T,
    "X @ w": lambda x, w: x @ w,
    "X @ w[..., None]": lambda x, w: (x @ w.unsqueeze(-1)).squeeze(-1),
    "w[0]": lambda x, w: x[:, 0] * w[0] + x[:, 1] * w[1],
    "sum()": lambda x, w: (x * w).sum(-1) + w.sum(),
    "mean()": lambda x, w: x[:, 0] * w.mean(),
    "len(w)": lambda x, w: (x * w).sum(-1) / len(w),
    "shape[0]": lambda x, w: (x * w).sum(-1) * w.shape[0],
    "max()": lambda x, w: (x * w).sum(-1) - w.max(),
    "norm()": lambda x, w: (x * w).sum(-1) / w.norm(),
    "softmax(0)": lambda x, w: (x * w.softmax(0)).sum(-1),
    "cumsum(0)": lambda x, w: (x * w.cumsum(0)).sum(-1),
    "if": lambda x, w: (x * w).sum(-1) if w[..., 0] > 0 else -(x * w).sum(-1),
    "if mean": lambda x, w: (x * w).sum(-1) if w.mean() > 0 else -(x * w).sum(-1),
    "float()": lambda x, w: x[:, 0] * float(w[..., 0]),
    "flip(0)": lambda x, w: (x * w.flip(0)).sum(-1),
    "dot": lambda x, w: torch.stack([row @ w for row in x]),
}


@pytest.mark.parametrize("style", MIXED)
@pytest.mark.parametrize("method", [*METHODS, "hmc"])
def test_programs_that_mix_particles_are_refused_by_site(style: str, method: Any) -> None:
    x, y = torch.randn(4, 2), torch.randn(4)
    with pytest.raises(ConfigError, match=r"site '[wy]'"):
        query(_style(MIXED[style]), None, {}, batch={"x": x, "y": y}, num_samples=20, method=method)


@pytest.mark.filterwarnings("ignore::phlogiston.errors.QueryWarning")
@pytest.mark.parametrize(
    "predict",
    [
        lambda x, w: (x * w).sum(-1),
        lambda x, w: (x @ w.squeeze(-2).unsqueeze(-1)).squeeze(-1) if w.dim() > 1 else x @ w,
        lambda x, w: w[..., 0] * x[:, 0] + w[..., 1] * x[:, 1],
        lambda x, w: torch.einsum("...d,nd->...n", w.squeeze(-2) if w.dim() > 1 else w, x),
    ],
)
def test_vectorised_programs_pass(predict: Any) -> None:
    x, y = torch.randn(4, 2), torch.randn(4)
    truth = dist.MultivariateNormal(torch.zeros(4), x @ x.T + 0.25 * torch.eye(4)).log_prob(y)
    answer = query(_style(predict), None, {}, batch={"x": x, "y": y}, num_samples=4000, seed=0)
    assert answer.log_evidence is not None
    assert abs(float(answer.log_evidence) - float(truth)) < 0.6


def test_a_guide_that_mixes_particles_is_refused() -> None:
    def model(x: Tensor | None = None) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        u = pyro.sample("u", dist.Normal(z, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(u, 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(x, 1.0).to_event(1))
        pyro.sample("u", dist.Normal(z + z.mean(), 1.0).to_event(1))

    with pytest.raises(ConfigError, match=r"site 'u' of the guide"):
        query(model, guide, {"x": Known([1.0, 2.0, 3.0])}, num_samples=20)


def test_randomness_beyond_the_sites_is_no_fault() -> None:
    def model(x: Tensor | None = None) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + 0.01 * torch.randn(()), 0.5), obs=x)

    assert query(model, None, {"x": 1.0}, num_samples=50, seed=0).num_samples == 50


def test_plates_that_draw_their_rows_are_refused() -> None:
    def model() -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 10, subsample_size=3) as index:
            pyro.sample("x", dist.Normal(m, 1.0), obs=torch.arange(10.0)[index])

    with pytest.raises(ConfigError, match="'rows' draws 3 of 10"):
        query(model, None, {}, num_samples=20)


def test_rows_picked_from_a_larger_plate_count_once() -> None:
    def model(x: Tensor, row_index: Tensor) -> None:
        with pyro.plate("data", 300, subsample=row_index):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    batch = {"x": torch.tensor([1.0]), "row_index": torch.tensor([7])}
    for method in METHODS:
        answer = query(model, None, {}, batch=batch, num_samples=3000, method=method, seed=0)
        agrees(answer, "z", [0.8], float(dist.Normal(0.0, math.sqrt(1.25)).log_prob(torch.tensor(1.0))))


def test_deterministic_sites_can_be_asked_for_unless_they_mix_particles() -> None:
    def model(x: Tensor | None = None) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.deterministic("double", 2 * z)
        pyro.deterministic("total", z.sum())
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    for method in (*METHODS, "hmc"):
        options: dict[str, Any] = {"warmup": 10, "chains": 1} if method == "hmc" else {}
        answer = query(model, None, {"x": Known([1.0, 0.0])}, ["double"], 40, method, seed=0, **options)
        assert answer.samples["double"].shape == (40, 2)
        everything = query(model, None, {"x": Known([1.0, 0.0])}, None, 40, method, seed=0, **options)
        assert set(everything.samples) == {"z", "x", "double"}
        assert torch.equal(everything.samples["double"], 2 * everything.samples["z"].float())
    with pytest.raises(ConfigError, match="'total'"):
        query(model, None, {}, ["total"], 10)


class RandomWeights(PyroModule):  # type: ignore[misc]
    """A linear layer with random weights, as Pyro's tutorials write it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[torch.nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        mean = self.linear(torch.relu(x)).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


@pytest.mark.filterwarnings("ignore::phlogiston.errors.QueryWarning")
def test_layers_with_random_weights_take_many_particles() -> None:
    x, y = torch.randn(3, 2), torch.randn(3)
    rows = torch.cat([torch.relu(x), torch.ones(3, 1)], 1)
    covariance = rows @ rows.T + 0.25 * torch.eye(3)
    truth = float(dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(y))
    mean = (rows.T @ torch.linalg.solve(covariance, y)).double()
    model = RandomWeights()
    for method in METHODS:
        answer = query(model, None, {}, batch={"x": x, "y": y}, num_samples=4000, method=method, seed=0)
        assert answer.log_evidence is not None
        assert abs(float(answer.log_evidence) - truth) < 0.4
        assert (answer.mean("linear.weight").flatten() - mean[:2]).abs().max() < 0.25
    options: dict[str, Any] = {"num_samples": 20, "warmup": 5, "chains": 1}
    assert query(model, None, {}, batch={"x": x, "y": y}, method="hmc", seed=0, **options).num_samples == 20


# ----- supports that depend on other sites -----------------------------------------------------------------------


@pytest.mark.parametrize("method", [*METHODS, "hmc"])
def test_supports_move_with_the_sites_they_depend_on(method: Any) -> None:
    """b ~ U(0, a) and a truncated normal above b, by quadrature."""

    def model(x: Tensor | None = None) -> None:
        a = pyro.sample("a", dist.Uniform(1.0, 10.0))
        b = pyro.sample("b", dist.Uniform(torch.zeros_like(a), a))
        pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    a = torch.linspace(1.0, 10.0, 1801).double()
    grid_a, grid_b = torch.meshgrid(a, torch.linspace(0.0, 10.0, 2001).double(), indexing="ij")
    log_p = torch.where(grid_b < grid_a, -grid_a.log(), -math.inf) + dist.Normal(grid_b, 1.0).log_prob(
        torch.tensor(4.0)
    )
    weights = log_p.flatten().softmax(0)
    mean_a, mean_b = (float((weights * g.flatten()).sum()) for g in (grid_a, grid_b))
    evidence = float(log_p.flatten().logsumexp(0)) + math.log(0.005**2 / 9.0)
    options: dict[str, Any] = (
        {"warmup": 100, "chains": 1, "num_samples": 200} if method == "hmc" else {"num_samples": 2000}
    )
    answer = query(model, None, {"x": 4.0}, method=method, seed=2, **options)
    agrees(answer, "b", mean_b, None if method == "hmc" else evidence)
    agrees(answer, "a", mean_a, sd=2.0)
    assert (answer.samples["b"] <= answer.samples["a"]).all()


def test_known_values_outside_a_support_are_impossible() -> None:
    def model() -> None:
        a = pyro.sample("a", dist.Uniform(0.0, 10.0))
        pyro.sample("wait", dist.Exponential(1.0 + a))
        pyro.sample("b", dist.Uniform(torch.zeros_like(a), a))

    for method in METHODS:
        with pytest.raises(EvidenceError):
            query(model, None, {"wait": -1.0}, num_samples=50, method=method)
    answer = query(model, None, {"b": 5.0}, num_samples=4000, seed=0)
    assert (answer.samples["a"] >= 5.0).all()
    agrees(answer, "a", 5.0 / math.log(2.0), math.log(math.log(2.0) / 10.0), sd=1.5)


# ----- evidence on discrete sites --------------------------------------------------------------------------------


def tilted(site: Callable[[Tensor], Any]) -> Callable[[], None]:
    """t ~ Beta(2, 3), and a site whose probabilities depend on it."""

    def model() -> None:
        t = pyro.sample("t", dist.Beta(2.0, 3.0))
        pyro.sample("k", site(t))

    return model


def _probabilities(t: Tensor) -> Tensor:
    return torch.stack([0.5 * t, 0.5 * (1 - t), 0.5 * torch.ones_like(t)], -1)


def _pair(t: Tensor) -> Tensor:
    return torch.stack([_probabilities(t), _probabilities(1 - t)], -2)


SITES: dict[str, Callable[[Tensor], Any]] = {
    "bernoulli": lambda t: dist.Bernoulli(t),
    "categorical": lambda t: dist.Categorical(_probabilities(t)),
    "onehot": lambda t: dist.OneHotCategorical(_probabilities(t)),
    "binomial": lambda t: dist.Binomial(4, t),
    "poisson": lambda t: dist.Poisson(3 * t),
    "geometric": lambda t: dist.Geometric(0.1 + 0.8 * t),
    "vector": lambda t: dist.Categorical(_pair(t)).to_event(1),
    "coins": lambda t: dist.Bernoulli(torch.stack([t, 1 - t, 0.5 * t], -1)).to_event(1),
}

CASES: list[tuple[str, Any]] = [
    ("bernoulli", 1),
    ("bernoulli", OneOf([0])),
    ("bernoulli", Near(0.8, 0.3)),
    ("bernoulli", Within(0.5, 2.0)),
    ("categorical", OneOf([0, 1])),
    ("categorical", Known(2)),
    ("categorical", Near(1.0, 0.7)),
    ("categorical", Within(-1.0, 1.5)),
    ("categorical", HalfSpace([1.0], -0.5)),
    ("onehot", Known([0.0, 1.0, 0.0])),
    ("onehot", OneOf([0, 2])),
    ("onehot", Known([0.0, 0.0, 0.0], [1, 0, 0])),
    ("onehot", Near([1.0, 0.0, 0.0], 0.5)),
    ("binomial", 3),
    ("binomial", Within(2.0, 9.0)),
    ("binomial", OneOf([0, 4])),
    ("binomial", Near(2.5, 0.6)),
    ("poisson", 2.0),
    ("poisson", Within(1.0, 3.0)),
    ("poisson", Near(2.0, 0.8)),
    ("geometric", 1.0),
    ("geometric", Within(0.0, 1.0)),
    ("vector", Known([0, 2])),
    ("vector", Known([1, 0], [1, 0])),
    ("vector", OneOf([0, 1])),
    ("vector", [Known([0, -1]), Near([0.0, 1.0], [math.inf, 0.6])]),
    ("vector", HalfSpace([1.0, 1.0], -2.0)),
    ("coins", Known([1, 0, 0], [1, 1, 0])),
    ("coins", HalfSpace([[1.0, 1.0, 1.0]], -2.0)),
    ("coins", Near([1.0, 1.0, 0.0], 0.7)),
]


def _exact(kind: str, evidence: Any) -> tuple[float, float]:
    """Mean of t and log evidence by enumeration over the site and quadrature over t."""
    t = (torch.arange(4000).double() + 0.5) / 4000
    log_t = dist.Beta(2.0, 3.0).log_prob(t) - math.log(4000.0)
    law = SITES[kind](t)
    shape = tuple(law.event_shape)
    if kind == "onehot":
        values = torch.eye(3).double()
    else:
        top = {"bernoulli": 2, "coins": 2, "binomial": 5}.get(kind, 3 if kind in ("categorical", "vector") else 60)
        entries = shape[0] if shape else 1
        values = torch.tensor(list(itertools.product(range(top), repeat=entries))).double()
    total = torch.full_like(t, -math.inf)
    for value in values:
        factor = _factor(kind, evidence, value)
        if factor > -math.inf:
            point = value if shape else value[0]
            own = law.log_prob(point.expand(len(t), *shape).to(torch.float64))
            total = torch.logaddexp(total, own + factor)
    log_p = log_t + total
    return float((log_p.softmax(0) * t).sum()), float(log_p.logsumexp(0))


def _factor(kind: str, evidence: Any, value: Tensor) -> float:
    if isinstance(evidence, list):
        return sum(_factor(kind, piece, value) for piece in evidence)
    index = float(value.argmax()) if kind == "onehot" else None
    if isinstance(evidence, OneOf):
        given = [index] if index is not None else value.tolist()
        return 0.0 if all(v in evidence.values for v in given) else -math.inf
    if isinstance(evidence, Near):
        mean, sd = (torch.as_tensor(v).double().expand(value.shape) for v in (evidence.mean, evidence.sd))
        on = torch.isfinite(sd)
        return float(dist.Normal(mean[on], sd[on]).log_prob(value[on]).sum())
    if isinstance(evidence, Within):
        return 0.0 if bool(((value >= evidence.lower) & (value <= evidence.upper)).all()) else -math.inf
    if isinstance(evidence, HalfSpace):
        return 0.0 if bool((evidence.a @ value + evidence.b >= 0).all()) else -math.inf
    known = evidence if isinstance(evidence, Known) else Known(evidence)
    target = torch.as_tensor(known.value).double().expand(value.shape)
    mask = torch.ones_like(target) if known.mask is None else torch.as_tensor(known.mask).double()
    return 0.0 if bool(((mask == 0) | (target == -1) | (target == value)).all()) else -math.inf


@pytest.mark.filterwarnings("ignore::phlogiston.errors.QueryWarning")
@pytest.mark.parametrize(("kind", "evidence"), CASES, ids=[f"{k}-{i}" for i, (k, _) in enumerate(CASES)])
def test_evidence_on_discrete_sites_counts_under_every_method(kind: str, evidence: Any) -> None:
    mean, log_evidence = _exact(kind, evidence)
    for method in METHODS:
        answer = query(tilted(SITES[kind]), None, {"k": evidence}, num_samples=3000, method=method, seed=3)
        agrees(answer, "t", mean, log_evidence, sd=0.2)
        for value in answer.samples["k"][:50]:
            assert _factor(kind, evidence, value.double().reshape(-1)) > -math.inf


def test_impossible_categories_are_refused_before_anything_runs() -> None:
    for kind, evidence in (
        ("bernoulli", Known(3)),
        ("categorical", OneOf([7])),
        ("categorical", Within(0.2, 0.8)),
        ("onehot", Known([1.0, 1.0, 0.0])),
        ("vector", Known([0, 5])),
        ("vector", [OneOf([0]), Known([1, 0])]),
        ("binomial", Known(9)),
        ("categorical", Known(1.5)),
    ):
        for method in METHODS:
            with pytest.raises(EvidenceError):
                query(tilted(SITES[kind]), None, {"k": evidence}, num_samples=20, method=method)


# ----- evidence that no model knows, and error bars --------------------------------------------------------------


def vector(x: Tensor | None = None) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


@pytest.mark.filterwarnings("ignore:.*effective sample size")
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e8])
def test_evidence_far_outside_of_the_model_is_told_in_any_unit(unit: float) -> None:
    def model(x: Tensor | None = None) -> None:
        z = pyro.sample("z", dist.Normal(0.0, unit))
        pyro.sample("x", dist.Normal(z, 0.5 * unit), obs=x)

    for evidence in (Known(1e5 * unit), Within(1e5 * unit, math.inf), Near(1e5 * unit, unit)):
        with pytest.warns(QueryWarning, match="far outside"):
            query(model, None, {"x": evidence}, num_samples=300, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (0.0, 1.0, 2.0):
            query(model, None, {"x": value * unit}, num_samples=2000, seed=0)


def test_ordinary_questions_are_not_called_outlying() -> None:
    for seed in range(10):
        torch.manual_seed(seed)
        x = torch.randn(3) * math.sqrt(1.25)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            query(vector, None, {"x": Known(x)}, num_samples=500)
            query(vector, None, {"z": HalfSpace([1.0, 1.0, 1.0], -4.0)}, num_samples=500)
        assert not [w for w in caught if "far outside" in str(w.message)]


def test_error_bars_of_importance_sampling_hold() -> None:
    x = torch.tensor([1.0, -0.5, 0.3])
    truth = float(dist.Normal(0.0, math.sqrt(1.25)).log_prob(x).sum())
    held = 0
    for seed in range(200):
        answer = query(vector, None, {"x": Known(x)}, num_samples=1000, seed=seed)
        assert answer.log_evidence is not None
        assert answer.log_evidence_error is not None
        held += abs(float(answer.log_evidence) - truth) <= 1.96 * float(answer.log_evidence_error)
    assert 0.89 <= held / 200 <= 0.99


@pytest.mark.filterwarnings("ignore::phlogiston.errors.QueryWarning")
def test_too_few_effective_samples_give_no_error_bar_and_say_why() -> None:
    answer = query(vector, None, {"x": Known([3.0, -3.0, 3.0])}, num_samples=300, seed=0)
    assert answer.log_evidence_error is None
    assert "effective" in answer.details["log_evidence_error"]
