"""Scores and pictures of a fitted scene model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import kl_divergence

from phlogiston.datasets.base import Dataset, Split
from phlogiston.datasets.generated.hotels import Hotels
from phlogiston.errors import DataError
from phlogiston.evaluate import figures as draw
from phlogiston.evaluate.held_out import held_out
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.models.scene import unit
from phlogiston.systems.scene.training import paint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from phlogiston.systems.scene.system import Scene

QUERIES = 1000  # asked for in an evaluation, where the data have so many
BATCH = 8  # hotels at once
SAMPLES = 8


def split_of(data: Any) -> Split:
    """Held-out places in any accepted form."""
    if isinstance(data, Dataset):
        return held_out(data)
    return data if isinstance(data, Split) else Split(data)


def episodes(
    system: Scene,
    split: Split,
    side: int = 1,
    context: int | None = None,
    total: int | None = None,
    seed: int = 0,
) -> Iterator[dict[str, Tensor]]:
    """Yield batches of hotels with queries outside their context; equal seeds give equal batches.

    Args:
        system: the fitted system.
        split: held-out places.
        side: places along a hotel's side.
        context: photographs seen per place; the options' by default.
        total: queries wanted over all, with other choices of context where places have too few photographs;
            `QUERIES` by default, or as many as there are.
        seed: of the choice of photographs.

    Raises:
        DataError: too few places or photographs.
    """
    c = system.config
    seen = c.context if context is None else context
    places, views = split.tensors["images"].shape[:2]
    total = min(QUERIES, places * max(1, views - seen)) if total is None else total
    mazes = side * side
    if places < mazes:
        raise DataError(f"there are {places} held-out places; a hotel of {side} x {side} needs {mazes}.")
    usable = places // mazes * mazes
    queries = min(max(1, views - seen), max(1, math.ceil(total / usable)))
    arena = max(c.arena, side) if c.memory == "pooled" else 0
    rows = Hotels(split, seen, queries, (side,), width=c.tile, arena=arena, corner=c.corner)
    step = max(1, BATCH // mazes) * mazes
    rounds = max(1, math.ceil(total / (usable * queries)))
    for turn in range(rounds):
        for start in range(0, usable, step):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + 1_000_003 * turn + start)
                batch = rows[torch.arange(start, min(start + step, usable))]
            yield batch


@torch.no_grad()
def score(
    system: Scene,
    batches: Iterator[dict[str, Tensor]],
    samples: int = SAMPLES,
    seed: int = 0,
    posterior: bool = True,
) -> dict[str, Tensor]:
    """Score pictures query by query.

    Returns:
        Per query, each (queries,): squared errors per pixel of the `mean` of prior samples, of a `single` one (averaged
        over samples), of the `best`, of the `draft`, of the `posterior`'s picture; the samples' unbiased `variance`;
        the divergence `kl` in nats, and `kl_<layer>`.
    """
    model, decoder = system.model, system.model.decoder
    parts: dict[str, list[Tensor]] = {}
    with torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        for batch in batches:
            truth = unit(batch["query_images"], torch.float32)
            state = model.observe(
                batch["images"], batch["poses"], batch.get("obs_mask"), batch["origin"], batch["side"]
            )
            context = model.context(state, batch["query_poses"])
            drawn = paint(decoder, context, samples)
            middle = drawn.mean(0)
            found = {
                "mean": _mse(middle, truth),
                "single": _mse(drawn, truth).mean(0),
                "best": _mse(drawn, truth).amin(0),
                "variance": (drawn - middle).square().mean((-3, -2, -1)).sum(0) / max(1, samples - 1),
            }
            if decoder.draft is not None:
                found["draft"] = _mse(decoder.picture(context.draft), truth)
            if posterior:
                asked = {"query_poses": batch["query_poses"], "query_images": truth, "state": state}
                guide_trace = poutine.trace(system.guide).get_trace(**asked)
                model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(**asked)
                found["posterior"] = _mse(model_trace.nodes["x"]["fn"].mean, truth)
                for layer in range(decoder.layers):
                    name = f"z_{layer}"
                    found[f"kl_{layer}"] = _divergence(guide_trace.nodes[name], model_trace.nodes[name])
                layers = [found[f"kl_{layer}"] for layer in range(decoder.layers)]
                found["kl"] = torch.stack(layers).sum(0) if layers else torch.zeros_like(found["mean"])
            for name, value in found.items():
                parts.setdefault(name, []).append(value.flatten())
    return {name: torch.cat(values) for name, values in parts.items()}


def _divergence(guide_site: Any, model_site: Any) -> Tensor:
    """KL of one latent; estimated from the guide's draw where the prior is a mixture."""
    try:
        return kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        z = guide_site["value"]
        found: Tensor = guide_site["fn"].log_prob(z) - model_site["fn"].log_prob(z)
        return found


def _mse(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().mean((-3, -2, -1))


def baselines(system: Scene, batches: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Squared errors of predictions that need no model: the mean training image, the mean of the same place's context,
    and its view nearest in position and heading."""
    parts: dict[str, list[Tensor]] = {}
    for batch in batches:
        truth, seen = (unit(batch[name], torch.float32) for name in ("query_images", "images"))
        side = int(batch["side"][0])
        hotels, count = seen.shape[:2]
        views = count // side**2
        queries = truth.shape[1] // side**2
        seen = seen.reshape(hotels * side**2, views, *seen.shape[2:])
        truth = truth.reshape(hotels * side**2, queries, *truth.shape[2:])
        at = batch["poses"].reshape(hotels * side**2, 1, views, 6)
        wanted = batch["query_poses"].reshape(hotels * side**2, queries, 1, 6)
        turn = 1.0 - torch.cos(at[..., 3] - wanted[..., 3])
        far = (at[..., :2] - wanted[..., :2]).square().sum(-1) / (0.5 * system.config.tile) ** 2 + turn
        nearest = torch.take_along_dim(seen, far.argmin(-1)[..., None, None, None], 1)
        found = {
            "mean_image": _mse(system.model.mean_image.expand_as(truth), truth),
            "context_mean": _mse(seen.mean(1, keepdim=True).expand_as(truth), truth),
            "nearest_view": _mse(nearest, truth),
        }
        for name, value in found.items():
            parts.setdefault(name, []).append(value.flatten())
    return {name: torch.cat(values) for name, values in parts.items()}


def evaluate(system: Scene, data: Any, wanted: set[str]) -> dict[str, Metric]:
    """See `Scene.evaluate`."""
    from phlogiston.systems.scene.quality import likeness

    split = split_of(data)
    out: dict[str, Metric] = {}
    if wanted & {"generation", "posterior"}:
        found = score(system, episodes(system, split), posterior="posterior" in wanted)
        unit_ = {"unit": "squared error per pixel, pixels in [0, 1]", "context": system.config.context}
        if "generation" in wanted:
            out["generation_mse"] = from_rows(found["mean"], "estimate", False, {**unit_, "samples": SAMPLES})
            out["single_sample_mse"] = from_rows(found["single"], "estimate", False, unit_)
            out["best_of_8_mse"] = from_rows(found["best"], "estimate", False, unit_)
            out["sample_variance"] = from_rows(found["variance"], "estimate", None, unit_)
            out.update(likeness(system, split))
        if "posterior" in wanted:
            out["posterior_mse"] = from_rows(found["posterior"], "estimate", False, unit_)
            out["kl"] = from_rows(found["kl"], "estimate", None, {"unit": "nats per picture"})
            out["gap"] = from_rows(gap(found), "estimate", False, unit_)
    if "baselines" in wanted:
        for name, rows in baselines(system, episodes(system, split)).items():
            out[f"{name}_mse"] = from_rows(rows, "estimate", False)
    if "bound" in wanted:
        out["log_likelihood"] = _bound(system, split)
    return out


def gap(found: dict[str, Tensor], samples: int = SAMPLES) -> Tensor:
    """What the posterior knows and prior samples do not spread over: error of the mean of infinitely many samples, less
    the samples' variance and the posterior's error; per query."""
    return found["mean"] - found["variance"] / samples - found["variance"] - found["posterior"]


def _bound(system: Scene, split: Split, total: int = 64, particles: int = 16) -> Metric:
    """Importance-weighted bound on the log density of photographs, nats per picture."""
    from phlogiston.systems.scene.memory import Memory
    from phlogiston.systems.scene.views import log_weights

    rows: list[Tensor] = []
    for batch in episodes(system, split, total=total):
        truth = unit(batch["query_images"], torch.float32)
        with torch.no_grad():
            for i in range(len(truth)):
                state = system.model.observe(
                    batch["images"][i : i + 1],
                    batch["poses"][i : i + 1],
                    None,
                    batch["origin"][i : i + 1],
                    batch["side"],
                )
                weights = log_weights(system, Memory(system, state), truth[i], batch["query_poses"][i], particles, 0)
                rows.append(torch.logsumexp(weights, 0) - math.log(particles))
        if sum(map(len, rows)) >= total:
            break
    detail: dict[str, Any] = {"unit": "nats per picture", "particles": particles}
    found = torch.cat(rows)
    pixels = 3 * system.schema["image"] ** 2
    if system.config.likelihood == "discretized-logistic":
        detail["bits_per_dim"] = float(-found.mean() / pixels / math.log(2))
    else:
        sigma = system.model.likelihood(torch.zeros(3, 1, 1)).base_dist.scale.detach()
        detail["floor"] = float(-(0.5 * (2 * math.pi * sigma**2).log()).mean() * pixels)
    return from_rows(found, "lower bound", True, detail)


def hotel_sweep(
    system: Scene, data: Any, sides: Sequence[int] = (1, 2, 3, 4, 5), total: int = 300, seed: int = 0
) -> dict[int, Metric]:
    """Error of the mean of 8 prior samples against the number of places a side."""
    split = split_of(data)
    found = {}
    for side in sides:
        if len(split) >= side**2:
            rows = score(system, episodes(system, split, side, total=total, seed=seed), posterior=False)["mean"]
            found[side] = from_rows(rows, "estimate", False)
    return found


def context_sweep(
    system: Scene, data: Any, numbers: Sequence[int] = (1, 2, 4, 8, 16, 32), total: int = 300, seed: int = 0
) -> dict[int, Metric]:
    """Error of the mean of 8 prior samples against the photographs seen."""
    split = split_of(data)
    views = split.tensors["images"].shape[1]
    found = {}
    for number in numbers:
        if number < views:
            rows = score(system, episodes(system, split, 1, number, total, seed), posterior=False)["mean"]
            found[number] = from_rows(rows, "estimate", False)
    return found


# ---- pictures


def figures(system: Scene, data: Any) -> dict[str, Figure]:
    """See `Scene.figures`."""
    split = split_of(data)
    out = {"views": views(system, split)}
    sweeps = hotel_sweep(system, split, total=100), context_sweep(system, split, total=100)
    out["errors"] = curves(system, split, *sweeps)
    if system.history is not None and len(system.history.loss):
        out["loss"] = draw.loss_curve(system.history.steps, system.history.loss)
    return out


def views(system: Scene, split: Split, count: int = 6, samples: int = 3) -> Figure:
    """Truth, mean of prior samples, single samples and reconstruction, for queries of different places."""
    batch = next(episodes(system, split, total=len(split), seed=1))
    model = system.model
    truth = unit(batch["query_images"], torch.float32)[:count, :1]
    with torch.no_grad(), torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
        torch.manual_seed(0)
        few = {name: batch[name][:count] for name in ("images", "poses", "origin", "side")}
        state = model.observe(few["images"], few["poses"], None, few["origin"], few["side"])
        wanted = batch["query_poses"][:count, :1]
        drawn = paint(model.decoder, model.context(state, wanted), 32)
        asked = {"query_poses": wanted, "query_images": truth, "state": state}
        guide_trace = poutine.trace(system.guide).get_trace(**asked)
        seen = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(**asked).nodes["x"]["fn"].mean
    spread = drawn.std(0).mean(-3, keepdim=True).expand_as(truth)
    context = unit(few["images"], torch.float32)[:, :3]
    rows = {f"seen {i + 1}": context[:, i] for i in range(context.shape[1])}
    rows["truth"] = truth[:, 0]
    rows["mean of 32"] = drawn.mean(0)[:, 0]
    rows |= {f"sample {i + 1}": drawn[i, :, 0] for i in range(samples)}
    rows["spread x 4"] = 4 * spread[:, 0]
    rows["reconstructed"] = seen[:, 0]
    figure = draw.new_figure(
        1.0 * len(rows) + 0.3, 1.05 * len(truth), "photographs seen, the truth, and pictures painted"
    )
    places = figure.subplots(len(truth), len(rows), squeeze=False)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    for j, (title, pictures) in enumerate(rows.items()):
        for i in range(len(truth)):
            place = places[i, j]
            place.imshow(pictures[i].permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            place.set_axis_off()
            if i == 0:
                place.set_title(title, fontsize=8)
    return figure


def curves(system: Scene, split: Split, hotels: dict[int, Metric], contexts: dict[int, Metric]) -> Figure:
    """Errors against places per side and photographs per place, with the trivial predictions."""
    figure = draw.new_figure(8.4, 3.2, "error against the number of places, and of photographs seen")
    left, right = figure.subplots(1, 2, sharey=True)
    trivial = {name: float(v.mean()) for name, v in baselines(system, episodes(system, split, total=200)).items()}
    for place, found, label in ((left, hotels, "places a side"), (right, contexts, "photographs seen of each place")):
        at = list(found)
        height = [found[k].value for k in at]
        errors = [2 * (found[k].std_error or 0.0) for k in at]
        place.errorbar(at, height, yerr=errors, color=draw.INK, marker="o", markersize=4, capsize=2)
        place.set_xlabel(label)
        place.set_xticks(at)
        lines = {trivial["mean_image"]: "mean image", trivial["context_mean"]: "context mean"}
        if max(lines) < 1.05 * min(lines):  # the words would lie on each other
            lines = {max(lines): "mean image, context mean"}
        for level, words in lines.items():
            place.axhline(level, color=draw.SOFT, linewidth=1)
            place.annotate(words, (0.99, level), xycoords=("axes fraction", "data"), fontsize=8, xytext=(0, 2),
                           textcoords="offset points", ha="right", va="bottom", color=draw.SOFT)  # fmt: skip
        place.grid(alpha=0.25)
    right.set_xscale("log", base=2)
    right.set_xticks(list(contexts), [str(k) for k in contexts])
    left.set_ylabel("squared error per pixel")
    shown = [metric.value for metric in (*hotels.values(), *contexts.values())]
    left.set_ylim(0, 1.12 * max(*shown, trivial["mean_image"], trivial["context_mean"]))
    trained = max(system.config.sides)
    if len(hotels) > 1:
        left.axvspan(trained + 0.5, max(hotels) + 0.3, color=draw.SOFT, alpha=0.12, linewidth=0)
        left.set_title("shaded: more places than in training", fontsize=8)
    return figure
