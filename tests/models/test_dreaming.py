"""Games outside that are given up once nothing is gained any more."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from phlogiston.models.dreaming import Rollouts, play
from phlogiston.models.world import World


class Now(NamedTuple):
    """Number and time of games."""

    number: Tensor
    time: Tensor


class Once:
    """Game n brings 5 at step n, and costs 1 at every other."""

    def __init__(self) -> None:
        self.played = 0

    def reset(self, games: Tensor, seed: int = 0) -> Now:
        return Now(games, torch.zeros_like(games))

    def step(self, state: Now, action: Tensor) -> tuple[Now, Tensor, Tensor]:
        self.played += len(action)
        new = Now(state.number, state.time + 1)
        reward = torch.where(new.time == new.number, 5.0, -1.0)
        return new, reward, torch.zeros(len(action), dtype=torch.bool)

    def render(self, state: Now) -> Tensor:
        return torch.zeros(len(state.time), 1, 8, 8)


class Still:
    """Always does the same."""

    def act(self, code: Tensor, out: Tensor, generator: torch.Generator) -> Tensor:
        return torch.zeros(len(code), dtype=torch.long)

    def select(self, index: Tensor) -> Still:
        return self


def played(patience: int, **options: Any) -> tuple[Once, Rollouts]:
    game, world = Once(), World(1, 8, 2, 4, (8,), 16, 12)
    games = torch.tensor([2, 6, 13])
    encode: Any = lambda frames: (torch.zeros(len(frames), 4), None)  # noqa: E731
    return game, play(world, encode, Still(), game, games, 20, patience=patience, **options)


def test_a_game_that_is_given_up_scores_as_if_it_had_been_played_to_the_limit() -> None:
    whole, patient = played(0), played(8)
    # the second gains at step 6, within its patience, the third not before it is given up
    assert whole[1].score.tolist() == [5 - 19, 5 - 19, 5 - 19]
    assert patient[1].score.tolist() == [5 - 19, 5 - 19, -20]
    assert patient[1].length.tolist() == [1 + 10, 1 + 14, 1 + 8]
    assert not patient[1].ended.any()
    assert whole[0].played == 60
    assert patient[0].played == 10 + 14 + 8


def test_what_is_kept_of_games_given_up_is_the_same() -> None:
    assert torch.equal(played(8, keep=True)[1].score, played(8)[1].score)


def test_games_are_kept_without_their_frames() -> None:
    whole, spare = (played(8, keep=True, frames=kept)[1] for kept in (True, False))
    assert spare.frames is None
    assert whole.frames is not None
    for name in ("code", "action", "reward", "score"):
        assert torch.equal(getattr(whole, name), getattr(spare, name)), name
