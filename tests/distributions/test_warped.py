"""Cells of a normal in single precision, mixtures in other coordinates, and draws from given noise."""

from __future__ import annotations

import math

import pytest
import torch

from phlogiston.distributions.cells import log_cell
from phlogiston.distributions.mixtures.diagonal import DiagMixture
from phlogiston.distributions.mixtures.full import BivariateMixture
from phlogiston.distributions.mixtures.noise import squeeze, transport
from phlogiston.distributions.normal_interval import log_interval_mass, normal_cdf, standard_truncated
from phlogiston.distributions.warped import Warped
from phlogiston.errors import ConfigError


def cases(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres from -500 to 500 and half widths from 1e-6 to 30, in every combination of sizes."""
    centre = torch.randn(n, dtype=torch.double) * torch.logspace(-2, 2.2, n, dtype=torch.double)
    half = torch.logspace(-6, 1.5, n, dtype=torch.double)[torch.randperm(n)]
    return centre, half


def test_a_cells_mass_agrees_with_the_exact_one_in_both_precisions() -> None:
    centre, half = cases(20_000)
    exact = log_interval_mass(centre - half, centre + half)
    for dtype in (torch.float32, torch.float64):
        error = (log_cell(centre.to(dtype), half.to(dtype)).double() - exact).abs() / (1 + exact.abs())
        assert float(error.max()) < 1e-5


def test_its_gradient_agrees_with_the_exact_one() -> None:
    centre, half = cases(2_000)
    centre, half = centre.clamp(-30, 30).requires_grad_(), half.clamp_min(1e-3).requires_grad_()
    mine = torch.autograd.grad(log_cell(centre, half).sum(), (centre, half))
    exact = torch.autograd.grad(log_interval_mass(centre - half, centre + half).sum(), (centre, half))
    for a, b in zip(mine, exact, strict=True):
        assert float(((a - b).abs() / (1 + b.abs())).max()) < 1e-4


def test_cells_of_a_line_sum_to_one() -> None:
    """All cells of a grid together hold everything, whatever the scale of the normal against the grid."""
    grid = 0.01
    values = (torch.arange(-3000, 3001) * grid).double()
    for scale in (1e-4, 3e-3, 0.1, 3.0):
        total = torch.logsumexp(log_cell((values - 0.123) / scale, torch.full_like(values, 0.5 * grid / scale)), 0)
        assert float(total) == pytest.approx(0.0, abs=1e-5)


def warped(grid: float | None = None) -> Warped:
    base = DiagMixture(torch.tensor([0.3, -0.4]), torch.randn(2, 2), torch.rand(2, 2) + 0.3)
    shift, unit = torch.tensor([0.5, -3.0]), torch.tensor([0.2, 0.7])
    return Warped(base, shift, unit, torch.tensor([False, True]), grid)


def test_the_density_integrates_to_one_in_the_datas_own_units() -> None:
    law = warped()
    x, t = torch.linspace(-3, 4, 700), torch.linspace(1e-4, 3.0, 4000)
    value = torch.stack(torch.meshgrid(x, t, indexing="ij"), -1)
    total = law.log_prob(value).double().exp().sum() * float(x[1] - x[0]) * float(t[1] - t[0])
    assert float(total) == pytest.approx(1.0, abs=5e-3)


def test_small_cells_weigh_what_the_density_says() -> None:
    torch.manual_seed(3)
    law = warped()
    fine = Warped(law.base, law.shift, law.unit, law.positive, 1e-4)
    value = law.sample((50,)).clamp_min(5e-3)
    torch.testing.assert_close(fine.log_prob(value), law.log_prob(value) + 2 * math.log(1e-4), atol=2e-3, rtol=1e-3)


def test_columns_by_themselves_multiply_to_the_whole_where_components_agree() -> None:
    base = DiagMixture(torch.zeros(1), torch.tensor([[0.2, -0.1]]), torch.tensor([[0.5, 0.8]]))
    for grid in (None, 1e-2):
        law = Warped(base, torch.zeros(2), torch.ones(2), torch.tensor([False, True]), grid)
        value = torch.tensor([[0.3, 0.9], [-0.5, 2.0]])
        torch.testing.assert_close(law.log_parts(value).sum(-1), law.log_prob(value))


def test_draws_from_noise_follow_the_mixture() -> None:
    n = 40_000
    mixture = BivariateMixture(
        torch.tensor([0.5, -0.5]), torch.tensor([[0.0, 1.0], [3.0, -1.0]]), torch.tensor([[1.0, 0.5], [0.3, 0.8]]),
        torch.tensor([0.8, -0.5]),
    )  # fmt: skip
    drawn = transport(mixture, torch.rand(n, 2), torch.randn(n, 2))
    torch.testing.assert_close(drawn.mean(0), mixture.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), mixture.covariance, atol=0.06, rtol=0)


def test_temperatures_and_bias_do_what_they_say() -> None:
    n = 20_000
    mixture = DiagMixture(torch.tensor([1.0, 0.0]), torch.tensor([[-4.0], [4.0]]), torch.tensor([[0.5], [0.5]]))
    uniform, noise = torch.rand(n, 2), torch.randn(n, 1)
    cold = transport(mixture, uniform, noise, pi_temperature=0.0)
    assert bool((cold < 0).all()), "the less probable component is never taken"
    assert transport(mixture, uniform, noise, sigma_temperature=0.0).unique().tolist() == [-4.0, 4.0]
    sharp = transport(mixture, uniform, noise, bias=1.0)
    left = sharp[sharp < 0]
    assert float(left.std()) == pytest.approx(0.5 * math.exp(-1), rel=0.05)
    assert len(left) / n == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item(), abs=0.015)
    with pytest.raises(ConfigError, match="bias"):
        transport(mixture, uniform, noise, bias=-1.0)


def test_cells_are_refused_for_correlated_components() -> None:
    mixture = BivariateMixture(torch.zeros(1), torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(1))
    with pytest.raises(ConfigError, match="independent"):
        Warped(mixture, torch.zeros(2), torch.ones(2), torch.zeros(2, dtype=torch.bool), 0.1)


def screen(pitches: tuple[float, ...] = (0.05, 0.02)) -> Warped:
    """Two places on a screen and a time; some components lie far outside, some are far narrower than a cell."""
    torch.manual_seed(1)
    loc = torch.tensor([[0.0, 1.0, 0.0], [2.0, -9.0, 0.5], [-0.4, 0.3, -0.5]])
    scale = torch.tensor([[0.5, 0.4, 0.5], [1e-3, 2.0, 0.6], [3.0, 0.05, 0.4]])
    bounds = torch.tensor([[0.0, 0.0, -math.inf], [1.0, 1.0, math.inf]])
    choices = torch.randn(3 * (1 + len(pitches)))
    shift, unit = torch.tensor([0.7, 0.4, -1.0]), torch.tensor([0.2, 0.3, 0.3])
    base = DiagMixture(torch.zeros(3).double(), loc.double(), scale.double())  # 475 deviations outside: no float32
    return Warped(
        base, shift.double(), unit.double(), torch.tensor([False, False, True]), 0.01,
        bounds=bounds.double(), pitches=pitches, choices=choices.double(),
    )  # fmt: skip


def test_cells_of_a_screen_sum_to_one() -> None:
    """Whatever lies outside, and whichever lattice a device reports: nothing is lost and nothing counted twice."""
    law = screen()
    places = torch.arange(101).double() * 0.01
    value = torch.full((101, 3), 0.4).double()
    for column in (0, 1):
        value[:, column] = places
        total = law.log_parts(value)[:, column].double().exp().sum()
        assert float(total) == pytest.approx(1.0, abs=1e-4)
    pairs = torch.cat([torch.cartesian_prod(places, places), torch.full((101**2, 1), 0.4).double()], -1)
    total = law.log_prob(pairs).double().exp().sum()
    assert float(total) == pytest.approx(float(law.log_parts(value)[0, 2].exp()), rel=1e-3)
    outside = torch.tensor([1.02, 0.5, 0.4]).double()
    assert float(law.log_prob(outside)) < -70


def test_draws_lie_on_the_screen_and_fall_into_cells_as_often_as_said() -> None:
    law, n = screen(), 60_000
    drawn = law.sample((n,))
    assert float(drawn[:, :2].min()) >= 0.0
    assert float(drawn[:, :2].max()) <= 1.0
    value = torch.full((101, 3), 0.4).double()
    for column in (0, 1):
        value[:, column] = torch.arange(101) * 0.01
        expected = law.log_parts(value)[:, column].exp()
        counted = torch.bincount((drawn[:, column] * 100).round().long(), minlength=101) / n
        assert float((counted - expected).abs().max()) < 0.008
    always = Warped(
        law.base, law.shift, law.unit, law.positive, law.grid, bounds=law.bounds, pitches=(0.05,),
        choices=torch.tensor([-1e9] * 3 + [0.0] * 3).double(),
    )  # fmt: skip
    index = always.sample((1000,))[:, :2] * 20
    torch.testing.assert_close(index, index.round(), atol=1e-6, rtol=0)


def test_without_noise_components_stay_at_their_middle_or_at_the_border() -> None:
    law = screen(())
    law = Warped(law.base, law.shift, law.unit, law.positive, law.grid, bounds=law.bounds)
    drawn = law.place(torch.rand(300, 3), torch.randn(300, 3), sigma_temperature=0.0)
    middle = law.inverse(law.base.loc)
    middle[:, :2] = middle[:, :2].clamp(0.0, 1.0)
    distance = (drawn.unsqueeze(1) - middle).abs().amax(-1)
    assert float(distance.amin(1).max()) < 1e-6
    assert set(distance.argmin(1).tolist()) == {0, 1, 2}
    with pytest.raises(ConfigError, match="negative"):
        law.place(torch.rand(1, 3), torch.randn(1, 3), sigma_temperature=-1.0)


def test_what_is_known_of_a_place_leaves_the_right_rest() -> None:
    """P(rest, known) = P(known) P(rest | known), and P(known) is the column by itself."""
    law = screen()
    value, known = torch.tensor([0.6, 0.4, 0.3]).double(), torch.tensor([True, False, False])
    rest, evidence = law.given(value, known)
    assert float(evidence) == pytest.approx(float(law.log_parts(value)[0]), abs=1e-4)
    others = torch.logsumexp(rest.logits.log_softmax(-1) + rest._cells(value)[..., 1:].sum(-1), -1)
    assert float(evidence + others) == pytest.approx(float(law.log_prob(value)), abs=1e-4)


def test_noise_is_pressed_into_an_interval_as_by_the_exact_quantile() -> None:
    noise = torch.randn(5_000)
    low = torch.randn(5_000) * 10
    high = low + torch.rand(5_000) * 20 + 0.01
    exact = standard_truncated(torch.special.ndtr(noise.double()), low.double(), high.double())
    torch.testing.assert_close(squeeze(noise, low, high).double(), exact, atol=2e-3, rtol=1e-3)
    far = squeeze(noise, torch.full_like(noise, 200.0), torch.full_like(noise, 300.0))
    assert bool(((far >= 200.0) & (far < 200.2)).all())
    torch.testing.assert_close(squeeze(noise, torch.tensor(-40.0), torch.tensor(40.0)), noise, atol=1e-5, rtol=1e-5)


def test_bounds_and_pitches_need_what_they_need() -> None:
    law = screen()
    with pytest.raises(ConfigError, match="grid"):
        Warped(law.base, law.shift, law.unit, law.positive, bounds=law.bounds)
    with pytest.raises(ConfigError, match="choices"):
        Warped(law.base, law.shift, law.unit, law.positive, 0.01, bounds=law.bounds, pitches=(0.1,))


@pytest.mark.parametrize(
    ("a", "b"), [(-40.0078125, -40.0), (-1e6, -35.0), (50.0, 50.015625), (-31.0, -30.5), (5.0, 1e6), (-1.0, 2.0)]
)
def test_noise_is_pressed_into_narrow_and_far_intervals_as_the_restricted_normal_is(a: float, b: float) -> None:
    noise = torch.linspace(-3, 3, 13, dtype=torch.double)
    low, high = torch.tensor(a, dtype=torch.double), torch.tensor(b, dtype=torch.double)
    wanted = standard_truncated(normal_cdf(noise), low, high)
    reach = min(b - a, 1.0 / max(1.0, min(abs(a), abs(b))))
    assert float((squeeze(noise, low, high) - wanted).abs().max()) < 0.01 * reach
