"""Where the search for an agent begins: at the recording's policy, improved once.

In dreams in which the recording's policy acts, a linear regression for every action tells how much is gained from here
on if it is taken, given what the agent sees:

    G_t = r_t + d r_{t+1} + d^2 r_{t+2} + ...          the discounted return
    Q_a(x) = w_a x + b_a                               least squares over all t at which a was done

To take the action with the largest Q_a is at least as good as the policy, as far as Q is linear (policy improvement:
Sutton and Barto, Reinforcement learning, 2018, section 4.2). That is a linear controller, and evolution can go on from
it. A search from nothing may never leave the controllers that do the same whatever they see.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from phlogiston.errors import DataWarning
from phlogiston.models.dreaming import Agent, Ends, Linear, dream, inputs_of
from phlogiston.models.world import World
from phlogiston.systems.world.directions import whitened

STEPS = 150_000  # of dreams of the policy, as far as they go
DREAMS = 512  # at once
PORTIONS = 8  # of so many
LONGEST = 256  # steps of a dream
JUDGED = 256  # dreams that agents are compared in
OTHERS = 1 << 40  # seed of these, none of a search's
DISCOUNTS = (0.9, 0.95, 0.98)  # of which the best in the dream is taken: how far ahead it pays to look


class Seen:
    """An agent that keeps what it sees, step by step, in dreams whose rows all stay to the end.

    Args:
        agent: acts.
        looks: what counts of its inputs.
    """

    def __init__(self, agent: Agent, looks: str) -> None:
        self._agent, self._looks = agent, looks
        self.inputs: list[Tensor] = []

    def act(self, code: Tensor, out: Tensor, generator: torch.Generator) -> Tensor:
        """See `models.dreaming.Agent.act`."""
        self.inputs.append(inputs_of(code, out, self._looks))
        return self._agent.act(code, out, generator)

    def select(self, index: Tensor) -> Agent:
        """See `models.dreaming.Agent.select`; what some rows see is not kept apart."""
        raise NotImplementedError("rows must stay")


def improvements(
    world: World,
    policy: Agent,
    looks: str,
    steps: int,
    *,
    count: int = 0,
    tau: float = 1.0,
    ends: Ends = "sampled",
    seed: int = 0,
) -> list[Tensor]:
    """Improve a policy by one step, for each of `DISCOUNTS`.

    Args:
        world: where it dreams.
        policy: what is improved; each of its actions should be taken now and then.
        looks: inputs of the controllers, see `models.dreaming.Linear`.
        steps: longest dream.
        count: main directions of the inputs that controllers look along, see `directions`; 0 for all inputs.
        tau: temperature of the dreams.
        ends: how they end.
        seed: of the dreams.

    Returns:
        Weights (F,) of controllers, whose values of an action vary with a standard deviation of 1. None where rewards
        are all alike and nothing ends.
    """
    steps, played = min(steps, LONGEST), 0
    sums: list[Moments] = []
    for number in range(PORTIONS):
        seen = Seen(policy, looks)
        found = dream(world, seen, DREAMS, steps, tau=tau, ends=ends, seed=seed + number, keep=True)
        assert found.reward is not None
        assert found.action is not None
        inputs, step = torch.stack(seen.inputs, 1), torch.arange(found.reward.shape[1])
        before = step < (found.length - 1).unsqueeze(1)  # steps that were played
        sums = sums or [Moments(world.actions, inputs.shape[-1]) for _ in DISCOUNTS]
        for moments, discount in zip(sums, DISCOUNTS, strict=True):
            # of dreams that were cut off, the last returns lack what would have come
            told = before & (found.ended.unsqueeze(1) | (step < steps - 1 / (1 - discount)))
            moments.add(inputs[told], found.action[told], returns(found.reward, discount)[told])
        played += int(before.sum())
        if played >= STEPS:
            break
    return [weights for moments in sums if (weights := moments.advantages(count)) is not None]


def returns(reward: Tensor, discount: float) -> Tensor:
    """Discounted sums of rewards (rows, T) from each step on: (rows, T)."""
    ahead, sums = torch.zeros_like(reward[:, 0]), []
    for now in reward.flip(1).unbind(1):
        ahead = now + discount * ahead
        sums.append(ahead)
    return torch.stack(sums, 1).flip(1)


class Moments:
    """Regresses what is gained on inputs, for every action by itself, from sums over portions of the data.

    Args:
        actions: how many there are.
        size: D, of the inputs.
    """

    def __init__(self, actions: int, size: int) -> None:
        # of inputs, a one and the gain
        self._sums = torch.zeros(actions, size + 2, size + 2, dtype=torch.float64)

    def add(self, inputs: Tensor, action: Tensor, gain: Tensor) -> None:
        """Take in inputs (n, D), what was done, int64 (n,), and what came of it (n,)."""
        ones = inputs.new_ones(len(inputs), 1)
        rows = torch.cat([inputs, ones, gain.unsqueeze(1)], 1).double()
        for number in range(len(self._sums)):
            own = rows[action == number]
            self._sums[number] += own.T @ own

    def fade(self, share: float) -> None:
        """Let all that was taken in so far count less."""
        self._sums *= share

    def advantages(self, count: int = 0) -> Tensor | None:
        """The regressions as a controller.

        Args:
            count: main directions of the inputs to regress on, see `directions`; 0 for the inputs themselves.

        Returns:
            Weights (actions * (D + 1),): for every action its weights, then its bias, relative to their mean over
            actions, scaled so that values vary with a standard deviation of 1. None where gains do not differ, or an
            action was hardly ever taken.
        """
        times, whole = self._sums[:, -2, -2], self._sums.sum(0)
        if float(times.min()) < 2:
            return None
        moments = whole / whole[-2, -2]
        mean, spread = moments[-2, :-2], float(moments[-1, -1] - moments[-2, -1].square())
        if spread <= 1e-12 * float(moments[-1, -1]):
            return None
        covariance = moments[:-2, :-2] - mean.outer(mean)
        if count:
            along = whitened(covariance, count)
        else:
            along = torch.diag(covariance.diagonal().clamp_min(1e-12).rsqrt())
        # inputs and a one, times this, are what is regressed on
        white = torch.block_diag(along, torch.ones(1, 1, dtype=torch.float64))
        white[-1, :-1] = -(mean @ along)
        # pulled towards 0 as if all weights together explained as much as there is noise: rare actions promise little
        pull = white.new_full((white.shape[1],), white.shape[1])
        pull[-1] = 0.0
        products = white.T @ self._sums[:, :-1, :-1] @ white + pull.diag()
        table = torch.linalg.solve(products, white.T @ self._sums[:, :-1, -1:])[..., 0]
        table = table - table.mean(0)
        vary = table[:, :-1] @ (along.T @ covariance @ along) * table[:, :-1]
        size = float(vary.sum(1).clamp_min(0).sqrt().mean())
        return ((table @ white.T) / size).flatten().float() if size > 0 else None


class Trial:
    """Compares agents with the policy of the recording, in dreams of a kind.

    Args:
        world: where they dream.
        policy: makes the policy of the recording.
        looks: inputs of the agents.
        steps: of the longest dream.
        tau: temperature.
        ends: how dreams end.
        seed: of the dreams.
    """

    def __init__(
        self, world: World, policy: Callable[[], Agent], looks: str, steps: int, *, tau: float, ends: Ends, seed: int
    ) -> None:
        self._world, self._policy, self._looks, self._steps = world, policy, looks, steps
        self._options: dict[str, Any] = {"tau": tau, "ends": ends}
        self._seed = seed * 1_000_003 + OTHERS
        self._lucky = self._dream(policy(), 1)

    def _dream(self, agent: Agent, number: int) -> Tensor:
        """Scores (JUDGED,)."""
        return dream(self._world, agent, JUDGED, self._steps, seed=self._seed + number, **self._options).score

    def _score(self, weights: Tensor, number: int) -> Tensor:
        return self._dream(Linear(weights.unsqueeze(0), self._world, self._looks), number)

    def beginning(self, directions: int = 0) -> Tensor | None:
        """Where a search may begin: the policy of the recording, improved; None where that is no better.

        Args:
            directions: along which agents look; 0 for all inputs.
        """
        found = improvements(
            self._world, self._policy(), self._looks, self._steps, count=directions, seed=self._seed, **self._options
        )
        scores = [float(self._score(weights, 1).mean()) for weights in found]
        if not scores or max(scores) <= float(self._lucky.mean()):
            return None
        return found[scores.index(max(scores))]

    def better(self, begin: Tensor | None, end: Tensor) -> Tensor:
        """Where a search ended, if that is clearly better than where it began, else that.

        A dream says little of small differences: what a search gains there without being clearly better is luck, or
        what is wrong about the dream. Says so if both are clearly worse than the policy of the recording.
        """
        weights, score = end, self._score(end, 2)
        if begin is not None:
            before = self._score(begin, 2)
            if not _exceeds(score, before, 2):
                weights, score = begin, before
        if _exceeds(self._lucky, score, 3):
            warnings.warn(
                f"the agent scores {float(score.mean()):.4g} in its dream, less than the "
                f"{float(self._lucky.mean()):.4g} of the recording's policy: the search has found nothing. Try more "
                "generations, another seed or spread",
                DataWarning,
                stacklevel=3,
            )
        return weights


def _exceeds(scores: Tensor, others: Tensor, errors: float) -> bool:
    """Whether scores are larger than others by so many standard errors of the difference of means."""
    gap = float((scores.double() - others.double()).mean())
    error = (scores.double().var() + others.double().var()) / len(scores)
    return gap > errors * float(error.sqrt())
