"""CMA-ES: it finds minima that need a turned and stretched search, is blind to monotone changes, and repeats itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from phlogiston.errors import ConfigError, DataError, ShapeError
from phlogiston.systems.world.evolution import CMAES

TURN = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
STRETCH = 10.0 ** torch.linspace(0, 4, 6, dtype=torch.float64)


def sphere(x: Tensor) -> Tensor:
    return x.square().sum(1)


def ellipsoid(x: Tensor) -> Tensor:
    return ((x @ TURN).square() * STRETCH).sum(1)


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[:, 1:] - x[:, :-1].square()).square() + (1 - x[:, :-1]).square()).sum(1)


def minimise(f: Callable[[Tensor], Tensor], start: Tensor, step: float, generations: int, **options: object) -> CMAES:
    search = CMAES(start, step, **options)  # type: ignore[arg-type]
    while search.generation < generations:
        points = search.ask()
        search.tell(points, f(points))
    return search


@pytest.mark.parametrize(
    ("f", "start", "generations"),
    [(sphere, torch.full((6,), 2.0), 150), (ellipsoid, torch.full((6,), 2.0), 400), (rosenbrock, torch.zeros(6), 500)],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_minima_are_found(f: Callable[[Tensor], Tensor], start: Tensor, generations: int, seed: int) -> None:
    search = minimise(f, start, 0.5, generations, seed=seed)
    assert search.best_cost < 1e-8
    assert float(f(search.best.unsqueeze(0))) == pytest.approx(search.best_cost, rel=1e-6)


def test_the_covariance_becomes_the_inverse_of_the_curvature() -> None:
    search = minimise(ellipsoid, torch.full((6,), 2.0), 0.5, 250, population=20)
    wanted = TURN @ torch.diag(1 / STRETCH) @ TURN.T
    found = search.covariance
    found = found / found.trace() * wanted.trace()
    ratio = torch.linalg.eigvals(torch.linalg.solve(wanted, found)).real
    assert float(ratio.max() / ratio.min()) < 30  # before: STRETCH's 10,000


def test_a_diagonal_suffices_for_axes_and_fails_where_they_are_turned() -> None:
    straight = minimise(lambda x: (x.square() * STRETCH).sum(1), torch.full((6,), 2.0), 0.5, 250, diagonal=True)
    turned = minimise(ellipsoid, torch.full((6,), 2.0), 0.5, 250, diagonal=True)
    assert straight.best_cost < 1e-8
    assert turned.best_cost > 1e3 * straight.best_cost


def test_only_ranks_count() -> None:
    plain = minimise(sphere, torch.ones(4), 0.3, 20, seed=3)
    bent = minimise(lambda x: torch.exp(3 * sphere(x)) - 7, torch.ones(4), 0.3, 20, seed=3)
    assert torch.equal(plain.mean, bent.mean)
    assert torch.equal(plain.covariance, bent.covariance)


def test_under_costs_of_pure_chance_the_step_neither_grows_nor_shrinks_on_average() -> None:
    change = []
    for seed in range(40):
        noise = torch.Generator().manual_seed(1000 + seed)
        search = minimise(lambda x, g=noise: torch.rand(len(x), generator=g), torch.zeros(5), 1.0, 60, seed=seed)
        change.append(math.log(search.step))
    mean, error = torch.tensor(change).mean(), torch.tensor(change).std() / 40**0.5
    assert abs(float(mean)) < max(0.5, 4 * float(error))


def test_equal_seeds_give_equal_searches_and_order_does_not_matter() -> None:
    one, two = (CMAES(torch.zeros(5), 0.5, seed=7) for _ in range(2))
    for _ in range(15):
        points = one.ask()
        assert torch.equal(points, two.ask())
        one.tell(points, rosenbrock(points))
        two.tell(points.flip(0), rosenbrock(points.flip(0)))
    torch.testing.assert_close(one.mean, two.mean)
    assert not torch.equal(CMAES(torch.zeros(5), 0.5, seed=8).ask(), CMAES(torch.zeros(5), 0.5, seed=7).ask())


def test_noisy_costs_are_no_obstacle() -> None:
    noise = torch.Generator().manual_seed(0)
    search = minimise(
        lambda x: sphere(x) + 0.2 * torch.randn(len(x), generator=noise), torch.full((8,), 3.0), 0.5, 80, population=32
    )
    assert float(sphere(search.mean.unsqueeze(0))) < 0.2  # began at 72


def test_bad_input_is_named() -> None:
    with pytest.raises(ShapeError, match="vector"):
        CMAES(torch.zeros(2, 2), 1.0)
    with pytest.raises(ConfigError, match="step"):
        CMAES(torch.zeros(2), 0.0)
    with pytest.raises(ConfigError, match="at least 4"):
        CMAES(torch.zeros(2), 1.0, population=3)
    search = CMAES(torch.zeros(2), 1.0, population=4)
    with pytest.raises(ShapeError, match="expected"):
        search.tell(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(DataError, match="point 2 is NaN"):
        search.tell(search.ask(), torch.tensor([0.0, 1.0, math.nan, 2.0]))
