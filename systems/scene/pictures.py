"""Pictures of a fitted scene model: painted views beside the truth, curves of errors, stills of turning round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyro
import torch

from phlogiston.datasets.base import Split
from phlogiston.evaluate import figures as draw
from phlogiston.evaluate.image_figures import image_columns, image_rows
from phlogiston.evaluate.metric import Metric
from phlogiston.models.scene import unit
from phlogiston.systems.scene.scoring import baselines, episodes, observe_batch
from phlogiston.systems.scene.system import Scene
from phlogiston.systems.scene.training import paint
from phlogiston.systems.scene.video import SIDE, turn_video
from phlogiston.systems.scene.views import traces

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def painted_views(system: Scene, split: Split, count: int = 6, samples: int = 3) -> Figure:
    """Truth, mean of prior samples, single samples and reconstruction, for queries of different scenes."""
    batch = next(episodes(system, split, total=len(split), seed=1))
    model = system.model
    truth = unit(batch["query_images"], torch.float32)[:count, :1]
    with torch.no_grad(), torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
        torch.manual_seed(0)
        few = {name: batch[name][:count] for name in ("images", "poses", "origin", "side")}
        state = observe_batch(model, few)
        queries = batch["query_poses"][:count, :1]
        drawn = paint(model.decoder, model.context(state, queries), 32)
        seen = traces(system.guide, state, truth, queries)[0].nodes["x"]["fn"].mean
    spread = drawn.std(0).mean(-3, keepdim=True).expand_as(truth)
    context = unit(few["images"], torch.float32)[:, :3]
    rows = {f"seen {i + 1}": context[:, i] for i in range(context.shape[1])}
    rows |= {"truth": truth[:, 0], "painted": drawn.mean(0)[:, 0]}
    if float(spread.mean()) > 0.02:  # else all samples are the mean, and a black panel tells nobody anything
        rows["mean of 32"] = rows.pop("painted")
        rows |= {f"sample {i + 1}": drawn[i, :, 0] for i in range(samples)}
        rows |= {"spread x 4": 4 * spread[:, 0], "reconstructed": seen[:, 0]}
    columns = [(label, pictures.permute(0, 2, 3, 1).clamp(0, 1)) for label, pictures in rows.items()]
    return image_columns(columns, alt="photographs seen, the truth, and pictures painted")


def curves(system: Scene, split: Split, by_side: dict[int, Metric], by_context: dict[int, Metric]) -> Figure:
    """Errors against scenes per side and photographs per scene, with the trivial predictions."""
    figure = draw.new_figure(7.5, 3.2, "error against the number of scenes, and of photographs seen")
    left, right = figure.subplots(1, 2, sharey=True)
    trivial = {name: float(v.mean()) for name, v in baselines(system, episodes(system, split, total=200)).items()}
    for ax, errors, label in ((left, by_side, "scenes a side"), (right, by_context, "photographs seen of each scene")):
        at = list(errors)
        height = [errors[k].value for k in at]
        bars = [2 * (errors[k].std_error or 0.0) for k in at]
        ax.errorbar(at, height, yerr=bars, color=draw.INK, marker="o", markersize=4, capsize=2)
        ax.set_xlabel(label)
        ax.set_xticks(at)
        lines = {trivial["mean_image"]: "mean image", trivial["context_mean"]: "context mean"}
        if max(lines) < 1.05 * min(lines):  # the words would lie on each other
            lines = {max(lines): "mean image, context mean"}
        for level, words in lines.items():
            ax.axhline(level, color=draw.SOFT, linewidth=1)
            ax.annotate(words, (0.99, level), xycoords=("axes fraction", "data"), fontsize=8, xytext=(0, 2),
                           textcoords="offset points", ha="right", va="bottom", color=draw.SOFT)  # fmt: skip
        ax.grid(alpha=0.25)
    right.set_xscale("log", base=2)
    right.set_xticks(list(by_context), [str(k) for k in by_context])
    left.set_ylabel("squared error per pixel")
    shown = [metric.value for metric in (*by_side.values(), *by_context.values())]
    left.set_ylim(0, 1.12 * max(*shown, trivial["mean_image"], trivial["context_mean"]))
    trained = max(system.config.sides)
    if len(by_side) > 1:
        left.axvspan(trained + 0.5, max(by_side) + 0.3, color=draw.SOFT, alpha=0.12, linewidth=0)
        left.set_title("shaded: more scenes than in training", fontsize=8)
    return figure


def turn_stills(system: Scene, side: int = 0, context: int = 8, rows: int = 3, frames: int = 5) -> Figure:
    """Stills of the video of turning round: some of the scenes, one a row, with the map and its nodes on the right.

    Args:
        system: the fitted system.
        side: scenes along a side of the memory; 0 for as many as were kept, up to 3.
        context: photographs of each scene that are seen.
        rows: scenes shown, evenly spaced over all.
        frames: per turn.
    """
    # the last frame of a turn is the first again
    pictures = turn_video(system.model, system.config.corner, side, context, 1, frames + 1, seed=0).unflatten(
        0, (-1, frames + 1)
    )
    chosen = torch.linspace(0, len(pictures) - 1, rows).round().long().tolist()
    kept = round(len(pictures) ** 0.5)
    rows_of = [[*pictures[n, :frames, :, :SIDE], pictures[n, frames // 2, :, SIDE:]] for n in chosen]
    titles = [*(f"{round(360 * j / frames)}°" for j in range(frames)), "map"]
    alt = (
        f"turning round in {rows} of {len(pictures)} scenes laid {kept} x {kept} in one memory: painted views, and the "
        "map with the scenes' nodes"
    )
    return image_rows([("", torch.stack(row)) for row in rows_of], titles=titles, size=1.5, alt=alt)[0]
