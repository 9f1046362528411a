"""Pictures of a fitted SQAIR: films with boxes coloured by identity, glimpses, futures, samples; and videos."""

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


def figures(system: SQAIR, data: Any) -> dict[str, Figure]:
    """See `SQAIR.figures`."""
    x = system._films(data)
    chosen = interesting(system, x, 4)
    out = {"tracked": tracked(system, x[chosen]), "glimpses": glimpses(system, x[chosen[:1]])}
    if x.shape[1] > 5:
        out["predicted"] = predicted(system, x[chosen[:3]], 5)
    out["samples"] = samples(system, min(x.shape[1], 10))
    if system.history is not None and system.history.records:
        records = [r for r in system.history.records if r.get("loss") is not None]
        steps, losses = [r["step"] for r in records], [-float(r["loss"]) for r in records]
        out["bound"] = draw.curves(steps, {"training bound of a film": losses}, ylabel="nats")
    return out


def interesting(system: SQAIR, x: Tensor, number: int) -> Tensor:
    """Films worth showing: those in which most was found, without looking at any truth."""
    some = x[: min(len(x), 48)]
    count = system.infer(some)["presence"].sum((1, 2))
    return count.argsort(descending=True, stable=True)[:number]


def tracked(system: SQAIR, x: Tensor, seed: int = 0) -> Figure:
    """Input above reconstruction, frame by frame, with boxes in the colour of their identity."""
    found = system.infer(x, particles=10, seed=seed)
    films, frames = x.shape[:2]
    aspect = x.shape[3] / x.shape[4]
    figure = draw.new_figure(
        1.05 * frames + 0.3, 2.1 * aspect * films + 0.2, f"{films} films of {frames} frames: input over reconstruction"
    )
    axes = figure.subplots(2 * films, frames, squeeze=False)
    for i in range(films):
        for t in range(frames):
            for row, picture in ((2 * i, scaled(x[i, t])), (2 * i + 1, found["canvas"][i, t])):
                place = axes[row, t]
                _show(place, picture)
                _boxes(place, found["boxes"][i, t], found["ids"][i, t], names=row == 2 * i)
            if i == 0:
                axes[0, t].set_title(f"frame {t + 1}", fontsize=7, pad=2)
        axes[2 * i, 0].set_ylabel("input", fontsize=7)
        axes[2 * i + 1, 0].set_ylabel("rendered", fontsize=7)
    return figure


def glimpses(system: SQAIR, x: Tensor) -> Figure:
    """One film: the frame, what was rendered, and each place's glimpse with the probability that it holds something."""
    found = system.infer(x, particles=10)
    model = system.model
    with torch.no_grad():
        decoded = model.decode(found["what"][0].reshape(-1, model.features))
    decoded = decoded.reshape(*found["what"].shape[1:3], *decoded.shape[1:])[:, :, : model.shape[0]]
    frames = x.shape[1]
    figure = draw.new_figure(1.05 * frames + 0.3, 1.15 * (model.slots + 2), "glimpses of every place, frame by frame")
    axes = figure.subplots(model.slots + 2, frames, squeeze=False)
    for t in range(frames):
        _show(axes[0, t], scaled(x[0, t]))
        _boxes(axes[0, t], found["boxes"][0, t], found["ids"][0, t])
        _show(axes[1, t], found["canvas"][0, t])
        for i in range(model.slots):
            place = axes[i + 2, t]
            there = found["presence"][0, t, i] > 0
            _show(place, decoded[t, i] * float(there))
            place.set_title(f"p = {float(found['presence_probability'][0, t, i]):.2f}", fontsize=6, pad=1)
            if there:
                for side in place.spines.values():
                    side.set(visible=True, color=colour(int(found["ids"][0, t, i])), linewidth=1.5)
    for row, label in enumerate(["input", "rendered", *(f"place {i + 1}" for i in range(model.slots))]):
        axes[row, 0].set_ylabel(label, fontsize=7)
    return figure


def predicted(system: SQAIR, x: Tensor, seen: int) -> Figure:
    """Films of which the first frames were seen: what came, above two futures the model thinks possible."""
    horizon = x.shape[1] - seen
    before = system.infer(x[:, :seen], particles=10)
    after = system.predict(x[:, :seen], horizon, 2, particles=10)
    films, frames = x.shape[:2]
    aspect = x.shape[3] / x.shape[4]
    figure = draw.new_figure(
        1.05 * frames + 0.3, 3.1 * aspect * films + 0.2, "true films, and two predicted continuations each"
    )
    axes = figure.subplots(3 * films, frames, squeeze=False)
    for i in range(films):
        for t in range(frames):
            _show(axes[3 * i, t], scaled(x[i, t]))
            for s in range(2):
                place = axes[3 * i + 1 + s, t]
                if t < seen:
                    _show(place, before["canvas"][i, t])
                    _boxes(place, before["boxes"][i, t], before["ids"][i, t])
                else:
                    _show(place, after["x"][s, i, t - seen])
                    _boxes(place, after["boxes"][s, i, t - seen], after["ids"][s, i, t - seen], style="--")
        for row, label in enumerate(("true", "future 1", "future 2")):
            axes[3 * i + row, 0].set_ylabel(label, fontsize=7)
    for t in range(frames):
        axes[0, t].set_title("seen" if t < seen else f"+{t - seen + 1}", fontsize=7, pad=2)
    return figure


def samples(system: SQAIR, frames: int, seed: int = 0) -> Figure:
    """Films drawn from the prior with none (not shown), one and two objects."""
    counts = [c for c in (1, 1, 2, 2) if c <= system.model.slots]
    drawn = [system.sample(1, frames=frames, count=c, seed=seed + i) for i, c in enumerate(counts)]
    figure = draw.new_figure(1.05 * frames + 0.3, 1.05 * len(counts) + 0.2, "films drawn from the model")
    axes = figure.subplots(len(counts), frames, squeeze=False)
    for i, film in enumerate(drawn):
        for t in range(frames):
            _show(axes[i, t], film["x"][0, t])
        axes[i, 0].set_ylabel(f"{counts[i]} drawn", fontsize=7)
    return figure


def video(system: SQAIR, x: Any, particles: int = 10, zoom: int = 4, seed: int = 0) -> np.ndarray:
    """Films with coloured boxes, side by side above their reconstructions: uint8 (frames, height, width, 3)."""
    films = system._films(x)
    found = system.infer(films, particles=particles, seed=seed)
    rows = []
    for part in (scaled(films), found["canvas"].clamp(0, 1)):
        big = part.repeat_interleave(zoom, 3).repeat_interleave(zoom, 4)
        picture = (255 * big.expand(*big.shape[:2], 3, *big.shape[3:])).round().byte().permute(0, 1, 3, 4, 2)
        pixels = picture.contiguous().numpy()
        for i in range(len(films)):
            for t in range(films.shape[1]):
                _paint(pixels[i, t], found["boxes"][i, t], found["ids"][i, t], zoom)
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


def _show(place: Axes, picture: Tensor) -> None:
    shown = picture.detach().clamp(0, 1).permute(1, 2, 0).numpy()
    place.imshow(shown if shown.shape[-1] == 3 else shown[..., 0], cmap="gray", vmin=0, vmax=1)
    place.set(xticks=[], yticks=[])
    for side in place.spines.values():
        side.set_visible(False)


def _boxes(place: Axes, boxes: Tensor, ids: Tensor, names: bool = False, style: str = "-") -> None:
    from matplotlib.patches import Rectangle

    for box, identity in zip(boxes.tolist(), ids.tolist(), strict=True):
        if identity < 0:
            continue
        paint = colour(identity)
        place.add_patch(
            Rectangle((box[0], box[1]), box[2], box[3], fill=False, edgecolor=paint, linewidth=1.3, linestyle=style)
        )
        if names:
            place.text(box[0] + 1, box[1] + 1, str(identity), color=paint, fontsize=6, va="top", clip_on=True)
