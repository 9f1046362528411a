"""Pictures of a fitted SQAIR: videos with boxes coloured by identity, glimpses, futures and samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.evaluate import figures as draw
from phlogiston.systems.sqair.videos import scaled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from phlogiston.systems.sqair.system import SQAIR

# twelve colours that are told apart on black; identities beyond the twelfth begin anew
PALETTE = (
    "#4cc9f0", "#f94144", "#90be6d", "#f9c74f", "#b388eb", "#f8961e",
    "#43aa8b", "#ff8fab", "#9ef01a", "#577590", "#ffd6a5", "#d00000",
)  # fmt: skip


def colour(identity: int) -> str:
    """The colour of an identity."""
    return PALETTE[identity % len(PALETTE)]


def interesting(system: SQAIR, x: Tensor, number: int) -> Tensor:
    """Indices of videos worth showing: those in which most objects are found, without looking at any truth."""
    some = x[: min(len(x), 48)]
    count = system.infer(some)["presence"].sum((1, 2))
    return count.argsort(descending=True, stable=True)[:number]


def tracked(system: SQAIR, x: Tensor, seed: int = 0) -> Figure:
    """Input above reconstruction, frame by frame, with boxes in the colour of their identity."""
    result = system.infer(x, num_particles=10, seed=seed)
    videos, frames = x.shape[:2]
    aspect = x.shape[3] / x.shape[4]
    alt = f"{videos} videos of {frames} frames: input over reconstruction"
    figure = draw.new_figure(1.05 * frames + 0.3, 2.1 * aspect * videos + 0.2, alt)
    axes = figure.subplots(2 * videos, frames, squeeze=False)
    for i in range(videos):
        for t in range(frames):
            for row, picture in ((2 * i, scaled(x[i, t])), (2 * i + 1, result["canvas"][i, t])):
                panel = axes[row, t]
                _show(panel, picture)
                _boxes(panel, result["boxes"][i, t], result["ids"][i, t], names=row == 2 * i)
            if i == 0:
                axes[0, t].set_title(f"frame {t + 1}", fontsize=7, pad=2)
        axes[2 * i, 0].set_ylabel("input", fontsize=7)
        axes[2 * i + 1, 0].set_ylabel("rendered", fontsize=7)
    return figure


def glimpses(system: SQAIR, x: Tensor) -> Figure:
    """One video: the frame, what was rendered, and each slot's glimpse with the probability that it holds something."""
    result = system.infer(x, num_particles=10)
    model = system.model
    with torch.no_grad():
        decoded = model.decode(result["what"][0].reshape(-1, model.features))
    decoded = decoded.reshape(*result["what"].shape[1:3], *decoded.shape[1:])[:, :, : model.shape[0]]
    frames = x.shape[1]
    figure = draw.new_figure(1.05 * frames + 0.3, 1.15 * (model.slots + 2), "glimpses of every slot, frame by frame")
    axes = figure.subplots(model.slots + 2, frames, squeeze=False)
    for t in range(frames):
        _show(axes[0, t], scaled(x[0, t]))
        _boxes(axes[0, t], result["boxes"][0, t], result["ids"][0, t])
        _show(axes[1, t], result["canvas"][0, t])
        for i in range(model.slots):
            panel = axes[i + 2, t]
            there = result["presence"][0, t, i] > 0
            _show(panel, decoded[t, i] * float(there))
            panel.set_title(f"p = {float(result['presence_probability'][0, t, i]):.2f}", fontsize=6, pad=1)
            if there:
                for side in panel.spines.values():
                    side.set(visible=True, color=colour(int(result["ids"][0, t, i])), linewidth=1.5)
    for row, label in enumerate(["input", "rendered", *(f"slot {i + 1}" for i in range(model.slots))]):
        axes[row, 0].set_ylabel(label, fontsize=7)
    return figure


def predicted(system: SQAIR, x: Tensor, seen: int) -> Figure:
    """Videos of which the first frames were seen: what came, above two futures the model thinks possible."""
    horizon = x.shape[1] - seen
    before = system.infer(x[:, :seen], num_particles=10)
    after = system.predict(x[:, :seen], horizon, 2, num_particles=10)
    videos, frames = x.shape[:2]
    aspect = x.shape[3] / x.shape[4]
    figure = draw.new_figure(
        1.05 * frames + 0.3, 3.1 * aspect * videos + 0.2, "true videos, and two predicted continuations each"
    )
    axes = figure.subplots(3 * videos, frames, squeeze=False)
    for i in range(videos):
        for t in range(frames):
            _show(axes[3 * i, t], scaled(x[i, t]))
            for s in range(2):
                panel = axes[3 * i + 1 + s, t]
                if t < seen:
                    _show(panel, before["canvas"][i, t])
                    _boxes(panel, before["boxes"][i, t], before["ids"][i, t])
                else:
                    _show(panel, after["x"][s, i, t - seen])
                    _boxes(panel, after["boxes"][s, i, t - seen], after["ids"][s, i, t - seen], style="--")
        for row, label in enumerate(("true", "future 1", "future 2")):
            axes[3 * i + row, 0].set_ylabel(label, fontsize=7)
    for t in range(frames):
        axes[0, t].set_title("seen" if t < seen else f"+{t - seen + 1}", fontsize=7, pad=2)
    return figure


def samples(system: SQAIR, frames: int, seed: int = 0) -> Figure:
    """Videos drawn from the prior with none (not shown), one and two objects."""
    counts = [c for c in (1, 1, 2, 2) if c <= system.model.slots]
    drawn = [system.sample(1, frames=frames, count=c, seed=seed + i) for i, c in enumerate(counts)]
    figure = draw.new_figure(1.05 * frames + 0.3, 1.05 * len(counts) + 0.2, "videos drawn from the model")
    axes = figure.subplots(len(counts), frames, squeeze=False)
    for i, video in enumerate(drawn):
        for t in range(frames):
            _show(axes[i, t], video["x"][0, t])
        axes[i, 0].set_ylabel(f"{counts[i]} drawn", fontsize=7)
    return figure


def video(system: SQAIR, x: Any, num_particles: int = 10, zoom: int = 4, seed: int = 0) -> np.ndarray:
    """Videos with coloured boxes, side by side above their reconstructions: uint8 (frames, height, width, 3)."""
    videos = system.videos(x)
    result = system.infer(videos, num_particles=num_particles, seed=seed)
    rows = []
    for part in (scaled(videos), result["canvas"].clamp(0, 1)):
        big = part.repeat_interleave(zoom, 3).repeat_interleave(zoom, 4)
        picture = (255 * big.expand(*big.shape[:2], 3, *big.shape[3:])).round().byte().permute(0, 1, 3, 4, 2)
        pixels = picture.contiguous().numpy()
        for i in range(len(videos)):
            for t in range(videos.shape[1]):
                _paint(pixels[i, t], result["boxes"][i, t], result["ids"][i, t], zoom)
        rows.append(np.concatenate(list(pixels), 2))
    return np.concatenate(rows, 1)


def _paint(picture: np.ndarray, boxes: Tensor, ids: Tensor, zoom: int) -> None:
    for box, identity in zip(boxes.tolist(), ids.tolist(), strict=True):
        if identity < 0:
            continue
        value = colour(identity)
        rgb = [int(value[i : i + 2], 16) for i in (1, 3, 5)]
        x0, y0 = (round((v + 0.5) * zoom) for v in box[:2])
        x1, y1 = (round((a + b + 0.5) * zoom) for a, b in zip(box[:2], box[2:], strict=True))
        height, width = picture.shape[:2]
        x0, x1, y0, y1 = (
            int(np.clip(v, 0, limit - 2)) for v, limit in ((x0, width), (x1, width), (y0, height), (y1, height))
        )
        picture[y0 : y0 + 2, x0:x1] = picture[y1 : y1 + 2, x0:x1] = rgb
        picture[y0:y1, x0 : x0 + 2] = picture[y0:y1, x1 : x1 + 2] = rgb


def _show(panel: Axes, picture: Tensor) -> None:
    shown = picture.detach().clamp(0, 1).permute(1, 2, 0).numpy()
    panel.imshow(shown if shown.shape[-1] == 3 else shown[..., 0], cmap="gray", vmin=0, vmax=1)
    panel.set(xticks=[], yticks=[])
    for side in panel.spines.values():
        side.set_visible(False)


def _boxes(panel: Axes, boxes: Tensor, ids: Tensor, names: bool = False, style: str = "-") -> None:
    from matplotlib.patches import Rectangle

    for box, identity in zip(boxes.tolist(), ids.tolist(), strict=True):
        if identity < 0:
            continue
        paint = colour(identity)
        panel.add_patch(
            Rectangle((box[0], box[1]), box[2], box[3], fill=False, edgecolor=paint, linewidth=1.3, linestyle=style)
        )
        if names:
            panel.text(box[0] + 1, box[1] + 1, str(identity), color=paint, fontsize=6, va="top", clip_on=True)
