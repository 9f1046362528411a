"""How good painted pictures are as pictures, and whether they differ as much as the context leaves open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyro
import torch
from torch import Tensor

from phlogiston.datasets.base import Split
from phlogiston.errors import ConfigError, DataError
from phlogiston.evaluate.image_error import image_error
from phlogiston.evaluate.metric import Metric, from_rows
from phlogiston.models.scene import at_temperature, unit
from phlogiston.networks.query_context import apply_over
from phlogiston.systems.scene.scoring import SAMPLES, episodes, observe_batch, split_of
from phlogiston.systems.scene.system import Scene
from phlogiston.systems.scene.training import paint
from phlogiston.systems.scene.views import traces


def gallery(system: Scene, data: Any, total: int = 1000, samples: int = SAMPLES, seed: int = 0) -> dict[str, Tensor]:
    """Paint what was photographed, for measures that compare sets of pictures.

    Args:
        system: fitted.
        data: as for `evaluate`.
        total: queries, shared out evenly among the scenes.
        samples: of the prior, for the mean.
        seed: of photographs and samples.

    Returns:
        Bytes, each (queries, 3, H, W): the `truth`, one `sample` of the prior, the `mean` of several, the picture
        `reconstructed` through the guide's latents, and `other` photographs of the same scenes, none of them seen or
        queried.

    Raises:
        DataError: a scene has fewer than two photographs besides those that are seen.
    """
    model, split = system.model, split_of(data)
    parts: dict[str, list[Tensor]] = {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        both = 2 * max(1, math.ceil(total / len(split))) * len(split)
        for batch in episodes(system, split, total=both, seed=seed):
            half = batch["query_images"].shape[1] // 2
            if not half:
                raise DataError(f"every scene needs {system.config.context + 2} photographs to compare sets of them.")
            truth, other = unit(batch["query_images"][:, : 2 * half], torch.float32).split(half, 1)
            where = batch["query_poses"][:, :half]
            state = observe_batch(model, batch)
            drawn = paint(model.decoder, model.context(state, where), samples)
            seen = traces(system.guide, state, truth, where)[0].nodes["x"]["fn"].mean
            rows = {
                "truth": truth,
                "sample": drawn[0],
                "mean": drawn.mean(0),
                "reconstructed": seen,
                "other": other,
            }
            for name, pictures in rows.items():
                parts.setdefault(name, []).append((255 * pictures.clamp(0, 1)).round().byte().flatten(0, 1))
    return {name: torch.cat(pictures) for name, pictures in parts.items()}


def gradient_energy(pictures: Tensor) -> Tensor:
    """Mean square of the differences between neighbouring pixels, of pictures (n, C, H, W): (n,)."""
    across, down = pictures.diff(dim=-1).square(), pictures.diff(dim=-2).square()
    return 0.5 * (across.mean((1, 2, 3)) + down.mean((1, 2, 3)))


def sharpness(pictures: Tensor, truths: Tensor) -> Metric:
    """Gradient energy of pictures as a share of that of the photographs of the same views, (n, C, H, W) each.

    1 where pictures are as sharp as photographs, on average; less where they are blurred, more where they are noisy.
    """
    made, real = gradient_energy(pictures), gradient_energy(truths)
    ratio = made.mean() / real.mean()
    # rows whose mean is the ratio, and whose spread is that of a ratio of means, to first order
    return from_rows(ratio + (made - ratio * real) / real.mean(), "estimate", None)


def likeness(system: Scene, split: Split, total: int = 128) -> dict[str, Metric]:
    """PSNR and SSIM of the mean of prior samples, and how sharp a single one is."""
    pictures, truths, singles = [], [], []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for batch in episodes(system, split, total=total):
            model = system.model
            state = observe_batch(model, batch)
            drawn = paint(model.decoder, model.context(state, batch["query_poses"]), SAMPLES)
            pictures.append(drawn.mean(0).flatten(0, 1).clamp(0, 1))
            singles.append(drawn[0].flatten(0, 1).clamp(0, 1))
            truths.append(unit(batch["query_images"], torch.float32).flatten(0, 1))
            if sum(map(len, pictures)) >= total:
                break
    errors = image_error(torch.cat(pictures), torch.cat(truths))
    sharp = {"sharpness": sharpness(torch.cat(singles), torch.cat(truths))}
    return {name: metric for name, metric in errors.items() if name != "mse"} | sharp


def coverage(
    system: Scene, data: Any, context: int, share: float = 0.9, samples: int = 64, total: int = 300, seed: int = 0
) -> Metric:
    """How often the truth lies where prior samples say it does.

    A picture's cells of the decoder's grid have mean colours; the model's samples, with its pixel noise, give each an
    interval that should hold `share` of the truths. It is counted by the rank of the truth among the samples, as in
    `evaluate.calibration`: however few they are, truths drawn from the model are inside as often as promised.

    Args:
        system: fitted, with a normal likelihood.
        data: as for `evaluate`.
        context: photographs seen.
        share: probability of the interval, the same left out at either end.
        samples: prior samples per query.
        total: queries, at least as many as there are scenes.
        seed: of photographs and samples.

    Returns:
        The share of cells' colours inside, query by query; `detail["spread"]` is the standard deviation between samples
        of a cell's colour, without pixel noise.
    """
    model, split = system.model, split_of(data)
    cell = model.decoder.factor
    inside, spread = [], []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for batch in episodes(system, split, 1, context, total, seed):
            state = observe_batch(model, batch)
            drawn = paint(model.decoder, model.context(state, batch["query_poses"]), samples)
            scale = model.likelihood(drawn[0]).base_dist.scale.expand_as(drawn[0])[..., :1, :1].mean((-2, -1))
            drawn = apply_over(torch.nn.AvgPool2d(cell), drawn)
            truth = apply_over(torch.nn.AvgPool2d(cell), unit(batch["query_images"], torch.float32))
            spread.append(drawn.std(0).mean((-3, -2, -1)).flatten())
            drawn = drawn + scale[..., None, None] / cell * torch.randn_like(drawn)
            # the truth is one more draw: quantiles of few samples alone would lie too close together
            at = ((drawn < truth).sum(0) + torch.rand_like(truth)) / (samples + 1)
            inside.append(((at - 0.5).abs() <= 0.5 * share).float().mean((-3, -2, -1)).flatten())
    detail = {"share": share, "context": context, "samples": samples, "spread": float(torch.cat(spread).mean())}
    return from_rows(torch.cat(inside), "estimate", None, detail)


def calibrate(
    system: Scene,
    data: Any,
    contexts: Sequence[int] = (1, 2, 8),
    share: float = 0.9,
    samples: int = 59,
    total: int = 240,
    seed: int = 0,
    limit: float = 3.0,
) -> dict[str, float]:
    """Choose how wide the latents' priors are, so that intervals of prior samples hold what they promise.

    For each number of photographs the temperature at which `coverage` is `share` is found by bisection, to two parts in
    a hundred; then the line that comes nearest to their logarithms, in the logarithm of the number (plus 1). Its two
    numbers become the system's options `prior_temperature` and `prior_growth`, in its samples and its densities, and
    are saved with it.

    Args:
        system: fitted, with latents and a normal likelihood; changed in place.
        data: scenes it was not trained on, and is not to be judged by either.
        contexts: photographs seen; of a single number only the temperature is found, the growth being 0.
        share, samples, total, seed: as for `coverage`.
        limit: largest temperature that is tried, and the inverse of the smallest; it is taken where `share` lies
            beyond.

    Returns:
        The two options by name; 1 and 0 are those of training.

    Raises:
        ConfigError: a system without latents, or no number of photographs.
    """
    if not system.config.layers:
        raise ConfigError("layers=0 leaves no latents whose priors could be calibrated")
    if not contexts:
        raise ConfigError("contexts is empty; it must name at least one number of photographs")
    split, decoder, most = split_of(data), system.model.decoder, system.config.context
    right = []
    for number in contexts:
        low, high = 1.0 / limit, limit
        while high / low > 1.04:
            middle = math.sqrt(low * high)
            with at_temperature(decoder, middle):
                found = coverage(system, split, number, share, samples, total, seed).value
            low, high = (middle, high) if found < share else (low, middle)
        right.append(0.5 * math.log(low * high))
    few = [math.log((most + 1) / (min(number, most) + 1)) for number in contexts]
    middle, height = sum(few) / len(few), sum(right) / len(right)
    wide = sum((x - middle) ** 2 for x in few)
    growth = sum((x - middle) * y for x, y in zip(few, right, strict=True)) / wide if wide else 0.0
    level, growth = round(math.exp(height - growth * middle), 3), round(growth, 3)
    system.config = replace(system.config, prior_temperature=level, prior_growth=growth)
    decoder.prior_temperature, decoder.prior_growth = level, growth
    return {"prior_temperature": level, "prior_growth": growth}
