"""Further rounds: the agent plays, its games are recorded, and the model is trained on them, too.

What chance never reaches, a model trained on games of chance cannot dream of. An agent that lasts longer sees more of
the game; see Ha and Schmidhuber, "World models", section 5, on iterative training.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phlogiston import datasets
from phlogiston.datasets.base import Array, Dataset
from phlogiston.datasets.recording.environment import GameSpec
from phlogiston.datasets.recording.store import RecordedGames, Recording, SampledGames
from phlogiston.errors import ConfigError
from phlogiston.models.dreaming import Linear


class AgentPolicy:
    """An agent as a policy that games are recorded with, one game after another.

    Args:
        model: the `World`.
        guide: has the encoder.
        weights: (F,), of the controller.
        looks: its inputs.
        spec: how the game is played.
    """

    def __init__(self, model: Any, guide: Any, weights: torch.Tensor, looks: str, spec: GameSpec) -> None:
        self._model, self._guide = copy.deepcopy(model).eval(), copy.deepcopy(guide).eval()
        self._agent, self._spec = Linear(weights.unsqueeze(0), self._model, looks), spec
        self.reset()

    def reset(self) -> None:
        """Begin with an empty memory."""
        with torch.no_grad():
            self._state = self._model.start(1)

    @torch.no_grad()
    def __call__(self, frame: Array, generator: np.random.Generator) -> int:
        """See `datasets.recording.policies.Policy`."""
        seen = torch.from_numpy(self._spec.scaled(frame[None]))
        code = self._guide.encode(seen)[0]
        action = self._agent.act(code, self._state.out, torch.Generator())
        self._state = self._model.observe(self._state, code, action)
        return int(action)


def check_rounds(data: Any) -> RecordedGames:
    """Return the recorded games that further rounds add to.

    Raises:
        ConfigError: data that are no recording, or one that does not name its environment.
    """
    games = data.train if isinstance(data, Dataset) else None
    if not isinstance(games, RecordedGames) or not games.spec.env:
        raise ConfigError(
            "rounds need a recording made with the id of an environment, in which the agent can play: "
            "datasets.record('CartPole-v1', 'games')"
        )
    return games


def play_and_record(system: Any, games: RecordedGames, out: Path, episodes: int, seed: int) -> None:
    """Let a system's agent play in the environment of a recording, and record it in the same manner.

    Args:
        system: a fitted `WorldModel` with an agent.
        games: the recording.
        out: folder to make; a recording that is there is left as it is.
        episodes: games.
        seed: of the games.
    """
    if out.exists():
        return
    spec, agent = games.spec, system.agent
    view = spec.view
    options = {name: value for name, value in spec.options.items() if name != "render_mode"}
    datasets.record(
        spec.env, out, episodes=episodes, skip=spec.skip, cap=spec.cap, crop=view.crop, size=view.size, grey=view.grey,
        key=view.key, render=view.render, actions=spec.actions, options=options, seed=seed,
        policy=AgentPolicy(system.model, system.guide, agent.weights, agent.looks, spec),
    )  # fmt: skip


def together(data: Dataset, folder: Path) -> Dataset:
    """The data with the games of a further recording among the training games."""
    games = data.train
    assert isinstance(games, RecordedGames)
    whole = RecordedGames([*games.recordings, Recording(folder)])
    first = sum(map(len, games.recordings))
    train = whole.select(np.concatenate([games.games, np.arange(first, len(whole))]))
    valid, test = (
        # filled up to the longest game, which the agent may have played
        whole.select(split.whole.games).split(slice(None)) if isinstance(split, SampledGames) else split
        for split in (data.valid, data.test)
    )
    options = {**data.meta.options, "more": [*data.meta.options.get("more", ()), str(folder)]}
    return Dataset(train, valid, test, replace(data.meta, options=options))  # type: ignore[arg-type]
