"""Pictures of a fitted SQAIR: videos with boxes coloured by identity, glimpses, futures and samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.evaluate.image_figures import frame, image_rows
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
    rows = [
        (label, clip)
        for i in range(videos)
        for label, clip in (("input", scaled(x[i])), ("rendered", result["canvas"][i]))
    ]
    alt = f"{videos} videos of {frames} frames: input over reconstruction"
    figure, axes = image_rows(rows, titles=[f"frame {t + 1}" for t in range(frames)], size=0.8, alt=alt)
    for (i, t), panel in np.ndenumerate(axes):
        _boxes(panel, result["boxes"][i // 2, t], result["ids"][i // 2, t], names=i % 2 == 0)
    return figure


def glimpses(system: SQAIR, x: Tensor) -> Figure:
    """One video: the frames, what was rendered, and what each slot in use holds, with the probability that it does."""
    result = system.infer(x, num_particles=10)
    model = system.model
    with torch.no_grad():
        decoded = model.decode(result["what"][0].reshape(-1, model.features))
    decoded = decoded.reshape(*result["what"].shape[1:3], *decoded.shape[1:])[:, :, : model.shape[0]]
    there = result["presence"][0] > 0  # (frames, slots)
    used = [i for i in range(model.slots) if bool(there[:, i].any())]
    slots = [(f"slot {i + 1}", decoded[:, i]) for i in used]
    rows = [("input", scaled(x[0])), ("rendered", result["canvas"][0])]
    figure, axes = image_rows([*rows, *slots], size=0.8, alt="glimpses of every slot, frame by frame")
    for t in range(x.shape[1]):
        _boxes(axes[0, t], result["boxes"][0, t], result["ids"][0, t])
        for panel, i in zip(axes[2:, t], used, strict=True):
            panel.set_title(f"p = {float(result['presence_probability'][0, t, i]):.2f}", fontsize=7, pad=1)
            if there[t, i]:
                frame(panel, colour(int(result["ids"][0, t, i])))
            else:
                panel.images[0].remove()
    return figure


def predicted(system: SQAIR, x: Tensor, seen: int) -> Figure:
    """Videos of which the first frames were seen: what came, above two futures the model thinks possible."""
    horizon = x.shape[1] - seen
    before = system.infer(x[:, :seen], num_particles=10)
    after = system.predict(x[:, :seen], horizon, 2, num_particles=10)
    videos, frames = x.shape[:2]
    rows = []
    for i in range(videos):
        rows.append(("true", scaled(x[i])))
        rows += [(f"future {s + 1}", torch.cat([before["canvas"][i, :seen], after["x"][s, i]])) for s in range(2)]
    titles = ["seen" if t < seen else f"+{t - seen + 1}" for t in range(frames)]
    alt = "true videos, and two predicted continuations each"
    figure, axes = image_rows(rows, titles=titles, size=0.8, alt=alt)
    for i, s, t in np.ndindex(videos, 2, frames):
        panel = axes[3 * i + 1 + s, t]
        if t < seen:
            _boxes(panel, before["boxes"][i, t], before["ids"][i, t])
        else:
            _boxes(panel, after["boxes"][s, i, t - seen], after["ids"][s, i, t - seen], style="--")
    return figure


def samples(system: SQAIR, frames: int, seed: int = 0) -> Figure:
    """Videos drawn from the prior with none (not shown), one and two objects."""
    counts = [c for c in (1, 1, 2, 2) if c <= system.model.slots]
    drawn = [system.sample(1, frames=frames, count=c, seed=seed + i)["x"][0] for i, c in enumerate(counts)]
    rows = [(f"{count} object{'s' * (count > 1)}", clip) for count, clip in zip(counts, drawn, strict=True)]
    return image_rows(rows, size=0.8, alt="videos drawn from the model")[0]


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
