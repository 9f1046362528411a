"""The scene model's path through the query interface: importance sampling over the latents, given the memory.

Sites are `x`, the photograph from one viewpoint (3 H W entries: channel, row, column, the last fastest), and the
latents `z_0 .. z_{L-1}`. Given latents the pixels are independent, so that evidence about them entry by entry (known,
soft, boxes) holds exactly; latents are proposed half by the guide, which reads the known part laid over the draft, and
half by the prior, or by the prior alone where nothing is known. Importance weights correct the rest.
Latents may be given whole: keep the coarse ones, redraw the fine ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from torch import Tensor

from phlogiston.arrays import at_least
from phlogiston.distributions.linear_constraints import LinearEvidence
from phlogiston.distributions.normal_interval import log_interval_mass, log_normal_density, standard_truncated
from phlogiston.distributions.resampling import effective_size, log_mean, replace_dead
from phlogiston.errors import EvidenceError
from phlogiston.inference.query.answer import Answer, check_alive, judge_weights, stack, warn_if_far, warn_if_poor
from phlogiston.inference.query.compilation import asked_sites, compile_vector, count_rows
from phlogiston.inference.query.evidence import Evidence, normalise
from phlogiston.models.scene import SceneModel, latent_prior
from phlogiston.networks.draw import Context
from phlogiston.networks.scene_memory import State

if TYPE_CHECKING:
    from phlogiston.guides.scene import SceneGuide

_FIELDS = ("value", "mask", "mean", "sd", "lower", "upper")
_PARTICLES = 128  # painted at once


class SceneQuery:
    """Answers questions about what is seen from one viewpoint.

    Args:
        model: the generative program.
        guide: its guide.
        state: a memory of one scene.
        pose: (6,), the viewpoint.
    """

    def __init__(self, model: SceneModel, guide: SceneGuide, state: State, pose: Tensor) -> None:
        self.model, self.guide = model, guide
        self.layers = model.decoder.layers
        self.shapes = {f"z_{i}": tuple(shape) for i, shape in enumerate(model.decoder.shapes)}
        side = model.decoder.image
        self.shapes["x"] = (3, side, side)
        with torch.no_grad():
            self._beyond = 0.0
            self.context: Context = model.context(state, pose[None, None])

    @torch.no_grad()
    def ask(self, evidence: Any, ask: Sequence[str] | None, num_samples: int, *, seed: int | None) -> Answer:
        """Sample photographs and latents given the evidence.

        Args:
            evidence: pieces about `x` and the latents; a piece about `x` may also have the photograph's own shape.
            ask: sites to return; all by default.
            num_samples: samples per row of evidence.
            seed: of this call; None draws from torch's generator.

        Returns:
            The answer: `x` float64 (n, 3, H, W), latents (n, latent, s, s). Every sample satisfies every hard
            constraint, known values come back bit for bit.

        Raises:
            EvidenceError: malformed or impossible evidence, half-spaces, or a latent given in part.
        """
        at_least("num_samples", num_samples, 1)
        question = {
            name: tuple(self._flat(name, piece) for piece in pieces)
            for name, pieces in normalise(evidence, self.shapes).items()
        }
        sites = asked_sites(ask, self.shapes)
        rows = count_rows(question, self.shapes)
        answers = []
        self._beyond = 0.0
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            for row in range(rows or 1):
                compiled = {
                    name: compile_vector(name, question.get(name, ()), math.prod(shape), row)
                    for name, shape in self.shapes.items()
                }
                answers.append(self._answer(compiled, num_samples))
        warn_if_far({"a pixel of 'x'": self._beyond})
        answer = answers[0] if rows is None else stack(answers)
        warn_if_poor(answer.ess, num_samples, f"query ({answer.method})")
        return replace(answer, samples={name: answer.samples[name] for name in sites})

    def _flat(self, name: str, piece: Evidence) -> Evidence:
        """The piece with fields of the site's own shape made vectors."""
        shape = self.shapes[name]
        values = {field: getattr(piece, field) for field in piece.fields}
        for field in _FIELDS:
            value = values.get(field)
            if isinstance(value, Tensor) and tuple(value.shape[-3:]) == shape:
                values[field] = value.flatten(-3)
        return type(piece)(**values)

    def _answer(self, compiled: Mapping[str, tuple[LinearEvidence, Tensor]], n: int) -> Answer:
        about = compiled["x"][0]
        if len(about.rows):
            raise EvidenceError("evidence for 'x': half-spaces tie pixels together; use Known, Near or Within")
        if bool((about.soft_fraction > 0).any()):
            raise EvidenceError("evidence for 'x': fractional masks need a joint distribution of the pixels; use Near")
        given: dict[str, Tensor] = {}
        for name in self.shapes:
            said = compiled[name][0]
            if name == "x" or not (bool(said.known.any()) or len(said.soft) or self._bounded(said) or len(said.rows)):
                continue
            if not bool(said.known.all()):
                raise EvidenceError(
                    f"evidence for {name!r}: latents are given whole (Known, every entry) or not at all"
                )
            given[name] = said.values.reshape(self.shapes[name])
        look = self._look(about)
        parts = [self._draw(about, given, look, min(_PARTICLES, n - start)) for start in range(0, n, _PARTICLES)]
        samples = {name: torch.cat([part[0][name] for part in parts]) for name in self.shapes}
        constant = torch.stack([compiled[name][1] for name in self.shapes]).sum()
        weights = torch.cat([part[1] for part in parts]) + constant
        check_alive(weights.unsqueeze(1), "query")
        error, why = judge_weights(weights)
        log_evidence, ess = log_mean(weights), effective_size(weights)
        index, weights = replace_dead(weights)
        samples = {name: value[index] for name, value in samples.items()}
        who = "prior" if look is None else "guide and the prior"
        return Answer(
            samples,
            weights,
            log_evidence,
            error,
            f"memory and importance sampling, proposals from the {who}",
            ess,
            dict(why),
        )

    @staticmethod
    def _bounded(about: LinearEvidence) -> bool:
        return bool((torch.isfinite(about.lower) | torch.isfinite(about.upper)).any())

    def _look(self, about: LinearEvidence) -> Tensor | None:
        """What the guide is shown: the known and softly known pixels over the draft; None if there are none."""
        if not bool(about.known.any()) and not len(about.soft):
            return None
        decoder = self.model.decoder
        shown = decoder.picture(self.context.draft)[0, 0].flatten().double()
        shown[about.soft] = about.soft_mean
        shown = torch.where(about.known, about.values, shown)
        return shown.reshape(1, 1, *self.shapes["x"]).to(self.context.values.dtype)

    def _draw(
        self, about: LinearEvidence, given: Mapping[str, Tensor], look: Tensor | None, n: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Draw n particles; returns sites and log weights (n,)."""
        decoder, encoder = self.model.decoder, self.guide.encoder
        painting = decoder.begin(self.context)
        weights, log_prior, log_guide = torch.zeros(3, n, dtype=torch.float64)
        by_guide = torch.rand(n) < 0.5  # half by the prior, so that no guide can do harm beyond that
        samples: dict[str, Tensor] = {}
        own = own_memory = static = kernel = None
        if look is not None:
            draft = decoder.picture(painting.total)
            static, own, own_memory = encoder.begin(look, draft, painting.context)
            kernel = encoder.kernel(decoder)
        for layer in range(self.layers):
            name = f"z_{layer}"
            expected, prior = latent_prior(decoder, painting), decoder.prior(painting)
            proposal = expected
            if own is not None and own_memory is not None and static is not None and kernel is not None:
                own, own_memory = encoder.advance(kernel, static, painting, own, own_memory)
                mean, logvar = encoder.posterior(own, prior)
                proposal = dist.Normal(mean, (0.5 * logvar).exp()).to_event(3)
            if name in given:
                z = given[name].to(prior[0].dtype).expand(n, 1, 1, *self.shapes[name])
                weights = weights + _log_density(expected, z)
                samples[name] = given[name].expand(n, *self.shapes[name])
            else:
                z = _draw_from(expected, n)
                if proposal is not expected:
                    z = torch.where(by_guide.reshape(n, *(1,) * (z.dim() - 1)), _draw_from(proposal, n), z)
                    log_prior = log_prior + _log_density(expected, z)
                    log_guide = log_guide + _log_density(proposal, z)
                samples[name] = z[:, 0, 0]
            painting = decoder.advance(painting, z)
        if look is not None:  # both could have drawn each of them
            weights = weights + log_prior - torch.logaddexp(log_prior, log_guide) + math.log(2.0)
        picture = decoder.picture(painting.total)
        picture = picture.expand(n, *picture.shape[-5:])[:, 0, 0].flatten(1).double()
        x, factor = self._pixels(picture, about)
        samples["x"] = x.reshape(n, *self.shapes["x"])
        return samples, weights + factor

    def _pixels(self, loc: Tensor, about: LinearEvidence) -> tuple[Tensor, Tensor]:
        """Draw pixels (n, D) given their means and the evidence; log factors (n,)."""
        if self.model.kind == "discretized-logistic":
            raise EvidenceError("queries need Gaussian pixels; this model's are discretized (use sample_views)")
        scale = self.model.likelihood(loc.reshape(-1, *self.shapes["x"]).float()).base_dist.scale
        scale = scale.expand(len(loc), *self.shapes["x"]).reshape(len(loc), -1).double()
        known = about.known
        values = about.values[known]
        told = torch.cat([values, about.soft_mean])
        if len(told):  # a photograph's pixels lie between 0 and 1
            beyond = torch.maximum(told - 1, -told).max().clamp_min(0.0)
            self._beyond = max(self._beyond, float(beyond / scale.max()))
        factor = (log_normal_density((values - loc[:, known]) / scale[:, known]) - scale[:, known].log()).sum(-1)
        mean, sd = loc.clone(), scale.clone()
        if len(about.soft):
            at, width = about.soft, torch.sqrt(scale[:, about.soft].square() + about.soft_sd.square())
            factor = factor + (log_normal_density((about.soft_mean - loc[:, at]) / width) - width.log()).sum(-1)
            share = (scale[:, at] / width).square()
            mean[:, at] = loc[:, at] + share * (about.soft_mean - loc[:, at])
            sd[:, at] = scale[:, at] * about.soft_sd / width
        a, b = (about.lower - mean) / sd, (about.upper - mean) / sd
        boxed = (torch.isfinite(about.lower) | torch.isfinite(about.upper)) & ~known
        x = mean + sd * torch.randn(mean.shape, dtype=mean.dtype)
        if bool(boxed.any()):
            factor = factor + log_interval_mass(a[:, boxed], b[:, boxed]).sum(-1)
            inside = standard_truncated(torch.rand_like(a[:, boxed]), a[:, boxed], b[:, boxed])
            low, high = about.lower[boxed], about.upper[boxed]
            x[:, boxed] = torch.minimum(torch.maximum(mean[:, boxed] + sd[:, boxed] * inside, low), high)
        x[:, known] = values
        return x, factor


def _draw_from(distribution: Any, n: int) -> Tensor:
    """Draw n latents from a distribution for one or for n particles."""
    drawn: Tensor = distribution.sample((n,) if len(distribution.batch_shape) == 2 else ())
    return drawn


def _log_density(distribution: Any, z: Tensor) -> Tensor:
    """Log density of latents, one per particle: (n,)."""
    density: Tensor = distribution.log_prob(z).double()
    return density.reshape(len(z), -1).sum(1)
