"""Motion by asking again and again: the next pose given the last two, a pace, and room above the head.

A deep residual mixture learns rows of three successive poses and the pace of the walk. To move is to ask for the third
pose given the first two, to put the answer in the history, and to ask anew. The history is known softly (a mask of
0.98: "about so"), so that small errors do not add up. A beam overhead is a box on the height of the head, in the
questions asked while the figure is below it, and the walk crouches.

    python examples/drmm_motion.py --out motion.png

After the animation example of Hämäläinen and Solin, Deep Residual Mixture Models, 2020; its recordings are replaced by
walks drawn by code.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from phlogiston.datasets.generated import poses
from phlogiston.inference.query.evidence import Known, Within
from phlogiston.systems.drmm import DRMM

MOVING = ("right_thigh", "left_thigh", "right_shin", "left_shin", "right_upper_arm", "left_upper_arm", "torso")
POSE = len(MOVING) + 2  # angles, height of the root, height of the head
PACE = 3 * POSE  # the last column
BEAM = 1.28  # of the body's length; walking upright the head is at about 1.55


def angles_of(pose: np.ndarray) -> np.ndarray:
    """All joint angles of poses (n, 9): (n, 16); what does not move is 0."""
    angles = np.zeros((len(pose), len(poses.JOINTS)))
    for column, name in enumerate(MOVING):
        angles[:, poses.NAMES.index(name)] = pose[:, column]
    return angles


def joints_of(pose: np.ndarray) -> np.ndarray:
    """Where poses (n, 9) have their joints, standing at x = 0: (n, 16, 2)."""
    root = np.stack([np.zeros(len(pose)), pose[:, 7]], 1)
    return poses.forward_kinematics(root, angles_of(pose))


def walk(rows: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of three successive poses and the pace, (rows, 28), each from a walk of its own."""
    pace, phase = rng.uniform(0.25, 0.6, (rows, 1)), rng.uniform(0, 2 * np.pi, (rows, 1))
    low = [rng.uniform(0, 1, (rows, 1)) * (rng.random((rows, 1)) < 0.7)]
    for _ in range(2):  # who is left alone gets up again, some are pressed down
        pressed = rng.uniform(0, 0.35, (rows, 1)) * (rng.random((rows, 1)) < 0.4)
        low.append((0.8 * low[-1] + pressed).clip(0, 1))
    t, sunk = np.arange(3), np.concatenate(low, 1)
    swing = np.sin(phase + pace * t)
    lift = np.maximum(np.cos(phase + pace * t), 0), np.maximum(-np.cos(phase + pace * t), 0)
    bend = 0.9 * sunk
    pose = np.stack(
        [
            *(0.45 * swing - bend, -0.45 * swing - bend),
            *(bend + 0.5 * lift[0], bend + 0.5 * lift[1]),
            *(1.3 - 0.4 * swing, -1.3 - 0.4 * swing),
            *(0.5 * sunk, 0.7 - 0.22 * sunk),
        ],
        -1,
    )  # (rows, 3, 8)
    pose += rng.normal(0, 0.01, pose.shape)
    head = joints_of(pose.reshape(-1, 8))[:, poses.NAMES.index("head_top"), 1].reshape(rows, 3, 1)
    return np.concatenate([np.concatenate([pose, head], -1).reshape(rows, -1), pace], 1).astype(np.float32)


def move(system: DRMM, start: np.ndarray, pace: float, frames: int, limit: tuple[int, int]) -> np.ndarray:
    """Ask for one pose after the other: (frames, 9). Between the frames of `limit` the head stays below the beam."""
    history = start[: 2 * POSE].reshape(2, POSE)
    out = []
    for frame in range(frames):
        value, mask = np.zeros(PACE + 1), np.zeros(PACE + 1)
        value[: 2 * POSE], mask[: 2 * POSE] = history.ravel(), 0.98
        value[PACE], mask[PACE] = pace, 1.0
        question: list[Any] = [Known(value, mask)]
        if limit[0] <= frame < limit[1]:
            upper = np.full(PACE + 1, np.inf)
            upper[PACE - 1] = BEAM
            question.append(Within(np.full(PACE + 1, -np.inf), upper))
        answer = system.query({"x": question}, num_samples=64, seed=frame, sort=True)
        pose = answer.samples["x"][0, 2 * POSE : PACE].numpy()
        history = np.stack([history[1], pose])
        out.append(pose)
    return np.stack(out)


def picture(walks: dict[str, np.ndarray], limit: tuple[int, int]) -> Figure:
    """Every third frame of walks, side by side; the beam where it is overhead."""
    figure = Figure(figsize=(11, 2.4 * len(walks)), layout="constrained")
    figure.set_label("walking figures, frame by frame: free, and crouching below a beam")
    for ax, (name, walked) in zip(np.atleast_1d(figure.subplots(len(walks), 1)), walks.items(), strict=True):
        for frame in range(0, len(walked), 3):
            joints = joints_of(walked[frame : frame + 1])[0] + [0.22 * frame, 0.0]
            for child, joint in enumerate(poses.JOINTS):
                if joint.parent:
                    both = joints[[poses.NAMES.index(joint.parent), child]]
                    ax.plot(both[:, 0], both[:, 1], color="#1f3a5f", linewidth=1.6)
        if name != "free":
            ax.fill_between([0.22 * limit[0] - 0.3, 0.22 * limit[1]], BEAM, 1.75, color="#d9480f", alpha=0.25)
        ax.set_aspect("equal")
        ax.set_title(name, fontsize=9)
        ax.axis("off")
    return figure


def main() -> None:
    """Fit, walk freely and below a beam, and say how well the limit and the pace are kept."""
    parser = argparse.ArgumentParser(description="Motion by conditioning a density again and again.")
    parser.add_argument("--smoke", action="store_true", help="a small model that shows the path, not the quality")
    parser.add_argument("--out", type=Path, default=Path("drmm_motion.png"))
    chosen = parser.parse_args()

    rng = np.random.default_rng(0)
    rows = walk(2_000 if chosen.smoke else 20_000, rng)
    layers, components, steps = (1, 16, 60) if chosen.smoke else (2, 32, 1500)
    system = DRMM(frame="tril", num_layers=layers, num_components=components, steps=steps).fit({"x": rows})
    frames, limit = (9, (3, 6)) if chosen.smoke else (48, (15, 33))
    upright = rows[np.argmax(rows[:, POSE - 1])]
    walks = {
        "free": move(system, upright, 0.4, frames, (0, 0)),
        "a beam overhead": move(system, upright, 0.4, frames, limit),
    }
    below = walks["a beam overhead"][slice(*limit)]
    told, true = below[:, 8], joints_of(below)[:, poses.NAMES.index("head_top"), 1]
    print(f"head below {BEAM}: {np.mean(told <= BEAM):.0%} as sampled; highest of the figure itself {true.max():.3f}")
    print(f"heads of the free walk: {walks['free'][:, 8].mean():.3f} on average")
    picture(walks, limit).savefig(chosen.out, dpi=110)
    print(chosen.out)


if __name__ == "__main__":
    main()
