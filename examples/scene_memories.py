"""Does a memory with places in it pay? Graph and pooled memories under one painter, on one room to many.

Both are trained on one room and on 2 x 2 rooms side by side, and asked about 1 x 1 to 3 x 3: how far are views from new
places off (the squared error of the mean of eight samples), and how often is the right photograph found among all
photographs of all rooms, by embeddings alone?

    python examples/scene_memories.py

takes half an hour on two cores; `--smoke` takes seconds and shows nothing but the table.

After Alet et al., Graph Element Networks, ICML 2019, sections on scenes.
"""

from __future__ import annotations

import argparse
from typing import Any

from phlogiston import datasets
from phlogiston.systems.scene import Scene
from phlogiston.systems.scene import matching as scene_matching
from phlogiston.systems.scene.scoring import grid_sweep


def main() -> None:
    """Train four models and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny models, a few steps")
    chosen = parser.parse_args()
    sides = (1, 2, 3)
    painter: dict[str, Any] = {"preset": "courts-short"}
    matcher: dict[str, Any] = {}
    if chosen.smoke:
        data = datasets.load("courts", sizes=(24, 0, 9), views=12, size=16)
        painter = {"grid": 4, "width": 16, "bins": 8, "draft_steps": 3, "steps": 3}
        matcher = {"steps": 3, "bins": 4, "values": 3, "widths": (4, 4)}
    else:
        data = datasets.load("courts")
    print(f"{'':32}" + "".join(f"{f'{side} x {side}':>12}" for side in sides))
    for memory in ("graph", "pooled"):
        system = Scene(memory=memory, **painter).fit(data, progress="auto")
        errors = grid_sweep(system, data.test, sides, total=30 if chosen.smoke else 300)
        print(f"{memory:8}error of new views     " + "".join(f"{errors[side].value:12.4f}" for side in sides))
    for memory in ("graph", "pooled"):
        nodes = {"nodes": "hub"} if memory == "graph" else {}
        model = scene_matching.train(data, memory, **{"steps": 1500, **matcher, **nodes})
        found = [scene_matching.accuracy(model, data.test, s, queries=32 if chosen.smoke else 480) for s in sides]
        print(f"{memory:8}right photograph found " + "".join(f"{metric.value:12.3f}" for metric in found))
        print(
            f"{'':8}by chance              " + "".join(f"{1 / metric.detail['candidates']:12.4f}" for metric in found)
        )


if __name__ == "__main__":
    main()
