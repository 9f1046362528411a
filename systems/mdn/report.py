"""Scores and pictures of a fitted mixture density network, as tables of functions; see `systems.evaluation`.

Groups of metrics: `log_likelihood` (and that of the truth, where it is known), `rmse` of the mean, `draw` (one random
draw per row, `mse_of_draw`), `crps`, `coverage` (`coverage_90` of central intervals, `coverage_hpd_90` of shortest
regions) and `pit` (`pit_deviation`, the Kolmogorov distance from uniform).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Split
from phlogiston.datasets.weights import effective_rows
from phlogiston.distributions.mixtures.base import Mixture
from phlogiston.distributions.mixtures.members import merge, uncertainty
from phlogiston.evaluate import figures as draw
from phlogiston.evaluate.metric import Kind, Metric, from_rows
from phlogiston.evaluate.score import Score
from phlogiston.systems.evaluation import Evaluation, held_out_log_likelihood
from phlogiston.systems.mdn import rows as mdn_rows
from phlogiston.systems.mdn.system import MDN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHUNK = 2048
MOST_VALUES = 4_000  # of a grid that are summed over
PAIRS = 2_000_000  # pairs of components held at once: the CRPS compares all with all
BINS = 20
MOST_SHOWN = 2000  # rows in pictures


def _rows(e: Evaluation[MDN]) -> Split:
    """The held-out rows, checked against the schema."""
    return e.once("rows", lambda: e.system.read_rows(e.rows))


def _targets(system: MDN, rows: Split) -> Tensor:
    return mdn_rows.targets(system.schema, rows.tensors)


def _by_row(e: Evaluation[MDN], score: Callable[[Any, Tensor], Tensor]) -> Tensor:
    """A score of every row, computed in chunks: function (predictive mixture, targets) -> float64 (rows, ...)."""
    system, rows = e.system, _rows(e)
    components = system.predictive(rows.select(slice(0, 1))).num_components
    size = max(8, min(CHUNK, PAIRS // components**2))
    parts = []
    for start in range(0, len(rows), size):
        part = rows.select(slice(start, start + size))
        with torch.no_grad():
            parts.append(score(system.predictive(part), _targets(system, part)).double())
    return torch.cat(parts)


def _mean(
    e: Evaluation[MDN], values: Tensor, kind: Kind, higher_is_better: bool | None, detail: dict[str, object]
) -> Metric:
    return from_rows(values, kind, higher_is_better, detail, _rows(e).tensors.get("weight"))


# ---- metrics


def log_likelihood(e: Evaluation[MDN]) -> dict[str, Metric]:
    """Mean log density of held-out targets, and that of the truth, where it is known."""
    metrics = held_out_log_likelihood(e)
    if e.system.config.grid:
        metrics["log_likelihood"].detail["unit"] = f"nats per row, cells of width {e.system.config.grid:g}"
    truth = None if e.dataset is None else e.dataset.meta.conditional_truth
    if truth is not None:
        rows = _rows(e)
        values = torch.as_tensor(truth(_targets(e.system, rows).numpy(), rows.tensors["x"].numpy()))
        score = Score(values, "exact", weight=rows.tensors.get("weight"))
        metrics["log_likelihood_of_truth"] = score.mean()
    return metrics


def rmse(e: Evaluation[MDN]) -> dict[str, Metric]:
    """Root mean squared error of the predicted mean."""
    square = _mean(e, _by_row(e, lambda mixture, y: (mixture.mean - y).square().mean(-1)), "exact", False, {})
    root = math.sqrt(square.value)
    error = square.std_error / (2 * root) if square.std_error is not None and root > 0 else None
    return {"rmse": Metric(root, error, square.n, "exact", False, {"unit": "units of the target"})}


def mse_of_draw(e: Evaluation[MDN]) -> dict[str, Metric]:
    """Squared error of one random draw per row: twice that of the mean, where the model is right."""

    def score(mixture: Any, y: Tensor) -> Tensor:
        drawn: Tensor = mixture.draw(generator=torch.Generator().manual_seed(e.seed))
        return (drawn - y).square().mean(-1)

    detail: dict[str, object] = {"unit": "squared units of the target"}
    return {"mse_of_draw": _mean(e, _by_row(e, score), "estimate", False, detail)}


def crps(e: Evaluation[MDN]) -> dict[str, Metric]:
    """Continuous ranked probability score in closed form, averaged over targets.

    Targets on a grid are scored by the probabilities of its values, as they are answered.
    """
    names, grids = e.system.schema["targets"], e.system.grids()

    def score(mixture: Any, y: Tensor) -> Tensor:
        found = mixture.crps(y)
        for i, name in enumerate(names):
            if name in grids and (of_values := grid_crps(mixture, y, i, grids[name])) is not None:
                found[:, i] = of_values
        return found.mean(-1)

    return {"crps": _mean(e, _by_row(e, score), "exact", False, {"unit": "units of the target"})}


def grid_crps(mixture: Any, y: Tensor, target: int, grid: tuple[float, float]) -> Tensor | None:
    """CRPS of a target rounded to a grid: (rows,); None where distributions span thousands of values.

    There the closed form for the real number stands, of which this is a sum in steps.

    Args:
        mixture: of the targets, batch (rows,).
        y: (rows, targets).
        target: which one.
        grid: one of the values, and the step.
    """
    value, step = grid
    ends = torch.cat([mixture.quantile([1e-9, 1 - 1e-9])[..., target], y[:, target].unsqueeze(0)])
    first, last = (((end - value) / step).round() for end in (ends.min(), ends.max()))
    if float(last - first) > MOST_VALUES:
        return None
    values = value + step * torch.arange(float(first), float(last) + 1).double()
    edges = (values + step / 2).reshape(-1, 1, 1).expand(-1, *y.shape)
    below = mixture.cdf(edges)[..., target].double()
    reached = values.unsqueeze(1) > y[:, target] - step / 2  # y rounded, whatever its last digit
    return step * (below - reached.double()).square().sum(0)


def coverage(e: Evaluation[MDN]) -> dict[str, Metric]:
    """Share of targets that central intervals and shortest regions of probability 0.9 hold.

    Central intervals of targets on a grid end within cells, of which they hold a share, as for `pit`.
    """

    def score(mixture: Any, y: Tensor) -> Tensor:
        central = ((pit(e.system, mixture, y) - 0.5).abs() <= 0.45).to(y.dtype).mean(-1)
        if y.shape[1] == 1:
            region = mixture.interval(0.9, "hpd").contains(y)[:, 0]
        else:
            level = mixture.highest_density_level(0.9, 500, torch.Generator().manual_seed(e.seed))
            region = mixture.log_prob(y) >= level
        return torch.stack([central, region.to(y.dtype)], -1)

    central, region = _by_row(e, score).unbind(-1)
    return {
        "coverage_90": _mean(e, central, "estimate", None, {"level": 0.9}),
        "coverage_hpd_90": _mean(e, region, "estimate", None, {"level": 0.9}),
    }


def pit_deviation(e: Evaluation[MDN]) -> dict[str, Metric]:
    """Kolmogorov distance of the probability integral transforms from the uniform distribution."""
    values = _by_row(e, lambda mixture, y: pit(e.system, mixture, y))
    weight = _rows(e).tensors.get("weight")
    each = None if weight is None else weight.repeat_interleave(values.shape[1]).numpy()
    return {"pit_deviation": _deviation(values.flatten().numpy(), each)}


def pit(system: MDN, mixture: Mixture, y: Tensor) -> Tensor:
    """Where targets fall in their predicted distributions, (rows, targets): uniform when calibrated.

    Targets on a grid fall anywhere in their cell, at random: otherwise the values would be as discrete as the targets.
    """
    if not system.config.grid:
        return mixture.cdf(y)
    half = 0.5 * system.config.grid
    low, high = mixture.cdf(y - half), mixture.cdf(y + half)
    return low + (high - low) * torch.rand(y.shape, generator=torch.Generator().manual_seed(0))


def _deviation(values: np.ndarray, weight: np.ndarray | None = None) -> Metric:
    """Largest distance of the (weighted) distribution of values from the uniform one, with Kolmogorov's p-value."""
    from scipy.stats import kstwo

    weight = np.ones(len(values)) if weight is None else weight.astype(np.float64)
    values, weight = values[weight > 0], weight[weight > 0]
    order = np.argsort(values)
    reached = np.cumsum(weight[order]) / weight.sum()
    before = np.concatenate([[0.0], reached[:-1]])
    distance = float(max((reached - values[order]).max(), (values[order] - before).max()))
    n = round(effective_rows(weight))
    detail = {"p_value": float(kstwo.sf(distance, n))}
    return Metric(distance, None, n, "estimate", False, detail)


# ---- pictures


@dataclass(frozen=True)
class _Shown:
    """The rows in the pictures: at most MOST_SHOWN, and their inputs as the network takes them."""

    rows: Split
    inputs: Tensor
    y: Tensor

    @property
    def plane(self) -> bool:
        """Whether one input and one target span a plane to draw in."""
        return self.inputs.shape[1] == 1 and self.y.shape[1] == 1 and len(self.y) > 1


def _shown(e: Evaluation[MDN]) -> _Shown:
    def choose() -> _Shown:
        rows = _rows(e)
        rows = rows.select(torch.randperm(len(rows), generator=torch.Generator().manual_seed(e.seed))[:MOST_SHOWN])
        return _Shown(rows, mdn_rows.inputs(e.system.schema, rows.tensors), _targets(e.system, rows))

    return e.once("shown", choose)


def answers(e: Evaluation[MDN], resolution: int = 240) -> Figure | None:
    """Left the data, in the middle the predicted density, bright where a target is probable; right its branches (blue)
    in the shortest regions that hold 90 % of it (orange). Where the data have several answers there should be several
    branches, and never a line between them.
    """
    system, shown = e.system, _shown(e)
    if not shown.plane:
        return None
    inputs, y = shown.inputs, shown.y
    low, high = float(inputs.min()), float(inputs.max())
    bottom, top = float(y.min()), float(y.max())
    margin = 0.06 * (top - bottom)
    bottom, top = bottom - margin, top + margin
    grid = torch.linspace(low, high, resolution)
    heights = torch.linspace(bottom, top, resolution, dtype=inputs.dtype)
    predicted = merge(system.members_at(grid.unsqueeze(1)))
    density = torch.stack([predicted.log_prob(h.reshape(1, 1)).exp() for h in heights])  # (targets, inputs)
    figure = draw.new_figure(7.5, 2.9, "data, predicted density, and branches with the shortest 90 % regions")
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    names = _input_name(system), system.schema["targets"][0]
    _points(axes[0], inputs, y, "data")
    extent = (low, high, bottom, top)
    ceiling = float(density.quantile(0.995))
    axes[1].imshow(density.numpy(), origin="lower", extent=extent, cmap=draw.MAP, vmin=0, vmax=ceiling, aspect="auto")
    axes[1].set_title("predicted density p(y | x)", fontsize=9)
    regions = predicted.interval(0.9, "hpd")
    _points(axes[2], inputs, y, "branches, 90 % regions", alpha=0.18)
    for branch in range(regions.mask.shape[-1]):  # bars side by side: a branch changes its number where two meet
        ends = [end[:, 0, branch].numpy() for end in (regions.lower, regions.upper)]
        held = regions.mask[:, 0, branch].numpy()
        axes[2].fill_between(grid.numpy(), *ends, where=held, step="mid", color=draw.ACCENT, alpha=0.35, linewidth=0)
    # local maxima along the target, those of less than a twentieth of the highest density left out
    inner = density[1:-1]
    strong = (inner > density[:-2]) & (inner > density[2:]) & (inner > 0.05 * density.amax(0))
    level, at_input = strong.nonzero(as_tuple=True)
    axes[2].scatter(grid[at_input], heights[1:-1][level], s=3, color=draw.INK, linewidths=0, zorder=3)
    axes[2].set_ylim(bottom, top)
    for axis in axes:
        axis.set_xlabel(names[0])
    axes[0].set_ylabel(names[1])
    return figure


def ignorance(e: Evaluation[MDN], resolution: int = 120) -> Figure | None:
    """Left how uncertain the prediction is, and why: noise in the data, or ignorance of the network. Beyond the shaded
    range, where no data are, ignorance should grow. Right how many nats the true network would tell about the target.
    """
    system, shown = e.system, _shown(e)
    if not shown.plane or system.members_at(shown.inputs[:1]).batch_shape[0] == 1:
        return None
    inputs = shown.inputs
    low, high = float(inputs.min()), float(inputs.max())
    reach = 0.6 * (high - low)
    grid = torch.linspace(low - reach, high + reach, resolution)
    members = system.members_at(grid.unsqueeze(1))
    parts = uncertainty(members, 30, torch.Generator().manual_seed(0))  # 30 of each member are over a thousand in all
    figure = draw.new_figure(7.5, 3.2, "standard deviation from noise and from ignorance, along the input")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.axvspan(low, high, color=draw.SOFT, alpha=0.15, linewidth=0)
        axes.set_xlabel(_input_name(system))
        axes.grid(alpha=0.25)
    at = grid.numpy()
    left.plot(at, parts.aleatoric[:, 0].sqrt().numpy(), color=draw.INK, label="noise (aleatoric)")
    left.plot(at, parts.epistemic[:, 0].sqrt().numpy(), color=draw.ACCENT, label="ignorance (epistemic)")
    left.set_ylabel(f"standard deviation of {system.schema['targets'][0]}")
    left.set_title("spread by cause (shaded: where the data are)", fontsize=9)
    left.set_ylim(bottom=0)
    left.legend(frameon=False, fontsize=8)
    right.plot(at, parts.mutual_information.numpy(), color=draw.ACCENT)
    right.set_ylabel("mutual information, nats")
    right.set_title("what the true network would tell about y", fontsize=9)
    right.set_ylim(bottom=0, top=max(0.05, 1.05 * float(parts.mutual_information.max())))
    return figure


def targets(e: Evaluation[MDN]) -> Figure | None:
    """Targets of held-out rows, and one draw for each: below the diagonal the data, above it the draws. Outlines should
    follow the grey shapes, and both triangles mirror each other.
    """
    shown = _shown(e)
    if shown.y.shape[1] != 2:
        return None
    drawn = e.system.sample(1, x=shown.rows, seed=e.seed)["y"][0]
    return draw.histogram_matrix(shown.y.numpy(), drawn.numpy(), columns=e.system.schema["targets"])


def predictions(e: Evaluation[MDN], most: int = 200) -> Figure | None:
    """Truth against prediction with intervals that promise to hold 90 %. About nine in ten should cross the diagonal;
    the legend says how many do.
    """
    system, shown = e.system, _shown(e)
    if shown.plane or shown.y.shape[1] != 1 or len(shown.y) < 2:
        return None
    predicted = system.predictive_at(shown.inputs[:most])
    middle, band = predicted.quantile(0.5)[:, 0].numpy(), predicted.interval(0.9)
    low, high = band.lower[:, 0, 0].numpy(), band.upper[:, 0, 0].numpy()
    truth = shown.y[:most, 0].numpy()
    inside = (truth >= low) & (truth <= high)
    figure = draw.new_figure(4.8, 4.4, "truth against predicted median with central 90 % intervals")
    axes = figure.subplots()
    order = np.argsort(truth)
    for mask, colour, label in ((inside, draw.INK, "inside"), (~inside, draw.ACCENT, "outside")):
        chosen = order[mask[order]]
        axes.vlines(truth[chosen], low[chosen], high[chosen], color=colour, alpha=0.35, linewidth=1.0)
        axes.scatter(
            truth[chosen], middle[chosen], s=7, color=colour, linewidths=0, label=f"{label}: {mask.mean():.0%}"
        )
    ends = [min(truth.min(), low.min()), max(truth.max(), high.max())]
    axes.plot(ends, ends, color=draw.SOFT, linewidth=1)
    axes.set(xlabel=f"true {system.schema['targets'][0]}", ylabel="median and central 90 % interval")
    axes.legend(frameon=False, fontsize=8)
    return figure


def calibration(e: Evaluation[MDN], most: int = 5) -> Figure:
    """Left where targets fall in their predicted distributions: flat if the model is right. Right how often intervals
    hold what they promise: on the diagonal. Shaded is what chance explains in 99 of 100 cases.
    """
    from scipy.stats import binom

    system, shown = e.system, _shown(e)
    with torch.no_grad():
        values = pit(system, system.predictive_at(shown.inputs), shown.y).numpy()[:, :most]
    n = len(values)
    bins = max(5, min(BINS, n // 10))
    figure = draw.new_figure(7.5, 3.2, "probability integral transforms, and how often central intervals hold")
    left, right = figure.subplots(1, 2)
    edges = np.linspace(0, 1, bins + 1)
    left.axhspan(*binom.ppf([0.005, 0.995], n, 1 / bins), color=draw.SOFT, alpha=0.2, linewidth=0)
    left.axhline(n / bins, color=draw.SOFT, linewidth=1)
    levels = np.linspace(0.0, 1.0, 101)
    right.fill_between(levels, *(binom.ppf(p, n, levels) / n for p in (0.005, 0.995)), color=draw.SOFT, alpha=0.2)
    right.plot(levels, levels, color=draw.SOFT, linewidth=1)
    for d, (name, colour) in enumerate(zip(system.schema["targets"][:most], draw.COLOURS, strict=False)):
        counts = np.histogram(values[:, d], edges)[0]
        left.stairs(counts, edges, color=colour, fill=values.shape[1] == 1, alpha=0.8, linewidth=1.5)
        inside = np.abs(2 * values[:, d] - 1)  # the smallest central interval that holds the target
        right.plot(levels, [(inside <= level).mean() for level in levels], color=colour, label=name)
    left.set(xlabel="share of the prediction below the target", ylabel="rows", xlim=(0, 1))
    left.set_ylim(bottom=0)
    left.set_title("flat where calibrated", fontsize=9)
    right.set(xlabel="probability a central interval promises", ylabel="share of targets it holds")
    right.set(xlim=(0, 1), ylim=(0, 1))
    right.set_title("on the diagonal where calibrated", fontsize=9)
    if values.shape[1] > 1:
        right.legend(frameon=False, fontsize=8)
    return figure


def _points(axes: Axes, inputs: Tensor, y: Tensor, title: str, alpha: float = 0.45) -> None:
    axes.scatter(inputs[:, 0].numpy(), y[:, 0].numpy(), s=3, color=draw.INK, alpha=alpha, linewidths=0, rasterized=True)
    axes.set_title(title, fontsize=9)


def _input_name(system: MDN) -> str:
    target = set(system.schema["target"] or ())
    return next(c for i, c in enumerate(system.schema["columns"]) if i not in target)


METRICS = {
    "log_likelihood": log_likelihood,
    "rmse": rmse,
    "draw": mse_of_draw,
    "crps": crps,
    "coverage": coverage,
    "pit": pit_deviation,
}
FIGURES = {
    "answers": answers,
    "where the uncertainty comes from": ignorance,
    "targets": targets,
    "predictions": predictions,
    "calibration": calibration,
}
