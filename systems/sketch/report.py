"""Figures of merit and pictures of SketchRNN, as tables; see `systems.evaluation`.

Metrics by group, in nats per drawing, of offsets divided by their standard deviation in the training data::

    bound             `negative_bound`; with a latent also `reconstruction` and `divergence`
    log_likelihood    with a latent the importance-weighted bound over the first 200 drawings
    recognition       `recognised_share`: how many of 200 reconstructions are nearest to their own source among the 200
    frechet           `frechet_0.2`, `frechet_0.6`, `frechet_1`, of drawings at these temperatures, beside
                      `frechet_real`
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Array
from phlogiston.evaluate.figures import ACCENT, new_figure
from phlogiston.evaluate.frechet import frechet_from_features, frechet_std_error
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.inference.query.evidence import Known
from phlogiston.systems.drawing import drawings_of, gallery, show
from phlogiston.systems.evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.inference.query.answer import Answer
    from phlogiston.systems.sketch.system import Sketch

RECOGNISED = 200
TEMPERATURES = (0.2, 0.6, 1.0)
CELLS = 8  # a drawing as a picture for the Fréchet distance has so many rows and columns


def _rows(e: Evaluation[Sketch]) -> tuple[Tensor, Tensor]:
    """Held-out drawings (rows, points, 3) and their lengths."""
    return e.once("drawings", lambda: e.system.sequences(e.rows))


def _shift(system: Sketch, length: Tensor) -> Tensor:
    """From densities per data unit to densities per standard deviation of the training offsets, (rows,) in nats."""
    return 2.0 * length.double() * math.log(float(system.model.unit[0]))


def _detail(system: Sketch) -> dict[str, Any]:
    return {"unit": "nats per drawing", "offsets": f"divided by {float(system.model.unit[0]):.4g}"}


def bound(e: Evaluation[Sketch]) -> dict[str, Metric]:
    """Minus the bound and its two parts; without a latent minus the log density."""
    (x, length), detail = _rows(e), _detail(e.system)
    reconstruction, divergence = e.system.bound_parts(x, length)
    conditional = e.system.guide is not None
    kind = "upper bound" if conditional else "estimate" if e.system.config.dequantise else "exact"
    reconstruction = reconstruction.double() + _shift(e.system, length)
    metrics = {"negative_bound": from_rows(divergence.double() - reconstruction, kind, False, detail)}
    if conditional:
        metrics["reconstruction"] = from_rows(-reconstruction, "estimate", False, detail)
        metrics["divergence"] = from_rows(divergence, "exact", None, {"unit": "nats per drawing"})
    return metrics


def log_likelihood(e: Evaluation[Sketch]) -> dict[str, Metric]:
    """Log density of a drawing, of the first ones where it is a bound."""
    x, length = _rows(e)
    some = slice(None, RECOGNISED) if e.system.guide is not None else slice(None)
    score = e.system.log_prob(x[some], length=length[some], seed=e.seed)
    values = score.value.double() + _shift(e.system, length[some])
    return {"log_likelihood": from_rows(values, score.kind, True, _detail(e.system))}


def recognition(e: Evaluation[Sketch]) -> dict[str, Metric]:
    """How many reconstructions are nearest to their own source."""
    if e.system.guide is None:
        return {}
    x, length = _rows(e)
    return {"recognised_share": recognised(e.system, x[:RECOGNISED], length[:RECOGNISED])}


def frechet(e: Evaluation[Sketch]) -> dict[str, Metric]:
    """Fréchet distances of coarse pictures: to every other real drawing from the rest, and from as many generated ones.

    No figure of other features compares with these; they compare with each other, the sets being of one size. The
    distance of real drawings from real ones is what drawings would reach that were like them in every respect.
    """
    x, length = _rows(e)
    if len(x) < 8:
        return {}
    rows = drawings_of(x, length)
    size = max(float(np.abs(cloud(row)).max()) for row in rows)
    real = pictures(rows[0::2], size)
    sets = {"real": pictures(rows[1::2], size)}
    for temperature in TEMPERATURES:
        drawn = e.system.sample(len(rows[1::2]), temperature=temperature, seed=0)
        sets[f"{temperature:g}"] = pictures(drawings_of(drawn["x"], drawn["length"]), size)
    detail = {"features": f"ink on {CELLS} x {CELLS} cells", "real": len(real)}
    return {
        f"frechet_{name}": Metric(
            frechet_from_features(real, some), frechet_std_error(real, some), len(some), "estimate", False, detail
        )
        for name, some in sets.items()
    }


METRICS = {"bound": bound, "log_likelihood": log_likelihood, "recognition": recognition, "frechet": frechet}


def one_point_lost(e: Evaluation[Sketch]) -> tuple[str, Answer]:
    """A point that was lost, given the others of its drawing."""
    x, length = _rows(e)
    x = x[0, : min(12, int(length[0]))]
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[len(x) // 2] = False
    return f"{len(x)} points, one lost", e.system.query({"x": Known(x, mask)}, num_samples=400, seed=0)


EXAMPLE_QUERIES = [one_point_lost]


def pictures(drawings: list[list[Array]], size: float) -> Array:
    """Where the ink of centred drawings is, (drawings, CELLS * CELLS): points of a cloud shared among four cells each.

    Args:
        drawings: strokes of each.
        size: half the side of the sheet, in data units; what lies beyond it is left at its border.
    """
    sheets = np.zeros((len(drawings), CELLS, CELLS))
    for sheet, strokes in zip(sheets, drawings, strict=True):
        points = cloud(strokes, 200)
        at = ((points / size + 1.0) * 0.5 * (CELLS - 1)).clip(0.0, CELLS - 1 - 1e-6)
        corner = at.astype(int)
        share = at - corner
        for right in (0, 1):
            for down in (0, 1):
                weight = np.prod(np.where([right, down], share, 1.0 - share), axis=1) / len(points)
                np.add.at(sheet, (corner[:, 1] + down, corner[:, 0] + right), weight)
    return CELLS * sheets.reshape(len(drawings), -1)


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
    parts = []
    lengths = [float(np.linalg.norm(np.diff(s, axis=0), axis=1).sum()) for s in strokes]
    total = max(sum(lengths), 1e-9)
    for stroke, size in zip(strokes, lengths, strict=True):
        along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(stroke, axis=0), axis=1))])
        at = np.linspace(0.0, along[-1], max(1, round(points * size / total)))
        parts.append(np.column_stack([np.interp(at, along, stroke[:, 0]), np.interp(at, along, stroke[:, 1])]))
    joined = np.concatenate(parts)
    return joined - 0.5 * (joined.min(0) + joined.max(0))


def chamfer(a: Array, b: Array) -> float:
    """Mean distance of each point of one cloud to the nearest of the other, both ways."""
    distance = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return float(distance.min(0).mean() + distance.min(1).mean())


# ---- pictures


def drawings(e: Evaluation[Sketch]) -> Figure:
    """Real drawings above, drawings of the model below: at a low temperature it keeps to what it is sure of, at 1 it
    draws as varied as it has learned. Most should be recognisable as one of the kinds above.
    """
    x, length = _rows(e)
    rows: dict[str, Any] = {"data": (x[:12], length[:12])}
    for temperature in TEMPERATURES:
        drawn = e.system.sample(12, temperature=temperature, seed=3)
        rows[f"drawn at temperature {temperature:g}"] = (drawn["x"], drawn["length"])
    return gallery(rows, alt="real drawings above, drawings of the model at three temperatures below")


def completions(e: Evaluation[Sketch]) -> Figure:
    """The first half of three drawings (orange): left how the drawing really went on, then seven ways in which the
    model goes on. They should join the beginning, and differ.
    """
    x, length = _rows(e)
    count = min(3, len(x))
    figure = new_figure(7.5, count * 1.05, "beginnings of drawings in colour, and ways the model goes on from them")
    for r in range(count):
        half = max(1, int(length[r]) // 2)
        begun = x[r, :half]
        ways = e.system.complete(begun, 7, temperature=0.6, seed=r)
        whole = drawings_of(x[r : r + 1], length[r : r + 1])[0]
        for k, drawing in enumerate([whole, *drawings_of(ways["x"], ways["length"])]):
            axes = figure.add_subplot(count, 8, r * 8 + k + 1)
            show(axes, drawing, square=True)
            for stroke in drawings_of(begun.unsqueeze(0), torch.tensor([half]))[0]:
                axes.plot(stroke[:, 0], stroke[:, 1], color=ACCENT, linewidth=1.6)
            if r == 0 and k < 2:
                axes.set_title(("data", "ways to go on")[k], fontsize=8, loc="left")
    return figure


def reconstructions(e: Evaluation[Sketch]) -> Figure | None:
    """Drawings above, and what is drawn again from a few numbers read off each: below should stand the same kind of
    drawing, in a hand like that above it.
    """
    if e.system.guide is None:
        return None
    x, length = _rows(e)
    again = e.system.reconstruct(x[:12], length[:12], temperature=0.1)
    return gallery(
        {"data": (x[:12], length[:12]), "drawn again from their latents": (again["x"], again["length"])},
        alt="drawings and their reconstructions",
    )


def interpolations(e: Evaluation[Sketch]) -> Figure | None:
    """From left to right the numbers of one drawing are turned into those of another: the drawings between should be
    whole and change step by step.
    """
    x, length = _rows(e)
    if e.system.guide is None or len(x) < 2:
        return None
    rows = {}
    for k in range(min(3, len(x) // 2)):
        a, b = x[2 * k, : int(length[2 * k])], x[2 * k + 1, : int(length[2 * k + 1])]
        between = e.system.interpolate(a, b, 10)
        rows["from one drawing to another" if k == 0 else " " * k] = (between["x"], between["length"])
    return gallery(rows, alt="drawings between pairs of drawings")


FIGURES = {
    "drawings": drawings,
    "completions": completions,
    "reconstructions": reconstructions,
    "interpolations": interpolations,
}
LOSS_UNIT = "nats per drawing"
