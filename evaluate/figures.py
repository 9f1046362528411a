"""Pictures that belong to no system: image grids, density maps, curves, matrices of histograms.

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
MAP = "magma"
UNKNOWN = (0.94, 0.85, 0.78)  # the colour of pixels nobody knows


def array(values: Any) -> np.ndarray:
    """Return a float64 array of a tensor or anything numpy takes."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)


def new_figure(width: float, height: float, alt: str) -> Figure:
    """Return an empty figure of `width` x `height` inches whose label is its alternative text."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.set_label(alt)
    return figure


def image_grid(
    images: Any,
    *,
    columns: int | None = None,
    titles: Sequence[str] = (),
    limits: tuple[float, float] | None = None,
    alt: str = "",
) -> Figure:
    """Show images side by side.

    Args:
        images: (n, height, width), (n, height, width, 3) or (n, 3, height, width); uint8, or floats, NaN where a pixel
            is missing (drawn in a colour of its own).
        columns: images per row; about square if not given.
        titles: one word above each image.
        limits: values shown as black and white; 0 and 255 for uint8, 0 and 1 for floats unless they leave it.
        alt: alternative text.

    Raises:
        ShapeError: not a batch of images.
    """
    shown = _pictures(images, limits)
    columns = columns or min(len(shown), math.ceil(math.sqrt(len(shown) * 1.6)))
    rows = math.ceil(len(shown) / columns)
    aspect = shown.shape[1] / shown.shape[2]
    size = min(1.1, 11.0 / columns)
    height = rows * (size * aspect + (0.22 if titles else 0.06))
    figure = new_figure(columns * size, height, alt or f"{len(shown)} images in {rows} rows")
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for i, place in enumerate(axes):
        place.set_axis_off()
        if i >= len(shown):
            continue
        place.imshow(shown[i], cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        if i < len(titles):
            place.set_title(titles[i], fontsize=8, pad=2)
    return figure


def image_grids(groups: Mapping[str, Any], *, columns: int | None = None, alt: str = "") -> Figure:
    """Show several sets of images beside each other, a mosaic each.

    Args:
        groups: label -> images as `image_grid` takes them.
        columns: images per row of a mosaic; square if not given.
        alt: alternative text.

    Raises:
        DataError: no groups.
        ShapeError: a group is not a batch of images.
    """
    if not groups:
        raise DataError("there are no images to show.")
    mosaics = {label: _mosaic(_pictures(images), columns) for label, images in groups.items()}
    figure = new_figure(3.2 * len(mosaics), 3.5, alt or f"images: {', '.join(mosaics)}")
    for place, (label, mosaic) in zip(figure.subplots(1, len(mosaics), squeeze=False)[0], mosaics.items(), strict=True):
        place.imshow(mosaic, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        place.set_title(label, fontsize=9)
        place.set_axis_off()
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
        truth: the true log density, if anyone knows it.
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
    for place in axes.ravel():
        place.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], aspect="auto")
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


def loss_curve(
    steps: Any,
    loss: Any,
    valid: tuple[Any, Any] | None = None,
    *,
    ylabel: str = "loss, nats per datum",
    title: str = "",
    alt: str = "",
) -> Figure:
    """Draw a loss against steps, with a running median, and the validation loss where there is one.

    Args:
        steps: (n,) step numbers.
        loss: (n,) losses; entries that are not finite are left out.
        valid: steps and losses of the validation rows.
        ylabel: unit of the vertical axis.
        title: above the axes.
        alt: alternative text.
    """
    x, y = array(steps), array(loss)
    if x.shape != y.shape or x.ndim != 1:
        raise ShapeError(f"steps have shape {x.shape} and losses {y.shape}; expected equal shapes (n,).")
    keep = np.isfinite(y)
    x, y = x[keep], y[keep]
    figure = new_figure(7.0, 3.2, alt or f"{ylabel} over {len(x)} steps")
    place = figure.subplots()
    width = max(1, len(y) // 50)
    if width > 2:
        place.plot(x, y, color=SOFT, linewidth=0.6, alpha=0.6, label="each step")
        half = width // 2
        smooth = np.array([np.median(y[max(0, i - half) : i + half + 1]) for i in range(len(y))])
        place.plot(x, smooth, color=INK, linewidth=1.6, label="running median")
    else:
        place.plot(x, y, color=INK, linewidth=1.4, label="training")
    if valid is not None:
        place.plot(array(valid[0]), array(valid[1]), color=ACCENT, marker="o", markersize=3, label="validation")
    if len(y) > 10:  # the first steps would flatten everything after them
        low, high = np.quantile(y, [0.0, 0.97])
        place.set_ylim(low - 0.05 * (high - low + 1e-9), high + 0.1 * (high - low + 1e-9))
    place.set(xlabel="step", ylabel=ylabel, title=title)
    place.grid(alpha=0.25)
    place.legend(frameon=False)
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
    from matplotlib import colormaps

    x = array(steps)
    figure = new_figure(7.0, 3.2, alt or f"{ylabel}: {', '.join(values)}")
    place = figure.subplots()
    colours = colormaps["viridis"](np.linspace(0.1, 0.8, max(1, len(values))))
    low, high = [], []
    for (label, series), colour in zip(values.items(), colours, strict=True):
        y = array(series)
        if y.shape != x.shape:
            raise ShapeError(f"steps have shape {x.shape} and {label!r} {y.shape}; expected equal shapes (n,).")
        keep = np.isfinite(y)
        place.plot(x[keep], y[keep], color=colour, linewidth=1.4, label=label)
        if keep.any():
            low.append(np.quantile(y[keep], 0.05))
            high.append(y[keep].max())
    if low:  # the first steps would flatten everything after them
        margin = 0.08 * (max(high) - min(low)) + 1e-9
        place.set_ylim(min(low) - margin, max(high) + margin)
    place.set(xlabel=xlabel, ylabel=ylabel)
    place.grid(alpha=0.25)
    place.legend(frameon=False)
    return figure


def histogram_matrix(
    data: Any,
    samples: Any | None = None,
    *,
    columns: Sequence[str] = (),
    most: int = 6,
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
            place = axes[i, j]
            place.tick_params(labelsize=6)
            source = real if i > j or drawn is None else drawn
            if i == j:
                options: dict[str, Any] = {"bins": bins, "range": ranges[i], "density": True}
                known = real[np.isfinite(real[:, i]), i]
                share = "data" if len(known) == len(real) else f"data, {len(known) / len(real):.0%} known"
                place.hist(known, color=SOFT, alpha=0.7, label=share, **options)
                if drawn is not None:
                    place.hist(drawn[:, i], color=ACCENT, histtype="step", linewidth=1.3, label="samples", **options)
                place.set_yticks([])
            else:
                both = source[np.isfinite(source[:, [i, j]]).all(1)]
                place.hist2d(
                    both[:, j], both[:, i], bins=bins, range=[ranges[j], ranges[i]], cmap="Greys", rasterized=True
                )
            if i == shown - 1:
                place.set_xlabel(names[j], fontsize=8)
            if j == 0:
                place.set_ylabel(names[i], fontsize=8)
    if drawn is not None:
        axes[0, 0].legend(frameon=False, fontsize=6)
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
    place = figure.subplots()
    place.errorbar(at, centre, yerr=1.96 * error, color=INK, marker="o", markersize=4, capsize=3, linewidth=1.4)
    if reference is not None:
        place.axhline(reference, color=ACCENT, linewidth=1.2, linestyle="--", label="exact")
        place.legend(frameon=False)
    if logarithmic:
        place.set_xscale("log")
    place.set(xlabel=xlabel, ylabel=ylabel)
    place.grid(alpha=0.25)
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
    for place in axes[len(counts) :]:
        place.set_axis_off()
    for place, (name, values) in zip(axes, counts.items(), strict=False):
        heights = array(values)
        low, high = bands[name]
        outside = (heights < low) | (heights > high)
        place.bar(np.arange(len(heights)), heights, width=1.0, color=np.where(outside, ACCENT, SOFT))
        place.axhspan(low, high, color=INK, alpha=0.12, linewidth=0)
        place.axhline(expected, color=INK, linewidth=0.8)
        place.set_title(name, fontsize=8)
        place.tick_params(labelsize=6)
    return figure


def confusion(matrix: Any, labels: Sequence[str] = (), *, alt: str = "") -> Figure:
    """Draw a confusion matrix (true class by row, judged class by column) as shares of each row."""
    counts = array(matrix)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1.0)
    names = list(labels) or [str(i) for i in range(len(shares))]
    size = max(3.0, 0.4 * len(names) + 1.2)
    figure = new_figure(size, size, alt or "confusion matrix")
    place = figure.subplots()
    place.imshow(shares, cmap="Greys", vmin=0.0, vmax=1.0)
    place.set(xticks=range(len(names)), yticks=range(len(names)), xlabel="judged", ylabel="true")
    place.set_xticklabels(names, fontsize=7, rotation=90 if max(map(len, names)) > 3 else 0)
    place.set_yticklabels(names, fontsize=7)
    if len(names) <= 12:
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                if share >= 0.005:
                    place.text(j, i, f"{share:.2f}".lstrip("0"), ha="center", va="center", fontsize=6,
                               color="white" if share > 0.5 else INK)  # fmt: skip
    return figure


def _pictures(images: Any, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Return images as floats in [0, 1], (n, height, width) or (n, height, width, 3)."""
    pictures = np.asarray(images.detach().cpu() if hasattr(images, "detach") else images)
    if pictures.ndim == 4 and pictures.shape[1] in (1, 3) and pictures.shape[-1] not in (1, 3):
        pictures = np.moveaxis(pictures, 1, -1)
    if pictures.ndim not in (3, 4) or len(pictures) == 0 or (pictures.ndim == 4 and pictures.shape[-1] not in (1, 3)):
        raise ShapeError(
            f"images have shape {pictures.shape}; expected (n, height, width), or with 1 or 3 colours first or last."
        )
    if limits is None:
        limits = (0.0, 255.0 if pictures.dtype == np.uint8 else 1.0)
        known = pictures[np.isfinite(pictures)] if pictures.dtype.kind == "f" else pictures
        if pictures.dtype != np.uint8 and known.size and (known.min() < -0.01 or known.max() > 1.01):
            limits = (float(known.min()), float(known.max()))
    low, high = limits
    shown = np.clip((pictures.astype(np.float64) - low) / max(high - low, 1e-12), 0.0, 1.0)
    shown = shown[..., 0] if shown.ndim == 4 and shown.shape[-1] == 1 else shown
    if not np.isnan(shown).any():
        return shown
    coloured = shown if shown.ndim == 4 else np.repeat(shown[..., None], 3, -1)
    return np.where(np.isnan(coloured).any(-1, keepdims=True), UNKNOWN, coloured)


def _mosaic(pictures: np.ndarray, columns: int | None) -> np.ndarray:
    """Put (n, height, width[, 3]) pictures into one, a pixel of grey between them."""
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    padded = np.pad(pictures, [(0, 0), (0, 1), (0, 1), *[(0, 0)] * (pictures.ndim - 3)], constant_values=0.5)
    empty = np.full((rows * columns - len(pictures), *padded.shape[1:]), 1.0)
    cells = np.concatenate([padded, empty]).reshape(rows, columns, *padded.shape[1:])
    cells = np.moveaxis(cells, 2, 1)  # (rows, height, columns, width, ...)
    return cells.reshape(rows * padded.shape[1], columns * padded.shape[2], *padded.shape[3:])[:-1, :-1]


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


def _scatter(place: Axes, rows: np.ndarray, points: int, title: str) -> None:
    place.scatter(rows[:points, 0], rows[:points, 1], s=1.2, color=INK, alpha=0.45, linewidths=0, rasterized=True)
    place.set_title(title, fontsize=9)


def _density(
    place: Axes, density: np.ndarray, extent: tuple[float, float, float, float], ceiling: float, title: str
) -> None:
    place.imshow(density, origin="lower", extent=extent, cmap=MAP, vmin=0.0, vmax=ceiling, aspect="auto")
    place.set_title(title, fontsize=9)
