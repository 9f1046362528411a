"""A trained agent: the weights of a linear controller, how it was trained, and a file to keep it in."""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.untrusted.documents import read_object
from phlogiston.datasets.untrusted.guard import reading
from phlogiston.errors import ConfigError, RunError, ShapeError
from phlogiston.files import write_bytes, write_json
from phlogiston.models.dreaming import LOOKS

# the first line of the format, and the folder and names of the files, are older than the word "agent"
FORMAT = "phlogiston world player 1"


@dataclass(frozen=True)
class TrainedAgent:
    """A linear controller.

    Attributes:
        weights: float (F,), for every action its weights, then its bias.
        looks: what it looks at: "z" the code, "h" the memory, "zh" both.
        inside: where it was trained: "dream" or "game".
        tau: temperature of the dream.
        ends: how dreams ended, "sampled" or "rule".
        curve: for every generation the mean and the best score of its controllers, steps.
    """

    weights: Tensor
    looks: str = "zh"
    inside: str = "dream"
    tau: float = 1.0
    ends: str = "sampled"
    curve: list[tuple[float, float]] = field(default_factory=list)

    def save(self, path: str | Path) -> Path:
        """Write the agent into a new JSON file, whole or not at all.

        Raises:
            RunError: the file exists; nothing is touched.
        """
        target = Path(path)
        if target.exists():
            raise RunError(f"{target} exists already; choose another name, nothing was written")
        return write_json(target, {"format": FORMAT, **asdict(self), "weights": self.weights.tolist()})

    def export(self, path: str | Path, actions: int) -> Path:
        """Write the controller as plain arrays, for programs that have none of this: a = argmax(weight @ x + bias).

        `x` is the code, the memory's output, or both, as `looks` says; `weight` (actions, inputs), `bias` (actions,).

        Args:
            path: a new npz file.
            actions: how many there are.

        Raises:
            RunError: the file exists; nothing is touched.
            ShapeError: weights that do not belong to so many actions.
        """
        target = Path(path)
        if target.exists():
            raise RunError(f"{target} exists already; choose another name, nothing was written")
        if actions < 1 or len(self.weights) % actions:
            raise ShapeError(f"the agent has {len(self.weights)} weights, which are not those of {actions} actions")
        table = self.weights.reshape(actions, -1).numpy()
        held = io.BytesIO()
        np.savez(held, weight=table[:, :-1], bias=table[:, -1], looks=np.array(self.looks))
        return write_bytes(target, held.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> TrainedAgent:
        """Read what `save` wrote.

        Raises:
            RunError: there is no such file, or it holds something else.
        """
        if not Path(path).is_file():
            raise RunError(f"there is no agent {str(path)!r}; `phlogiston practise` trains one")
        with reading(path, "an agent", RunError):
            content = read_object(path, "an agent", RunError)
            if content.pop("format") != FORMAT:
                raise ValueError("another format")
            content["weights"] = torch.tensor([float(v) for v in content["weights"]])
            content["curve"] = [(float(a), float(b)) for a, b in content["curve"]]
            agent = cls(**content)
        if agent.looks not in LOOKS or not all(map(math.isfinite, agent.weights.tolist())):
            raise RunError(f"{path} holds no agent: looks is {agent.looks!r}, or a weight is not finite")
        return agent


def free_path(run: str | Path, name: str = "player") -> Path:
    """Path for a new agent in a run folder: the first free of players/NAME-1.json, NAME-2.json, ...

    Raises:
        ConfigError: a name with a slash in it.
    """
    if not name or Path(name).name != name:
        raise ConfigError(f"name is {name!r}; expected a plain file name")
    folder = Path(run) / "players"
    return next(p for i in range(1, 1_000_000) if not (p := folder / f"{name}-{i}.json").exists())
