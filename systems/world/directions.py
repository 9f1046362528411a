"""Directions in which controllers are searched: those in which what agents see varies most.

A controller has a weight for every unit of the memory, and units go together: hundreds of weights that evolution would
have to learn the scales and ties of. What agents see varies mostly in a few directions. Controllers that look along
these alone are few numbers, each worth as much as the others, and cannot make use of the rest, in which a dream differs
from its game most.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phlogiston.models.dreaming import Agent, dream, inputs_of
from phlogiston.models.world import World

DREAMS = 256  # of the policy of the recording, whose inputs count
LEAST = 1e-6  # variance of a direction, relative to the largest, below which it is taken for none


class Watch:
    """An agent that keeps the sums and products of what it sees.

    Args:
        agent: acts.
        looks: what counts of its inputs.
        sums: of inputs with a one behind them, (inputs + 1, inputs + 1); added to.
    """

    def __init__(self, agent: Agent, looks: str, sums: Tensor) -> None:
        self._agent, self._looks, self._sums = agent, looks, sums

    def act(self, code: Tensor, out: Tensor, generator: torch.Generator) -> Tensor:
        """See `models.dreaming.Agent.act`."""
        seen = inputs_of(code, out, self._looks).double()
        seen = torch.cat([seen, seen.new_ones(len(seen), 1)], -1)
        self._sums += seen.T @ seen
        return self._agent.act(code, out, generator)

    def select(self, index: Tensor) -> Watch:
        """See `models.dreaming.Agent.select`."""
        return Watch(self._agent.select(index), self._looks, self._sums)


def main_directions(world: World, policy: Agent, looks: str, count: int, steps: int, seed: int) -> Tensor:
    """Find the directions from dreams of a policy.

    Args:
        world: where it dreams.
        policy: whose dreams.
        looks: inputs of the controllers, see `models.dreaming.Linear`.
        count: how many directions, fewer where inputs vary in fewer.
        steps: longest dream.
        seed: of the dreams.

    Returns:
        Float (F, D), F the weights of a controller: numbers (D,) times it are weights that look, for every action,
        along principal axes of the inputs, centred and scaled to a standard deviation of 1; then a bias.
    """
    size = len(inputs_of(world.zero.new_zeros(1, world.code), world.zero.new_zeros(1, world.hidden), looks)[0])
    sums = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    dream(world, Watch(policy, looks, sums), DREAMS, steps, seed=seed)
    mean = sums[-1, :-1] / sums[-1, -1]
    along = whitened(sums[:-1, :-1] / sums[-1, -1] - mean.outer(mean), count)
    one = torch.cat([torch.cat([along, -(mean @ along).unsqueeze(0)]), torch.eye(size + 1)[:, -1:]], 1)
    return torch.block_diag(*[one] * world.actions).float()


def whitened(covariance: Tensor, count: int) -> Tensor:
    """Principal axes (D, count) of a covariance (D, D), float64, divided by their standard deviations.

    They are fewer than `count` where inputs vary in fewer.
    """
    values, axes = torch.linalg.eigh(covariance)  # in ascending order
    kept = min(count, int((values > LEAST * values[-1]).sum()))
    return axes[:, -kept:] / values[-kept:].sqrt() if kept else axes[:, :0]
