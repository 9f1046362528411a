"""Rooms remembered, and looked at from elsewhere: train, remember nine rooms in one memory, and turn round in each.

The script

1. trains on courts, one room and 2 x 2 rooms at a time;
2. observes nine rooms it has never seen, eight photographs each, and lays their memories side by side;
3. paints views from new viewpoints beside the truth, and says how far they are off, for 1 x 1 and 3 x 3 rooms;
4. asks where a photograph was taken, and completes one of which half is known;
5. writes the video of turning round in every room: the painted view left, the map with the active nodes right.

    python examples/scene_turn.py --out runs/turn

takes some minutes on two cores; `--smoke` takes seconds and shows little.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch

from phlogiston import datasets
from phlogiston.errors import QueryWarning
from phlogiston.inference.query.evidence import Known
from phlogiston.systems.scene import Scene
from phlogiston.systems.scene import scoring as scene_scoring
from phlogiston.systems.scene.memory import tile


def main() -> None:
    """Run the story."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/turn"))
    parser.add_argument("--smoke", action="store_true", help="a few steps only")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    if options.smoke:
        data = datasets.load("courts", sizes=(32, 9, 9), views=12, size=16)
        system = Scene(grid=4, width=16, bins=8, draft_steps=4, steps=4)
    else:
        data = datasets.load("courts")
        system = Scene(preset="courts")
    system.fit(data)

    # nine rooms, observed one by one, laid side by side
    images, poses = data.test.tensors["images"], data.test.tensors["poses"]
    rooms = [system.observe(images[i, :8], poses[i, :8]) for i in range(9)]
    grid = tile(rooms)
    print(f"{grid}: {len(grid)} photographs, {len(grid.nodes())} nodes")

    # the same viewpoint, painted from its own room's memory and from the grid's
    room, view = 5, 9
    shift = torch.tensor([0.7 * (room // 3), 0.7 * (room % 3), 0, 0, 0, 0])
    alone = system.sample_views(rooms[room], poses[room, view : view + 1], 8, seed=0)
    among = system.sample_views(grid, poses[room, view : view + 1] + shift, 8, seed=0)
    print(f"one room of nine, alone and in the grid: pictures differ by {float((alone - among).abs().max()):.1e}")
    for side, metric in scene_scoring.grid_sweep(system, data, (1, 2, 3), total=40 if options.smoke else 300).items():
        print(f"{side} x {side} rooms: squared error {metric.text()}")

    # where was this photograph taken?
    here = poses[room, 8:12]
    probability = system.localise(rooms[room], images[room, view], here)
    print("where was it taken? probabilities of four poses:", [round(p, 3) for p in probability.tolist()])

    # half a photograph
    known = torch.zeros(3, *images.shape[2:4], dtype=torch.bool)
    known[:, :, : images.shape[3] // 2] = True
    truth = images[room, view].permute(2, 0, 1).double() / 255
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QueryWarning)  # few of the draws fit a given half exactly; that is told here
        answer = system.query(
            {"x": Known(truth, known)}, ["x"], 100, memory=rooms[room], pose=poses[room, view], seed=0
        )
    print(f"the other half: squared error {float((answer.mean('x') - truth)[~known].square().mean()):.4f}, {answer}")

    system.figures(data)["views"].savefig(options.out / "views.png", dpi=110)
    video = system.sample(1, turn=True, frames=3 if options.smoke else 16, seed=0)["video"][0].numpy()
    iio.imwrite(options.out / "turn.gif", np.asarray(video), duration=120, loop=0)
    print(options.out / "turn.gif")


if __name__ == "__main__":
    main()
