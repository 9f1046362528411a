"""Conditioned Gaussian mixtures against brute-force grids, closed forms and random evidence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phlogiston.distributions.gaussian_conditioning import condition, orthogonalise, remoteness
from phlogiston.distributions.gaussian_evidence import _SETTLED, ConditionedMixture, _settled
from phlogiston.distributions.linear_constraints import LinearEvidence, Rows, is_feasible, plan, project, simplify
from phlogiston.distributions.normal_interval import log_interval_mass, log_normal_density
from phlogiston.distributions.resampling import effective_size, log_mean
from phlogiston.errors import EvidenceError

INF = math.inf


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def double(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def evidence(
    dim: int = 2,
    known: dict[int, float] | None = None,
    low: dict[int, float] | None = None,
    high: dict[int, float] | None = None,
    rows: list[tuple[list[float], float, float]] | None = None,
    soft: dict[int, tuple[float, float]] | None = None,
    fraction: dict[int, tuple[float, float]] | None = None,
    weight: float = 1.0,
) -> LinearEvidence:
    made = LinearEvidence.nothing(dim)
    fields = {k: v.clone() if isinstance(v, Tensor) else v for k, v in vars(made).items()}
    for i, v in (known or {}).items():
        fields["known"][i], fields["values"][i] = True, v
    for i, v in (low or {}).items():
        fields["lower"][i] = v
    for i, v in (high or {}).items():
        fields["upper"][i] = v
    if rows:
        fields["rows"] = Rows(
            double([r[0] for r in rows]), double([r[1] for r in rows]), double([r[2] for r in rows]),
            double([weight] * len(rows)),
        )  # fmt: skip
    fields["box_weight"] = fields["box_weight"] * weight
    pieces = [(i, m, s, 0.0) for i, (m, s) in (soft or {}).items()]
    pieces += [(i, m, 1.0, f) for i, (m, f) in (fraction or {}).items()]
    if pieces:
        fields["soft"] = torch.tensor([p[0] for p in pieces])
        fields["soft_mean"], fields["soft_sd"], fields["soft_fraction"] = (
            double([p[j] for p in pieces]) for j in (1, 2, 3)
        )
        fields["soft_weight"] = double([1.0] * len(pieces))
    return LinearEvidence(**fields)


def mixture(frame: str, components: int = 12, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    log_prior = torch.randn(components, generator=g, dtype=torch.float64).log_softmax(0)
    means = 1.2 * torch.randn(components, 2, generator=g, dtype=torch.float64)
    sd = 0.15 + 0.4 * torch.rand(components, 2, generator=g, dtype=torch.float64)
    if frame == "diag":
        return log_prior, means, sd
    factors = torch.diag_embed(sd)
    factors[:, 1, 0] = 0.5 * torch.randn(components, generator=g, dtype=torch.float64)
    return log_prior, means, factors


def log_density(x: Tensor, log_prior: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    full = torch.diag_embed(factors) if factors.dim() == 2 else factors
    total = torch.full((len(x),), -INF, dtype=x.dtype)
    for weight, mean, factor in zip(log_prior, means, full, strict=True):
        z = torch.linalg.inv(factor) @ (x - mean).T
        piece = weight - factor.diagonal().log().sum() - math.log(2 * math.pi) - 0.5 * z.square().sum(0)
        total = torch.logaddexp(total, piece)
    return total


class Grid:
    """Brute force: the evidence's density on a fine grid, its integral and its 40 x 40 cells."""

    def __init__(self, mix: tuple[Tensor, Tensor, Tensor], e: LinearEvidence, cells: int = 40, fine: int = 12) -> None:
        draws = ConditionedMixture(*mix, e).sample(4000)
        x = draws.x[draws.log_weights > -INF]
        x = torch.cat([x, ConditionedMixture(*mix, e).sample(4000).x])
        self.edges = []
        for d in range(2):
            low, high = x[:, d].min().item(), x[:, d].max().item()
            pad = 0.3 * (high - low)
            low, high = max(low - pad, e.lower[d].item()), min(high + pad, e.upper[d].item())
            self.edges.append(np.linspace(low, high, cells + 1))
        axes = [e.values[d : d + 1] if e.known[d] else self._middles(self.edges[d], fine) for d in range(2)]
        points = torch.cartesian_prod(*axes)
        volume = math.prod((self.edges[d][1] - self.edges[d][0]) / fine for d in range(2) if not e.known[d])
        value = log_density(points, *mix)
        if len(e.rows):
            value = torch.where((e.rows.violation(points) <= 0).all(1), value, -INF)
        for i, m, s in zip(e.soft, e.soft_mean, e.soft_sd, strict=True):
            value = value + torch.distributions.Normal(m, s).log_prob(points[:, i])
        self.log_evidence = (torch.logsumexp(value, 0) + math.log(volume)).item()
        self.probs = self._bin(points, value.softmax(0))

    @staticmethod
    def _middles(edges: np.ndarray, fine: int) -> Tensor:
        step = (edges[1] - edges[0]) / fine
        return double(edges[0] + step * (np.arange(fine * (len(edges) - 1)) + 0.5))

    def _bin(self, x: Tensor, weights: Tensor) -> np.ndarray:
        table = np.histogram2d(x[:, 0].numpy(), x[:, 1].numpy(), bins=self._bins(), weights=weights.numpy())[0]
        return table / weights.sum().item()

    def _bins(self) -> list[np.ndarray]:
        return [e if e[-1] > e[0] else np.array([e[0] - 1, e[0] + 1]) for e in self.edges]

    def distance(self, x: Tensor, log_weights: Tensor) -> float:
        alive = log_weights > -INF
        return 0.5 * float(np.abs(self._bin(x[alive], log_weights[alive].softmax(0)) - self.probs).sum())

    def ideal(self, n: int, rng: np.random.Generator) -> float:
        counts = rng.multinomial(n, self.probs.ravel() / self.probs.sum(), size=20) / n
        return float(0.5 * np.abs(counts - self.probs.ravel()).sum(1).mean())


CASES = {
    "nothing": evidence(),
    "known": evidence(known={0: 0.4}),
    "soft": evidence(soft={1: (0.5, 0.3)}),
    "two soft": evidence(soft={0: (0.2, 0.5), 1: (0.5, 0.3)}),
    "interval": evidence(low={0: 0.1}, high={0: 0.9}),
    "box": evidence(low={0: 0.1, 1: -0.5}, high={0: 0.9, 1: 0.6}),
    "corner box": evidence(low={0: 2.0, 1: 2.0}),
    "half-space": evidence(rows=[([2.0, -1.0], 0.3, INF)]),
    "strip": evidence(rows=[([1.0, 1.0], 0.2, INF), ([-2.0, -2.0], -1.0, INF)]),
    "wedge": evidence(rows=[([2.0, -1.0], 0.3, INF), ([-1.0, -1.0], -1.8, INF)]),
    "triangle": evidence(rows=[([1.0, 0.2], 0.0, INF), ([-1.0, -1.0], -1.5, INF), ([0.1, 1.0], -0.3, INF)]),
    "known and half-space": evidence(known={1: 0.2}, rows=[([1.0, 1.0], 0.3, INF)]),
    "known and box": evidence(known={1: 0.2}, low={0: -0.2}, high={0: 0.8}),
    "box and half-space": evidence(
        low={0: 0.2, 1: -0.5}, high={0: 1.2, 1: 0.3}, rows=[([1.0, 1.0], 0.6, INF)]
    ),
    "soft and box": evidence(soft={0: (0.5, 0.3)}, low={0: 0.2, 1: -0.5}, high={0: 1.2, 1: 0.3}),
    "soft and wedge": evidence(
        soft={1: (0.5, 0.3)}, rows=[([2.0, -1.0], 0.3, INF), ([-1.0, -1.0], -1.8, INF)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("frame", ["diag", "tril"])
@pytest.mark.parametrize("name", CASES)
def test_samples_and_log_evidence_match_a_brute_force_grid(name: str, frame: str) -> None:
    e, mix = CASES[name], mixture(frame)
    query = ConditionedMixture(*mix, e)
    grid = Grid(mix, e)
    distances, logs = [], []
    for _ in range(8):
        draws = query.sample(4000)
        distances.append(grid.distance(draws.x, draws.log_weights))
        logs.append(log_mean(draws.log_weights).item())
    assert np.mean(distances) <= 1.25 * grid.ideal(4000, np.random.default_rng(0))
    # the grid itself resolves slanted edges to about 0.003 nats
    assert np.mean(logs) == pytest.approx(grid.log_evidence, abs=0.02)
    assert max(abs(v - grid.log_evidence) for v in logs) < 0.05
    if query.exact:
        assert np.ptp(logs) < 1e-9
        assert query.log_evidence.item() == pytest.approx(logs[0], abs=1e-9)


@pytest.mark.parametrize("frame", ["diag", "tril"])
def test_a_rare_box_is_estimated_well_because_of_the_pilot(frame: str) -> None:
    log_prior, means, factors = mixture(frame)
    e = evidence(low={0: 3.2, 1: -3.4}, high={0: 3.4, 1: -3.2})
    logs = [
        log_mean(ConditionedMixture(log_prior, means, factors, e).sample(4000).log_weights).item() for _ in range(8)
    ]
    grid = Grid((log_prior, means, factors), e)
    assert grid.log_evidence < -15
    assert np.mean(logs) == pytest.approx(grid.log_evidence, abs=0.02)
    assert np.std(logs) < 0.03


def test_a_fractional_mask_widens_by_the_components_own_spread() -> None:
    log_prior, means, sd = mixture("diag", components=1)
    m = 0.8
    e = evidence(fraction={0: (0.7, m)})
    tau = sd[0, 0] * math.sqrt(1 / m**2 - 1)
    want = torch.distributions.Normal(means[0, 0], torch.hypot(sd[0, 0], tau)).log_prob(double(0.7)).item()
    for factors in (sd, torch.diag_embed(sd)):
        assert ConditionedMixture(log_prior, means, factors, e).log_evidence.item() == pytest.approx(want)


def test_diagonal_and_full_frames_agree_on_the_same_gaussians() -> None:
    log_prior, means, sd = mixture("diag")
    for e in CASES.values():
        a = ConditionedMixture(log_prior, means, sd, e)
        b = ConditionedMixture(log_prior, means, torch.diag_embed(sd), e)
        assert torch.allclose(a.log_twist, b.log_twist, atol=1e-9)


@pytest.mark.parametrize("frame", ["diag", "tril"])
@pytest.mark.parametrize("kind", ["known", "soft", "interval", "half-space", "known and half-space"])
def test_log_evidence_has_correct_gradients_in_the_evidence(kind: str, frame: str) -> None:
    mix = mixture(frame)
    base = CASES[kind]

    def value(v: Tensor, low: Tensor, high: Tensor, soft: Tensor, row_low: Tensor) -> Tensor:
        rows = Rows(base.rows.coefficients, row_low, base.rows.upper, base.rows.weight)
        e = LinearEvidence(
            base.known, v, low, high, base.box_weight, rows, base.soft, soft, base.soft_sd, base.soft_fraction,
            base.soft_weight,
        )  # fmt: skip
        return ConditionedMixture(*mix, e).log_evidence

    inputs = (base.values, base.lower, base.upper, base.soft_mean, base.rows.lower)
    inputs = tuple(t.clone().requires_grad_(bool(t.numel()) and bool(torch.isfinite(t).any())) for t in inputs)
    grads = torch.autograd.grad(value(*inputs), [t for t in inputs if t.requires_grad], allow_unused=True)
    checked = 0
    for t, grad in zip([t for t in inputs if t.requires_grad], grads, strict=True):
        for i in range(len(t)):
            if not torch.isfinite(t[i]):
                continue
            up, down = ([u.detach().clone() for u in inputs] for _ in range(2))
            position = next(j for j, u in enumerate(inputs) if u is t)
            up[position][i] += 1e-5
            down[position][i] -= 1e-5
            slope = (value(*up) - value(*down)).item() / 2e-5
            got = 0.0 if grad is None else grad[i].item()
            assert got == pytest.approx(slope, rel=1e-5, abs=1e-8)
            checked += abs(slope) > 1e-6
    assert checked > 0


def equicorrelated_log_mass(dim: int, rho: float, low: float, high: float) -> float:
    z, w = np.polynomial.hermite_e.hermegauss(200)
    a = (low - math.sqrt(rho) * z) / math.sqrt(1 - rho)
    b = (high - math.sqrt(rho) * z) / math.sqrt(1 - rho)
    terms = dim * log_interval_mass(double(a), double(b)).numpy() + np.log(w) - 0.5 * math.log(2 * math.pi)
    return float(np.logaddexp.reduce(terms))


@pytest.mark.parametrize("dim", [30, 60])
def test_boxes_in_many_dimensions_meet_the_one_dimensional_integral(dim: int) -> None:
    rho, n = 0.3, 4000
    covariance = rho * torch.ones(dim, dim, dtype=torch.float64) + (1 - rho) * torch.eye(dim, dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance).unsqueeze(0)
    e = evidence(dim, low=dict.fromkeys(range(dim), -0.5), high=dict.fromkeys(range(dim), 1.5))
    query = ConditionedMixture(torch.zeros(1).double(), torch.zeros(1, dim).double(), factor, e)
    draws = query.sample(n)
    error = 1 / math.sqrt(effective_size(draws.log_weights))
    assert log_mean(draws.log_weights).item() == pytest.approx(
        equicorrelated_log_mass(dim, rho, -0.5, 1.5), abs=5 * error
    )
    assert error < 0.05
    assert ((draws.x >= -0.5 - 1e-12) & (draws.x <= 1.5 + 1e-12)).all()


def test_conditioning_in_many_dimensions_agrees_with_the_textbook() -> None:
    dim = 40
    root = torch.randn(dim, dim, dtype=torch.float64)
    factor = torch.linalg.cholesky(root @ root.T / dim + 0.1 * torch.eye(dim, dtype=torch.float64))
    mean = torch.randn(dim, dtype=torch.float64)
    known = {i: float(v) for i, v in zip(range(0, dim, 2), torch.randn(20), strict=True)}
    query = ConditionedMixture(
        torch.zeros(1).double(), mean.unsqueeze(0), factor.unsqueeze(0), evidence(dim, known=known)
    )
    index = torch.tensor(list(known))
    rest = torch.tensor([i for i in range(dim) if i not in known])
    covariance = factor @ factor.T
    gain = covariance[rest][:, index] @ torch.linalg.inv(covariance[index][:, index])
    value = double(list(known.values()))
    law = torch.distributions.MultivariateNormal(mean[index], covariance[index][:, index])
    assert query.log_evidence.item() == pytest.approx(law.log_prob(value).item(), rel=1e-9)
    assert torch.allclose(query.conditioned.mean[0], mean[rest] + gain @ (value - mean[index]))
    left = covariance[rest][:, rest] - gain @ covariance[index][:, rest]
    assert torch.allclose(query.conditioned.factor[0] @ query.conditioned.factor[0].T, left, atol=1e-9)


def test_noise_free_draws_are_constrained_means() -> None:
    e = CASES["box"]
    query = ConditionedMixture(*mixture("tril"), e)
    draws = query.sample(200, noise=False)
    assert e.rows.violation(draws.x).sum() == 0
    assert ((draws.x >= e.lower - 1e-12) & (draws.x <= e.upper + 1e-12)).all()
    assert len(draws.x.unique(dim=0)) <= 12


def test_weights_of_evidence_change_the_proposal_but_not_the_answer() -> None:
    mix = mixture("tril")
    rows = [([2.0, -1.0], 0.3, INF)]
    plain = ConditionedMixture(*mix, evidence(rows=rows))
    eased = ConditionedMixture(*mix, evidence(rows=rows, weight=0.3))
    assert not torch.allclose(plain.log_twist, eased.log_twist)
    draws = eased.sample(20_000)
    assert log_mean(draws.log_weights).item() == pytest.approx(plain.log_evidence.item(), abs=0.01)
    tempered = ConditionedMixture(*mix, evidence(rows=rows, weight=0.3), temper=True).sample(20_000)
    share = torch.bincount(tempered.component, minlength=12).double() / 20_000
    assert torch.allclose(share, eased.log_twist.softmax(0), atol=1e-3)
    assert tempered.log_weights.std() < 1e-9


def random_evidence(dim: int, g: np.random.Generator) -> LinearEvidence:
    e = evidence(
        dim,
        known={int(i): float(g.normal()) for i in g.choice(dim, g.integers(0, dim), replace=False)},
        soft={int(i): (float(g.normal()), float(g.uniform(0.05, 2))) for i in g.choice(dim, g.integers(0, dim), False)},
    )  # fmt: skip
    low, high = torch.full((dim,), -INF).double(), torch.full((dim,), INF).double()
    for i in range(dim):
        if g.random() < 0.5 and not e.known[i]:
            centre, half = g.normal() * 2, g.uniform(0.001, 2)
            low[i], high[i] = (centre - half, centre + half) if g.random() < 0.6 else (centre, INF)
    count = int(g.integers(0, dim + 2))
    table = double(g.normal(size=(count, dim)) * 10.0 ** g.uniform(-2, 2))
    inside = torch.where(
        e.known, e.values, torch.where(low > -INF, torch.where(high < INF, (low + high) / 2, low + 0.5), 0.0)
    )
    limit = table @ inside - double(g.exponential(size=count)) * table.norm(dim=1) * float(g.choice([0.01, 1.0]))
    rows = Rows(table, limit, torch.full_like(limit, INF), torch.ones_like(limit))
    soft = ~e.known[e.soft]
    return LinearEvidence(
        e.known, e.values, low, high, e.box_weight, rows, e.soft[soft], e.soft_mean[soft], e.soft_sd[soft],
        e.soft_fraction[soft], e.soft_weight[soft],
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.booleans())
def test_every_draw_satisfies_every_hard_constraint(seed: int, dim: int, full: bool) -> None:
    g = np.random.default_rng(seed)
    torch.manual_seed(seed)
    e = random_evidence(dim, g)
    means = double(g.normal(size=(5, dim)))
    factors = double(g.uniform(0.05, 1.5, size=(5, dim)))
    if full:
        factors = torch.tril(double(g.normal(size=(5, dim, dim)))) * (1 - torch.eye(dim)) + torch.diag_embed(factors)
    draws = ConditionedMixture(torch.zeros(5).double(), means, factors, e).sample(50)
    x, good = project(draws.x, e)
    alive = draws.log_weights > -INF
    assert not torch.isnan(draws.log_weights).any()
    x = x[alive & good]
    assert torch.isfinite(x).all()
    assert (good[alive]).all()
    assert torch.equal(x[:, e.known], e.values[e.known].expand(len(x), -1))
    assert ((x >= e.lower) & (x <= e.upper))[:, ~e.known].all()
    for a, low in zip(e.rows.coefficients, e.rows.lower, strict=True):
        if bool((a[~e.known] != 0).any()):
            assert (x @ a >= low).all()


IMPOSSIBLE = {
    "value outside its box": evidence(known={0: 2.0}, high={0: 1.0}),
    "values against an inequality": evidence(known={0: 0.0, 1: 0.0}, rows=[([1.0, 1.0], 0.5, INF)]),
    "opposite half-spaces": evidence(rows=[([1.0, 1.0], 0.5, INF), ([-1.0, -1.0], 0.5, INF)]),
    "half-space against a box": evidence(high={0: 0.0}, rows=[([2.0, 0.0], 1.0, INF)]),
    "an inequality without variables": evidence(rows=[([0.0, 0.0], 1.0, INF)]),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_contradictions_are_found_before_any_draw(name: str) -> None:
    with pytest.raises(EvidenceError):
        ConditionedMixture(*mixture("tril"), IMPOSSIBLE[name])


def test_an_empty_polygon_gives_zero_weights_and_is_recognised_as_infeasible() -> None:
    e = evidence(rows=[([1.0, 0.0], 0.0, INF), ([0.0, 1.0], 0.0, INF), ([-1.0, -1.0], 0.5, INF)])
    draws = ConditionedMixture(*mixture("tril"), e).sample(100)
    assert torch.isneginf(draws.log_weights).all()
    assert not is_feasible(simplify(e))
    assert is_feasible(simplify(CASES["triangle"]))


def test_parallel_rows_merge_and_single_variable_rows_join_the_box() -> None:
    e = evidence(low={0: 0.0}, rows=[([2.0, 0.0], 1.0, INF), ([-3.0, -3.0], -INF, 3.0), ([1.0, 1.0], -INF, 5.0)])
    rows = simplify(e)
    assert len(rows) == 2
    assert rows.lower[0] == 0.5
    assert rows.lower[1].item() == pytest.approx(-1 / math.sqrt(2))
    assert rows.upper[1].item() == pytest.approx(5 / math.sqrt(2))


def test_plan_assigns_dependent_rows_to_their_last_coordinate() -> None:
    found = plan(double([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [2.0, 0.0, 0.0]]))
    assert found.independent.tolist() == [0, 1, 3]
    assert found.groups == ((0, 4), (1, 2), (3,))


@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_orthogonal_factors_reproduce_the_rows(k: int) -> None:
    rows = torch.randn(7, k, 12, dtype=torch.float64)
    rows[0, -1] = rows[0, 0] + 1e-6 * rows[0, -1]  # nearly dependent
    lower, q = orthogonalise(rows)
    assert torch.allclose(lower @ q, rows, atol=1e-10)
    assert torch.allclose(q @ q.mT, torch.eye(k, dtype=torch.float64).expand(7, k, k), atol=1e-9)
    assert torch.allclose(lower, lower.tril())


@pytest.mark.parametrize("correlation", [-0.999, 0.0, 0.999])
def test_settled_masses_are_known_whatever_the_correlation(correlation: float) -> None:
    limits = torch.linspace(-2.0, 4.0, 25, dtype=torch.float64)
    high = torch.cartesian_prod(limits, limits)
    row_mass = log_interval_mass(torch.full_like(high, -INF), high)
    settled = _settled(row_mass, double([1.0, 1.0]))
    assert 0 < settled.sum() < len(settled)
    law = scipy.stats.multivariate_normal([0.0, 0.0], [[1.0, correlation], [correlation, 1.0]])
    joint = double(np.log(law.cdf(high[settled].numpy())))
    assert (joint - row_mass[settled].sum(1)).abs().max() < _SETTLED
    assert not _settled(row_mass, double([1.0, 0.5])).any()


def test_far_corners_of_correlated_components_are_drawn_well() -> None:
    # One thin Gaussian along the diagonal, and a box far off its side: over what the first side allows, the mass of
    # the second varies over thousands of nats.
    factor = double([[[1.0, 0.0], [0.99, 0.05]]])
    box = evidence(low={0: 6.0, 1: -6.0}, high={0: 7.0, 1: -5.0})
    draws = ConditionedMixture(double([0.0]), double([[0.0, 0.0]]), factor, box).sample(2000, pilot=0)
    assert effective_size(draws.log_weights) > 0.9 * 2000
    x = torch.linspace(6.0, 6.02, 200_001, dtype=torch.float64)
    density = log_normal_density(x) + log_interval_mass((-6.0 - 0.99 * x) / 0.05, (-5.0 - 0.99 * x) / 0.05)
    want = torch.logsumexp(density, 0) + (x[1] - x[0]).log()
    assert log_mean(draws.log_weights).item() == pytest.approx(want.item(), abs=0.05)
    assert ((draws.x >= double([6.0, -6.0])) & (draws.x <= double([7.0, -5.0]))).all()


@pytest.mark.parametrize("full", [False, True])
def test_remoteness_is_the_distance_from_the_nearest_component_column_by_column(full: bool) -> None:
    means = torch.randn(4, 6, dtype=torch.float64)
    factors = torch.randn(4, 6, 6, dtype=torch.float64).tril() + 2 * torch.eye(6)
    factors = factors if full else factors.diagonal(dim1=1, dim2=2).abs()
    sd = factors.norm(dim=-1) if full else factors
    e = evidence(6, known={0: 40.0}, low={1: 30.0, 4: -1.0}, high={3: -25.0, 4: 1.0}, soft={5: (50.0, 2.0)})
    found = remoteness(torch.zeros(4), means, factors, e, condition(means, factors, e)).entries
    beyond = torch.stack(
        [
            (40.0 - means[:, 0]).abs() / sd[:, 0],
            (30.0 - means[:, 1]) / sd[:, 1],
            torch.zeros(4),  # of this one nothing is said
            (means[:, 3] + 25.0) / sd[:, 3],
            torch.maximum(-1.0 - means[:, 4], means[:, 4] - 1.0) / sd[:, 4],
            (50.0 - means[:, 5]).abs() / torch.hypot(sd[:, 5], double(2.0)),
        ]
    )
    assert found.tolist() == pytest.approx(beyond.clamp_min(0.0).amin(1).tolist())
