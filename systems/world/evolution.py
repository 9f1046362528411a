"""Search without gradients: covariance matrix adaptation (CMA-ES), by asking and telling::

    search = CMAES(torch.zeros(10), 0.5, seed=0)
    while search.generation < 100:
        points = search.ask()                 (population, dimensions), drawn from N(mean, step^2 C)
        search.tell(points, costs)            smaller is better; mean, step and C follow the better half

The distribution moves by its own natural gradient: the mean towards the better half of the points, the covariance
towards their scatter (rank mu) and the path of the mean (rank one), the step by whether that path is longer than that
of a random walk. Costs count by their ranks alone, so any monotone change of them changes nothing. Above `FULL`
dimensions, or on request, only the diagonal of C is adapted, at the faster rate that this allows.

References: Hansen, "The CMA evolution strategy: a tutorial", arXiv 1604.00772; Ros and Hansen, "A simple modification
in CMA-ES achieving linear time and space complexity", PPSN 2008.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.errors import ConfigError, DataError, ShapeError

FULL = 1_200  # dimensions up to which a whole covariance matrix is adapted


class CMAES:
    """A search distribution and its rules.

    Args:
        mean: (n,), where to begin.
        step: standard deviation to begin with, positive.
        population: points per generation; `4 + 3 log n` if not given, at least 4.
        seed: of the draws.
        diagonal: adapt the diagonal of the covariance only; None decides by the number of dimensions.

    Attributes:
        mean: (n,), float64.
        step: overall standard deviation.
        generation: how many were told.
        best: (n,), the best point told so far.
        best_cost: its cost.

    Raises:
        ConfigError: options out of range.
        ShapeError: a mean that is no vector.
    """

    def __init__(
        self, mean: Tensor, step: float, population: int | None = None, seed: int = 0, diagonal: bool | None = None
    ) -> None:
        if mean.dim() != 1 or not len(mean):
            raise ShapeError(f"mean has shape {tuple(mean.shape)}; expected a vector (dimensions,)")
        if not (step > 0 and math.isfinite(step)):
            raise ConfigError(f"step is {step}; it must be positive")
        n = len(mean)
        self.population = population if population is not None else 4 + int(3 * math.log(n))
        if self.population < 4:
            raise ConfigError(f"population is {self.population}; at least 4 points are needed")
        self.mean, self.step = mean.detach().double().clone(), float(step)
        self.diagonal = n > FULL if diagonal is None else diagonal
        self.generation = 0
        self.best, self.best_cost = self.mean.clone(), math.inf
        self._generator = torch.Generator().manual_seed(seed)
        half = self.population // 2
        weights = math.log((self.population + 1) / 2) - torch.arange(1, half + 1, dtype=torch.float64).log()
        self._weights = weights / weights.sum()
        self._rates(n)
        self._path_step = torch.zeros(n, dtype=torch.float64)
        self._path_shape = torch.zeros(n, dtype=torch.float64)
        # C = B diag(d^2) B'; B is left out where it is the identity
        self._shape = torch.ones(n, dtype=torch.float64) if self.diagonal else torch.eye(n, dtype=torch.float64)
        self._axes: Tensor | None = None
        self._lengths = torch.ones(n, dtype=torch.float64)
        self._stale = 0

    def _rates(self, n: int) -> None:
        """Learning rates; table 1 of the tutorial, positive weights only."""
        mu = 1.0 / float(self._weights.square().sum())
        self._mu = mu
        self._c_step = (mu + 2) / (n + mu + 5)
        self._damping = 1 + 2 * max(0.0, math.sqrt((mu - 1) / (n + 1)) - 1) + self._c_step
        self._c_path = (4 + mu / n) / (n + 4 + 2 * mu / n)
        self._c_one = 2 / ((n + 1.3) ** 2 + mu)
        self._c_mu = min(1 - self._c_one, 2 * (mu - 2 + 1 / mu) / ((n + 2) ** 2 + mu))
        if self.diagonal:
            faster = (n + 2) / 3
            self._c_one = min(1.0, faster * self._c_one)
            self._c_mu = min(1 - self._c_one, faster * self._c_mu)
        self._walk = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))  # mean length of a standard normal vector

    def ask(self) -> Tensor:
        """Draw points to try, float64 (population, n)."""
        normal = torch.randn(self.population, len(self.mean), generator=self._generator, dtype=torch.float64)
        scaled = normal * self._lengths
        return self.mean + self.step * (scaled if self._axes is None else scaled @ self._axes.T)

    def tell(self, points: Tensor, costs: Tensor) -> None:
        """Learn from points and what they cost.

        Args:
            points: (population, n), from `ask`, in its order or another.
            costs: (population,); infinite ones are worst.

        Raises:
            ShapeError: another number of points, dimensions or costs.
            DataError: a cost that is NaN.
        """
        n = len(self.mean)
        if points.shape != (self.population, n) or costs.shape != (self.population,):
            raise ShapeError(
                f"points have shape {tuple(points.shape)}, costs {tuple(costs.shape)}; expected "
                f"({self.population}, {n}) and ({self.population},)"
            )
        if bool(costs.isnan().any()):
            raise DataError(f"the cost of point {int(costs.isnan().nonzero()[0])} is NaN")
        order = costs.double().argsort(stable=True)
        if float(costs[order[0]]) < self.best_cost:
            self.best, self.best_cost = points[order[0]].double().clone(), float(costs[order[0]])
        moves = (points[order[: len(self._weights)]].double() - self.mean) / self.step
        move = self._weights @ moves
        self.mean = self.mean + self.step * move
        self.generation += 1
        keep = 1 - self._c_step
        self._path_step = keep * self._path_step + math.sqrt(
            self._c_step * (2 - self._c_step) * self._mu
        ) * self._whiten(move)
        length = float(self._path_step.norm()) / self._walk
        usual = math.sqrt(1 - keep ** (2 * self.generation))
        stalled = length / usual >= 1.4 + 2 / (n + 1)  # the step is too short: wait with the shape
        self._path_shape = (1 - self._c_path) * self._path_shape
        if not stalled:
            self._path_shape = self._path_shape + math.sqrt(self._c_path * (2 - self._c_path) * self._mu) * move
        self._adapt(moves, self._c_one * self._c_path * (2 - self._c_path) if stalled else 0.0)
        self.step *= math.exp(min(1.0, self._c_step / self._damping * (length - 1)))

    def _adapt(self, moves: Tensor, kept: float) -> None:
        """Update the covariance; decompose it as rarely as its slow change allows."""
        share = 1 - self._c_one - self._c_mu + kept
        if self.diagonal:
            scatter = self._weights @ moves.square()
            self._shape = share * self._shape + self._c_one * self._path_shape.square() + self._c_mu * scatter
            self._lengths = self._shape.clamp_min(1e-30).sqrt()
            return
        scatter = moves.T @ (self._weights.unsqueeze(1) * moves)
        self._shape = (
            share * self._shape + self._c_one * self._path_shape.outer(self._path_shape) + self._c_mu * scatter
        )
        self._stale += 1
        if self._stale > 1 / (10 * len(self.mean) * (self._c_one + self._c_mu)):
            values, self._axes = torch.linalg.eigh(0.5 * (self._shape + self._shape.T))
            self._lengths = values.clamp_min(1e-30).sqrt()
            self._stale = 0

    def _whiten(self, move: Tensor) -> Tensor:
        if self._axes is None:
            return move / self._lengths
        return self._axes @ ((self._axes.T @ move) / self._lengths)

    @property
    def covariance(self) -> Tensor:
        """Of the search distribution, (n, n)."""
        return self.step**2 * (torch.diag(self._shape) if self.diagonal else self._shape)

    def describe(self) -> dict[str, Any]:
        """Where the search stands, in numbers for a log."""
        return {"generation": self.generation, "step": self.step, "best_cost": self.best_cost}


class LibraryCMAES:
    """The same by the library `cmaes` (an extra), which knows bounds: what is drawn outside of them is drawn again.

    Args:
        mean: (n,), where to begin.
        step: standard deviation to begin with, positive.
        population: points per generation.
        seed: of the draws.
        diagonal: adapt the diagonal of the covariance only.
        bounds: largest absolute value of an entry; None for none.

    Raises:
        ConfigError: the library is not installed, or the bounds leave out the beginning.
    """

    def __init__(
        self, mean: Tensor, step: float, population: int, seed: int, diagonal: bool, bounds: float | None = None
    ) -> None:
        try:
            import cmaes
        except ImportError as error:
            raise ConfigError("method 'cmaes' is a library: pip install 'phlogiston[games]'") from error
        if bounds is not None and not float(mean.abs().max()) < bounds:
            raise ConfigError(f"bounds is {bounds}; it must be positive, and the start lie within")
        box = None if bounds is None else np.tile(np.array([-bounds, bounds]), (len(mean), 1))
        kind = cmaes.SepCMA if diagonal else cmaes.CMA
        start = mean.detach().double().numpy()
        self._search = kind(mean=start, sigma=step, bounds=box, population_size=population, seed=seed)
        self.population = population

    @property
    def mean(self) -> Tensor:
        """(n,), float64."""
        return torch.from_numpy(np.array(self._search.mean))

    def ask(self) -> Tensor:
        """Draw points to try, float64 (population, n)."""
        return torch.from_numpy(np.stack([self._search.ask() for _ in range(self.population)]))

    def tell(self, points: Tensor, costs: Tensor) -> None:
        """Learn from points and what they cost."""
        self._search.tell([(p, float(c)) for p, c in zip(points.numpy(), costs.tolist(), strict=True)])
