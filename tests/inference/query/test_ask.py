"""Generic queries on small models whose posteriors and evidences are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from phlogiston.distributions.normal_interval import log_interval_mass
from phlogiston.distributions.truncated_normal import TruncatedNormal
from phlogiston.errors import ConfigError, EvidenceError, QueryWarning, UnknownNameError
from phlogiston.inference.query.answer import Answer, stack
from phlogiston.inference.query.ask import query
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, OneOf, Within

INF = math.inf
N = 20_000


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def chain(x: Tensor | None = None) -> None:
    """z ~ N(0, 1), x | z ~ N(z, 0.5)."""
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def rows(x: Tensor | None = None, mask: Tensor | None = None) -> None:
    """The same for three entries under a plate over rows."""
    n = 1 if x is None else len(x)
    with pyro.plate("data", n, dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def posterior_guide(x: Tensor, mask: Tensor | None = None) -> None:
    """The exact posterior of `rows` given the known entries."""
    known = torch.ones_like(x) if mask is None else mask.to(x.dtype)
    with pyro.plate("data", len(x), dim=-1):
        precision = 1 + 4 * known
        pyro.sample("z", dist.Normal(4 * known * x / precision, precision.rsqrt()).to_event(1))


def close(answer: Answer, name: str, mean: Any, sd: Any, ess: float | None = None) -> None:
    """Means within five standard errors, standard deviations within five of theirs."""
    size = float(answer.ess.min()) if ess is None else ess
    mean, sd = (torch.as_tensor(v, dtype=torch.float64) for v in (mean, sd))
    assert ((answer.mean(name) - mean).abs() <= 5 * sd / math.sqrt(size) + 1e-9).all()
    assert ((answer.variance(name).sqrt() - sd).abs() <= 5 * sd / math.sqrt(2 * size) + 1e-9).all()


def close_evidence(answer: Answer, value: float) -> None:
    assert answer.log_evidence is not None
    assert answer.log_evidence_error is not None
    assert abs(answer.log_evidence.item() - value) <= 5 * answer.log_evidence_error.item() + 1e-6


def log_normal(x: float, sd: float) -> float:
    return -0.5 * (x / sd) ** 2 - math.log(sd) - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("method", ["importance", "smc"])
def test_known_value_gives_the_conjugate_posterior_and_evidence(method: Any) -> None:
    answer = query(chain, None, {"x": 1.5}, num_samples=4000, method=method)
    close(answer, "z", 1.2, math.sqrt(0.2), ess=1000 if method == "smc" else None)
    close_evidence(answer, log_normal(1.5, math.sqrt(1.25)))
    assert (answer.samples["x"] == 1.5).all()


def test_nuts_finds_the_conjugate_posterior() -> None:
    answer = query(chain, None, {"x": 1.5}, num_samples=300, method="hmc")
    close(answer, "z", 1.2, math.sqrt(0.2))
    assert answer.log_evidence is None
    assert answer.ess <= 300
    assert answer.method.startswith("NUTS, 4 chains")
    assert answer.details["r_hat"] < 1.1
    assert torch.bincount(answer.details["chain"]).tolist() == [75, 75, 75, 75]


def test_nuts_keeps_boxes_and_half_spaces() -> None:
    box = query(chain, None, {"x": 1.5, "z": Within(1.0, 1.3)}, num_samples=200, method="hmc", chains=2)
    law = TruncatedNormal(1.2, math.sqrt(0.2), 1.0, 1.3)
    close(box, "z", law.mean, law.variance.sqrt())
    half = query(rows, None, {"z": HalfSpace([1.0, 1.0, 0.0], -1.0)}, num_samples=100, method="hmc", chains=2, seed=0)
    assert (half.samples["z"][:, 0, :2].sum(1) >= 1.0).all()


def test_soft_evidence_multiplies_and_its_density_enters_the_evidence() -> None:
    answer = query(chain, None, {"z": Near(2.0, 1.0)}, num_samples=N)
    close(answer, "z", 1.0, math.sqrt(0.5))
    close_evidence(answer, log_normal(2.0, math.sqrt(2.0)))
    assert answer.ess == pytest.approx(N)  # Gaussian sites are drawn exactly


def test_boxes_on_gaussian_sites_are_exact_however_rare() -> None:
    answer = query(chain, None, {"z": Within(9.0, 10.0)}, num_samples=2000)
    assert answer.ess == pytest.approx(2000)
    assert ((answer.samples["z"] >= 9) & (answer.samples["z"] <= 10)).all()
    mass = log_interval_mass(torch.tensor(9.0).double(), torch.tensor(10.0).double()).item()
    assert answer.log_evidence is not None
    assert answer.log_evidence.item() == pytest.approx(mass, abs=1e-5)


def test_evidence_about_data_and_latents_combines() -> None:
    """x within a box and z soft: by quadrature over z."""
    z = torch.linspace(-6, 6, 4001).double()
    log_p = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 0.4).log_prob(torch.tensor(0.7))
    log_p = log_p + log_interval_mass((1.0 - z) / 0.5, (2.0 - z) / 0.5)
    weights = log_p.softmax(0)
    mean = (weights * z).sum()
    answer = query(chain, None, {"x": Within(1.0, 2.0), "z": Near(0.7, 0.4)}, num_samples=N)
    close(answer, "z", mean, (weights * (z - mean) ** 2).sum().sqrt())
    close_evidence(answer, (torch.logsumexp(log_p, 0) + (z[1] - z[0]).log()).item())


def test_a_guide_that_knows_the_posterior_gives_equal_weights() -> None:
    x = torch.tensor([1.0, -2.0, 0.5])
    answer = query(rows, posterior_guide, {"x": Known(x)}, num_samples=500)
    assert "guide" in answer.method
    assert answer.ess == pytest.approx(500, rel=1e-4)
    assert answer.log_evidence is not None
    assert answer.log_evidence.item() == pytest.approx(
        sum(log_normal(v, math.sqrt(1.25)) for v in x.tolist()), abs=1e-4
    )
    assert torch.equal(answer.samples["x"].squeeze(1), x.double().expand(500, 3))


def test_partially_known_data_use_the_guide_through_its_mask() -> None:
    answer = query(rows, posterior_guide, {"x": Known([1.0, 0.0, -1.0], [1, 0, 1])}, num_samples=N)
    assert "guide" in answer.method
    assert answer.ess == pytest.approx(N, rel=1e-4)
    close(answer, "z", [[0.8, 0.0, -0.8]], [[math.sqrt(0.2), 1.0, math.sqrt(0.2)]])
    close(answer, "x", [[1.0, 0.0, -1.0]], [[0.0, math.sqrt(1.25), 0.0]])
    close_evidence(answer, 2 * log_normal(1.0, math.sqrt(1.25)))


def test_a_guide_that_needs_missing_data_gives_way_to_the_prior() -> None:
    answer = query(rows, posterior_guide, {"z": Within([0.0, -INF, -INF], INF)}, num_samples=200)
    assert "prior" in answer.method
    assert answer.ess == pytest.approx(200)


def test_half_spaces_on_a_vector_site() -> None:
    answer = query(rows, None, {"z": HalfSpace([[1.0, 1.0, 0.0], [0.0, -1.0, 1.0]], [-2.0, -1.0])}, num_samples=N)
    z = answer.samples["z"][:, 0].double()
    assert (z[:, 0] + z[:, 1] >= 2).all()
    assert (z[:, 2] - z[:, 1] >= 1).all()
    plain = torch.randn(2_000_000, 3)
    inside = (plain[:, 0] + plain[:, 1] >= 2) & (plain[:, 2] - plain[:, 1] >= 1)
    share = inside.double().mean().item()
    assert answer.log_evidence is not None
    assert answer.log_evidence.item() == pytest.approx(math.log(share), abs=5 * math.sqrt(1 / share / 2e6) + 0.02)


def mixture(x: Tensor | None = None) -> None:
    k = pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
    pyro.sample("x", dist.Normal(torch.tensor([-2.0, 0.0, 3.0])[k], 1.0), obs=x)


def test_categories_can_be_restricted_and_inferred() -> None:
    answer = query(mixture, None, {"x": 1.0, "k": OneOf({0, 2})}, num_samples=N)
    joint = torch.tensor([0.5, 0.2]) * torch.tensor([log_normal(3.0, 1.0), log_normal(-2.0, 1.0)]).exp()
    assert set(answer.samples["k"].tolist()) == {0, 2}
    close_evidence(answer, joint.sum().log().item())
    chance = (joint[1] / joint.sum()).item()
    assert answer.mean("k").item() / 2 == pytest.approx(chance, abs=5 * math.sqrt(chance / float(answer.ess)))


def test_tempering_handles_discrete_sites() -> None:
    answer = query(mixture, None, {"x": Within(2.5, 2.6)}, num_samples=2000, method="smc")
    means, prior = torch.tensor([-2.0, 0.0, 3.0]).double(), torch.tensor([0.5, 0.3, 0.2]).double()
    want = torch.logsumexp(prior.log() + log_interval_mass(2.5 - means, 2.6 - means), 0).item()
    assert answer.log_evidence is not None
    assert answer.log_evidence.item() == pytest.approx(want, abs=0.25)
    assert ((answer.samples["x"] >= 2.5) & (answer.samples["x"] <= 2.6)).all()


def heavy(x: Tensor | None = None) -> None:
    """Sites that are not Gaussian: a gamma rate, a Laplace location."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    pyro.sample("shift", dist.Laplace(0.0, 1.0))
    with pyro.plate("counts", 3, dim=-1):
        pyro.sample("x", dist.Poisson(rate), obs=x)


def test_gamma_poisson_posterior_and_evidence() -> None:
    counts = torch.tensor([2.0, 4.0, 3.0])
    answer = query(heavy, None, {"x": Known(counts)}, num_samples=N)
    close(answer, "rate", 11 / 4, math.sqrt(11) / 4)
    logs = math.lgamma(11) - math.lgamma(2) - 11 * math.log(4) - sum(math.lgamma(c + 1) for c in counts.tolist())
    close_evidence(answer, logs)


def test_nuts_respects_positive_supports() -> None:
    answer = query(heavy, None, {"x": Known([2.0, 4.0, 3.0])}, num_samples=200, method="hmc", chains=2)
    close(answer, "rate", 11 / 4, math.sqrt(11) / 4)
    assert (answer.samples["rate"] > 0).all()


def test_tempering_reaches_what_importance_sampling_cannot() -> None:
    evidence = {"shift": Within(12.0, 13.0), "x": Known([2.0, 4.0, 3.0])}
    with pytest.raises(EvidenceError, match="none of 500 draws"):
        query(heavy, None, evidence, num_samples=500)
    answer = query(heavy, None, evidence, num_samples=1000, method="smc")
    mass = math.log(0.5 * (math.exp(-12) - math.exp(-13)))
    logs = math.lgamma(11) - math.lgamma(2) - 11 * math.log(4) - sum(math.lgamma(c + 1) for c in (2, 4, 3))
    assert answer.log_evidence is not None
    assert answer.log_evidence.item() == pytest.approx(mass + logs, abs=0.5)
    assert ((answer.samples["shift"] >= 12) & (answer.samples["shift"] <= 13)).all()
    close(answer, "rate", 11 / 4, math.sqrt(11) / 4, ess=200)


def test_sharp_data_need_tempering_and_get_it() -> None:
    def sharp(x: Tensor | None = None) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.02).to_event(1), obs=x)

    x = [1.5, -1.0, 2.0, 0.3]
    answer = query(sharp, None, {"x": Known(x)}, num_samples=500, method="smc")
    sd = math.sqrt(1.0004)
    assert answer.log_evidence is not None
    assert answer.log_evidence.item() == pytest.approx(sum(log_normal(v, sd) for v in x), abs=0.5)
    assert torch.allclose(answer.mean("z"), torch.tensor(x).double(), atol=0.01)
    with pytest.warns(QueryWarning, match="effective sample size.*method=.smc."):
        query(sharp, None, {"x": Known(x)}, num_samples=500)


def test_correlated_gaussian_data_condition_on_some_entries() -> None:
    tril = torch.tensor([[1.0, 0.0], [0.8, 0.6]])

    def model(x: Tensor | None = None) -> None:
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), scale_tril=tril), obs=x)

    answer = query(model, None, {"x": Known([1.0, 0.0], [1, 0])}, num_samples=N)
    close(answer, "x", [1.0, 0.8], [0.0, 0.6])
    close_evidence(answer, log_normal(1.0, 1.0))


def test_several_rows_are_several_questions() -> None:
    x = torch.tensor([[0.5, 0.0, 0.0], [-1.0, 0.0, 2.0]])
    answer = query(rows, posterior_guide, {"x": Known(x)}, ask=["z"], num_samples=2000)
    assert answer.samples["z"].shape == (2000, 2, 1, 3)
    assert torch.allclose(answer.mean("z").squeeze(1), 0.8 * x.double(), atol=5 * math.sqrt(0.2 / 2000))


@pytest.mark.parametrize(
    "evidence",
    [
        {"z": [Known(1.0), Within(2.0, 3.0)]},
        {"z": [Within(-INF, 0.0), Within(1.0, INF)]},
        {"q": 1.0},
        {"z": OneOf({1})},
        {"z": Known([1.0, 2.0])},
    ],
)
@pytest.mark.parametrize("method", ["importance", "smc", "hmc"])
def test_impossible_and_malformed_evidence_is_an_error(evidence: Any, method: Any) -> None:
    with pytest.raises(EvidenceError):
        query(chain, None, evidence, num_samples=20, method=method)


def test_impossible_data_never_become_nan() -> None:
    def model() -> None:
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        pyro.sample("y", dist.Binomial(3, p))

    with pytest.raises(EvidenceError):
        query(model, None, {"y": Known(7.0)}, num_samples=50)


def test_bad_options_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="smc"):
        query(chain, None, {}, method="scm")  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        query(chain, None, {}, num_samples=0)
    with pytest.raises(UnknownNameError, match="leapfrog"):
        query(chain, None, {}, method="smc", leapforg=3)
    with pytest.raises(UnknownNameError, match="'z'"):
        query(chain, None, {}, ask=["zz"], num_samples=10)
    with pytest.raises(ConfigError, match="discrete"):
        query(mixture, None, {"x": 1.0}, num_samples=10, method="hmc")


def test_the_same_seed_gives_the_same_answer_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    one, two = (query(chain, None, {"x": 1.0}, num_samples=50, seed=3) for _ in range(2))
    assert torch.equal(one.samples["z"], two.samples["z"])
    assert torch.equal(before, torch.get_rng_state())


def weighted(values: Any, weights: Any) -> Answer:
    w = torch.tensor(weights, dtype=torch.float64).log()
    return Answer({"x": torch.tensor(values)}, w, None, None, "made up", torch.tensor(1.0))


def test_weighted_quantiles_and_moments() -> None:
    answer = weighted([3.0, 1.0, 2.0], [0.25, 0.5, 0.25])
    assert answer.mean("x").item() == pytest.approx(1.75)
    assert answer.quantile("x", torch.tensor([0.0, 0.5, 0.51, 0.75, 1.0])).tolist() == [1.0, 1.0, 2.0, 2.0, 3.0]
    many = torch.randn(5001)
    plain = weighted(many.tolist(), [1.0] * 5001)
    assert plain.quantile("x", 0.3).item() == pytest.approx(torch.quantile(many, 0.3).item(), abs=2e-3)


def test_resampling_follows_the_weights() -> None:
    drawn = weighted([0.0, 1.0, 2.0], [0.7, 0.0, 0.3]).resampled(1000)
    assert drawn.num_samples == 1000
    assert torch.bincount(drawn.samples["x"].long(), minlength=3).tolist() == [700, 0, 300]
    assert drawn.log_weights.std() == 0


def test_answers_are_written_whole(tmp_path: Path) -> None:
    answer = query(chain, None, {"x": 1.0}, num_samples=20)
    path = answer.to_npz(tmp_path / "answer.npz")
    with np.load(path) as file:
        assert np.array_equal(file["z"], answer.samples["z"].numpy())
        assert str(file["method"]) == answer.method
    assert [p.name for p in tmp_path.iterdir()] == ["answer.npz"]


def test_rows_keep_figures_and_texts_of_their_details() -> None:
    def one(value: float, note: dict[str, str]) -> Answer:
        drawn = torch.full((5,), value)
        details = {"own": drawn, "r_hat": torch.tensor(value), **note}
        return Answer({"x": drawn}, torch.zeros(5), None, None, "made up", torch.tensor(5.0), details)

    answer = stack([one(1.0, {}), one(2.0, {"log_evidence_error": "too few"})])
    assert answer.details["own"].shape == (5, 2)
    assert answer.details["r_hat"].tolist() == [1.0, 2.0]
    assert answer.details["log_evidence_error"] == ("", "too few")
    assert answer.resampled(7).details["own"].shape == (7, 2)
