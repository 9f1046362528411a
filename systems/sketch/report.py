"""Figures of merit and pictures of SketchRNN."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Array
from phlogiston.evaluate.figures import ACCENT, INK, new_figure
from phlogiston.evaluate.frechet import frechet_from_features, frechet_std_error
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.systems.drawing import drawings_of, gallery, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.systems.sketch.system import Sketch

RECOGNISED = 200
TEMPERATURES = (0.2, 0.6, 1.0)
CELLS = 8  # a drawing as a picture for the Fréchet distance has so many rows and columns


def evaluate(system: Sketch, data: Any, wanted: set[str]) -> dict[str, Metric]:
    """See `Sketch.evaluate`."""
    x, length = system.sequences(data)
    found: dict[str, Metric] = {}
    # from densities per data unit to densities per standard deviation of the training offsets
    shift = 2.0 * length.double() * math.log(float(system.model.unit[0]))
    detail = {"unit": "nats per drawing", "offsets": f"divided by {float(system.model.unit[0]):.4g}"}
    conditional = system.guide is not None
    if "bound" in wanted:
        reconstruction, divergence = system._parts(x, length)
        kind = "lower bound" if conditional else "estimate" if system.config.dequantise else "exact"
        loss = divergence.double() - reconstruction.double() - shift
        found["negative_bound"] = from_rows(loss, "upper bound" if conditional else kind, False, detail)
        if conditional:
            found["reconstruction"] = from_rows(-reconstruction.double() - shift, "estimate", False, detail)
            found["divergence"] = from_rows(divergence, "exact", None, {"unit": "nats per drawing"})
    if "log_likelihood" in wanted:
        some = slice(None, RECOGNISED) if conditional else slice(None)
        score = system.log_prob(x[some], length[some])
        found["log_likelihood"] = from_rows(score.value.double() + shift[some], score.kind, True, detail)
    if "recognition" in wanted and conditional:
        found["recognised_share"] = recognised(system, x[:RECOGNISED], length[:RECOGNISED])
    if "frechet" in wanted and len(x) >= 8:
        found.update(frechet(system, x, length))
    return found


def frechet(system: Sketch, x: Tensor, length: Tensor) -> dict[str, Metric]:
    """Fréchet distances of coarse pictures: to every other real drawing from the rest, and from as many invented ones.

    No figure of other features compares with these; they compare with each other, the sets being of one size. The
    distance of real drawings from real ones is what would be reached by inventions that could not be told from them.
    """
    rows = drawings_of(x, length)
    size = max(float(np.abs(cloud(row)).max()) for row in rows)
    known = pictures(rows[0::2], size)
    sets = {"real": pictures(rows[1::2], size)}
    for temperature in TEMPERATURES:
        drawn = system.sample(len(rows[1::2]), temperature=temperature, seed=0)
        sets[f"{temperature:g}"] = pictures(drawings_of(drawn["x"], drawn["length"]), size)
    detail = {"features": f"ink on {CELLS} x {CELLS} cells", "real": len(known)}
    return {
        f"frechet_{name}": Metric(
            frechet_from_features(known, some), frechet_std_error(known, some), len(some), "estimate", False, detail
        )
        for name, some in sets.items()
    }


def pictures(drawings: list[list[Array]], size: float) -> Array:
    """Where the ink of centred drawings is, (drawings, CELLS * CELLS): points of a cloud shared among four cells each.

    Args:
        drawings: strokes of each.
        size: half the side of the sheet, in data units; what lies beyond it is left at its border.
    """
    found = np.zeros((len(drawings), CELLS, CELLS))
    for sheet, strokes in zip(found, drawings, strict=True):
        points = cloud(strokes, 200)
        at = ((points / size + 1.0) * 0.5 * (CELLS - 1)).clip(0.0, CELLS - 1 - 1e-6)
        corner = at.astype(int)
        share = at - corner
        for right in (0, 1):
            for down in (0, 1):
                weight = np.prod(np.where([right, down], share, 1.0 - share), axis=1) / len(points)
                np.add.at(sheet, (corner[:, 1] + down, corner[:, 0] + right), weight)
    return CELLS * found.reshape(len(drawings), -1)


def recognised(system: Sketch, x: Tensor, length: Tensor) -> Metric:
    """Share of reconstructions that are nearest, of all drawings given, to their own source (Chamfer distance)."""
    again = system.reconstruct(x, length, temperature=0.1)
    sources = [cloud(strokes) for strokes in drawings_of(x, length)]
    drawn = [cloud(strokes) for strokes in drawings_of(again["x"], again["length"])]
    hits = [float(np.argmin([chamfer(one, other) for other in sources]) == i) for i, one in enumerate(drawn)]
    return from_rows(hits, "estimate", True, {"chance": 1.0 / len(sources)})


def cloud(strokes: list[Array], points: int = 64) -> Array:
    """A drawing as points at equal distances along its strokes, centred: (points, 2)."""
    if not strokes:
        return np.zeros((1, 2))
    pieces = []
    lengths = [float(np.linalg.norm(np.diff(s, axis=0), axis=1).sum()) for s in strokes]
    total = max(sum(lengths), 1e-9)
    for stroke, size in zip(strokes, lengths, strict=True):
        along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(stroke, axis=0), axis=1))])
        at = np.linspace(0.0, along[-1], max(1, round(points * size / total)))
        pieces.append(np.column_stack([np.interp(at, along, stroke[:, 0]), np.interp(at, along, stroke[:, 1])]))
    joined = np.concatenate(pieces)
    return joined - 0.5 * (joined.min(0) + joined.max(0))


def chamfer(a: Array, b: Array) -> float:
    """Mean distance of each point of one cloud to the nearest of the other, both ways."""
    distance = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return float(distance.min(0).mean() + distance.min(1).mean())


# ---- pictures


def figures(system: Sketch, data: Any) -> dict[str, Figure]:
    """See `Sketch.figures`."""
    x, length = system.sequences(data)
    rows: dict[str, Any] = {"data": (x[:12], length[:12])}
    for temperature in TEMPERATURES:
        drawn = system.sample(12, temperature=temperature, seed=3)
        rows[f"drawn at temperature {temperature:g}"] = (drawn["x"], drawn["length"])
    found = {"drawings": gallery(rows, alt="real drawings above, drawings of the model at three temperatures below")}
    found["completions"] = _completions(system, x, length)
    if system.guide is not None:
        again = system.reconstruct(x[:12], length[:12], temperature=0.1)
        found["reconstructions"] = gallery(
            {"data": (x[:12], length[:12]), "drawn again from their latents": (again["x"], again["length"])},
            alt="drawings and their reconstructions",
        )
        rows = {}
        for k in range(min(3, len(x) // 2)):
            a, b = x[2 * k, : int(length[2 * k])], x[2 * k + 1, : int(length[2 * k + 1])]
            between = system.interpolate(a, b, 10)
            rows["from one drawing to another" if k == 0 else " " * k] = (between["x"], between["length"])
        found["interpolations"] = gallery(rows, alt="drawings between pairs of drawings")
    if system.history is not None and system.history.records:
        found["training"] = _training(system)
    return found


def _completions(system: Sketch, x: Tensor, length: Tensor) -> Figure:
    """The first half of three drawings, and ways to go on."""
    count = min(3, len(x))
    figure = new_figure(8 * 1.1, count * 1.25, "beginnings of drawings in colour, and ways the model goes on from them")
    for r in range(count):
        half = max(1, int(length[r]) // 2)
        begun = x[r, :half]
        ways = system.complete(begun, 7, temperature=0.6, seed=r)
        whole = drawings_of(x[r : r + 1], length[r : r + 1])[0]
        for k, drawing in enumerate([whole, *drawings_of(ways["x"], ways["length"])]):
            axes = figure.add_subplot(count, 8, r * 8 + k + 1)
            show(axes, drawing, square=True)
            for stroke in drawings_of(begun.unsqueeze(0), torch.tensor([half]))[0]:
                axes.plot(stroke[:, 0], stroke[:, 1], color=ACCENT, linewidth=1.6)
            if r == 0 and k < 2:
                axes.set_title(("data", "ways to go on")[k], fontsize=8, loc="left")
    return figure


def _training(system: Sketch) -> Figure:
    assert system.history is not None
    figure = new_figure(6.0, 3.0, "loss over training")
    axes = figure.add_subplot()
    records = system.history.records
    axes.plot([r["step"] for r in records], [r.get("loss", np.nan) for r in records], color=INK, linewidth=1.2)
    axes.set(xlabel="step", ylabel="nats per drawing")
    return figure
