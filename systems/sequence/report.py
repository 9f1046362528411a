"""Figures of merit and pictures of recurrent mixture density networks, as tables; see `systems.evaluation`.

Metrics by group::

    nats_per_step     minus the mean log probability of a step, with the share of each column by itself in its detail
    log_likelihood    mean log probability of whole sequences
    generated         of 64 generated sequences: `clipped_share`, the share of steps that a limit changed; where there
                      is a column `dt` also `generated_median_dt`, `generated_tap_share` and those of the data
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.evaluate.figures import INK, SOFT, histogram, new_figure
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.evaluate.score import Score
from phlogiston.inference.query.evidence import Known
from phlogiston.models.stepwise import valid_steps
from phlogiston.systems.drawing import box, drawings_of, gallery
from phlogiston.systems.evaluation import Evaluation
from phlogiston.systems.sequence.scoring import per_step, without_memory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.inference.query.answer import Answer
    from phlogiston.systems.sequence.system import SequenceModel

TAP = 0.1  # seconds; a longer pause is a new tap, a shorter one part of a swipe
GENERATED = 64


def _rows(e: Evaluation[SequenceModel]) -> tuple[Tensor, Tensor]:
    """Held-out sequences (rows, steps, width) and their lengths."""
    return e.once("sequences", lambda: e.system.sequences(e.rows))


def _scores(e: Evaluation[SequenceModel]) -> tuple[Tensor, Tensor]:
    """Log probability of each sequence, (rows,), and of each column by itself, summed over all steps, (targets,)."""

    def compute() -> tuple[Tensor, Tensor]:
        chunks = e.system.score_steps(*_rows(e))
        columns = torch.zeros(e.system.model.targets, dtype=torch.double)
        return torch.cat([v.sum(-1) for v, _ in chunks]), sum((p.double().sum((0, 1)) for _, p in chunks), columns)

    return e.once("scores", compute)


def log_likelihood(e: Evaluation[SequenceModel]) -> dict[str, Metric]:
    """Mean log probability of a sequence."""
    return {"log_likelihood": Score(_scores(e)[0], "exact").mean()}


def nats_per_step(e: Evaluation[SequenceModel]) -> dict[str, Metric]:
    """Minus the mean log probability of a step."""
    system, (whole, parts), (_, length) = e.system, _scores(e), _rows(e)
    total = float(length.sum())
    names = system.schema["columns"][: system.model.targets]
    detail: dict[str, Any] = {f"{n} by itself": -float(v) / total for n, v in zip(names, parts, strict=True)}
    detail["unit"] = "nats per step"
    detail["steps"] = int(total)
    if system.config.grid:
        detail["scored"] = f"cells of {system.config.grid:g}"
    return {"nats_per_step": per_step(whole, length, detail)}


def generated(e: Evaluation[SequenceModel]) -> dict[str, Metric]:
    """Generated sequences beside those of the data."""
    x, length = _rows(e)
    columns = e.system.schema["columns"]
    timed = "dt" in columns
    seconds = float(x[..., columns.index("dt")].sum(1).median()) if timed else None
    drawn = e.system.sample(GENERATED, seconds=seconds or None, seed=0)
    steps = int(drawn["length"].sum())
    clipped = float((drawn["clipped"] * drawn["length"]).sum().round()) / max(1, steps)
    metrics = {"clipped_share": Metric(clipped, None, steps, "estimate", False)}
    if timed and int(drawn["length"].max()):
        at = columns.index("dt")
        own = drawn["x"][valid_steps(drawn["length"], drawn["x"].shape[1])][:, at]
        real = x[valid_steps(length, x.shape[1])][:, at]
        metrics["generated_median_dt"] = Metric(float(own.median()), None, len(own), "estimate", None)
        metrics["data_median_dt"] = Metric(float(real.median()), None, len(real), "exact", None)
        metrics["generated_tap_share"] = from_rows((own > TAP).double(), "estimate")
        metrics["data_tap_share"] = from_rows((real > TAP).double(), "exact")
    return metrics


METRICS = {"nats_per_step": nats_per_step, "log_likelihood": log_likelihood, "generated": generated}


def two_steps_lost(e: Evaluation[SequenceModel]) -> tuple[str, Answer]:
    """A stretch that was lost, given what came before and after it."""
    x, length = _rows(e)
    x = x[0, : min(40, int(length[0]))]
    mask = torch.ones_like(x, dtype=torch.bool)
    middle = len(x) // 2
    mask[middle : middle + 2] = False
    answer = e.system.query({"x": Known(x, mask)}, num_samples=200, seed=0)
    return f"{len(x)} steps, two in the middle lost", answer


EXAMPLE_QUERIES = [two_steps_lost]


# ---- pictures


def _is_touch(system: SequenceModel) -> bool:
    return not system.schema["pen"] and {"x", "y", "dt"} <= set(system.schema["columns"])


def drawings(e: Evaluation[SequenceModel]) -> Figure | None:
    """Drawings of the data above, the model's below: strokes should be of the same size, curvature and spacing."""
    if not e.system.schema["pen"]:
        return None
    x, length = _rows(e)
    drawn = e.system.sample(12, seed=1)
    groups = {"data": (x[:12], length[:12]), "generated": (drawn["x"], drawn["length"])}
    broad = np.median([w / h for _, _, w, h in map(box, drawings_of(*groups["data"]))]) > 2.5
    if broad:  # lines of writing: two beside each other, three rows of each
        groups = {
            f"{title}{' ' * i}": (rows[2 * i : 2 * i + 2], sizes[2 * i : 2 * i + 2])
            for title, (rows, sizes) in groups.items()
            for i in range(min(3, len(rows) // 2))
        }
    return gallery(groups, wide=bool(broad), alt="rows of drawings from the data and of drawings by the model")


def touches(e: Evaluation[SequenceModel]) -> Figure | None:
    """Where a finger went in five seconds, dark first and bright last: performances of the data, of the model, and the
    model's answers to those of the data. Taps and swipes should be as long and as dense as the data's.
    """
    if not _is_touch(e.system):
        return None
    x, length = _rows(e)
    drawn = e.system.sample(6, seconds=5.0, seed=1)
    given = [row[: int(n)].numpy() for row, n in zip(x[:6], length[:6], strict=True)]
    reply = e.system.respond(given, seconds=5.0, seed=2)
    return performances(
        e.system,
        {
            "data": (x[:6], length[:6]),
            "generated": (drawn["x"], drawn["length"]),
            "answers to the data above": (reply["x"], reply["length"]),
        },
    )


def performances(system: SequenceModel, rows: dict[str, tuple[Tensor, Tensor]]) -> Figure:
    """Performances on the screen: where the finger went, with time as colour and a gap where it was lifted."""
    columns = system.schema["columns"]
    ix, iy, it = (columns.index(name) for name in ("x", "y", "dt"))
    count = max(len(x) for x, _ in rows.values())
    figure = new_figure(1.3 * count, 1.5 * len(rows), "finger paths on a screen, from the data and from the model")
    for r, (title, (x, length)) in enumerate(rows.items()):
        for k in range(len(x)):
            axes = figure.add_subplot(len(rows), count, r * count + k + 1)
            own = x[k, : int(length[k])].numpy()
            now = np.cumsum(own[:, it])
            new = own[:, it] > TAP
            for stroke in np.split(np.arange(len(own)), np.flatnonzero(new)):
                if len(stroke):
                    axes.plot(own[stroke, ix], own[stroke, iy], color=SOFT, linewidth=0.6, zorder=1)
            axes.scatter(own[:, ix], own[:, iy], c=now, s=5, cmap="plasma", vmin=0, vmax=5, linewidths=0, zorder=2)
            axes.set(xlim=(-0.03, 1.03), ylim=(1.03, -0.03), xticks=[], yticks=[], aspect="equal")
            if k == 0:
                axes.set_title(title, fontsize=9, loc="left")
    return figure


def intervals(e: Evaluation[SequenceModel]) -> Figure | None:
    """How long after a touch the next one follows: the outline of generated touches should lie on the data's, with both
    humps, of swipes (left of the dotted line) and of taps (right of it).
    """
    if not _is_touch(e.system):
        return None
    x, length = _rows(e)
    at = e.system.schema["columns"].index("dt")
    drawn = e.system.sample(GENERATED, seconds=5.0, seed=0)
    real = x[valid_steps(length, x.shape[1])][:, at].numpy()
    own = drawn["x"][valid_steps(drawn["length"], drawn["x"].shape[1])][:, at].numpy()
    figure = new_figure(6.0, 3.2, "histogram of intervals between touches, of the data and of the model")
    axes = figure.add_subplot()
    told = [f"median {1000 * np.median(v[v > 0]):.1f} ms, {100 * (v > TAP).mean():.1f} % taps" for v in (real, own)]
    bins = np.geomspace(1e-3, 5.0, 70)
    labels = (f"data: {told[0]}", f"generated: {told[1]}")
    histogram(axes, real[real > 0], own[own > 0], bins=bins, labels=labels)
    axes.axvline(TAP, color=INK, linewidth=0.6, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="seconds since the touch before", ylabel="share of touches")
    axes.legend(frameon=False, fontsize=8)
    return figure


def streams(e: Evaluation[SequenceModel]) -> Figure | None:
    """Every column over time, of one sequence of the data and of one of the model: levels, steps and pauses should be
    alike, the curves themselves not.
    """
    columns = e.system.schema["columns"]
    if e.system.schema["pen"] or _is_touch(e.system):
        return None
    x, length = _rows(e)
    real, own = x[0, : int(length[0])], e.system.sample(1, steps=400, seed=1)["x"][0]
    figure = new_figure(7.5, 4.0, "controls over time, of the data and of the model")
    for row, (title, values) in enumerate((("data", real[:400]), ("generated", own))):
        axes = figure.add_subplot(2, 1, row + 1)
        clock = values[:, columns.index("dt")].cumsum(0) if "dt" in columns else torch.arange(len(values)).float()
        for i, name in enumerate(columns):
            if name != "dt":
                axes.plot(clock.numpy(), values[:, i].numpy(), linewidth=1.0, drawstyle="steps-post", label=name)
        axes.set_title(title, fontsize=9, loc="left")
        axes.legend(frameon=False, fontsize=7, loc="upper right")
    return figure


FIGURES = {
    "real and generated": drawings,
    "performances": touches,
    "intervals": intervals,
    "streams": streams,
}
BASELINES = {"without_memory": without_memory}
LOSS_UNIT = "nats per step"
