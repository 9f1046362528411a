"""Frames of a diagonal and a few directions: densities, marginals, conditionals and draws against dense algebra."""

from __future__ import annotations

import resource
import sys

import pytest
import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

from phlogiston.errors import ConfigError
from phlogiston.inference.query.evidence import Known, Near, OneOf, Within
from phlogiston.models.drmm import DRMM as Model
from phlogiston.networks.frames import factor_analysers
from phlogiston.systems.drmm import paths as drmm_paths
from phlogiston.systems.drmm.query import DRMMQuery
from phlogiston.systems.drmm.system import DRMM

D = 6


def made(layers: int = 1, features: int = D, **options: object) -> Model:
    torch.manual_seed(1)
    model = Model(features, layers, 3, "lowrank", rank=2, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
        model.location.copy_(torch.linspace(-1, 2, features))
        model.scale.copy_(torch.linspace(0.5, 3, features))
    return model


def gaussians(model: Model) -> tuple[Tensor, Tensor, Tensor]:
    """Log prior, means (P, D) and covariances (P, D, D) in the data's units, from torch's own distribution."""
    codes, log_prior, _, _ = model.paths()
    mean, scale, loadings = factor_analysers(model.frames, codes)
    low_rank = LowRankMultivariateNormal(mean, loadings * scale.unsqueeze(-1), scale.square())
    unit = model.scale
    return log_prior, model.location + unit * mean, unit[:, None] * low_rank.covariance_matrix * unit


@pytest.mark.parametrize("layers", [1, 2])
def test_density_and_marginals_equal_dense_algebra(layers: int) -> None:
    model = made(layers)
    log_prior, means, covariances = gaussians(model)
    x = 2 * torch.randn(20, D, dtype=torch.float64)
    dense = MultivariateNormal(means, covariances).log_prob(x.unsqueeze(1))
    torch.testing.assert_close(
        model.find(x).nested[:, -1] + model.log_jacobian(), (log_prior + dense).logsumexp(-1), rtol=1e-9, atol=1e-9
    )
    mask = torch.rand(20, D) < 0.5
    mask[:, 0] |= ~mask.any(1)
    ours = model.find(x, mask=mask).nested[:, -1] + model.log_jacobian(mask)
    for row, known, value in zip(x, mask, ours, strict=True):
        part = MultivariateNormal(means[:, known], covariances[:, known][:, :, known])
        expected = (log_prior + part.log_prob(row[known])).logsumexp(-1)
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


def test_many_features_choose_children_first_and_score_them_the_same() -> None:
    model = made(2, 40)
    x = torch.randn(30, 40, dtype=torch.float64)
    for mask in (None, torch.rand(30, 40) < 0.7):
        exact = model.find(x, mask=mask).log_joint
        few = model.find(x, width=4, mask=mask)
        assert few.codes.shape[1] == 4
        best = exact.topk(2).values.logsumexp(-1)
        torch.testing.assert_close(few.log_joint.topk(2).values.logsumexp(-1), best, rtol=1e-7, atol=1e-7)


def test_draws_have_the_moments_of_the_mixture() -> None:
    model = made(2)
    log_prior, means, covariances = gaussians(model)
    weight = log_prior.exp()
    mean = weight @ means
    gap = means - mean
    covariance = (weight[:, None, None] * (covariances + gap[:, :, None] * gap[:, None])).sum(0)
    for drawn in (model.generate(40_000)[1], model.draw(model.draw_paths(40_000))):
        error = (covariance.diagonal() / 40_000).sqrt()
        assert bool(((drawn.mean(0) - mean).abs() < 5 * error).all())
        outer = error[:, None] * error * 40_000**0.5
        assert bool(((drawn.T.cov() - covariance).abs() < 12 * outer).all())


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> DRMMQuery:
    """A model whose covariances count as too large to write out."""
    monkeypatch.setattr(drmm_paths, "MAX_FLOATS", 90)  # 9 paths of 6 x 2 loadings are 108 numbers: see below
    return DRMMQuery(made(1, categorical={"label": 2}))


EVIDENCE = Known([0.5, 0.0, 0.0, -1.0, 0.0, 0.0], [1, 0, 0, 1, 0, 0])


def test_questions_about_entries_need_no_matrix_and_equal_dense_algebra(wide: DRMMQuery) -> None:
    model = wide.model
    log_prior, means, covariances = gaussians(model)
    near = Near([0.0, 0.7, 0.0, 0.0, 0.0, 0.0], [float("inf"), 0.4, *[float("inf")] * 4])
    question = {"x": [EVIDENCE, near], "label": OneOf({1})}
    answer = wide.ask(question, num_samples=40_000, seed=0)
    at, target = torch.tensor([0, 3, 1]), torch.tensor([0.5, -1.0, 0.7], dtype=torch.float64)
    seen = covariances[:, at][:, :, at] + torch.diag(torch.tensor([0.0, 0.0, 0.4], dtype=torch.float64).square())
    label = model.stream_logits("label", model.paths()[0]).log_softmax(-1)[:, 1]
    log_mass = log_prior + label + MultivariateNormal(means[:, at], seen).log_prob(target)
    torch.testing.assert_close(answer.log_evidence, log_mass.logsumexp(0))
    torch.testing.assert_close(wide.log_evidence(question), log_mass.logsumexp(0))
    gain = covariances[:, :, at] @ torch.linalg.inv(seen)
    mean = means + (gain @ (target - means[:, at]).unsqueeze(-1)).squeeze(-1)
    inner = covariances - gain @ covariances[:, at]
    share = log_mass.softmax(0)
    expected = share @ mean
    spread = (share[:, None, None] * (inner + (mean - expected)[:, :, None] * (mean - expected)[:, None])).sum(0)
    drawn = answer.samples["x"]
    error = (spread.diagonal() / 40_000).clamp(min=1e-24).sqrt()
    assert bool(((drawn.mean(0) - expected).abs() <= 5 * error).all())
    outer = error[:, None] * error * 40_000**0.5
    assert bool(((drawn.T.cov() - spread).abs() <= 12 * outer + 1e-12).all())
    assert bool((drawn[:, 0] == 0.5).all())
    means_only = wide.ask(question, num_samples=4000, seed=0, noise="mean").samples["x"]
    assert bool(((means_only.unsqueeze(1) - mean).abs().amax(-1).amin(1) < 1e-9).all())
    probs = wide.predict_proba("label", {"x": EVIDENCE})
    both = torch.stack([wide.log_evidence({"x": EVIDENCE, "label": OneOf({v})}) for v in (0, 1)])
    torch.testing.assert_close(probs, both.softmax(0))


def test_other_questions_are_refused_where_matrices_do_not_fit(wide: DRMMQuery) -> None:
    with pytest.raises(
        ConfigError, match="columns are too many for this question, which needs a matrix for every path"
    ):
        wide.ask({"x": Within([0.0] * D, [1.0] * D)}, num_samples=10)


def test_dense_and_factor_answers_agree() -> None:
    dense = DRMMQuery(made(1, categorical={"label": 2}))
    value = dense.log_evidence({"x": EVIDENCE})
    log_prior, means, covariances = gaussians(dense.model)
    at = torch.tensor([0, 3])
    expected = MultivariateNormal(means[:, at], covariances[:, at][:, :, at]).log_prob(
        torch.tensor([0.5, -1.0]).double()
    )
    torch.testing.assert_close(value, (log_prior + expected).logsumexp(0))


def test_it_finds_the_directions_of_wide_data() -> None:
    torch.manual_seed(0)
    loadings, n = torch.randn(2, 3, 80), 500
    kind = torch.arange(n) % 2
    x = torch.einsum("nr,nrd->nd", torch.randn(n, 3), loadings[kind]) + 3.0 * kind[:, None] + 0.3 * torch.randn(n, 80)
    scores = {
        frame: DRMM(frame=frame, num_layers=1, num_components=2, rank=3, steps=80)
        .fit(x[:700], seed=0)
        .log_prob(x[400:])
        for frame in ("lowrank", "diag")
    }
    truth = torch.stack(
        [LowRankMultivariateNormal(3.0 * k + torch.zeros(80), loadings[k].T, 0.09 * torch.ones(80)).log_prob(x[400:])
         for k in range(2)]
    ).logsumexp(0) - torch.tensor(2.0).log()  # fmt: skip
    gap = {frame: float(truth.mean() - score.value.mean()) for frame, score in scores.items()}
    assert gap["lowrank"] < 15 < 60 < gap["diag"]


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux counts it")
def test_two_thousand_columns_train_within_two_gigabytes() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    x = torch.randn(300, 20) @ torch.randn(20, 2000) + torch.randn(300, 2000)
    system = DRMM(frame="lowrank", num_layers=1, num_components=4, rank=8, steps=2, batch_size=128).fit(x)
    assert bool(torch.isfinite(system.log_prob(x[:10]).value).all())
    known = torch.arange(2000) < 1000
    answer = system.query({"x": Known(x[:2].double(), known)}, num_samples=20, seed=0)
    assert torch.equal(answer.samples["x"][0, 0, :1000], x[0, :1000].double())
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # kilobytes
    assert used < 1.5 * 1024**2  # on top of the half of a gigabyte that torch and Pyro take
