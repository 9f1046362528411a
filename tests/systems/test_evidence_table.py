"""Every kind of evidence by every method of the systems of tables, against quadrature.

The oracle knows the density on a grid and nothing of how the answer is computed. An answer passes when its log evidence
lies within 4.5 of its own stated errors, its means within 4.5 times sd / sqrt(ESS), and hard evidence holds to the bit.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from phlogiston.errors import ConfigError, EvidenceError, QueryWarning
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, OneOf, Within
from phlogiston.models.drmm import DRMM
from phlogiston.systems.drmm.query import DRMMQuery
from phlogiston.systems.mdn.system import MDN

INF = math.inf
Z = 4.5
GRID = 241  # points per axis, +-7 standard deviations


class Truth(NamedTuple):
    """What is true: log evidence, the posterior means and standard deviations of x, and the labels' probabilities."""

    log_evidence: float
    mean: Tensor
    sd: Tensor
    label: Tensor


class Kind(NamedTuple):
    """Evidence about a vector of two entries, in our words and as the oracle reads it.

    Attributes:
        pieces: as a question holds them.
        fixed: entry -> value, known exactly.
        soft: (entry, mean, sd), factors N(mean; x, sd^2).
        rows: (a, b, c), inequalities a x_0 + b x_1 + c >= 0.
    """

    pieces: Any
    fixed: dict[int, float] = {}  # noqa: RUF012
    soft: tuple[tuple[int, float, float], ...] = ()
    rows: tuple[tuple[float, float, float], ...] = ()


KINDS: dict[str, Kind] = {
    "nothing": Kind([]),
    "known": Kind(Known([0.7, 0.0], [1, 0]), {0: 0.7}),
    "masked as missing": Kind(Known([0.7, 5.0], [0, 0])),
    "known whole": Kind(Known([0.7, -0.4]), {0: 0.7, 1: -0.4}),
    "near": Kind(Near([0.4, 0.0], [0.3, INF]), soft=((0, 0.4, 0.3),)),
    "near both": Kind(Near([0.4, -0.5], [0.3, 0.8]), soft=((0, 0.4, 0.3), (1, -0.5, 0.8))),
    "within": Kind(Within([-0.2, -INF], [0.9, INF]), rows=((1, 0, 0.2), (-1, 0, 0.9))),
    "within both": Kind(Within([-0.2, -1.0], [0.9, 0.6]), rows=((1, 0, 0.2), (-1, 0, 0.9), (0, 1, 1.0), (0, -1, 0.6))),
    "half-space": Kind(HalfSpace([1.0, -2.0], 0.3), rows=((1, -2, 0.3),)),
    "half-spaces": Kind(
        HalfSpace([[1.0, -2.0], [1.0, 1.0], [-1.0, 0.2]], [0.3, 0.5, 1.2]),
        rows=((1, -2, 0.3), (1, 1, 0.5), (-1, 0.2, 1.2)),
    ),
    "known and within": Kind(
        [Known([0.7, 0.0], [1, 0]), Within([-INF, -0.5], [INF, 1.0])], {0: 0.7}, rows=((0, 1, 0.5), (0, -1, 1.0))
    ),
    "known and half-space": Kind(
        [Known([0.0, 0.3], [0, 1]), HalfSpace([1.0, 1.0], 0.2)], {1: 0.3}, rows=((1, 1, 0.2),)
    ),
    "near, within and half-space": Kind(
        [Near([0.4, 0.0], [0.5, INF]), Within([-1.0, -2.0], [1.5, 0.8]), HalfSpace([1.0, -1.0], 0.2)],
        soft=((0, 0.4, 0.5),),
        rows=((1, 0, 1.0), (-1, 0, 1.5), (0, 1, 2.0), (0, -1, 0.8), (1, -1, 0.2)),
    ),
}
LABELS: dict[str, tuple[Any, list[int]]] = {
    "no label": (None, [0, 1, 2]),
    "known label": (Known(1), [1]),
    "one of": (OneOf({0, 2}), [0, 2]),
    "missing label": (Known(-1), [0, 1, 2]),
}


class Grid:
    """A density (n, 2) -> (n, V) by label, in nats, on a grid that is computed once."""

    def __init__(
        self, log_density: Callable[[Tensor], Tensor], middle: Tensor, spread: Tensor, count: int = GRID
    ) -> None:
        self.log_density = log_density
        steps = torch.linspace(-7, 7, count, dtype=torch.float64)
        self.axes = [m + s * steps for m, s in zip(middle.double(), spread.double(), strict=True)]
        self.step = [float(axis[1] - axis[0]) for axis in self.axes]
        self.points = torch.cartesian_prod(*self.axes)
        self.values = torch.cat([log_density(part) for part in self.points.split(10_000)])

    def truth(self, kind: Kind, allowed: list[int]) -> Truth:
        """Sum the density times the evidence over the grid."""
        points, values = self.points, self.values
        cell = [1.0 if i in kind.fixed else step for i, step in enumerate(self.step)]
        if kind.fixed:
            axes = [
                torch.tensor([kind.fixed[i]], dtype=torch.float64) if i in kind.fixed else axis
                for i, axis in enumerate(self.axes)
            ]
            points = torch.cartesian_prod(*axes)
            values = self.log_density(points)
        factor = torch.zeros(len(points), dtype=torch.float64)
        for i, mean, sd in kind.soft:
            factor = factor + torch.distributions.Normal(mean, sd).log_prob(points[:, i])
        for a, b, c in kind.rows:  # the share of each cell inside
            width = sum(abs(v) * h for i, (v, h) in enumerate(zip((a, b), cell, strict=True)) if i not in kind.fixed)
            factor = factor + (0.5 + (a * points[:, 0] + b * points[:, 1] + c) / width).clamp(0, 1).log()
        log_p = values[:, allowed] + factor.unsqueeze(1)
        weight = log_p.flatten().softmax(0).reshape(log_p.shape)
        mean = weight.sum(1) @ points
        sd = (weight.sum(1) @ (points - mean).square()).sqrt()
        label = torch.zeros(3, dtype=torch.float64)
        label[allowed] = weight.sum(0)
        return Truth(float(log_p.flatten().logsumexp(0)) + math.log(math.prod(cell)), mean, sd, label)


def check(answer: Any, truth: Truth, site: str, kind: Kind, slack: float = 0.005) -> None:
    """Compare an answer with the truth; `slack`: what the grid itself may be off, in nats and standard deviations."""
    ess = float(answer.ess)
    assert 1 <= ess <= answer.num_samples * (1 + 1e-9)
    error = 0.3 if answer.log_evidence_error is None else float(answer.log_evidence_error)
    assert abs(float(answer.log_evidence) - truth.log_evidence) < Z * error + slack
    x = answer.samples[site]
    off = (answer.mean(site) - truth.mean).abs()
    assert bool((off < Z * truth.sd / math.sqrt(ess) + slack * truth.sd + 1e-9).all())
    assert bool(torch.isfinite(answer.log_weights).all())
    for a, b, c in kind.rows:
        assert bool((a * x[:, 0] + b * x[:, 1] + c >= 0).all())
    for i, value in kind.fixed.items():
        assert bool((x[:, i] == value).all())


# ---- DRMM


@cache
def drmm(frame: str) -> DRMMQuery:
    torch.manual_seed(3)
    model = DRMM(2, 3, 3, frame=frame, categorical={"label": 3})  # type: ignore[arg-type]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5 * torch.randn_like(p))
        model.location.copy_(torch.tensor([0.2, -0.3]))
        model.scale.copy_(torch.tensor([0.8, 1.3]))
    return DRMMQuery(model)


@cache
def drmm_grid(frame: str) -> Grid:
    query = drmm(frame)
    codes, log_prior, means, factors = query.model.paths()
    wide = torch.diag_embed(factors) if factors.dim() == 2 else factors
    location, scale = query.model.location, query.model.scale
    law = torch.distributions.MultivariateNormal(
        location + scale * means, scale_tril=scale.unsqueeze(-1) * wide, validate_args=False
    )
    labels = log_prior.unsqueeze(1) + query.model.stream_logits("label", codes).log_softmax(-1)
    middle = (log_prior.exp().unsqueeze(1) * law.mean).sum(0)
    spread = (log_prior.exp().unsqueeze(1) * (law.variance + (law.mean - middle).square())).sum(0).sqrt()
    return Grid(
        lambda x: (law.log_prob(x.unsqueeze(1)).unsqueeze(2) + labels).logsumexp(1), middle.detach(), spread.detach()
    )


@pytest.mark.parametrize("method", ["exact", "smc"])
@pytest.mark.parametrize("frame", ["diag", "tril"])
@pytest.mark.parametrize("name", KINDS)
def test_drmm_answers_every_kind_of_evidence(name: str, frame: str, method: str) -> None:
    query = drmm(frame)
    for label, allowed in LABELS.values():
        truth = drmm_grid(frame).truth(KINDS[name], allowed)
        evidence = {"x": KINDS[name].pieces} | ({} if label is None else {"label": label})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", QueryWarning)  # five prefixes of nine are few
            answer = query.ask(evidence, num_samples=2000, method=method, num_particles=5, seed=1)
        check(answer, truth, "x", KINDS[name])
        share = torch.zeros(3, dtype=torch.float64).index_add(0, answer.samples["label"], answer.weights)
        assert bool((share[truth.label == 0] == 0).all())
        error = (truth.label * (1 - truth.label)).clamp_min(0).div(float(answer.ess)).sqrt()
        assert bool(((share - truth.label).abs() < Z * error + 0.02).all())
        if method == "exact":
            assert float(query.log_evidence(evidence, seed=0)) == pytest.approx(truth.log_evidence, abs=0.05)
            assert torch.allclose(query.predict_proba("label", evidence, seed=0), truth.label, atol=0.02)


@pytest.mark.parametrize("frame", ["diag", "tril"])
def test_drmm_takes_fractional_masks_component_by_component(frame: str) -> None:
    query, m = drmm(frame), 0.6
    answer = query.ask({"x": Known([0.7, 0.0], [m, 0])}, num_samples=4000, seed=0)
    _, log_prior, means, factors = query.model.paths()
    location, scale = query.model.location[0], query.model.scale[0]
    own = scale * (factors if factors.dim() == 2 else factors.norm(dim=-1))[:, 0]
    mean, wide = location + scale * means[:, 0], own / m  # s^2 + s^2 (1 / m^2 - 1)
    log_mass = log_prior + torch.distributions.Normal(mean, wide).log_prob(torch.tensor(0.7, dtype=torch.float64))
    assert float(answer.log_evidence) == pytest.approx(float(log_mass.logsumexp(0)), abs=1e-9)
    posterior = log_mass.softmax(0) @ (mean + m**2 * (0.7 - mean))
    assert float(answer.mean("x")[0]) == pytest.approx(float(posterior), abs=Z * float(own.max()) / 4000**0.5)


def test_drmm_refuses_what_a_category_cannot_be() -> None:
    for piece in (Near(1.0, 0.5), Within(0.0, 1.0), HalfSpace([1.0], 0.0)):
        with pytest.raises(EvidenceError, match="categorical"):
            drmm("diag").ask({"label": piece})


@pytest.mark.parametrize("method", ["importance", "hmc"])
def test_methods_of_the_generic_path_are_refused_by_name(method: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown query method '{method}'.*Choose from: auto, exact, smc\."):
        drmm("diag").ask({}, num_samples=20, method=method)
    with pytest.raises(ConfigError, match=rf"unknown query method '{method}'.*Choose from: auto, exact\."):
        mdn("diag").query({}, num_samples=20, method=method)


# ---- MDN


@cache
def mdn(kind: str, weights: str = "point") -> MDN:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, 1)).astype(np.float32)
    y = np.concatenate([np.sin(2 * x), 0.5 * x], 1) + 0.4 * generator.normal(size=(80, 2))
    options = {
        "kind": kind, "hidden": (8,), "num_components": 3, "steps": 30, "batch_size": 40, "weights": weights,
        "posterior_steps": 3, "weight_samples": 24, "init_scale": 0.3,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MDN(options).fit({"x": x, "y": y.astype(np.float32)}, progress="off")


def mdn_grid(system: MDN, x: Tensor) -> Grid:
    """The density of targets averaged over equally probable inputs x (m, 1)."""
    law = system.predictive(x.float())

    def density(y: Tensor) -> Tensor:
        each = [law[i].log_prob(y.float()).double() for i in range(len(x))]
        return (torch.stack(each).logsumexp(0) - math.log(len(x))).unsqueeze(1)

    mean = law.mean.double()
    return Grid(density, mean.mean(0), (law.variance.double().mean(0) + mean.var(0, correction=0)).sqrt())


@cache
def mdn_grid_at(kind: str) -> Grid:
    return mdn_grid(mdn(kind), torch.tensor([[0.3]]))


@pytest.mark.parametrize("kind", ["diag", "full", "bivariate", "factorised"])
@pytest.mark.parametrize("name", KINDS)
def test_mdn_answers_every_kind_of_evidence_about_targets(name: str, kind: str) -> None:
    answer = mdn(kind).query({"x": [0.3], "y": KINDS[name].pieces}, num_samples=2000, seed=1)
    assert bool((answer.samples["x"] == 0.3).all())
    check(answer, mdn_grid_at(kind).truth(KINDS[name], [0]), "y", KINDS[name])


INPUTS: dict[str, tuple[Any, Callable[[Tensor], Tensor]]] = {
    "near": (Near(0.2, 0.5), lambda u: 0.2 + 0.5 * torch.special.ndtri(u)),
    "within": (Within(-1.0, 1.5), lambda u: -1.0 + 2.5 * u),
    "near and within": (
        [Near(0.2, 0.5), Within(0.2, 9.0)],
        lambda u: 0.2 + 0.5 * torch.special.ndtri(0.5 + 0.5 * u),
    ),
    "nothing": (None, lambda u: u),
}


@cache
def mdn_grid_over(said: str) -> Grid:
    x = INPUTS[said][1]((torch.arange(40, dtype=torch.float64) + 0.5) / 40).unsqueeze(1)
    return mdn_grid(mdn("full"), mdn("full").network.inputs.double() if said == "nothing" else x)


@pytest.mark.parametrize("said", INPUTS)
@pytest.mark.parametrize("name", ["nothing", "known", "near", "within both", "half-spaces"])
def test_mdn_averages_over_inputs_that_are_not_known(name: str, said: str) -> None:
    piece = INPUTS[said][0]
    evidence = {"y": KINDS[name].pieces} | ({} if piece is None else {"x": piece})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QueryWarning)
        answer = mdn("full").query(evidence, num_samples=2000, seed=1)
    truth = mdn_grid_over(said).truth(KINDS[name], [0])
    if said == "near and within":  # the box of the input is evidence, too
        truth = truth._replace(log_evidence=truth.log_evidence + math.log(0.5))
    check(answer, truth, "y", KINDS[name], 0.02)


@cache
def mdn_grid_random() -> Grid:
    system, many = mdn("diag", "mean_field"), 300
    weights = system.guide.draw(many, torch.Generator().manual_seed(5))
    with torch.no_grad():
        law = system.model.network.likelihood(torch.tensor([[0.3]]), weights)
        mean, variance = law.mean.double()[:, 0], law.variance.double()[:, 0]

        def density(y: Tensor) -> Tensor:
            each = law.log_prob(y.float().reshape(-1, 1, 1, 2)).double().reshape(len(y), many)
            return (each.logsumexp(1) - math.log(many)).unsqueeze(1)

        return Grid(torch.no_grad()(density), mean.mean(0), (variance.mean(0) + mean.var(0)).sqrt(), 101)


@pytest.mark.parametrize("name", ["known", "near", "within both", "half-spaces"])
def test_mdn_with_random_weights_counts_how_many_were_drawn(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QueryWarning)  # 24 draws of the weights are few
        answer = mdn("diag", "mean_field").query({"x": [0.3], "y": KINDS[name].pieces}, num_samples=2000, seed=1)
    assert answer.log_evidence_error is not None
    assert float(answer.log_evidence_error) > 0
    assert "24 draws of the weights" in answer.method
    check(answer, mdn_grid_random().truth(KINDS[name], [0]), "y", KINDS[name], 0.05)  # 300 draws are a sample, too
