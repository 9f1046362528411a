"""The mixture density network's path through the query interface: closed-form where it can be, Monte Carlo over inputs.

Sites are `x` (inputs) and `y` (targets). The network has no distribution of its inputs; the evidence has to give one:

| evidence about an input           | its distribution before the targets are seen            |
|-----------------------------------|---------------------------------------------------------|
| `Known`                           | that value                                              |
| `Near`                            | the Gaussian (within a box too: the truncated one)      |
| `Within`, both sides finite       | uniform in the box                                      |
| nothing at all, about any of them | one of the training inputs kept with the model          |

With all inputs known the answer is one Gaussian mixture, conditioned exactly on whatever is said about the targets: any
subset of them known, boxes, soft values, half-spaces. Otherwise inputs are drawn, and all their mixtures together form
a large one that is conditioned the same way, so that every input is weighed by how well it explains the targets.

Targets on a grid are answered on it: a known value has the probability of its cell, bounds hold whole cells, and
half-spaces of several such targets are answered by draws that are rounded before they are judged (`grid_evidence`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from phlogiston.arrays import at_least
from phlogiston.distributions.gaussian_evidence import ConditionedMixture
from phlogiston.distributions.linear_constraints import LinearEvidence, project
from phlogiston.distributions.mixtures.base import Mixture
from phlogiston.distributions.mixtures.conditioned_rows import draw_given, draw_noise, remoteness_of_rows
from phlogiston.distributions.mixtures.diagonal import DiagMixture, FactorisedMixture
from phlogiston.distributions.mixtures.full import BivariateMixture, FullMixture
from phlogiston.distributions.mixtures.joint import JointMixture
from phlogiston.distributions.mixtures.known_cells import KnownCells
from phlogiston.distributions.normal_interval import log_interval_mass, standard_truncated
from phlogiston.distributions.resampling import effective_size, replace_dead, spread_error
from phlogiston.errors import EvidenceError, unknown_name
from phlogiston.inference.query.answer import FAR, Answer, check_alive, judge_error, stack, warn_if_far, warn_if_poor
from phlogiston.inference.query.compilation import asked_sites, compile_entries, compile_vector, count_rows
from phlogiston.inference.query.evidence import Evidence, normalise
from phlogiston.systems.mdn import rows as mdn_rows
from phlogiston.systems.mdn.grid_evidence import GridEvidence

SITES = ("x", "y")
METHODS = ("auto", "exact")


class MDNQuery:
    """Answers questions to a trained mixture density network.

    Args:
        predict: inputs (rows, features) -> the mixture of targets, batch (rows,), in the data's units.
        features: number of inputs.
        targets: number of targets.
        inputs: (kept, features), inputs to draw from where there is no evidence for them.
        members: of how many equally probable mixtures, drawn at random, the one that `predict` gives is made; 1 where
            it is no Monte Carlo figure. Components come member by member.
        names: of the inputs and of the targets, for messages; numbered by default.
        grids: target -> a value and the step of the grid it lies on: answers lie there, and bounds hold whole cells.
    """

    def __init__(
        self,
        predict: Callable[[Tensor], JointMixture | FactorisedMixture],
        features: int,
        targets: int,
        inputs: Tensor,
        members: int = 1,
        names: Mapping[str, Sequence[str]] | None = None,
        grids: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.predict, self.features, self.targets, self.inputs = predict, features, targets, inputs
        self.members = members
        sizes = {"x": features, "y": targets}
        self.names = names or {site: [f"{site}{i}" for i in range(size)] for site, size in sizes.items()}
        self.grid = mdn_rows.grid(self.names["y"], grids or {})
        self._distances: dict[str, float] = {}

    @torch.no_grad()
    def ask(
        self,
        evidence: Mapping[str, Any] | None = None,
        ask: Sequence[str] | None = None,
        num_samples: int = 1000,
        *,
        method: str = "auto",
        num_particles: int | None = None,
        seed: int | None = None,
    ) -> Answer:
        """Sample inputs and targets given the evidence.

        Args:
            evidence: about `x` and `y`, see `inference.query.evidence`; several rows are several questions.
            ask: sites to return; both by default.
            num_samples: samples per row of evidence.
            method: `"exact"` refuses what has no closed form, `"auto"` takes Monte Carlo there.
            num_particles: inputs drawn where they are not all known; as many as samples, at least 500, by default.
            seed: of this call; None draws from torch's generator.

        Returns:
            The answer: `x` float64 (n, features), `y` float64 (n, targets). Every sample satisfies every hard
            constraint, known values come back bit for bit. Its `details` hold the mixture's component by sample.

        Raises:
            EvidenceError: malformed or impossible evidence, inputs of which only some are mentioned, or a question
                without a closed form and `method="exact"`.
            ConfigError: options out of range.
            UnknownNameError: no such method.
        """
        if method not in METHODS:
            raise unknown_name("query method", method, METHODS)
        at_least("num_samples", num_samples, 1)
        if num_particles is not None:
            at_least("num_particles", num_particles, 1)
        question = normalise(evidence, SITES)
        requested = asked_sites(ask, SITES)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        rows = count_rows(question, SITES)
        self._distances = {}
        plain = self._ask_entries(question, rows or 1, num_samples, generator)
        if plain is not None:
            warn_if_far(self._distances)
            return (plain if rows is not None else plain.row(0)).only(requested)
        answers = []
        for row in range(rows or 1):
            about_x, constant_x = compile_vector("x", question.get("x", ()), self.features, row)
            about_y, constant_y = compile_vector("y", question.get("y", ()), self.targets, row, equalities=True)
            constant = constant_x + constant_y
            answers.append(self._answer(about_x, about_y, constant, num_samples, num_particles, generator))
            if method == "exact" and answers[-1].method != "exact":
                raise EvidenceError(
                    f"method='exact': this evidence has no closed form, it takes {answers[-1].method!r}; "
                    "use method='auto'"
                )
        warn_if_far(self._distances)
        answer = answers[0] if rows is None else stack(answers)
        warn_if_poor(answer.ess, num_samples, f"query ({answer.method})")
        return answer.only(requested)

    def _ask_entries(
        self, question: Mapping[str, tuple[Evidence, ...]], rows: int, n: int, generator: torch.Generator | None
    ) -> Answer | None:
        """Answer all rows at once where inputs are known, and targets known, soft or free one by one; else None."""
        about_x = compile_entries(question.get("x", ()), self.features, rows)
        about_y = compile_entries(question.get("y", ()), self.targets, rows)
        if self.members > 1 or about_x is None or about_y is None or not bool(about_x.known.all()):
            return None
        predicted = _gaussians(self.predict(about_x.value))
        log_prior, means = predicted.logits.log_softmax(-1).double(), predicted.loc.double()
        correlated = isinstance(predicted, FullMixture | BivariateMixture)
        factors = (predicted.factors() if correlated else predicted.component_scales()).double()
        spread = factors.norm(dim=-1) if correlated else factors
        cells = KnownCells.of(about_y, self.grid.used, *self.grid.enclose(about_y.value, about_y.value))
        noise, _ = draw_noise(about_y if cells is None else cells.points, n, not correlated, True, generator)
        if cells is None:
            drawn = draw_given(log_prior, means, factors, about_y, noise)
        else:
            drawn = cells.draw_given(log_prior, means, factors, noise)
        y = torch.empty(rows, n, self.targets, dtype=torch.float64)
        component = torch.empty(rows, n, dtype=torch.long)
        log_evidence = torch.empty(rows, dtype=torch.float64)
        far = torch.zeros(self.targets, dtype=torch.float64)
        for index, draws in drawn:
            y[index], component[index], log_evidence[index] = draws.x, draws.component, draws.log_evidence
            distance, _ = remoteness_of_rows(log_prior[index], means[index], spread[index], about_y[index], draws, FAR)
            far = torch.maximum(far, distance.amax(0))
        check_alive(log_evidence.unsqueeze(0).expand(n, -1), "query")
        y = torch.where(about_y.known.unsqueeze(1), about_y.value.unsqueeze(1), self.grid.rounded(y))
        self._note("y", far)
        if len(self.inputs) > 1:
            self._note("x", self._outside(about_x.value, about_x.value).amax(0))
        return Answer(
            {"x": about_x.value.expand(n, -1, -1), "y": y.transpose(0, 1).contiguous()},
            log_evidence.expand(n, -1),
            log_evidence,
            torch.zeros(rows, dtype=torch.float64),
            "exact",
            torch.full((rows,), float(n), dtype=torch.float64),
            {"component": component.T},
        )

    def _answer(
        self,
        about_x: LinearEvidence,
        about_y: LinearEvidence,
        log_constant: Tensor,
        n: int,
        num_particles: int | None,
        generator: torch.Generator | None,
    ) -> Answer:
        exact = bool(about_x.known.all())
        on_grids = GridEvidence(about_y, self.grid, self.names["y"])
        count = 1 if exact else num_particles or max(500, n)
        x, log_x = self._inputs(about_x, count, generator)
        predicted = _gaussians(self.predict(x))
        k = predicted.num_components
        log_prior = predicted.logits.log_softmax(-1).double() + (log_x - math.log(count)).unsqueeze(-1)
        correlated = isinstance(predicted, FullMixture | BivariateMixture)
        factors = predicted.factors() if correlated else predicted.component_scales()
        # Shuffled: draws are taken at equal steps through the components; with inputs of equal weight in their order
        # every input would contribute the same of its components.
        order = torch.randperm(count * k, generator=generator) if count * self.members > 1 else torch.arange(k)
        mixture = ConditionedMixture(
            log_prior.reshape(-1)[order],
            predicted.loc.double().reshape(-1, self.targets)[order],
            factors.double().reshape(-1, *factors.shape[-(2 if factors.dim() == 4 else 1) :])[order],
            on_grids.reals,
        )
        self._measure(about_x, mixture)
        draws = mixture.sample(n, generator=generator)
        y, good = project(torch.where(about_y.known, draws.x, self.grid.rounded(draws.x)), on_grids.plain)
        log_weights = torch.where(good & on_grids.holds(y), draws.log_weights, -math.inf)
        check_alive(log_weights, "query")
        component = order[draws.component]
        chosen = component // k
        log_evidence, error = on_grids.log_evidence(draws.log_weights, log_weights, draws.error)
        log_evidence = log_evidence + log_constant
        # shares of the inputs and members in the evidence: draws with one of them in common are not independent
        shares = draws.shares[order.argsort()].reshape(count, self.members, -1).sum(-1)
        ess = effective_size(log_weights)
        method = "exact" if mixture.exact else "sequential conditioning"
        if len(on_grids.several):
            method = "rounded draws from the half-spaces"
        if not exact:
            by_input = shares.sum(1)
            error = _join(error, spread_error(by_input.log()))
            ess = torch.minimum(ess, 1 / by_input.square().sum())
            method = f"{method} given {count} inputs drawn"
        if self.members > 1:
            by_member = shares.sum(0)
            error = _join(error, spread_error(by_member.log()))
            between = _between(y[:, ~about_y.known], log_weights, component % k * self.members // k, self.members)
            ess = 1 / ((1 - between) / ess + between * by_member.square().sum())
            method = f"{method} given {self.members} draws of the weights"
        error, why = judge_error(error, f"{n} samples and {self.members} draws of the weights are too few to tell it")
        index, log_weights = replace_dead(log_weights, generator)
        return Answer(
            {"x": x[chosen[index]], "y": y[index]},
            log_weights + log_constant,
            log_evidence,
            error,
            method,
            ess,
            {"component": component[index] % k, **why},
        )

    def _measure(self, about_x: LinearEvidence, mixture: ConditionedMixture) -> None:
        """Note how far inputs lie outside the training inputs kept, and targets from every component."""
        self._note("y", mixture.remoteness().entries)
        if len(self.inputs) > 1:
            bounded = about_x.known | (about_x.lower > -math.inf) | (about_x.upper < math.inf)
            low, high = (torch.where(about_x.known, about_x.values, v) for v in (about_x.lower, about_x.upper))
            low, high = low.clone(), high.clone()
            for i, mean, sd in zip(about_x.soft.tolist(), about_x.soft_mean, about_x.soft_sd, strict=True):
                bounded[i] = True
                low[i], high[i] = torch.maximum(low[i], mean - 2 * sd), torch.minimum(high[i], mean + 2 * sd)
            self._note("x", torch.where(bounded, self._outside(low, high), 0.0))

    def _outside(self, low: Tensor, high: Tensor) -> Tensor:
        """How far intervals (..., features) lie outside the training inputs kept, in standard deviations of these."""
        kept = self.inputs.double()
        spread = kept.std(0)
        gap = torch.maximum(low - kept.amax(0), kept.amin(0) - high).clamp_min(0.0) / spread.clamp_min(1e-300)
        return torch.where(spread > 0, gap, 0.0)

    def _note(self, site: str, distances: Tensor) -> None:
        """Keep the largest distance of each entry of a site for the warning."""
        for name, distance in zip(self.names[site], distances.tolist(), strict=True):
            what = f"{'input' if site == 'x' else 'target'} {name!r}"
            self._distances[what] = max(distance, self._distances.get(what, 0.0))

    def _inputs(self, about: LinearEvidence, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Draw inputs from the distribution the evidence gives them: (count, features), and log weights (count,)."""
        if len(about.rows):
            raise EvidenceError(
                "evidence for 'x': half-spaces define no distribution of the inputs; use Known, Near or Within"
            )
        if bool(about.known.all()):
            return about.values.expand(count, -1), torch.zeros(count, dtype=torch.float64)
        given = about.known.clone()
        given[about.soft] = True
        boxed = torch.isfinite(about.lower) & torch.isfinite(about.upper)
        open_box = torch.isfinite(about.lower) | torch.isfinite(about.upper)
        if not bool((given | open_box).any()):
            if not len(self.inputs):
                raise EvidenceError("there is no evidence for 'x', and the model keeps no training inputs to draw from")
            index = torch.randint(len(self.inputs), (count,), generator=generator)
            return self.inputs[index].double(), torch.zeros(count, dtype=torch.float64)
        lacking = torch.nonzero(~(given | boxed)).flatten().tolist()
        if lacking:
            name = self.names["x"][lacking[0]]
            raise EvidenceError(
                f"evidence for 'x': input {name!r} has no distribution; give Known, Near, or Within with finite "
                "limits for every input, or no evidence for any"
            )
        if bool((about.soft_fraction > 0).any()):
            raise EvidenceError("evidence for 'x': fractional masks need a model of the inputs; use Near")
        x = about.values.expand(count, -1).clone()
        log_weight = torch.zeros(count, dtype=torch.float64)
        uniform = torch.rand(count, self.features, dtype=torch.float64, generator=generator)
        width = about.upper - about.lower
        flat = boxed & ~given
        x[:, flat] = about.lower[flat] + width[flat] * uniform[:, flat]
        for i, mean, sd in zip(about.soft.tolist(), about.soft_mean, about.soft_sd, strict=True):
            a, b = (about.lower[i] - mean) / sd, (about.upper[i] - mean) / sd
            x[:, i] = mean + sd * standard_truncated(uniform[:, i], a.expand(count), b.expand(count))
            log_weight = log_weight + log_interval_mass(a, b)
        x, _ = project(x, about)
        return x, log_weight


def _join(error: Tensor | None, other: Tensor | None) -> Tensor | None:
    """One error of two independent ones; None where either is unknown."""
    return None if error is None or other is None else torch.hypot(error, other)


def _between(values: Tensor, log_weights: Tensor, group: Tensor, groups: int) -> Tensor:
    """Largest share of a column's variance that lies between groups of draws (intraclass correlation), ().

    Args:
        values: (n, D).
        log_weights: (n,).
        group: int64 (n,), in [0, groups).
        groups: how many there are.
    """
    if values.shape[1] == 0:
        return values.new_zeros(())
    weights = log_weights.softmax(0)
    mass = values.new_zeros(groups).index_add(0, group, weights)
    mean = values.new_zeros(groups, values.shape[1]).index_add(0, group, weights.unsqueeze(1) * values)
    mean = mean / mass.clamp_min(1e-300).unsqueeze(1)
    total = (weights.unsqueeze(1) * (values - weights @ values).square()).sum(0)
    between = (mass.unsqueeze(1) * (mean - mass @ mean).square()).sum(0)
    # of what the groups' means differ, their finite sizes explain a part
    chance = (values.new_zeros(groups).index_add(0, group, weights.square()) / mass.clamp_min(1e-300)).sum()
    excess = (between - chance * (total - between)).clamp_min(0.0)
    return (excess / total.clamp_min(1e-300)).max().clamp_max(1.0)


def _gaussians(mixture: Mixture) -> DiagMixture | Any:
    """The mixture with its components written out."""
    joint = mixture.joint() if isinstance(mixture, FactorisedMixture) else mixture
    return joint.expand(joint.batch_shape)
