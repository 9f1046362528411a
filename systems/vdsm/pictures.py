"""What VDSM shows: grids of clips for files, and figures for reports.

A *view* is a set of clips laid out as one video (or an npz of arrays): `phlogiston show RUN swap_grid --out grid.gif`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Split
from phlogiston.errors import ConfigError
from phlogiston.evaluate.figures import ACCENT
from phlogiston.evaluate.image_figures import frame, image_rows
from phlogiston.networks.frame_encoder import pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.systems.vdsm.system import VDSM

View = Callable[["VDSM", Split, int, int], dict[str, Tensor]]
Prior = Literal["standard", "aggregate"]


# ---- choosing and laying out clips


def varied(split: Split, n: int, by: str = "action") -> list[int]:
    """Choose clips that differ in action and individual as far as the rows allow.

    Returns:
        Up to `n` row numbers; the i-th shows the i-th action, by an individual not chosen before.

    Raises:
        ConfigError: there are no rows.
    """
    rows = len(split)
    if not rows:
        raise ConfigError("there are no clips to show")
    if by not in split.tensors:
        return torch.linspace(0, rows - 1, min(n, rows)).long().unique().tolist()
    action = split.tensors[by].tolist()
    group = split.tensors["group"].tolist() if "group" in split.tensors else list(range(rows))
    kinds = sorted(set(action))
    chosen: list[int] = []
    seen: set[int] = set()
    for i in range(min(n, rows)):
        kind = kinds[i * max(1, len(kinds) // n) % len(kinds)] if n < len(kinds) else kinds[i % len(kinds)]
        fits = [r for r in range(rows) if action[r] == kind and r not in chosen]
        fresh = [r for r in fits if group[r] not in seen]
        pick = (fresh or fits or [r for r in range(rows) if r not in chosen])[0]
        chosen.append(pick)
        seen.add(group[pick])
    return chosen


def mosaic(clips: Tensor, gap: int = 1) -> Tensor:
    """Lay clips (rows, columns, T, C, H, W) out as one video (T, C, height, width), with grey lines between."""
    rows, columns, length, channels, height, width = clips.shape
    out = torch.full((length, channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 0.5)
    for i in range(rows):
        for j in range(columns):
            top, left = i * (height + gap), j * (width + gap)
            out[..., top : top + height, left : left + width] = clips[i, j]
    return out


def framed(grid: Tensor, people: Tensor, actions: Tensor) -> Tensor:
    """Put the sources around a swap grid: people on top, actions at the left, (n + 1, n + 1, T, C, H, W)."""
    corner = torch.zeros_like(people[:1])
    body = torch.cat([actions.unsqueeze(1), grid], 1)
    return torch.cat([torch.cat([corner, people]).unsqueeze(0), body], 0)


# ---- views


def _real(split: Split, rows: list[int]) -> Tensor:
    frames = pixels(split.tensors["frames"][rows])
    assert frames is not None
    return frames


def swap_grid(system: VDSM, split: Split, n: int, seed: int) -> dict[str, Tensor]:
    """Every action (rows) with every person (columns); the sources at the left and on top."""
    real = _real(split, varied(split, n))
    return {"frames": mosaic(framed(system.swap_grid(real), real, real)).unsqueeze(0)}


def reconstruct(system: VDSM, split: Split, n: int, seed: int) -> dict[str, Tensor]:
    """Clips, their frames by themselves, and clips made from the dynamics code alone, below one another."""
    rows = varied(split, n)
    real = _real(split, rows)
    given = split.select(rows)
    parts = [real, system.reconstruct(given, "frame"), system.reconstruct(given, "sequence")]
    return {"frames": mosaic(torch.stack(parts)).unsqueeze(0)}


def generate(system: VDSM, split: Split, n: int, seed: int) -> dict[str, Tensor]:
    """Clips continued to four times their length, by the guide's chain (above) and by the prior's transitions."""
    given = split.select(varied(split, n))
    length = 4 * given.tensors["frames"].shape[1]
    return {"frames": mosaic(torch.stack([system.generate(given, length), system.rollout(given, length)])).unsqueeze(0)}


def predict(system: VDSM, split: Split, n: int, seed: int) -> dict[str, Tensor]:
    """What happens (above) and what was predicted from the first half of it (below)."""
    real = _real(split, varied(split, n))
    half = max(1, real.shape[1] // 2)
    made = torch.cat([real[:, :half], system.predict(real[:, :half], real.shape[1] - half)], 1)
    return {"frames": mosaic(torch.stack([real, made])).unsqueeze(0)}


def priors(system: VDSM) -> tuple[Prior, ...]:
    """Priors to draw clips from: the mixture of the training clips' codes where one is fitted, and the model's own."""
    return ("aggregate", "standard") if bool(system.model.identity_codes.weights.sum() > 0) else ("standard",)


def samples(system: VDSM, split: Split, n: int, seed: int) -> dict[str, Tensor]:
    """Invented clips, with codes drawn from where the training clips' codes are."""
    across = int(np.ceil(np.sqrt(n)))
    drawn = system.sample(across * across, prior=priors(system)[0], seed=seed)["frames"]
    return {"frames": mosaic(drawn.unflatten(0, (across, across))).unsqueeze(0)}


def codes(system: VDSM, split: Split, n: int, seed: int) -> dict[str, Tensor]:
    """Everything as arrays: codes, clips, regenerated clips, invented clips, labels. For .npz files."""
    rows = list(range(min(n, len(split)))) if n else list(range(len(split)))
    given = split.select(rows)
    names = [name for name in (*system.schema["categorical"], "group") if name in given.tensors]
    return {
        **system.encode(given),
        "frames": given.tensors["frames"],
        "regenerated": system.reconstruct(given),
        "invented": system.sample(len(rows), prior="standard", seed=seed)["frames"],
        **{name: given.tensors[name] for name in names},
    }


VIEWS: Mapping[str, View] = {f.__name__: f for f in (swap_grid, reconstruct, generate, predict, samples, codes)}


# ---- figures


def swap_figure(system: VDSM, split: Split, n: int = 6, rows: list[int] | None = None) -> Figure:
    """The swap grid at one moment: whoever stands in a column should be the person above it, doing what the row does.

    Args:
        system: fitted.
        split: clips to take.
        n: how many.
        rows: which, if not chosen here.
    """
    rows = varied(split, n) if rows is None else rows
    real = _real(split, rows)
    grid = framed(system.swap_grid(real), real, real)
    n = len(rows)
    names = system.schema["categorical"].get("action")
    actions = split.tensors["action"][rows].tolist() if names and "action" in split.tensors else None
    # the most telling moment: where the clip is farthest from its own mean
    moment = (real - real.mean(1, keepdim=True)).square().sum((2, 3, 4)).argmax(1).tolist()
    alt = f"a grid of {n} people (columns) in {n} actions (rows), made by swapping codes"
    shown = torch.stack(
        [torch.stack([grid[i, j, moment[i - 1] if i else moment[j - 1]] for j in range(n + 1)]) for i in range(n + 1)]
    )
    labels = ["", *(names[a] if names and a >= 0 else "" for a in actions or [-1] * n)]
    lines = list(zip(labels, shown, strict=True))
    figure, axes = image_rows(lines, titles=["", *(f"person {j + 1}" for j in range(n))], alt=alt)
    axes[0, 0].clear()
    axes[0, 0].set_axis_off()
    axes[0, 0].text(0.5, 0.5, "who →\nwhat ↓", ha="center", va="center", fontsize=9, transform=axes[0, 0].transAxes)
    for panel in (*axes[0, 1:], *axes[1:, 0]):  # the sources
        frame(panel, ACCENT, 2.0)
    return figure


def strips_figure(system: VDSM, split: Split, n: int = 3) -> Figure:
    """Clips over time, and what the model makes of them: frame by frame, from the code alone, continued, predicted."""
    rows = varied(split, n)
    real = _real(split, rows)
    length = min(real.shape[1], 8)
    half = max(1, real.shape[1] // 2)
    lines: list[tuple[str, Tensor]] = [
        ("real", real),
        ("frame by frame", system.reconstruct(real, "frame")),
        ("from the code", system.reconstruct(real)),
        ("first pose, then prior", system.rollout(real, real.shape[1])),
    ]
    if half < real.shape[1]:
        later = system.predict(real[:, :half], real.shape[1] - half)
        lines.append((f"predicted from {half}", torch.cat([real[:, :half], later], 1)))
    times = [int(t * real.shape[1] / length) for t in range(length)]
    strips = [(label, clips[i, times]) for i in range(len(rows)) for label, clips in lines]
    return image_rows(strips, size=0.7, alt="clips over time and their re-creations")[0]


def samples_figure(system: VDSM, n: int = 5) -> Figure:
    """Clips from either prior, over time."""
    length = min(system.schema["length"], 8)
    strips: list[tuple[str, Tensor]] = []
    for prior in priors(system):
        drawn = system.sample(n, length=length, prior=prior, seed=0)["frames"]
        strips += [(f"{prior} prior" if not i else "", clip) for i, clip in enumerate(drawn)]
    return image_rows(strips, size=0.7, alt=f"invented clips from the {' and the '.join(priors(system))} prior")[0]
