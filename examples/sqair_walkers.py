"""People in a street: videos in colour, oblong boxes, a background to take away, and people who come and go.

The videos are drawn by code, so that the truth is known; `--videos FOLDER` takes videos of yours instead. The
median of the frames is the background and is taken away before anything is learned. People enter and leave, so the
rates of being born and of staying are set from how long they are in sight. `--square` shows them in perspective, with
shadows, and behind a tree: pixels that never change may hide people, who are followed there (`screen`).

    python examples/sqair_walkers.py --out runs/walkers
    python examples/sqair_walkers.py --square --out runs/square
    python examples/sqair_walkers.py --videos my/videos --out runs/my-videos

writes pictures of tracks, prints counts and tracks against the truth where it is known. `--smoke` takes seconds.

After section 4.2 of Kosiorek et al., Sequential Attend, Infer, Repeat, 2018.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from phlogiston import datasets
from phlogiston.systems.sqair import SQAIR

OPTIONS: dict[str, Any] = {
    "glimpse": (20, 10), "background": "static", "survival": 0.95, "birth": 0.1, "steps": 400, "batch_size": 16,
    "lengths": (3, 6), "shares": (0.7, 0.3),
}  # fmt: skip
SQUARE = {**OPTIONS, "screen": True, "survival": 0.98, "birth": 0.05, "least_energy": 0.15, "lengths": (3, 8)}


def videos(square: bool = False, **small: Any) -> datasets.Dataset:
    """People in colour, with a camera's noise."""
    shown: dict[str, Any] = {"sizes": (1_000, 64, 128), "background": "square" if square else "street", **small}
    return datasets.load("walkers", colour=True, noise=0.02, **shown)


def main() -> None:
    """Train, score where the truth is known, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/walkers"))
    parser.add_argument("--videos", help="a folder of videos, or of folders of frames")
    parser.add_argument("--square", action="store_true", help="perspective, shadows and a tree")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    chosen = parser.parse_args()
    if chosen.videos:
        data = datasets.load("video_folder", data=chosen.videos, size=(48, 64))
    else:
        small: dict[str, Any] = {"sizes": (12, 2, 4), "frames": 6} if chosen.smoke else {}
        data = videos(chosen.square, **small)
    print(data, data.train.tensors["x"].shape)
    steps: dict[str, Any] = {"steps": 2, "lengths": (3,), "shares": (1.0,), "batch_size": 4} if chosen.smoke else {}
    options = SQUARE if chosen.square else OPTIONS
    system = SQAIR(preset="cpu", **{**options, **steps}).fit(data)
    for name, metric in system.evaluate(data, ["count", "tracking"]).items():
        print(f"{name.replace('_', ' '):40} {metric.text()}")
    first = system.track(data.test)[0]
    print(f"{len(first)} tracks in the first held-out video")
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, figure in system.figures(data).items():
        figure.savefig(chosen.out / f"{name}.png", dpi=120)
    print(chosen.out)


if __name__ == "__main__":
    main()
