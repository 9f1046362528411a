"""Learn a game from recordings, dream it, train an agent in the dream, and let it play the game.

1. A world model is trained on games of dodge that were played at random.
2. Agents are trained in its dream alone, at several temperatures, and one in the game itself.
3. All of them play the game. A video shows games of the best of them beside its dreams.

    python examples/world_dream.py --out runs/dodge

Reference: Ha and Schmidhuber, "World models", arXiv 1803.10122.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch

from phlogiston import datasets
from phlogiston.systems.world import WorldModel
from phlogiston.systems.world.report import dream_figure, hold


def main() -> None:
    """Train the model, dream, train agents, play."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/dodge"))
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    smoke = arguments.smoke
    data = datasets.load("dodge", sizes=(40, 5, 10), limit=30) if smoke else datasets.load("dodge")
    options = {"frame_steps": 10, "steps": 5, "hidden": 16} if smoke else {}
    system = WorldModel(**options, generations=0).fit(data)
    for name, metric in system.evaluate(data, ["frames", "memory"]).items():
        print(f"{name:20} {metric}")

    effort = {"generations": 2, "population": 4, "rollouts": 2} if smoke else {"generations": 40}
    games = 16 if smoke else 256
    print(f"{'at random':20} {system.play('random', games).score.mean():6.1f} steps")
    agents = {}
    for tau in (1.0, 1.15) if smoke else (0.5, 1.0, 1.15, 1.3):
        agent = system.train_agent(tau=tau, **effort)
        agents[tau] = float(system.play(agent, games).score.mean()), agent
        dreamt = float(system.dream(agent, games, tau=tau).score.mean())
        print(f"{f'dreamt at tau {tau:g}':20} {agents[tau][0]:6.1f} steps, {dreamt:.1f} in the dream")
    real = system.train_agent(inside="game", **{**effort, "generations": effort["generations"] // 2})
    print(f"{'trained in the game':20} {system.play(real, games).score.mean():6.1f} steps")

    best = max(agents.values(), key=lambda pair: pair[0])[1]
    path = arguments.out / "player.json"
    path.unlink(missing_ok=True)
    best.save(path)
    steps = 20 if smoke else 120
    outside = hold(system.play(best, 3, max_steps=steps, keep=True))
    dreams = system.sample(3, steps=steps, player=str(path), seed=0)["frames"]
    length = min(outside.shape[1], dreams.shape[1])
    video = torch.cat([outside[:, :length], dreams[:, :length]], 0)[:, :, 0].numpy()  # three games, three dreams
    video = np.pad(video, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=0.5)
    rows = [np.concatenate(list(video[i : i + 3]), axis=2) for i in (0, 3)]
    pixels = (255 * np.concatenate(rows, axis=1).clip(0, 1)).astype(np.uint8)
    iio.imwrite(arguments.out / "games-above-dreams.gif", np.kron(pixels, np.ones((1, 6, 6), dtype=np.uint8)), loop=0)
    dream_figure(system, data.test).savefig(arguments.out / "dream.png", dpi=120)
    print(f"agent, video and picture in {arguments.out}")


if __name__ == "__main__":
    main()
