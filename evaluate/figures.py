"""Figures that belong to no system: density maps, curves, histograms and matrices of them.

Each function takes arrays (or tensors) and returns a matplotlib `Figure`, made without pyplot's global state; its label
is the alternative text a report shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phlogiston.errors import DataError, ShapeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Legible on white and on a dark ground; what must turn with the ground is black, which reports turn (see `report.svg`).
INK, ACCENT, SOFT = "#3273b8", "#c2410c", "#8a94a3"
COLOURS = (
    INK,
    ACCENT,
    "#15803d",
    "#7c5cd6",
    "#0e7490",
    SOFT,
)  # for series beside one another, distinguished by a legend
MAP = "magma"


def array(values: Any) -> np.ndarray:
    """Return a float64 array of a tensor or anything numpy takes."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)


def new_figure(width: float, height: float, alt: str) -> Figure:
    """Return an empty figure of `width` x `height` inches whose label is its alternative text."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.set_label(alt)
    return figure


def density_depths(
    data: Any,
    samples: Sequence[Any],
    log_densities: Sequence[Callable[[np.ndarray], Any]],
    *,
    truth: Callable[[np.ndarray], Any] | None = None,
    labels: Sequence[str] = (),
    columns: Sequence[str] = (),
    bounds: tuple[float, float, float, float] | None = None,
    resolution: int = 160,
    points: int = 4000,
    alt: str = "",
) -> Figure:
    """Set two-dimensional data beside a model's density and samples, one column per depth (or variant).

    The left column shows the data, and below them the true density (or a histogram); each further column shows a
    model's density above its samples. All densities share one colour scale.

    Args:
        data: (n, 2), NaN where an entry is missing; complete rows are drawn.
        samples: per depth, (m, 2) draws.
        log_densities: per depth, a function of points (m, 2) that returns their log densities (m,) in nats.
        truth: the true log density, if known.
        labels: a word per depth; "depth 1", "depth 2", ... if not given.
        columns: names of the two columns.
        bounds: left, right, bottom, top; the data's range with a margin if not given.
        resolution: grid points per axis.
        points: at most this many points are drawn in a panel.
        alt: alternative text.

    Raises:
        ShapeError: data or samples are not (n, 2), a density returns another shape, or the lists differ in length.
    """
    rows, title = _complete(_two_columns("data", data))
    labels = list(labels) or [f"depth {i + 1}" for i in range(len(log_densities))]
    if not len(labels) == len(samples) == len(log_densities) or not labels:
        raise ShapeError(
            f"{len(log_densities)} densities, {len(samples)} sets of samples, {len(labels)} labels: they must agree."
        )
    left, right, bottom, top = bounds or _bounds(rows)
    x, y = np.linspace(left, right, resolution), np.linspace(bottom, top, resolution)
    grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).astype(np.float32)
    maps = [_on_grid(label, f, grid, resolution) for label, f in zip(labels, log_densities, strict=True)]
    true_map = None if truth is None else _on_grid("truth", truth, grid, resolution)
    # a shared scale whose top is a high quantile, so that one sharp spike does not turn the rest black
    shown_maps = [*maps, *([] if true_map is None else [true_map])]
    ceiling = max(float(np.quantile(m, 0.995)) for m in shown_maps) or 1.0
    figure = new_figure(2.5 * (1 + len(maps)), 5.2, alt or f"data, density and samples at {', '.join(labels)}")
    axes = figure.subplots(2, 1 + len(maps), squeeze=False, sharex=True, sharey=True)
    extent = (left, right, bottom, top)
    for panel in axes.ravel():
        panel.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="auto")
    if len(columns) == 2:
        axes[1, 0].set_xlabel(columns[0], fontsize=8)
        axes[1, 0].set_ylabel(columns[1], fontsize=8)
    _scatter(axes[0, 0], rows, points, title)
    if true_map is not None:
        _density(axes[1, 0], true_map, extent, ceiling, "true density")
    else:
        counts, _, _ = np.histogram2d(rows[:, 1], rows[:, 0], bins=80, range=[[bottom, top], [left, right]])
        _density(axes[1, 0], counts, extent, max(float(np.quantile(counts, 0.995)), 1.0), "data, histogram")
    for i, (label, density) in enumerate(zip(labels, maps, strict=True)):
        _density(axes[0, i + 1], density, extent, ceiling, f"{label}: density")
        _scatter(axes[1, i + 1], _two_columns(f"samples of {label}", samples[i]), points, f"{label}: samples")
    return figure


def loss_curve(records: Sequence[Mapping[str, Any]], *, unit: str = "nats per datum", alt: str = "") -> Figure | None:
    """Draw the loss over training, a panel per stage: every record, the running median, and validation rows.

    Args:
        records: as in `History.records`: `step`, `loss`, and if there are any `stage` and `valid_loss`. Losses that
            are not finite are left out.
        unit: of the loss.
        alt: alternative text.

    Returns:
        The figure; None where no stage has three losses.
    """
    stages: dict[str, list[tuple[float, float]]] = {}
    valid: dict[str, list[tuple[float, float]]] = {}
    last = None  # a record repeats the last validation, even that of the stage before
    for record in records:
        for values, key in ((stages, "loss"), (valid, "valid_loss")):
            value = record.get(key)
            if value is not None and math.isfinite(value) and not (key == "valid_loss" and value == last):
                values.setdefault(record.get("stage", ""), []).append((record["step"], value))
        last = record.get("valid_loss", last)
    stages = {stage: points for stage, points in stages.items() if len(points) > 2}
    if not stages:
        return None
    figure = new_figure(7.0, 2.9, alt or f"loss in {unit} over the steps of training")
    for panel, (stage, points) in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages.items(), strict=True):
        x, y = np.array(points).T
        width = max(1, len(y) // 50)
        half = width // 2
        smooth = [np.median(y[max(0, i - half) : i + half + 1]) for i in range(len(y))]
        if width > 2:
            panel.plot(x, y, color=SOFT, linewidth=0.6, alpha=0.6, label="each record")
        panel.plot(x, smooth, color=INK, linewidth=1.6, label="running median" if width > 2 else "training rows")
        if stage in valid:
            panel.plot(*zip(*valid[stage], strict=True), color=ACCENT, linewidth=1.2, label="validation rows")
        if len(y) > 10:  # the first steps would flatten everything after them
            low, high = np.quantile(y, [0.0, 0.97])
            panel.set_ylim(low - 0.05 * (high - low + 1e-9), high + 0.1 * (high - low + 1e-9))
        panel.set(xlabel="step", title=f"stage {stage!r}" if len(stages) > 1 else "")
        panel.title.set_fontsize(9)
        panel.grid(alpha=0.25)
        panel.legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel(f"loss, {unit}")
    return figure


def curves(steps: Any, values: Mapping[str, Any], *, ylabel: str, xlabel: str = "step", alt: str = "") -> Figure:
    """Draw several quantities against steps, each labelled.

    Args:
        steps: (n,) step numbers.
        values: label -> (n,) values; entries that are not finite are left out.
        ylabel: what they are, with the unit.
        xlabel: what the steps are.
        alt: alternative text.

    Raises:
        ShapeError: values of another length than steps.
    """
    x = array(steps)
    figure = new_figure(7.0, 2.9, alt or f"{ylabel}: {', '.join(values)}")
    panel = figure.subplots()
    low, high = [], []
    for i, (label, series) in enumerate(values.items()):
        y = array(series)
        if y.shape != x.shape:
            raise ShapeError(f"steps have shape {x.shape} and {label!r} {y.shape}; expected equal shapes (n,).")
        keep = np.isfinite(y)
        panel.plot(x[keep], y[keep], color=COLOURS[i % len(COLOURS)], linewidth=1.4, label=label)
        if keep.any():
            low.append(np.quantile(y[keep], 0.05))
            high.append(y[keep].max())
    if low:  # the first steps would flatten everything after them
        margin = 0.08 * (max(high) - min(low)) + 1e-9
        panel.set_ylim(min(low) - margin, max(high) + margin)
    panel.set(xlabel=xlabel, ylabel=ylabel)
    panel.grid(alpha=0.25)
    panel.legend(frameon=False, fontsize=8, ncols=len(values), loc="lower left", bbox_to_anchor=(0.0, 1.0))
    return figure


def histogram(
    axes: Axes, real: Any, drawn: Any = None, *, bins: Any = 40, limits: Any = None, labels: Sequence[str] = ()
) -> None:
    """Draw the distribution of one column: data filled, samples as an outline, each as a share of its own.

    Args:
        axes: where.
        real: (n,), NaN where an entry is missing.
        drawn: (m,) samples, or None.
        bins: number or edges.
        limits: lowest and highest value shown.
        labels: of data and samples, for the legend.
    """
    styles: list[dict[str, Any]] = [
        {"color": SOFT, "alpha": 0.7},
        {"color": ACCENT, "histtype": "step", "linewidth": 1.5},
    ]
    names = labels or ("data", "samples")
    for values, style, name in zip((real, drawn), styles, names, strict=True):
        if values is not None:
            kept = array(values)[np.isfinite(array(values))]
            weights = np.full(len(kept), 1.0 / max(1, len(kept)))
            axes.hist(kept, bins=bins, range=limits, weights=weights, label=name, **style)


def histogram_matrix(
    data: Any,
    samples: Any | None = None,
    *,
    columns: Sequence[str] = (),
    most: int = 4,
    bins: int = 40,
    alt: str = "",
) -> Figure:
    """Compare data and samples column by column: histograms on the diagonal, pairs beside it.

    Below the diagonal are the data, above it the samples.

    Args:
        data: (n, d), NaN where an entry is missing; such entries are left out.
        samples: (m, d), or None to show the data alone.
        columns: names of the d columns.
        most: show at most this many columns, the first ones.
        bins: per axis.
        alt: alternative text.

    Raises:
        ShapeError: the two do not have equally many columns.
    """
    real = array(data)
    drawn = None if samples is None else array(samples)
    if real.ndim != 2 or (drawn is not None and (drawn.ndim != 2 or drawn.shape[1] != real.shape[1])):
        shapes = f"data {real.shape}" + ("" if drawn is None else f", samples {drawn.shape}")
        raise ShapeError(f"{shapes}; expected (rows, columns) with equally many columns.")
    shown = min(most, real.shape[1])
    names = list(columns[:shown]) or [f"x{i}" for i in range(shown)]
    ranges = [_range(real[:, i]) for i in range(shown)]
    size = 1.5 if shown > 2 else 2.4
    figure = new_figure(size * shown + 0.6, size * shown + 0.4, alt or f"histograms of {', '.join(names)}")
    axes = figure.subplots(shown, shown, squeeze=False)
    for i in range(shown):
        for j in range(shown):
            panel = axes[i, j]
            panel.tick_params(labelsize=7)
            if i == j:
                share = np.isfinite(real[:, i]).mean()
                label = "data" if share == 1.0 else f"data, {share:.0%} known"
                column = None if drawn is None else drawn[:, i]
                histogram(panel, real[:, i], column, bins=bins, limits=ranges[i], labels=(label, "samples"))
                panel.set_yticks([])
            else:
                source, colour = (real, SOFT) if i > j or drawn is None else (drawn, ACCENT)
                both = source[np.isfinite(source[:, [i, j]]).all(1)][:2000]
                panel.scatter(both[:, j], both[:, i], s=2, color=colour, alpha=0.4, linewidths=0, rasterized=True)
                panel.set(xlim=ranges[j], ylim=ranges[i])
            if i == shown - 1:
                panel.set_xlabel(names[j], fontsize=9)
            if j == 0:
                panel.set_ylabel(names[i], fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def interval_curve(
    x: Any,
    mean: Any,
    std_error: Any,
    *,
    reference: float | None = None,
    xlabel: str = "",
    ylabel: str = "",
    logarithmic: bool = True,
    alt: str = "",
) -> Figure:
    """Draw figures with 95 % error bars against something, such as a bound against its number of particles."""
    at, centre, error = array(x), array(mean), array(std_error)
    figure = new_figure(5.5, 3.2, alt or f"{ylabel} against {xlabel}")
    panel = figure.subplots()
    panel.errorbar(at, centre, yerr=1.96 * error, color=INK, marker="o", markersize=4, capsize=3, linewidth=1.4)
    if reference is not None:
        panel.axhline(reference, color=ACCENT, linewidth=1.2, linestyle="--", label="exact")
        panel.legend(frameon=False)
    if logarithmic:
        panel.set_xscale("log")
    panel.set(xlabel=xlabel, ylabel=ylabel)
    panel.grid(alpha=0.25)
    return figure


def rank_histograms(
    counts: Mapping[str, Any], bands: Mapping[str, tuple[float, float]], expected: float, *, alt: str = ""
) -> Figure:
    """Draw one rank (or PIT) histogram per name, with the band it should stay inside of.

    Args:
        counts: name -> (bins,) counts.
        bands: name -> lowest and highest count that chance explains.
        expected: the count of a flat histogram.
        alt: alternative text.
    """
    if not counts:
        raise DataError("there are no histograms to draw.")
    across = min(4, len(counts))
    down = math.ceil(len(counts) / across)
    figure = new_figure(2.8 * across, 2.2 * down, alt or f"rank histograms of {', '.join(counts)}")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for panel in axes[len(counts) :]:
        panel.set_axis_off()
    for panel, (name, values) in zip(axes, counts.items(), strict=False):
        heights = array(values)
        low, high = bands[name]
        outside = (heights < low) | (heights > high)
        panel.bar(np.arange(len(heights)), heights, width=1.0, color=np.where(outside, ACCENT, SOFT))
        panel.axhspan(low, high, color=INK, alpha=0.12, linewidth=0)
        panel.axhline(expected, color=INK, linewidth=0.8)
        panel.set_title(name, fontsize=8)
        panel.tick_params(labelsize=6)
    return figure


def _two_columns(name: str, values: Any) -> np.ndarray:
    rows = array(values)
    if rows.ndim != 2 or rows.shape[1] != 2 or len(rows) == 0:
        raise ShapeError(f"{name} has shape {rows.shape}; expected points in the plane, (n, 2).")
    return rows


def _complete(rows: np.ndarray) -> tuple[np.ndarray, str]:
    """Rows without a missing entry, and a title that says how many that are.

    Raises:
        DataError: there is none.
    """
    complete = rows[np.isfinite(rows).all(1)]
    if not len(complete):
        raise DataError("no row is complete: there are no points in the plane to draw.")
    return complete, "data" if len(complete) == len(rows) else f"data, {len(complete):,} of {len(rows):,} complete"


def _range(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    low, high = np.quantile(known, [0.002, 0.998]) if len(known) else (0.0, 1.0)
    margin = 0.08 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _bounds(rows: np.ndarray) -> tuple[float, float, float, float]:
    low, high = rows.min(0), rows.max(0)
    margin = 0.08 * (high - low) + 1e-6
    return float(low[0] - margin[0]), float(high[0] + margin[0]), float(low[1] - margin[1]), float(high[1] + margin[1])


def _on_grid(label: str, log_density: Callable[[np.ndarray], Any], grid: np.ndarray, resolution: int) -> np.ndarray:
    parts = [array(log_density(block)) for block in np.array_split(grid, max(1, len(grid) // 8192))]
    if any(part.ndim != 1 for part in parts) or sum(map(len, parts)) != len(grid):
        raise ShapeError(f"the log density {label!r} must return one number per point; got shape {parts[0].shape}.")
    return np.exp(np.concatenate(parts)).reshape(resolution, resolution)


def _scatter(panel: Axes, rows: np.ndarray, points: int, title: str) -> None:
    panel.scatter(rows[:points, 0], rows[:points, 1], s=2, color=INK, alpha=0.5, linewidths=0, rasterized=True)
    panel.set_title(title, fontsize=9)


def _density(
    panel: Axes, density: np.ndarray, extent: tuple[float, float, float, float], ceiling: float, title: str
) -> None:
    panel.imshow(density, origin="lower", extent=extent, cmap=MAP, vmin=0.0, vmax=ceiling, aspect="auto")
    panel.set_title(title, fontsize=9)
