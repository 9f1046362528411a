"""Figures of merit and pictures of recurrent mixture density networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.evaluate.figures import ACCENT, INK, SOFT, new_figure
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.evaluate.score import Score
from phlogiston.models.stepwise import valid_steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.systems.sequence.system import SequenceModel

TAP = 0.1  # seconds; a longer pause is a new tap, a shorter one part of a swipe
GENERATED = 64


def evaluate(system: SequenceModel, data: Any, wanted: set[str]) -> dict[str, Metric]:
    """See `SequenceModel.evaluate`."""
    x, length = system.sequences(data)
    found: dict[str, Metric] = {}
    if wanted & {"nats_per_step", "log_likelihood"}:
        steps = system._steps(x, length)
        whole = torch.cat([value.sum(-1) for value, _ in steps])
        parts = sum((p.double().sum((0, 1)) for _, p in steps), torch.zeros(system.model.targets, dtype=torch.double))
        if "nats_per_step" in wanted:
            found["nats_per_step"] = _per_step(system, whole, parts, length)
        if "log_likelihood" in wanted:
            found["log_likelihood"] = Score(whole, "exact").mean()
    if "generated" in wanted:
        found.update(_generated(system, x, length))
    return found


def _per_step(system: SequenceModel, whole: Tensor, parts: Tensor, length: Tensor) -> Metric:
    total = float(length.sum())
    mean = -float(whole.double().sum()) / total
    # a ratio of sums: the spread of whole sequences around it gives the error
    spread = -whole.double() - mean * length.double()
    error = float(spread.square().sum().sqrt()) / total if len(length) > 1 else None
    names = system.schema["columns"][: system.model.targets]
    detail: dict[str, Any] = {f"{n} by itself": -float(v) / total for n, v in zip(names, parts, strict=True)}
    detail["unit"] = "nats per step"
    detail["steps"] = int(total)
    if system.config.grid:
        detail["scored"] = f"cells of {system.config.grid:g}"
    return Metric(mean, error, len(length), "exact", False, detail)


def _generated(system: SequenceModel, x: Tensor, length: Tensor) -> dict[str, Metric]:
    columns = system.schema["columns"]
    timed = "dt" in columns
    seconds = float(x[..., columns.index("dt")].sum(1).median()) if timed else None
    drawn = system.sample(GENERATED, seconds=seconds or None, seed=0)
    found = {"clipped_share": Metric(float(drawn["clipped"]), None, int(drawn["length"].sum()), "estimate", False)}
    if timed and int(drawn["length"].max()):
        at = columns.index("dt")
        own = drawn["x"][valid_steps(drawn["length"], drawn["x"].shape[1])][:, at]
        real = x[valid_steps(length, x.shape[1])][:, at]
        n = len(own)
        found["generated_median_dt"] = Metric(float(own.median()), None, n, "estimate", None)
        found["data_median_dt"] = Metric(float(real.median()), None, len(real), "exact", None)
        found["generated_tap_share"] = from_rows((own > TAP).double(), "estimate")
        found["data_tap_share"] = from_rows((real > TAP).double(), "exact")
    return found


# ---- pictures


def figures(system: SequenceModel, data: Any) -> dict[str, Figure]:
    """See `SequenceModel.figures`."""
    from phlogiston.systems.drawing import gallery

    x, length = system.sequences(data)
    found: dict[str, Figure] = {}
    columns = system.schema["columns"]
    if system.schema["pen"]:
        drawn = system.sample(12, seed=1)
        found["real and generated"] = gallery(
            {"data": (x[:12], length[:12]), "generated": (drawn["x"], drawn["length"])},
            alt="rows of drawings from the data and of drawings by the model",
        )
    elif {"x", "y", "dt"} <= set(columns):
        drawn = system.sample(6, seconds=5.0, seed=1)
        heard = [row[: int(n)].numpy() for row, n in zip(x[:6], length[:6], strict=True)]
        reply = system.respond(heard, seconds=5.0, seed=2)
        found["performances"] = performances(
            system, {"data": (x[:6], length[:6]), "generated": (drawn["x"], drawn["length"]),
                     "answers to the data above": (reply["x"], reply["length"])}
        )  # fmt: skip
        found["intervals"] = _intervals(system, x, length)
    else:
        drawn = system.sample(1, steps=400, seed=1)
        found["streams"] = _streams(system, x[0, : int(length[0])], drawn["x"][0])
    if system.history is not None and system.history.records:
        found["training"] = _training(system)
    return found


def performances(system: SequenceModel, rows: dict[str, tuple[Tensor, Tensor]]) -> Figure:
    """Performances on the screen: where the finger went, colour telling the time, a gap where it was lifted."""
    columns = system.schema["columns"]
    ix, iy, it = (columns.index(name) for name in ("x", "y", "dt"))
    count = max(len(x) for x, _ in rows.values())
    figure = new_figure(2.0 * count, 2.3 * len(rows), "finger paths on a screen, from the data and from the model")
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


def _intervals(system: SequenceModel, x: Tensor, length: Tensor) -> Figure:
    at = system.schema["columns"].index("dt")
    drawn = system.sample(GENERATED, seconds=5.0, seed=0)
    real = x[valid_steps(length, x.shape[1])][:, at].numpy()
    own = drawn["x"][valid_steps(drawn["length"], drawn["x"].shape[1])][:, at].numpy()
    figure = new_figure(6.0, 3.2, "histogram of intervals between touches, of the data and of the model")
    axes = figure.add_subplot()
    bins = np.geomspace(1e-3, 5.0, 70).tolist()
    for values, colour, label in ((real, SOFT, "data"), (own, ACCENT, "generated")):
        kept = values[values > 0]
        axes.hist(kept, bins=bins, weights=np.full(len(kept), 1 / max(1, len(kept))), histtype="step", color=colour,
                  linewidth=1.5, label=f"{label}: median {1000 * np.median(kept):.1f} ms, "
                  f"{100 * (values > TAP).mean():.1f} % taps")  # fmt: skip
    axes.axvline(TAP, color=INK, linewidth=0.6, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="seconds since the touch before", ylabel="share of touches")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _streams(system: SequenceModel, real: Tensor, own: Tensor) -> Figure:
    columns = system.schema["columns"]
    figure = new_figure(8.0, 4.0, "controls over time, of the data and of the model")
    for place, (title, values) in enumerate((("data", real[:400]), ("generated", own))):
        axes = figure.add_subplot(2, 1, place + 1)
        clock = values[:, columns.index("dt")].cumsum(0) if "dt" in columns else torch.arange(len(values)).float()
        for i, name in enumerate(columns):
            if name != "dt":
                axes.plot(clock.numpy(), values[:, i].numpy(), linewidth=1.0, drawstyle="steps-post", label=name)
        axes.set_title(title, fontsize=9, loc="left")
        axes.legend(frameon=False, fontsize=7, loc="upper right")
    return figure


def _training(system: SequenceModel) -> Figure:
    assert system.history is not None
    records = [r for r in system.history.records if r.get("loss") is not None]
    figure = new_figure(6.0, 3.0, "loss over training")
    axes = figure.add_subplot()
    axes.plot([r["step"] for r in records], [r["loss"] for r in records], color=INK, linewidth=1.2, label="training")
    seen = [(r["step"], r["valid_loss"]) for r in system.history.records if r.get("valid_loss") is not None]
    if seen:
        axes.plot(*zip(*seen, strict=True), color=ACCENT, linewidth=1.2, label="validation")
    axes.set(xlabel="step", ylabel="nats per step")
    axes.legend(frameon=False)
    return figure
