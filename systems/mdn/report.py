"""Scores and pictures of a fitted mixture density network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.base import Dataset
from phlogiston.datasets.weights import effective_rows
from phlogiston.distributions.mixtures.base import Mixture
from phlogiston.evaluate import figures as draw
from phlogiston.evaluate.likelihood import log_likelihood
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.evaluate.score import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from phlogiston.systems.mdn.system import MDN

CHUNK = 2048
PAIRS = 2_000_000  # pairs of components held at once: the CRPS compares all with all
BINS = 20


def evaluate(system: MDN, data: Any, wanted: set[str]) -> dict[str, Metric]:
    """See `MDN.evaluate`."""
    tensors = system._tensors(data)
    y, weight = system._targets(tensors), tensors.get("weight")
    out: dict[str, Metric] = {}
    if "log_likelihood" in wanted:
        out["log_likelihood"] = system.log_prob(tensors).mean()
        if system.config.grid:
            out["log_likelihood"].detail["unit"] = f"nats per row, cells of width {system.config.grid:g}"
        truth = data.meta.conditional_truth if isinstance(data, Dataset) else None
        if truth is not None:
            values = torch.as_tensor(truth(y.numpy(), tensors["x"].numpy()))
            out["log_likelihood_of_truth"] = log_likelihood(Score(values, "exact", weight=weight))
    parts: dict[str, list[Tensor]] = {}
    components = system.predictive({name: value[:1] for name, value in tensors.items()}).num_components
    size = max(8, min(CHUNK, PAIRS // components**2))
    for start in range(0, len(y), size):
        rows = {name: value[start : start + size] for name, value in tensors.items()}
        with torch.no_grad():
            for name, value in _row_scores(system, rows, y[start : start + size], wanted).items():
                parts.setdefault(name, []).append(value)
    rows_by_name = {name: torch.cat(values).double() for name, values in parts.items()}
    if "rmse" in wanted:
        square = from_rows(rows_by_name["square"], "exact", False, weight=weight)
        root = math.sqrt(square.value)
        error = square.std_error / (2 * root) if square.std_error is not None and root > 0 else None
        out["rmse"] = Metric(root, error, square.n, "exact", False, {"unit": "units of the target"})
    if "draw" in wanted:
        detail = {"unit": "squared units of the target"}
        out["mse_of_draw"] = from_rows(rows_by_name["draw"], "estimate", False, detail, weight)
    if "crps" in wanted:
        out["crps"] = from_rows(rows_by_name["crps"], "exact", False, {"unit": "units of the target"}, weight)
    if "coverage" in wanted:
        out["coverage_90"] = from_rows(rows_by_name["central"], "estimate", None, {"level": 0.9}, weight)
        out["coverage_hpd_90"] = from_rows(rows_by_name["region"], "estimate", None, {"level": 0.9}, weight)
    if "pit" in wanted:
        each = None if weight is None else weight.repeat_interleave(y.shape[1]).numpy()
        out["pit_deviation"] = _deviation(rows_by_name["pit"].numpy(), each)
    return out


def _row_scores(system: MDN, rows: dict[str, Tensor], y: Tensor, wanted: set[str]) -> dict[str, Tensor]:
    """One number per row (and target, averaged or side by side) for every metric."""
    found = system.predictive(rows)
    out: dict[str, Tensor] = {}
    if "rmse" in wanted:
        out["square"] = (found.mean - y).square().mean(-1)
    if "draw" in wanted:
        out["draw"] = (found.draw(generator=torch.Generator().manual_seed(0)) - y).square().mean(-1)
    if "crps" in wanted:
        out["crps"] = found.crps(y).mean(-1)
    if "pit" in wanted:
        out["pit"] = pit(system, found, y).flatten()
    if "coverage" in wanted:
        central = found.interval(0.9)
        out["central"] = central.contains(y).to(y.dtype).mean(-1)
        if y.shape[1] == 1:
            out["region"] = found.interval(0.9, "hpd").contains(y)[:, 0].to(y.dtype)
        else:
            level = found.highest_density_level(0.9, 500, torch.Generator().manual_seed(0))
            out["region"] = (found.log_prob(y) >= level).to(y.dtype)
    return out


def pit(system: MDN, found: Mixture, y: Tensor) -> Tensor:
    """Where targets fall in their predicted distributions, (rows, targets): uniform when calibrated.

    Targets on a grid fall anywhere in their cell, at random: otherwise the values would be as discrete as the targets.
    """
    if not system.config.grid:
        return found.cdf(y)
    half = 0.5 * system.config.grid
    low, high = found.cdf(y - half), found.cdf(y + half)
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


def figures(system: MDN, data: Any) -> dict[str, Figure]:
    """See `MDN.figures`."""
    tensors = system._tensors(data)
    y = system._targets(tensors)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[:2000]
    shown = {name: value[order] for name, value in tensors.items()}
    y = y[order]
    inputs = system._inputs(shown)
    out: dict[str, Figure] = {}
    if inputs.shape[1] == 1 and y.shape[1] == 1 and len(y) > 1:
        out["answers"] = answers(system, inputs, y)
        if system._members(inputs[:1]).batch_shape[0] > 1:  # one network alone claims to know everything
            out["where the uncertainty comes from"] = ignorance(system, inputs, y)
    elif y.shape[1] == 2:
        drawn = system.sample(1, x=shown, seed=0)["y"][0]
        out["targets"] = draw.histogram_matrix(y.numpy(), drawn.numpy(), columns=system.schema["targets"])
    elif y.shape[1] == 1 and len(y) > 1:
        out["predictions"] = predictions(system, shown, y)
    found = system.predictive(shown)
    out["calibration"] = calibration(system, found, y)
    if system.history is not None and len(system.history.loss):
        out["loss"] = draw.loss_curve(system.history.steps, system.history.loss)
    return out


def answers(system: MDN, inputs: Tensor, y: Tensor, resolution: int = 240) -> Figure:
    """Data, the predicted density over input and target, and its branches with shortest 90 % regions."""
    low, high = float(inputs.min()), float(inputs.max())
    bottom, top = float(y.min()), float(y.max())
    margin = 0.06 * (top - bottom)
    bottom, top = bottom - margin, top + margin
    grid = torch.linspace(low, high, resolution)
    heights = torch.linspace(bottom, top, resolution, dtype=inputs.dtype)
    found = _at(system, grid.unsqueeze(1))
    density = torch.stack([found.log_prob(h.reshape(1, 1)).exp() for h in heights])  # (targets, inputs)
    figure = draw.new_figure(11.0, 3.8, "data, predicted density, and branches with the shortest 90 % regions")
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    names = _input_name(system), system.schema["targets"][0]
    _points(axes[0], inputs, y, "data")
    extent = (low, high, bottom, top)
    ceiling = float(density.quantile(0.995))
    axes[1].imshow(density.numpy(), origin="lower", extent=extent, cmap=draw.MAP, vmin=0, vmax=ceiling, aspect="auto")
    axes[1].set_title("predicted density p(y | x)", fontsize=9)
    regions = found.interval(0.9, "hpd")
    place = axes[2]
    _points(place, inputs, y, "branches (modes) and shortest 90 % regions", alpha=0.18)
    for branch in range(regions.mask.shape[-1]):
        mask = regions.mask[:, 0, branch].numpy()
        at = grid.numpy()[mask]
        ends = regions.lower[:, 0, branch].numpy()[mask], regions.upper[:, 0, branch].numpy()[mask]
        place.vlines(at, *ends, color=draw.ACCENT, alpha=0.30, linewidth=1.4)
    # local maxima along the target; of less than a twentieth of the main one's density they are specks
    inner = density[1:-1]
    strong = (inner > density[:-2]) & (inner > density[2:]) & (inner > 0.05 * density.amax(0))
    level, at_input = strong.nonzero(as_tuple=True)
    place.scatter(grid[at_input], heights[1:-1][level], s=3, color=draw.INK, linewidths=0, zorder=3)
    place.set_ylim(bottom, top)
    for axis in axes:
        axis.set_xlabel(names[0])
    axes[0].set_ylabel(names[1])
    return figure


def ignorance(system: MDN, inputs: Tensor, y: Tensor, resolution: int = 120) -> Figure:
    """Standard deviations by cause along the input, also beyond the data."""
    low, high = float(inputs.min()), float(inputs.max())
    reach = 0.6 * (high - low)
    grid = torch.linspace(low - reach, high + reach, resolution)
    members = _members_at(system, grid.unsqueeze(1))
    from phlogiston.distributions.mixtures.members import uncertainty

    parts = uncertainty(members, 30, torch.Generator().manual_seed(0))  # 30 of each member are over a thousand in all
    figure = draw.new_figure(8.0, 3.4, "standard deviation from noise and from ignorance, along the input")
    left, right = figure.subplots(1, 2)
    for place in (left, right):
        place.axvspan(low, high, color=draw.SOFT, alpha=0.15, linewidth=0)
        place.set_xlabel(_input_name(system))
        place.grid(alpha=0.25)
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


def predictions(system: MDN, shown: dict[str, Tensor], y: Tensor, most: int = 200) -> Figure:
    """Truth against prediction, with central 90 % intervals."""
    rows = {name: value[:most] for name, value in shown.items()}
    found = system.predictive(rows)
    middle, band = found.quantile(0.5)[:, 0].numpy(), found.interval(0.9)
    low, high = band.lower[:, 0, 0].numpy(), band.upper[:, 0, 0].numpy()
    truth = y[:most, 0].numpy()
    inside = (truth >= low) & (truth <= high)
    figure = draw.new_figure(4.8, 4.4, "truth against predicted median with central 90 % intervals")
    place = figure.subplots()
    order = np.argsort(truth)
    for mask, colour, label in ((inside, draw.INK, "inside"), (~inside, draw.ACCENT, "outside")):
        chosen = order[mask[order]]
        place.vlines(truth[chosen], low[chosen], high[chosen], color=colour, alpha=0.35, linewidth=1.0)
        place.scatter(
            truth[chosen], middle[chosen], s=7, color=colour, linewidths=0, label=f"{label}: {mask.mean():.0%}"
        )
    ends = [min(truth.min(), low.min()), max(truth.max(), high.max())]
    place.plot(ends, ends, color=draw.SOFT, linewidth=1)
    place.set(xlabel=f"true {system.schema['targets'][0]}", ylabel="median and central 90 % interval")
    place.legend(frameon=False, fontsize=8)
    return figure


def calibration(system: MDN, found: Mixture, y: Tensor, most: int = 5) -> Figure:
    """Where targets fall in their predicted distributions, and how often central intervals hold them.

    Bands are what chance explains in 99 of 100 cases for a bin or a level, if the model is right.
    """
    from scipy.stats import binom

    with torch.no_grad():
        values = pit(system, found, y).numpy()[:, :most]
    n = len(values)
    bins = max(5, min(BINS, n // 10))
    figure = draw.new_figure(8.0, 3.4, "probability integral transforms, and how often central intervals hold")
    left, right = figure.subplots(1, 2)
    edges = np.linspace(0, 1, bins + 1)
    left.axhspan(*binom.ppf([0.005, 0.995], n, 1 / bins), color=draw.SOFT, alpha=0.2, linewidth=0)
    left.axhline(n / bins, color=draw.SOFT, linewidth=1)
    levels = np.linspace(0.0, 1.0, 101)
    right.fill_between(levels, *(binom.ppf(p, n, levels) / n for p in (0.005, 0.995)), color=draw.SOFT, alpha=0.2)
    right.plot(levels, levels, color=draw.SOFT, linewidth=1)
    colours = (draw.INK, draw.ACCENT, "#15803d", "#7c3aed", "#0e7490")
    for d, (name, colour) in enumerate(zip(system.schema["targets"][:most], colours, strict=False)):
        counts = np.histogram(values[:, d], edges)[0]
        left.stairs(counts, edges, color=colour, fill=values.shape[1] == 1, alpha=0.8, linewidth=1.5)
        inside = np.abs(2 * values[:, d] - 1)  # the smallest central interval that holds the target
        right.plot(levels, [(inside <= level).mean() for level in levels], color=colour, label=name)
    left.set(xlabel="share of the predicted distribution below the target", ylabel="rows", xlim=(0, 1))
    left.set_ylim(bottom=0)
    left.set_title("flat where calibrated; shaded: what chance explains", fontsize=9)
    right.set(xlabel="probability a central interval promises", ylabel="share of targets it holds")
    right.set(xlim=(0, 1), ylim=(0, 1))
    right.set_title("on the diagonal where calibrated", fontsize=9)
    if values.shape[1] > 1:
        right.legend(frameon=False, fontsize=8)
    return figure


def _at(system: MDN, inputs: Tensor) -> Any:
    from phlogiston.distributions.mixtures.members import merge

    return merge(_members_at(system, inputs))


def _members_at(system: MDN, inputs: Tensor) -> Mixture:
    """Members at inputs as the network takes them."""
    return system._members(inputs)


def _points(place: Axes, inputs: Tensor, y: Tensor, title: str, alpha: float = 0.45) -> None:
    place.scatter(
        inputs[:, 0].numpy(), y[:, 0].numpy(), s=3, color=draw.INK, alpha=alpha, linewidths=0, rasterized=True
    )
    place.set_title(title, fontsize=9)


def _input_name(system: MDN) -> str:
    target = set(system.schema["target"] or ())
    return next(c for i, c in enumerate(system.schema["columns"]) if i not in target)
