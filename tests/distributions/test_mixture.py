"""The mixture family as mathematics: every answer against quadrature, Monte Carlo or first principles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phlogiston.distributions.gridded import Gridded
from phlogiston.distributions.mixtures.base import Mixture
from phlogiston.distributions.mixtures.diagonal import DiagMixture, FactorisedMixture, IsotropicMixture
from phlogiston.distributions.mixtures.from_head import mixture
from phlogiston.distributions.mixtures.full import BivariateMixture, FullMixture
from phlogiston.distributions.mixtures.members import merge, uncertainty
from phlogiston.errors import ConfigError, ShapeError
from phlogiston.networks.mixture_heads import KINDS, mixture_parameters, num_outputs

DOUBLE = torch.double
JOINT = [kind for kind in KINDS if kind != "factorised"]


def make(kind: str, batch: tuple[int, ...] = (), k: int = 3, d: int = 2, dtype: torch.dtype = DOUBLE) -> Mixture:
    """A mixture with well separated, clearly different components."""
    raw = torch.randn(*batch, num_outputs(kind, k, d), dtype=dtype)
    raw = torch.cat([1.5 * raw[..., :-k], 0.6 * raw[..., -k:]], -1)  # the last k are correlations, if there are any
    return mixture(mixture_parameters(raw, kind, k, d, "softplus", 0.35))


def grid(side: float = 16.0, n: int = 801) -> tuple[Tensor, float]:
    axis = torch.linspace(-side, side, n, dtype=DOUBLE)
    return torch.cartesian_prod(axis, axis), float((axis[1] - axis[0]) ** 2)


def on_grid(m: Mixture) -> tuple[Tensor, Tensor]:
    """Points of the plane and the probability of the cell around each: the trapezoid rule, exact for smooth tails."""
    points, cell = grid()
    return points, m.log_prob(points).exp() * cell


def slide() -> DiagMixture:
    """Two humps, weights one half, at -5 and 5, with standard deviations 2 and 3."""
    return DiagMixture(
        torch.zeros(2, dtype=DOUBLE),
        torch.tensor([[-5.0], [5.0]], dtype=DOUBLE),
        torch.tensor([[2.0], [3.0]], dtype=DOUBLE),
    )


# ---- densities, moments, draws


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_integrates_to_one_and_its_moments_are_those_of_the_grid(kind: str) -> None:
    m = make(kind)
    points, mass = on_grid(m)
    assert float(mass.sum()) == pytest.approx(1.0, abs=1e-6)
    mean = mass @ points
    torch.testing.assert_close(m.mean, mean, atol=1e-5, rtol=1e-5)
    gap = points - mean
    covariance = (mass[:, None] * gap).T @ gap
    torch.testing.assert_close(m.covariance, covariance, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(m.variance, covariance.diagonal(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_log_prob_agrees_with_scipy(kind: str) -> None:
    m = make(kind)
    value = torch.randn(5, 2, dtype=DOUBLE) * 3
    joint = m.joint() if isinstance(m, FactorisedMixture) else m
    weight = joint.logits.softmax(-1)
    want = sum(
        w * scipy.stats.multivariate_normal(loc, covariance).pdf(value.numpy())
        for w, loc, covariance in zip(
            weight.tolist(), joint.loc.numpy(), joint.component_covariance().numpy(), strict=True
        )
    )
    np.testing.assert_allclose(m.log_prob(value).exp().numpy(), want, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_follow_the_density(kind: str) -> None:
    m = make(kind, batch=(2,))
    y = m.sample((20_000,))
    for b in range(2):
        for d in range(2):  # chance of a false alarm: 1e-6 each
            cdf = m[b].cdf(y[:, b])[:, d]
            assert scipy.stats.kstest(cdf.numpy(), "uniform").pvalue > 1e-6
    error = m.covariance.diagonal(dim1=-2, dim2=-1).sqrt() / math.sqrt(20_000)
    assert bool(((y.mean(0) - m.mean).abs() < 5.5 * error).all())
    gap = y - m.mean
    product = gap[..., 0] * gap[..., 1]
    assert bool(((product.mean(0) - m.covariance[:, 0, 1]).abs() < 5.5 * product.std(0) / math.sqrt(20_000)).all())


def test_draws_are_reproducible_with_a_generator_and_carry_no_gradient() -> None:
    m = make("full")
    m.loc.requires_grad_()
    one, two = (m.draw((4,), generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, two)
    assert not one.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_cdf_and_crps_are_the_integrals_they_should_be(kind: str) -> None:
    m = make(kind)
    axis = torch.linspace(-25, 25, 20_001, dtype=DOUBLE)
    step = float(axis[1] - axis[0])
    value = torch.tensor([0.7, -1.3], dtype=DOUBLE)
    both = torch.stack([axis, axis], -1)
    density = m.marginal_log_prob(both).exp()
    below = (density.cumsum(0) - 0.5 * density) * step
    torch.testing.assert_close(m.cdf(both), below, atol=1e-6, rtol=0)
    want = ((below - (both >= value).to(DOUBLE)) ** 2).sum(0) * step
    torch.testing.assert_close(m.crps(value), want, atol=3e-3, rtol=0)


def test_crps_agrees_with_monte_carlo_and_with_the_normal_formula() -> None:
    m, y = slide(), torch.tensor([1.0], dtype=DOUBLE)
    draws = m.sample((200_000,))
    want = (draws - y).abs().mean() - 0.5 * (draws[:100_000] - draws[100_000:]).abs().mean()
    assert float(m.crps(y)) == pytest.approx(float(want), abs=0.04)
    one = DiagMixture(torch.zeros(1), torch.tensor([[2.0]]), torch.tensor([[3.0]]))
    z = (1.0 - 2.0) / 3.0
    normal = 3.0 * (z * (2 * scipy.stats.norm.cdf(z) - 1) + 2 * scipy.stats.norm.pdf(z) - 1 / math.sqrt(math.pi))
    assert float(one.crps(torch.tensor([1.0]))) == pytest.approx(normal, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_quantiles_invert_the_cdf_to_nine_digits(kind: str) -> None:
    m = make(kind, batch=(3,))
    levels = torch.tensor([1e-6, 0.01, 0.3, 0.5, 0.99, 1 - 1e-6], dtype=DOUBLE)
    found = m.quantile(levels)
    assert found.shape == (6, 3, 2)
    torch.testing.assert_close(m.cdf(found), levels[:, None, None].expand(6, 3, 2), atol=1e-11, rtol=1e-9)
    assert bool((found.diff(dim=0) > 0).all())
    ends = m.quantile([0.0, 1.0])
    assert bool((ends[0] == -math.inf).all())
    assert bool((ends[1] == math.inf).all())


def test_the_two_humps_have_the_figures_one_can_look_up() -> None:
    m = slide()
    density = m.log_prob(torch.tensor([[-5.0], [0.0], [5.0]], dtype=DOUBLE)).exp()
    assert density.tolist() == pytest.approx([0.0999926, 0.0209616, 0.0664908], abs=1e-5)
    assert float(m.mean) == 0.0
    assert float(m.variance) == pytest.approx(31.5)
    assert float(m.cdf(torch.zeros(1))) == pytest.approx(0.520790, abs=1e-5)
    assert m.quantile([0.05, 0.5, 0.95]).flatten().tolist() == pytest.approx([-7.56326, -1.0, 8.84465], abs=1e-5)
    assert m.modes().points.flatten().tolist() == pytest.approx([-5.0, 5.0], abs=0.02)


# ---- shape of the density


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_lies_between_its_bounds(kind: str) -> None:
    m = make(kind, batch=(4,))
    low, high = m.entropy_bounds()
    draws = -m.log_prob(m.sample((20_000,)))
    error = 5 * draws.std(0) / math.sqrt(20_000)
    assert bool((low <= draws.mean(0) + error).all())
    assert bool((draws.mean(0) <= high + error).all())
    assert bool((low <= high).all())


def test_entropy_bounds_meet_for_one_component() -> None:
    m = make("full", k=1)
    low, high = m.entropy_bounds()
    want = scipy.stats.multivariate_normal(m.loc[0].numpy(), m.covariance.numpy()).entropy()
    assert float(low) == pytest.approx(want)
    assert float(high) == pytest.approx(want)


def test_modes_on_the_line_are_the_local_maxima_of_a_fine_grid() -> None:
    m = make("diag", batch=(40,), k=5, d=1)
    found = m.modes()
    axis = torch.linspace(-10, 10, 40_001, dtype=DOUBLE)
    heights = m.log_prob(axis[:, None, None])  # (grid, batch)
    peaks = (heights[1:-1] > heights[:-2]) & (heights[1:-1] > heights[2:])
    for b in range(40):
        want = axis[1:-1][peaks[:, b]]
        got = found.points[b][found.mask[b]].flatten().sort().values
        # two maxima closer than a tenth of the narrowest component count as one
        want = want[torch.cat([torch.ones(1, dtype=torch.bool), want.diff() > 0.1 * float(m.scale[b].min())])]
        torch.testing.assert_close(got, want, atol=1e-3, rtol=0)
        shown = found.log_density[b][found.mask[b]]
        assert bool((shown.diff() <= 0).all()), "highest first"


@pytest.mark.parametrize("kind", KINDS)
def test_modes_in_the_plane_are_higher_than_everything_around_them(kind: str) -> None:
    m = make(kind, batch=(6,))
    found = m.modes()
    assert bool(found.mask[:, 0].all())
    angle = torch.linspace(0, 2 * math.pi, 16, dtype=DOUBLE)
    around = 0.01 * torch.stack([angle.cos(), angle.sin()], -1)
    near = m.unsqueeze(-1).log_prob(found.points.nan_to_num().unsqueeze(0) + around[:, None, None])
    assert bool((near < found.log_density + 1e-9)[:, found.mask].all())
    best = m.log_prob(grid(8, 81)[0].unsqueeze(1)).amax(0)
    assert bool((found.log_density[:, 0] > best - 0.05).all()), "the highest mode is the highest point of the plane"


def test_a_valley_between_equal_humps_is_no_mode() -> None:
    loc = torch.tensor([[-3.0], [0.0], [3.0]], dtype=DOUBLE)
    m = DiagMixture(torch.tensor([0.0, -30.0, 0.0], dtype=DOUBLE), loc, torch.ones(3, 1, dtype=DOUBLE))
    assert m.modes().mask.sum() == 2
    assert m.modes(1).points.shape == (1, 1)


@pytest.mark.parametrize("p", [0.3, 0.5, 0.9, 0.99])
def test_highest_density_regions_hold_p_and_cut_the_density_at_one_level(p: float) -> None:
    m = make("diag", batch=(30,), k=4, d=1)
    found = m.interval(p, "hpd")
    wide = m.unsqueeze(-1)
    ends = [torch.where(found.mask, t, 0.0)[:, 0, :].unsqueeze(-1) for t in (found.lower, found.upper)]
    mask = found.mask[:, 0]
    held = torch.where(mask, (wide.cdf(ends[1]) - wide.cdf(ends[0])).squeeze(-1), 0.0).sum(-1)
    torch.testing.assert_close(held, torch.full_like(held, p), atol=2e-3, rtol=0)
    level = torch.stack([wide.log_prob(end) for end in ends], -1)
    top = torch.where(mask.unsqueeze(-1), level, -math.inf).amax((-1, -2))
    bottom = torch.where(mask.unsqueeze(-1), level, math.inf).amin((-1, -2))
    assert bool((top - bottom < 1e-3).all())
    assert bool((found.length()[:, 0] <= m.interval(p).length()[:, 0] + 1e-3).all()), (
        "never longer than the central one"
    )


def test_separate_branches_give_separate_intervals() -> None:
    found = slide().interval(0.9, "hpd")
    assert found.mask.tolist() == [[True, True]]
    assert found.contains(torch.tensor([-5.0])).item()
    assert not found.contains(torch.tensor([0.0])).item()
    assert slide().interval(0.9).contains(torch.tensor([0.0])).item(), "the central interval spans the gap"


def test_the_density_level_of_draws_agrees_with_the_region_on_the_line() -> None:
    m = slide()
    level = m.highest_density_level(0.9, 100_000)
    ends = m.interval(0.9, "hpd")
    assert float(level) == pytest.approx(float(m.log_prob(ends.lower[0, :1])), abs=0.03)


# ---- parts


@pytest.mark.parametrize("kind", KINDS)
def test_a_marginal_is_the_integral_over_the_rest(kind: str) -> None:
    m = make(kind)
    points, mass = on_grid(m)
    n = round(math.sqrt(len(points)))
    axis = points[:n, 1]
    step = float(axis[1] - axis[0])
    table = mass.reshape(n, n) / step
    torch.testing.assert_close(m.marginal(0).log_prob(axis[:, None]).exp(), table.sum(1), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(m.marginal([1]).log_prob(axis[:, None]).exp(), table.sum(0), atol=1e-6, rtol=1e-4)
    swapped = m.marginal([1, 0]) if kind != "bivariate" else m
    order = [1, 0] if kind != "bivariate" else [0, 1]
    torch.testing.assert_close(swapped.log_prob(points[::999][:, order]), m.log_prob(points[::999]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("known", [0, 1])
def test_a_conditional_is_joint_over_marginal(kind: str, known: int) -> None:
    m = make(kind, batch=(5,))
    y = torch.randn(5, 2, dtype=DOUBLE)
    conditional = m.condition({known: y[:, known]})
    want = m.log_prob(y) - m.marginal(known).log_prob(y[:, [known]])
    torch.testing.assert_close(conditional.log_prob(y[:, [1 - known]]), want)


@pytest.mark.parametrize("kind", ["diag", "isotropic", "full", "factorised"])
def test_several_coordinates_condition_as_one_after_the_other(kind: str) -> None:
    m = make(kind, k=2, d=4)
    y = torch.randn(4, dtype=DOUBLE)
    at_once = m.condition({0: y[0], 2: y[2]})
    in_turn = m.condition({0: y[0]}).condition({1: y[2]})
    torch.testing.assert_close(at_once.log_prob(y[[1, 3]]), in_turn.log_prob(y[[1, 3]]))
    want = m.log_prob(y) - m.marginal([0, 2]).log_prob(y[[0, 2]])
    torch.testing.assert_close(at_once.log_prob(y[[1, 3]]), want)


@pytest.mark.parametrize("kind", ["diag", "isotropic", "full"])
def test_masks_may_differ_by_row_and_know_all_or_nothing(kind: str) -> None:
    m = make(kind, batch=(5,), d=3)
    y = torch.randn(5, 3, dtype=DOUBLE)
    mask = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 1, 1]], dtype=torch.bool)
    law = m.given(y, mask)
    draws = law.sample((4000,))
    for row in range(5):
        known = mask[row].nonzero().flatten().tolist()
        rest = (~mask[row]).nonzero().flatten().tolist()
        one = m[row]
        evidence = one.marginal(known).log_prob(y[row, known]) if known else torch.zeros((), dtype=DOUBLE)
        torch.testing.assert_close(law.log_evidence[row], evidence)
        assert torch.equal(draws[:, row, known], y[row, known].expand(4000, -1)), "known entries come back exactly"
        assert torch.equal(law.mean[row, known], y[row, known])
        if rest:
            conditional = one.condition({i: y[row, i] for i in known}) if known else one
            torch.testing.assert_close(law.mean[row, rest], conditional.mean)
            torch.testing.assert_close(law.variance[row, rest], conditional.variance)
            torch.testing.assert_close(law.quantile(0.2)[row, rest], conditional.quantile(0.2))
            inside = conditional.cdf(draws[:, row, rest])
            assert scipy.stats.kstest(inside[:, 0].numpy(), "uniform").pvalue > 1e-6
    torch.testing.assert_close(m.log_prob_known(y, mask), law.log_evidence)
    regions = law.interval(0.8)
    assert torch.equal(regions.lower[2, :, 0], y[2])


@pytest.mark.parametrize("kind", JOINT)
def test_component_posteriors_follow_from_bayes(kind: str) -> None:
    m = make(kind)
    y = torch.randn(7, 2, dtype=DOUBLE)
    joint = m.logits.log_softmax(-1) + m.component_log_prob(y)
    torch.testing.assert_close(m.component_posterior(y), joint - m.log_prob(y).unsqueeze(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_box_probabilities_are_the_grids(kind: str) -> None:
    m = make(kind)
    points, mass = on_grid(m)
    # limits half-way between grid points, so that the sum is the midpoint rule
    lower, upper = torch.tensor([-1.02, -2.02], dtype=DOUBLE), torch.tensor([1.26, 0.9], dtype=DOUBLE)
    inside = ((points > lower) & (points < upper)).all(-1)
    assert float(m.log_prob_in_box(lower, upper).exp()) == pytest.approx(float(mass[inside].sum()), abs=1e-3)
    if kind in ("full", "bivariate"):
        infinite = m.log_prob_in_box(torch.full((2,), -math.inf), torch.full((2,), math.inf))
        assert float(infinite) == pytest.approx(0.0, abs=1e-12)
        half = m.log_prob_in_box(torch.tensor([-math.inf, -math.inf]), torch.tensor([0.4, math.inf]))
        assert float(half.exp()) == pytest.approx(float(m.cdf(torch.tensor([0.4, 0.0]))[0]), abs=1e-4)


@pytest.mark.parametrize("kind", ["diag", "isotropic", "factorised"])
def test_interval_likelihoods_are_cells_that_add_up_to_one(kind: str) -> None:
    m = make(kind)
    axis = torch.arange(-25.0, 25.0, dtype=DOUBLE)
    cells = torch.cartesian_prod(axis, axis)
    log_mass = m.interval_log_prob(cells, 1.0)
    assert float(log_mass.exp().sum()) == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(log_mass, m.log_prob_in_box(cells - 0.5, cells + 0.5), atol=1e-7, rtol=1e-7)
    fine = m.interval_log_prob(cells[:9], 1e-5) - 2 * math.log(1e-5)
    torch.testing.assert_close(fine, m.log_prob(cells[:9]), atol=1e-6, rtol=1e-6)


def test_spikes_cannot_win_under_the_interval_likelihood() -> None:
    spike = DiagMixture(torch.zeros(1), torch.tensor([[3.0]]), torch.tensor([[1e-9]]))
    gridded = Gridded(spike, 1.0)
    assert float(gridded.log_prob(torch.tensor([3.0]))) == pytest.approx(0.0, abs=1e-6)
    assert float(spike.log_prob(torch.tensor([3.0]))) > 19
    assert bool((gridded.sample((9,)) == 3).all())
    with pytest.raises(ConfigError, match="no closed form"):
        Gridded(make("full"), 1.0)


# ---- transformations


@pytest.mark.parametrize("kind", KINDS)
def test_affine_maps_change_units(kind: str) -> None:
    m = make(kind)
    shift, factor = torch.tensor([3.0, -1.0], dtype=DOUBLE), torch.tensor([2.0, 0.25], dtype=DOUBLE)
    y = torch.randn(6, 2, dtype=DOUBLE)
    torch.testing.assert_close(m.affine(shift, factor).log_prob(shift + factor * y), m.log_prob(y) - factor.log().sum())


@pytest.mark.parametrize("kind", KINDS)
def test_temperatures_divide_logits_and_multiply_variances(kind: str) -> None:
    m = make(kind)
    cold = m.temper(1.0, 0.25)
    _, loc, scale = m.marginal_parameters()
    assert torch.equal(cold.marginal_parameters()[1], loc)
    torch.testing.assert_close(cold.marginal_parameters()[2], 0.5 * scale)
    torch.testing.assert_close(m.temper(2.0).logits, m.logits / 2)
    torch.testing.assert_close(m.bias(1.0).logits, 2 * m.logits)
    torch.testing.assert_close(m.bias(1.0).marginal_parameters()[2], scale / math.e)
    draws = m.draw((20_000,), pi_temperature=2.0, sigma_temperature=0.25)
    want = m.temper(2.0, 0.25)
    assert scipy.stats.kstest(want.cdf(draws)[:, 0].numpy(), "uniform").pvalue > 1e-6
    with pytest.raises(ConfigError, match="positive"):
        m.temper(0.0)
    with pytest.raises(ConfigError, match="0 or more"):
        m.draw(sigma_temperature=-1.0)


@pytest.mark.parametrize("kind", JOINT)
def test_temperature_zero_returns_the_best_components_mean(kind: str) -> None:
    m = make(kind, batch=(4,))
    best = m.logits.argmax(-1)
    still = m.draw((3,), pi_temperature=0.0, sigma_temperature=0.0)
    torch.testing.assert_close(still, m.loc[torch.arange(4), best].expand(3, 4, 2))


def test_kinds_that_describe_the_same_density_agree_on_everything() -> None:
    pair = make("bivariate", batch=(3,))
    full = FullMixture(pair.logits, pair.loc, pair.factors())
    y = torch.randn(3, 2, dtype=DOUBLE)
    torch.testing.assert_close(pair.log_prob(y), full.log_prob(y))
    torch.testing.assert_close(pair.entropy_bounds(), full.entropy_bounds())
    torch.testing.assert_close(pair.condition({0: 0.3}).mean, full.condition({0: 0.3}).mean)
    ball = make("isotropic", batch=(3,))
    diag = DiagMixture(ball.logits, ball.loc, ball.component_scales())
    torch.testing.assert_close(ball.log_prob(y), diag.log_prob(y))
    torch.testing.assert_close(ball.modes().log_density, diag.modes().log_density)
    square = FullMixture(diag.logits, diag.loc, torch.diag_embed(diag.scale))
    torch.testing.assert_close(square.entropy_bounds(), diag.entropy_bounds())
    torch.testing.assert_close(square.modes().points, diag.modes().points, equal_nan=True, atol=1e-6, rtol=0)
    product = make("factorised", k=2)
    torch.testing.assert_close(product.log_prob(y), product.joint().log_prob(y))
    torch.testing.assert_close(product.modes().log_density[0], product.joint().modes().log_density[0])


# ---- numerics


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [1, 2, 100])
@pytest.mark.parametrize("distance", [0.0, 30.0, 1e6])
def test_densities_and_gradients_stay_finite_a_million_sd_away(kind: str, d: int, distance: float) -> None:
    if kind == "bivariate" and d != 2:
        pytest.skip("a bivariate mixture describes two targets")
    raw = torch.randn(4, num_outputs(kind, 3, d), requires_grad=True)
    m = mixture(mixture_parameters(raw, kind, 3, d, "softplus", 1e-3))
    y = torch.full((4, d), distance, requires_grad=True)
    log_prob = m.log_prob(y)
    log_prob.sum().backward()
    assert bool(torch.isfinite(log_prob).all())
    assert bool(torch.isfinite(raw.grad).all())
    assert bool(torch.isfinite(y.grad).all())
    y = y.detach()
    if kind in ("diag", "isotropic", "factorised"):
        raw.grad = None
        cells = mixture(mixture_parameters(raw, kind, 3, d)).interval_log_prob(y, 1e-3)
        cells.sum().backward()
        assert bool(torch.isfinite(cells).all())
        assert bool(torch.isfinite(raw.grad).all())
        assert bool((cells <= 0).all())


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("spread", [0.0, 100.0])
def test_extreme_scales_and_logits_stay_finite(scale: float, spread: float) -> None:
    logits = torch.tensor([-spread, spread]).requires_grad_()
    m = DiagMixture(logits, torch.zeros(2, 1), torch.full((2, 1), scale))
    loss = m.log_prob(torch.full((3, 1), 1e3 * scale)).sum() + m.crps(torch.ones(3, 1)).sum()
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert bool(torch.isfinite(logits.grad).all())
    assert bool(torch.isfinite(m.quantile([0.01, 0.99])).all())
    assert bool(m.interval(0.9, "hpd").mask.any(-1).all())


@given(
    kind=st.sampled_from(KINDS),
    batch=st.lists(st.integers(1, 3), max_size=2).map(tuple),
    sample=st.lists(st.integers(1, 3), max_size=2).map(tuple),
    k=st.integers(1, 4),
    d=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_shapes_are_what_the_contract_says(
    kind: str, batch: tuple[int, ...], sample: tuple[int, ...], k: int, d: int
) -> None:
    d = 2 if kind == "bivariate" else d
    m = make(kind, batch, k, d)
    y = m.sample(sample)
    assert y.shape == sample + batch + (d,)
    assert m.log_prob(y).shape == sample + batch
    assert m.mean.shape == m.variance.shape == batch + (d,)
    assert m.covariance.shape == batch + (d, d)
    assert m.cdf(y).shape == m.crps(y).shape == m.icdf(m.cdf(y)).shape == sample + batch + (d,)
    assert m.quantile([0.2, 0.7]).shape == (2,) + batch + (d,)
    assert m.interval(0.8, "hpd").lower.shape == batch + (d, k)
    assert all(bound.shape == batch for bound in m.entropy_bounds())
    assert m.modes().points.shape[:-2] == batch
    assert m.expand((2,) + batch).log_prob(y[(0,) * len(sample)]).shape == (2,) + batch
    assert m.component_posterior(y).shape[: len(sample + batch)] == sample + batch
    torch.testing.assert_close(m.unsqueeze(-1).log_prob(y.unsqueeze(-2)).squeeze(-1), m.log_prob(y))
    if d > 1:
        assert m.condition({0: 0.0}).event_shape == (d - 1,)


# ---- members


@pytest.mark.parametrize("kind", [*JOINT, "factorised"])
def test_merged_members_have_the_average_density(kind: str) -> None:
    members = make(kind, batch=(4, 5), k=2)
    y = torch.randn(5, 2, dtype=DOUBLE)
    want = torch.logsumexp(members.log_prob(y), 0) - math.log(4)
    torch.testing.assert_close(merge(members).log_prob(y), want)
    assert merge(members).batch_shape == (5,)
    with pytest.raises(ShapeError, match="members"):
        merge(make(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_uncertainty_adds_up_and_ignorance_is_disagreement(kind: str) -> None:
    members = make(kind, batch=(3, 4), k=2)
    found = uncertainty(members, 2000)
    torch.testing.assert_close(found.total, merge(members).variance)
    same = members.map_parameters(lambda t, axes: t[:1].expand(3, *t.shape[1:]))
    agreed = uncertainty(same, 50)
    assert bool((agreed.epistemic.abs() < 1e-20).all())
    assert bool((agreed.mutual_information < 1e-9).all())


def test_mutual_information_agrees_with_quadrature() -> None:
    members = make("diag", batch=(3, 1), k=2, d=1)
    axis = torch.linspace(-15, 15, 20_001, dtype=DOUBLE)
    step = float(axis[1] - axis[0])
    each = members[:, 0].log_prob(axis[:, None, None])  # (grid, 3)
    mean = torch.logsumexp(each, 1, keepdim=True) - math.log(3)
    want = float((each.exp() * (each - mean)).sum() * step / 3)
    found = uncertainty(members, 20_000)
    assert abs(float(found.mutual_information) - want) < 5 * float(found.std_error)
    assert float(found.std_error) < 0.01


# ---- words


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: m.cdf(torch.zeros(3)), ShapeError, "last axis to be 2"),
        (lambda m: m.quantile(1.5), ConfigError, r"outside \[0, 1\]"),
        (lambda m: m.interval(1.0), ConfigError, "between 0 and 1"),
        (lambda m: m.interval(0.5, "shortest"), ConfigError, "kind of interval"),
        (lambda m: m.marginal([0, 0]), ConfigError, "at most once"),
        (lambda m: m.marginal(5), ConfigError, "do not fit"),
        (lambda m: m.condition({0: 0.0, 1: 0.0}), ConfigError, "nothing left"),
        (lambda m: m.unsqueeze(0), ConfigError, "negative"),
        (lambda m: m.log_prob_known(torch.zeros(2), torch.ones(3)), ShapeError, "mask has shape"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_impossible_questions_are_refused_in_words(kind: str, call: object, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        call(make(kind))


def test_validation_sees_bad_parameters_and_values() -> None:
    with pytest.raises(ValueError, match="scale"):
        DiagMixture(torch.zeros(1), torch.zeros(1, 1), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="rho"):
        BivariateMixture(torch.zeros(1), torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([1.5]))
    m = IsotropicMixture(torch.zeros(1), torch.zeros(1, 2), torch.ones(1), validate_args=True)
    with pytest.raises(ValueError, match=r"support|Expected value"):
        m.log_prob(torch.tensor([math.nan, 0.0]))
    with pytest.raises(ConfigError, match="too many"):
        make("factorised", k=10, d=5).joint()
