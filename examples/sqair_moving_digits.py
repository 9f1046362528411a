"""Objects nobody labelled: find, count and follow moving digits, foresee them, and change what happened.

The script

1. trains SQAIR on videos of none, one or two moving digits (MNIST's, if you say where they are);
2. scores counts, tracks and predictions on held-out videos, beside ten lines of image processing;
3. follows digits through a long video, frame by frame, in constant memory;
4. continues videos, fills in frames that were hidden, and asks what if a digit had not been there.

    python examples/sqair_moving_digits.py --out runs/moving-digits
    python examples/sqair_moving_digits.py --mnist ~/.cache/phlogiston/mnist --out runs/moving-digits

writes pictures, a video with coloured boxes, and prints the figures of merit. `--quick` takes seconds.

Reference: Kosiorek, Kim, Posner and Teh, "Sequential Attend, Infer, Repeat", NeurIPS 2018.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from phlogiston import datasets
from phlogiston.evaluate.image_figures import image_grid
from phlogiston.systems.sqair import SQAIR
from phlogiston.systems.sqair import pictures as sqair_pictures


def train(quick: bool, mnist: str | None) -> tuple[SQAIR, datasets.Dataset, dict[str, Any]]:
    """Train on videos of moving digits; return also the options of the data."""
    chosen: dict[str, Any] = {"source": "mnist", "root": mnist} if mnist else {}
    sizes = (300, 16, 32) if quick else (8000, 256, 256)
    data = datasets.load("moving_digits", sizes=sizes, **chosen)
    options: dict[str, Any] = {"steps": 12, "lengths": (3,), "shares": (1.0,)} if quick else {}
    return SQAIR(preset="cpu", **options).fit(data), data, chosen


def score(system: SQAIR, data: datasets.Dataset) -> None:
    """Print how well held-out videos are explained, counted, followed and predicted."""
    for name, metric in system.evaluate(data).items():
        print(f"{name.replace('_', ' '):40} {metric.text()}")


def follow(system: SQAIR, video: Any) -> None:
    """Follow the objects of one long video while it comes in."""
    tracker = system.tracker(num_particles=8)
    seen: dict[int, int] = {}
    for frame in video:
        for identity in tracker.step(frame)["ids"].tolist():
            seen[identity] = seen.get(identity, 0) + 1
    told = ", ".join(f"object {name} in {frames} frames" for name, frames in seen.items())
    print(f"a video of {tracker.frames} frames: {told or 'nothing found'}")


def what_if(system: SQAIR, video: torch.Tensor) -> Figure:
    """One video as it was, without one of its digits, with one moved, and with appearances swapped."""
    plain = system.edit(video, num_particles=10)
    ids = sorted({int(i) for i in plain["ids"].flatten() if i >= 0})
    rows = {"as it was": plain["x"]}
    if ids:
        rows["without one"] = system.edit(video, remove=ids[0])["x"]
        rows["12 px lower"] = system.edit(video, move=(ids[0], 0.0, 12.0))["x"]
    if len(ids) > 1:
        rows["looks swapped"] = system.edit(video, swap=(ids[0], ids[1]))["x"]
    pictures = torch.cat([part[0, :, 0] for part in rows.values()]).clamp(0, 1)
    titles = [name if t == 0 else "" for name in rows for t in range(video.shape[1])]
    return image_grid(pictures, columns=video.shape[1], titles=titles, alt="one video, and three that might have been")


def hidden(system: SQAIR, videos: torch.Tensor) -> Figure:
    """Videos of which two frames were hidden, above what was filled in."""
    mask = torch.ones(videos.shape[:2], dtype=torch.bool)
    mask[:, videos.shape[1] // 2 : videos.shape[1] // 2 + 2] = False
    shown = videos.float() / 255 * mask[:, :, None, None]
    filled = system.impute(videos, mask)[:, :, 0]
    rows = torch.stack([shown, filled], 1).flatten(0, 2)
    return image_grid(rows.clamp(0, 1), columns=videos.shape[1], alt="hidden frames (black) and how they are filled in")


def main() -> None:
    """Run the whole story."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/moving-digits"))
    parser.add_argument("--mnist", help="folder of MNIST's files; the built-in digits without")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    system, data, options = train(chosen.quick, chosen.mnist)
    score(system, data)
    long = datasets.load("moving_digits", sizes=(1, 0, 4), frames=20 if chosen.quick else 100, noise=0.1, **options)
    follow(system, long.test.tensors["x"][int(long.test.tensors["count"][:, 0].argmax())])
    videos = data.test.tensors["x"]
    crowded = videos[sqair_pictures.interesting(system, videos, 4)]
    pictures = {**system.figures(data), "what-if": what_if(system, crowded[:1]), "hidden": hidden(system, crowded[:3])}
    for name, figure in pictures.items():
        figure.savefig(chosen.out / f"{name}.png", dpi=120)
    import imageio.v3 as iio

    iio.imwrite(
        chosen.out / "tracked.gif", sqair_pictures.video(system, crowded), plugin="pillow", duration=200, loop=0
    )
    print(f"pictures and tracked.gif are in {chosen.out}")


if __name__ == "__main__":
    main()
