"""What scenes are trained by: the bound, the draft's own error, and prior samples held against the truth.

Per query, in nats,

    loss = -bound + w_d |draft - x|^2 / 2 sigma^2 + w_p <s - x, s' - x> / 2 sigma^2

with s, s' two independent pictures painted from the prior. In expectation the last term is the squared error of the
*mean* of all prior samples: unlike the error of a single sample it puts no price on their spread.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn import functional

from phlogiston.guides.scene import SceneGuide
from phlogiston.inference.svi.bounds import MeanField
from phlogiston.models.scene import SceneModel, at_temperature, latent_prior, tempered, unit
from phlogiston.networks.draw import Context, DrawDecoder

MOST_PIXELS = 2**22
"""Pixels painted at once where no gradients are asked for: each takes a few hundred bytes on the way."""


class Bound(MeanField):
    """The mean-field bound, remembering its divergence and weighting it.

    Args:
        weight: of the divergence.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(max_plate_nesting=2)
        self.weight = weight
        self.divergence = torch.zeros(())

    def _particle(self, model_trace: Any, guide_trace: Any) -> Any:
        costs = [
            self._cost(name, model_trace, guide_trace)
            for name, site in model_trace.nodes.items()
            if site["type"] == "sample" and not site["is_observed"]
        ]
        gains = [s["log_prob_sum"] for s in model_trace.nodes.values() if s["type"] == "sample" and s["is_observed"]]
        divergence = torch.stack(costs).sum() if costs else torch.zeros(())
        self.divergence = divergence.detach()
        return self.weight * divergence - torch.stack(gains).sum()


class SceneObjective(nn.Module):
    """The training loss; in evaluation mode the bound alone.

    Args:
        model: the model.
        guide: the guide.
        latents: False trains the draft alone.
        draft_weight: w_d.
        prior_share: share of the queries prior samples are painted for.
        prior_weight: w_p.
        spread_weight: w_s, of `spread_error`.
        score_weight: of `energy_score`.
        grain_weight: of `grain_score` within it.
        kl_weight: weight of the divergence.

    Attributes:
        terms: the last step's figures per query: mean squared errors of the draft and (of the mean) of prior samples,
            divergence in nats.
    """

    def __init__(
        self,
        model: SceneModel,
        guide: SceneGuide,
        latents: bool = True,
        draft_weight: float = 0.5,
        prior_share: float = 0.25,
        prior_weight: float = 1.0,
        spread_weight: float = 0.0,
        score_weight: float = 0.0,
        grain_weight: float = 0.0,
        kl_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.model, self.guide, self.latents = model, guide, latents
        self.draft_weight, self.prior_share, self.prior_weight = draft_weight, prior_share, prior_weight
        self.spread_weight, self.score_weight, self.grain_weight = spread_weight, score_weight, grain_weight
        self.bound = Bound(kl_weight)
        self.terms: dict[str, Tensor] = {}

    @property
    def kl_weight(self) -> float:
        """Weight of the divergence; a schedule may move it (`"objective.kl_weight"`)."""
        return self.bound.weight

    @kl_weight.setter
    def kl_weight(self, weight: float) -> None:
        self.bound.weight = weight

    def forward(self, **batch: Any) -> Tensor:
        """Return the loss, nats per query times the number of scenes."""
        model = self.model
        shape = batch["query_poses"].shape[:2]
        mask = batch.get("query_mask")
        queries = shape.numel() if mask is None else int(mask.sum())
        scenes = shape[0] * batch["side"].reshape(-1)[0].square()
        # trained at temperature 1: networks would only learn to undo another one
        plain = at_temperature(model.decoder, 1.0) if self.training else nullcontext()
        with model.shared.held(), plain:
            loss: Any = 0.0
            if self.latents or not self.training:
                weight = self.kl_weight
                self.kl_weight = weight if self.training else 1.0
                loss = self.bound.differentiable_loss(model, self.guide, **batch)
                self.kl_weight = weight
                self.terms["kl"] = self.bound.divergence / queries
            if self.training:
                loss = loss + self._extra(batch, mask, queries)
        return loss * (scenes / queries)

    def _extra(self, batch: dict[str, Any], mask: Tensor | None, queries: int) -> Tensor:
        model, decoder = self.model, self.model.decoder
        context = model.shared.context
        if context is None:
            seen = {name: value for name, value in batch.items() if name not in ("query_images", "query_mask")}
            context = model.prepare(False, **seen).context
        truth = unit(batch["query_images"], context.values.dtype)
        scale = 0.5 / model.sigma.square()
        out: Any = 0.0
        weight = self.draft_weight if self.latents else 1.0
        if decoder.draft is not None and weight:
            draft = model.shared.draft if model.shared.context is context else None
            draft = decoder.picture(context.draft) if draft is None else draft
            error = (draft - truth).square().sum((-3, -2, -1))
            error = error if mask is None else error * mask
            self.terms["draft_mse"] = error.detach().sum() / (queries * truth[0, 0].numel())
            out = out + weight * scale * error.sum()
        if self.latents and self.prior_share and (self.prior_weight or self.score_weight):
            flat = torch.ones(queries) if mask is None else mask.flatten().float()
            rows = torch.multinomial(flat, max(1, round(self.prior_share * queries)))
            chosen = truth.flatten(0, 1)[rows]
            errors = paint(decoder, pick(context, rows), 4 if self.spread_weight else 2) - chosen
            error = (errors[0::2] * errors[1::2]).mean(0).sum((-3, -2, -1))
            self.terms["prior_mse"] = error.detach().mean() / chosen[0].numel()
            whole = self.prior_share * queries * scale
            out = out + self.prior_weight * whole * error.mean()
            if self.score_weight:
                found = energy_score(errors) + self.grain_weight * grain_score(errors + chosen, chosen)
                self.terms["score"] = found.detach()
                out = out + self.score_weight * whole * chosen[0].numel() * found
            if self.spread_weight:
                out = out + self.spread_weight * whole * chosen[0].numel() * spread_error(errors, decoder.factor)
        return torch.as_tensor(out)


def spread_error(errors: Tensor, cell: int, unit: float = 0.02) -> Tensor:
    """How far the variance of samples is from the squared error of their mean, on average over pictures and scales.

    With V the variance of a cell's colour and E its squared error expected given the context, an unbiased estimate of
    (V - E)^2 / unit, but for what does not depend on V: with two pairs of samples both V^2 and V E are products of
    independent parts. Cells are averages over squares of the grid, and of twice and four times its width: what samples
    have in common over a whole object counts.

    Args:
        errors: (4, n, 3, H, W), samples less the truth.
        cell: side of the smallest squares, in pixels.
        unit: squared error, to give the result the unit of one.
    """
    out: Any = 0.0
    for side in (cell, 2 * cell, 4 * cell):
        first, second, third, fourth = functional.avg_pool2d(errors.flatten(0, 1), side).unflatten(0, errors.shape[:2])
        one, two = 0.5 * (first - second).square(), 0.5 * (third - fourth).square()
        out = out + (one * two - one * (third * fourth).detach() - two * (first * second).detach()).mean()
    return torch.as_tensor(out / (3 * unit))


def energy_score(errors: Tensor, levels: int = 5, unit: float = 0.2) -> Tensor:
    """How unlike draws from the truth's distribution samples are, on average over pictures, places and scales.

    An unbiased estimate of unit (E|s - x| - E|s - s'| / 2), least in expectation where samples have the distribution of
    the truth, for three vectors at every place: a pixel's colour, and its differences to the pixels to the right and
    below; then for those of squares of 2, 4, 8 and 16 pixels. Colours set how far samples spread, differences how sharp
    they are (Gneiting & Raftery, *Strictly proper scoring rules, prediction, and estimation*, JASA 2007; training on
    it: Pacchiardi et al., *Probabilistic forecasting with generative networks via scoring rule minimization*, JMLR
    2024).

    Args:
        errors: (M, n, 3, H, W), samples less the truth, M even.
        levels: scales, fewer where pictures are smaller.
        unit: factor on distances, which gives the result the size of squared errors.
    """
    first, second = errors[0::2].flatten(0, 1), errors[1::2].flatten(0, 1)
    levels = min(levels, int(math.log2(min(errors.shape[-2:]))))

    def apart(difference: Tensor) -> Any:
        parts = (difference, difference.diff(dim=-1), difference.diff(dim=-2))
        return sum((part.square().sum(1) + 1e-6).sqrt().mean() for part in parts)

    out: Any = 0.0
    pairs = [first, second, first - second]
    for level in range(levels):
        pairs = [functional.avg_pool2d(pair, 2) for pair in pairs] if level else pairs
        near, other, between = (apart(pair) for pair in pairs)
        out = out + 0.5 * (near + other - between)
    return torch.as_tensor(unit * out / levels)


def grain_score(samples: Tensor, truth: Tensor, side: int = 8, levels: int = 3, unit: float = 0.2) -> Tensor:
    """How unlike the truth's the edges and textures of samples are, wherever exactly they lie.

    An unbiased estimate of the energy score, as `energy_score`, of the root mean square difference between neighbouring
    pixels within squares of `side` pixels; then of pictures of half and a quarter the size, in the same squares. Where
    an edge cannot be foretold to the pixel, scores of single pixels prefer samples without it, since one in the wrong
    place errs twice; this one prefers as much of an edge as there is.

    Args:
        samples: (M, n, 3, H, W), M even.
        truth: (n, 3, H, W).
        side: of the squares, in pixels.
        levels: sizes of the pictures.
        unit: factor on distances, which gives the result the size of squared errors.
    """

    def grain(pictures: Tensor, side: int) -> Tensor:
        across = pictures.diff(dim=-1).square().sum(-3, keepdim=True)
        down = pictures.diff(dim=-2).square().sum(-3, keepdim=True)
        across, down = functional.pad(across, (0, 1)), functional.pad(down, (0, 0, 0, 1))
        return (functional.avg_pool2d((across + down).flatten(0, -4), side) + 1e-5).sqrt()

    first, second = samples[0::2].flatten(0, 1), samples[1::2].flatten(0, 1)
    truth = truth.repeat(len(samples) // 2, 1, 1, 1)
    out: Any = 0.0
    parts = [first, second, truth]
    for level in range(levels):
        parts = [functional.avg_pool2d(part, 2) for part in parts] if level else parts
        one, two, real = (grain(part, max(1, side // 2**level)) for part in parts)
        out = out + 0.5 * ((one - real).abs() + (two - real).abs() - (one - two).abs()).mean()
    return torch.as_tensor(unit * out / levels)


def pick(context: Context, rows: Tensor) -> Context:
    """Return the context of some queries, numbered through: leading axes (len(rows),)."""
    prior = context.prior.flatten(0, 1)[rows] if context.prior.dim() else context.prior
    parts = (context.values, context.generator, context.draft)
    values, generator, draft = (part.flatten(0, 1)[rows] for part in parts)
    scarce = context.scarce.flatten()[rows] if context.scarce.dim() else context.scarce
    return Context(values, generator, prior, draft, scarce)


def paint(decoder: DrawDecoder, context: Context, samples: int, temperature: float = 1.0) -> Tensor:
    """Paint from the prior: (samples, ..., 3, H, W), differentiable; without gradients, some samples at a time."""
    few = max(1, MOST_PIXELS // (context.values.shape[:-3].numel() * decoder.image**2))
    if samples > few and decoder.layers and not torch.is_grad_enabled():
        counts = [min(few, samples - start) for start in range(0, samples, few)]
        return torch.cat([paint(decoder, context, count, temperature) for count in counts])
    painting = decoder.begin(context)
    if not decoder.layers:
        picture = decoder.picture(painting.total)
        return picture.expand(samples, *picture.shape)
    for _ in range(decoder.layers):
        prior = latent_prior(decoder, painting)
        prior = prior if temperature == 1.0 else tempered(prior, temperature)
        z = prior.rsample((samples,) if painting.layer == 0 else ())
        painting = decoder.advance(painting, z)
    return decoder.picture(painting.total)


class Report:
    """Engine callback: puts the objective's terms into the run's records.

    Args:
        every: steps between readings, since each waits for the device.
    """

    def __init__(self, every: int = 25) -> None:
        self.every = every

    def on_step(self, state: Any) -> None:
        """Copy the terms of the last step."""
        if isinstance(state.objective, SceneObjective) and state.step % self.every == 0:
            state.metrics.update({name: float(value) for name, value in state.objective.terms.items()})


class PixelNoise(Messenger):
    """Sets the standard deviation of the site "x", for schedules: `PixelNoise(2.0)` with the key `"<name>.scale"`.

    Args:
        scale: positive.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "x":
            import pyro.distributions as dist

            normal = msg["fn"]
            while hasattr(normal, "base_dist"):
                normal = normal.base_dist
            msg["fn"] = dist.Normal(normal.loc, self.scale).to_event(3).expand(msg["fn"].batch_shape)

    def describe(self) -> dict[str, Any]:
        """Return the handler as JSON-able data."""
        return {"handler": "pixel_noise", "scale": float(self.scale)}
