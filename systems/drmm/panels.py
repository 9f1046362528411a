"""Pictures of answered questions: one density, many questions.

Two columns get questions in the plane, images are completed (and named, where there are labels), bodies reach, flights
are planned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phlogiston.datasets.generated import jumper, poses
from phlogiston.evaluate.figures import ACCENT, INK, SOFT, new_figure
from phlogiston.evaluate.image_figures import image_rows
from phlogiston.inference.query.evidence import HalfSpace, Known, Near, Within
from phlogiston.systems.drmm.kinematics import Kinematics, Poses

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from phlogiston.systems.drmm.system import DRMM

Array = np.ndarray
INF = float("inf")


# -- the plane ----------------------------------------------------------------------------------------------------


def conditionals(system: DRMM, x: Array, num_samples: int = 800) -> Figure:
    """Samples unconditional, given one column, under a Gaussian prior, in a box, and under two inequalities."""
    first, second = system.schema["columns"]
    low, high = np.quantile(x, [0.01, 0.99], axis=0)
    span = high - low
    row = x[len(x) // 2]
    value = float(np.quantile(x[:, 0], 0.65))
    normals = np.array([[1.0, 1.0], [-1.0, 2.0]]) / span  # of lines that pass a little below the middle of the data
    questions: dict[str, Any] = {
        "unconditional": None,
        f"{first} = {value:.2g}": Known([value, 0.0], [1, 0]),
        "a Gaussian prior": Near(row, 0.12 * span),
        "in a box": Within(low + [0.45, -INF] * span, low + [INF, 0.45] * span),
        "two inequalities": HalfSpace(normals, 0.1 - normals @ np.median(x, axis=0)),
    }
    figure = new_figure(7.5, 5.2, "samples of one density under five kinds of evidence")
    margin = 0.15 * span
    a, b = np.meshgrid(*(np.linspace(s - m, e + m, 300) for s, e, m in zip(low, high, margin, strict=True)))
    axes = figure.subplots(2, 3, sharey=True).ravel()
    for ax, (title, piece) in zip(axes, questions.items(), strict=False):
        evidence = {} if piece is None else {"x": piece}
        answer = system.query(evidence, num_samples=num_samples, resample=True, seed=0)
        shade(ax, piece, a, b)
        ax.scatter(*x[:3000].T, s=2, color=SOFT, linewidths=0, alpha=0.4, rasterized=True, label="data")
        drawn = answer.samples["x"].numpy().T
        ax.scatter(*drawn, s=4, color=INK, linewidths=0, alpha=0.8, rasterized=True, label="answers")
        ax.set(xlim=(a.min(), a.max()), ylim=(b.min(), b.max()), xticks=[], yticks=[])
        ax.set_title(title, fontsize=10)
        if piece is not None and answer.log_evidence is not None:
            ax.set_xlabel(f"log evidence {float(answer.log_evidence):.2f}", fontsize=9)
    axes[0].set(xlabel=first, ylabel=second)
    axes[5].set_axis_off()
    axes[5].legend(*axes[0].get_legend_handles_labels(), loc="center", frameon=False, markerscale=4)
    return figure


def shade(ax: Axes, piece: Any, a: Array, b: Array) -> None:
    """Draw evidence about two columns over the grid `a`, `b` in colour."""
    match piece:
        case Known(value=value):
            ax.axvline(float(value[0]), color=ACCENT, linewidth=1.0, alpha=0.6)
        case Near(mean=mean, sd=sd):
            z = ((a - float(mean[0])) / float(sd[0])) ** 2 + ((b - float(mean[1])) / float(sd[1])) ** 2
            ax.contour(a, b, z, levels=[1, 4], colors=ACCENT, linewidths=0.9)
        case Within(lower=lower, upper=upper):
            inside = (a >= float(lower[0])) & (a <= float(upper[0])) & (b >= float(lower[1])) & (b <= float(upper[1]))
            ax.contourf(a, b, inside, levels=[0.5, 1.5], colors=ACCENT, alpha=0.13)
        case HalfSpace(a=normals, b=offsets):
            inside = np.ones_like(a, dtype=bool)
            for (p, q), c in zip(normals.tolist(), offsets.tolist(), strict=True):
                inside &= p * a + q * b + c >= 0
            ax.contourf(a, b, inside, levels=[0.5, 1.5], colors=ACCENT, alpha=0.13)


# -- images -------------------------------------------------------------------------------------------------------


def completions(system: DRMM, x: Array, labels: Mapping[str, Array]) -> Figure:
    """Held-out images, their upper halves, the posterior mean, two samples, and what each label is thought to be."""
    shape = tuple(system.schema["image_shape"])
    upper = np.zeros(shape, dtype=bool)
    upper[..., : shape[-2] // 2, :] = True
    known = upper.reshape(-1)
    half = {"x": Known(torch.from_numpy(x).double(), torch.from_numpy(known))}
    # the image of a path's mean under the maps of pixels is a median, and too dark: average whole draws instead
    how: dict[str, Any] = {"num_samples": 64, "noise": "mean"} if system.model.cells is None else {"num_samples": 256}
    mean = system.query(half, ask=["x"], seed=0, **how).mean("x").numpy()
    drawn = system.query(half, ask=["x"], num_samples=2, seed=0).samples["x"].numpy()
    low, high = x.min(), x.max()
    rows = {"image": x, "given": np.where(known, x, np.nan), "mean": mean, "sample": drawn[0], "another": drawn[1]}
    pictures = [(label, ((r - low) / (high - low)).reshape(-1, *shape)) for label, r in rows.items()]
    streams = system.schema["categorical"]
    figure, axes = image_rows(
        [*pictures, *((f"{name}\n(bold: true)", pictures[0][1]) for name in streams)],
        size=0.85,
        alt="held-out images, their upper halves, completions, and probabilities of labels",
    )
    for ax in axes[: len(pictures)].ravel():
        ax.axhline(shape[-2] // 2 - 0.5, color=ACCENT, linewidth=0.8)
    for line, (name, values) in zip(axes[len(pictures) :], streams.items(), strict=True):
        for ax in line:
            ax.images[0].remove()
            ax.set(aspect="auto", xlim=(-0.7, len(values) - 0.3))
        _label_bars(line, system, name, values, x, half, labels.get(name))
    return figure


def _label_bars(line: Any, system: DRMM, name: str, values: Any, x: Array, half: Any, true: Array | None) -> None:
    """One bar chart per image: p(label) given the upper half, and given all of it."""
    whole = system.predict_proba(name, x.astype(np.float32)).numpy()
    part = system.questions().predict_proba(name, half).numpy()
    count = whole.shape[1]
    names = [str(v) for v in values] if isinstance(values, list | tuple) else [str(i) for i in range(count)]
    for i, ax in enumerate(line):
        at = np.arange(count)
        ax.bar(at - 0.2, part[i], 0.4, color=ACCENT, label="given the upper half")
        ax.bar(at + 0.2, whole[i], 0.4, color=INK, label="given all")
        ax.set(ylim=(0, 1), yticks=[])
        ax.set_xticks(at, names if count <= 10 else [""] * count, fontsize=6)
        if true is not None and true[i] >= 0:
            ax.get_xticklabels()[int(true[i])].set(color=ACCENT, fontweight="bold", fontsize=9)
    line[0].figure.legend(
        *line[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False
    )


# -- bodies -------------------------------------------------------------------------------------------------------


def draw_pose(ax: Axes, joints: Array, **style: Any) -> None:
    """Draw one figure as sticks; joints (16, 2)."""
    neck, top = joints[poses.NAMES.index("head")], joints[poses.NAMES.index("head_top")]
    around = np.linspace(0.0, 2.0 * np.pi, 40)
    radius = 0.5 * np.linalg.norm(top - neck)
    ax.plot(*((neck + top)[:, None] / 2 + 0.62 * radius * np.stack([np.cos(around), np.sin(around)])), **style)
    ax.plot(*np.stack([neck, neck + 0.19 * (top - neck)]).T, **style)
    for i, joint in enumerate(poses.JOINTS):
        if joint.parent and joint.name != "head_top":
            start = joints[poses.NAMES.index(joint.parent)]
            ax.plot(*np.stack([start, joints[i]]).T, solid_capstyle="round", **style)


def draw_poses(ax: Axes, result: Poses, targets: Mapping[str, Any], limit: float | None, shown: int = 8) -> None:
    """Draw some poses over each other, the first one dark, with targets and obstacle."""
    for joints in result.joints[1:shown]:
        draw_pose(ax, joints, color=SOFT, alpha=0.45, linewidth=1.2)
    draw_pose(ax, result.joints[0], color=INK, linewidth=2.2)
    across, up = np.array(list(targets.values())).T
    ax.scatter(across, up, s=60, facecolors="none", edgecolors=ACCENT, linewidths=1.8, zorder=3)
    if limit is not None:
        ax.axhspan(limit, 2.5, color=ACCENT, alpha=0.18, linewidth=0)
        ax.axhline(limit, color=ACCENT, linewidth=1.0)
    ax.set(xlim=(-1.05, 1.05), ylim=(-0.35, 1.75), aspect="equal", xticks=[], yticks=[])
    ax.set_xlabel(f"error {result.error.mean():.4f}", fontsize=8)


def reaching(solver: Kinematics, num_samples: int = 64) -> Figure:
    """Three questions to a density of poses, sampled above and refined below."""
    figure = new_figure(7.5, 5.6, "stick figures reaching for targets, sampled above and refined below")
    standing = {"right_foot": (0.2, 0.0), "left_foot": (-0.2, 0.0)}
    questions: list[tuple[str, dict[str, Any], float | None]] = [
        ("hands and feet", {**standing, "right_hand": (0.55, 1.1), "left_hand": (-0.6, 0.8)}, None),
        ("feet and one hand", {**standing, "right_hand": (0.6, 0.7)}, None),
        ("... and the head below", {**standing, "right_hand": (0.6, 0.7)}, 1.15),
    ]
    axes = figure.subplots(2, len(questions))
    for column, (title, targets, limit) in enumerate(questions):
        for row, refine in enumerate((False, True)):
            result = solver.solve(targets, limit, num_samples, refine, seed=column)
            draw_poses(axes[row, column], result, targets, limit)
            axes[row, column].set_title("refined" if refine else title, fontsize=9)
    return figure


# -- flights ------------------------------------------------------------------------------------------------------

WAY_POINTS = {0: 0.5, 12: 0.3, 31: 0.6}
GAPS = {6: (0.38, 0.55), 19: (0.45, 0.62), 25: (0.62, 0.8)}


def flight_evidence(way_points: Mapping[int, float], gaps: Mapping[int, tuple[float, float]]) -> dict[str, Any]:
    """Evidence about a flight: time -> height to pass, and time -> (lowest, highest) height allowed."""
    values = torch.zeros(len(jumper.COLUMNS), dtype=torch.float64)
    mask = torch.zeros(len(values), dtype=torch.bool)
    for time, height in way_points.items():
        values[time], mask[time] = height, True
    lower, upper = torch.full_like(values, -INF), torch.full_like(values, INF)
    for time, (low, high) in gaps.items():
        lower[time], upper[time] = low, high
    return {"x": [Known(values, mask), Within(lower, upper)]}


def flights(system: DRMM, seed: int = 0) -> Figure:
    """Flights without a question, through way-points, and through way-points and gaps between obstacles."""
    alt = "flights: unconditional, through way-points, through way-points and between obstacles"
    figure = new_figure(7.5, 2.9, alt)
    questions: list[tuple[str, Mapping[int, float], Mapping[int, tuple[float, float]]]] = [
        ("the model's flights", {}, {}),
        ("through three way-points", WAY_POINTS, {}),
        ("... and between obstacles", WAY_POINTS, GAPS),
    ]
    for ax, (title, points, gaps) in zip(figure.subplots(1, 3, sharey=True), questions, strict=True):
        answer = system.query(
            flight_evidence(points, gaps), num_samples=400, noise="mean", resample=True, sort=True, seed=seed
        )
        y = jumper.heights(answer.samples["x"].numpy())
        shown = y[np.random.default_rng(seed).permutation(len(y) // 4)[:12]]  # of the most plausible quarter
        ax.plot(shown[1:].T, color=SOFT, linewidth=1.0, alpha=0.8)
        ax.plot(shown[0], color=INK, linewidth=2.0)
        for time, (low, high) in gaps.items():
            for bottom, top in ((-0.1, low), (high, 1.1)):
                ax.fill_between([time - 0.35, time + 0.35], bottom, top, color=ACCENT, alpha=0.55, linewidth=0)
        if points:
            at, heights = list(points), list(points.values())
            ax.scatter(at, heights, s=55, color="white", edgecolors=ACCENT, linewidths=1.8, zorder=3)
        ax.set(xlim=(-1, 32), ylim=(-0.1, 1.1), xlabel="step")
        ax.set_title(title, fontsize=10)
    figure.axes[0].set_ylabel("height")
    return figure
