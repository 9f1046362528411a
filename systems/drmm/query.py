"""DRMM's exact path through the query interface: a Gaussian mixture over component paths, conditioned in closed form.

A path is one component per layer. Evidence is brought into the model's standardised coordinates
(`systems.drmm.question`); then either every path is weighed, or, where there are too many, those grown layer by layer
(`systems.drmm.paths`). Within a path x is Gaussian, and `distributions.gaussian_evidence` does the rest. Categorical
columns multiply a path's probability by that of the values allowed. Everything runs in float64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from phlogiston.arrays import at_least
from phlogiston.distributions.gaussian_evidence import ConditionedMixture, Draws
from phlogiston.distributions.linear_constraints import is_feasible, project
from phlogiston.distributions.resampling import effective_size, log_mean, replace_dead
from phlogiston.errors import ConfigError, EvidenceError, unknown_name
from phlogiston.inference.query.answer import FAR, Answer, check_alive, judge_error, stack, warn_if_far, warn_if_poor
from phlogiston.inference.query.compilation import asked_sites, count_rows
from phlogiston.inference.query.evidence import Evidence, Known, normalise
from phlogiston.models.drmm import DRMM
from phlogiston.systems.drmm import curved, entry_questions
from phlogiston.systems.drmm.paths import MAX_FLOATS, Paths, PathSource, thinning_error
from phlogiston.systems.drmm.question import CENTRED, EntryQuestions, EvidenceCompiler, Question
from phlogiston.systems.drmm.scoring import cell_densities, cell_masses


class DRMMQuery:
    """Answers questions to a trained deep residual mixture.

    Args:
        model: the generative program; a float64 copy is kept, so later training needs a new `DRMMQuery`.
        columns: names of all columns of x, constant ones included; the model's own count when None.
        constant: position -> value of the columns that never vary and that the model does not hold.
        categorical: categorical column -> names of its values; numbers by default.
        precision: the number format the constant values were seen in: evidence agrees with them up to its rounding.
        max_enum: weigh every path when there are at most this many.

    Example:
        >>> query = DRMMQuery(DRMM(2, 2, 4))
        >>> query.ask({"x": Known([0.3, 0.0], [1, 0])}, num_samples=5).method
        'exact over 16 component paths'
    """

    def __init__(
        self,
        model: DRMM,
        *,
        columns: Sequence[str] | None = None,
        constant: Mapping[int, float] | None = None,
        categorical: Mapping[str, Sequence[str]] | None = None,
        precision: str = "float64",
        max_enum: int = 65536,
    ) -> None:
        self.model = copy.deepcopy(model).cpu().double().eval().requires_grad_(False)
        self.constant = dict(constant or {})
        dim = model.features + len(self.constant)
        self.columns = list(columns) if columns is not None else [f"x{i}" for i in range(dim)]
        if len(self.columns) != dim:
            raise ConfigError(f"the model has {model.features} features and {len(self.constant)} constants, but "
                              f"{len(self.columns)} columns are named")  # fmt: skip
        self.categorical = {
            name: list((categorical or {}).get(name, map(str, range(size)))) for name, size in model.categorical.items()
        }
        self.compile = EvidenceCompiler(self.columns, self.constant, self.categorical, self.model, precision)
        self.varying = self.compile.varying
        self.paths = PathSource(self.model, max_enum)

    @property
    def sites(self) -> list[str]:
        """Names a question may use: `x` and the categorical columns."""
        return ["x", *self.categorical]

    # -- asking -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def ask(
        self,
        evidence: Mapping[str, Any] | None = None,
        ask: Sequence[str] | None = None,
        num_samples: int = 1000,
        *,
        method: str = "auto",
        seed: int | None = None,
        num_particles: int | None = None,
        pilot: int | None = None,
        noise: Literal["model", "mean"] = "model",
        temper: bool = False,
        sort: bool = False,
        prune: float = 0.0,
        resample: bool = False,
    ) -> Answer:
        """Sample everything else given the evidence.

        Args:
            evidence: about each site, see `inference.query.evidence`; several rows are several questions.
            ask: sites to return; all by default.
            num_samples: samples per row of evidence.
            method: `"exact"` weighs every path, `"smc"` grows them layer by layer, `"auto"` chooses by size.
            seed: of this call; None draws from torch's generator.
            num_particles: prefixes kept per layer by `"smc"`; `max(256, num_samples)` by default, fewer where the
                covariance factors of their children would not fit `MAX_FLOATS`.
            pilot: sequential draws per live path that improve the choice of paths where masses have no closed form;
                8 or 32 by default.
            noise: `"mean"` returns each path's constrained mean without noise.
            temper: let weights of evidence other than 1 define the answer (heuristic: `log_evidence` is then no
                probability) instead of the proposal only.
            sort: most plausible first, by log p(x).
            prune: drop this share of the samples, the least plausible by log p(x); in [0, 1).
            resample: return equally weighted samples.

        Returns:
            The answer: `x` float64 (n, columns), categorical columns int64 (n,); `details` hold the paths as `codes`
            and, with `sort` or `prune`, `log_prob` in nats. All returned samples satisfy all hard constraints, and
            known values come back bit for bit.

        Raises:
            EvidenceError: malformed or impossible evidence.
            ConfigError: options out of range.
        """
        if not isinstance(num_samples, int) or isinstance(num_samples, bool) or num_samples < 1:
            at_least("num_samples", num_samples, 1)
        if not 0 <= prune < 1:
            raise ConfigError(f"prune must lie in [0, 1); got {prune}")
        if noise not in ("model", "mean"):
            raise unknown_name("noise", noise, ("model", "mean"))
        requested = asked_sites(ask, self.sites)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        question = normalise(evidence, self.sites)
        if not (sort or prune or resample or temper):
            every = self.paths.every() if self.paths.weighs_all(method) else self.paths.analysed(method)
            if every is None and not question and method == "auto":
                drawn = entry_questions.prior(self.model, self.compile, num_samples, noise == "model", generator)
                return drawn.only(requested)
            if every is not None:
                plain = self._ask_entries(every, question, num_samples, noise == "model", generator)
                if plain is not None:
                    return plain.only(requested)
        rows, mixtures = self._mixtures(question, method, num_particles or max(256, num_samples), generator, temper)
        answers = [
            self._answer(q, paths, mixture, num_samples, pilot, noise == "model", temper, generator)
            for q, paths, mixture in mixtures
        ]
        if sort or prune > 0:
            answers = [self._plausibility(a).sorted(keep=1 - prune) for a in answers]
            if not sort:  # pruned, but in random order
                answers = [a.take(torch.randperm(a.num_samples, generator=generator)) for a in answers]
        if resample:
            answers = [self._resample(a, sort, generator) for a in answers]
        answer = answers[0] if rows is None else stack(answers)
        warn_if_poor(answer.ess, num_samples, f"query ({answer.method})")
        return answer.only(requested)

    def _ask_entries(
        self,
        every: Paths,
        question: Mapping[str, tuple[Evidence, ...]],
        n: int,
        noise: bool,
        generator: torch.Generator | None,
    ) -> Answer | None:
        """Answer all rows at once where the question names single entries and categories only; else None."""
        rows = count_rows(question, ["x"])
        plain = self.compile.entries(question, rows or 1)
        if plain is None:
            return None
        streams = self.log_categories(every, self.categorical)
        answer, distances = entry_questions.answer(self.model, self.compile, plain, every, streams, n, noise, generator)
        warn_if_far(distances)
        return answer if rows is not None else answer.row(0)

    def _mixtures(
        self, evidence: Any, method: str, num_particles: int, generator: torch.Generator | None, temper: bool = False
    ) -> tuple[int | None, Iterator[tuple[Question, Paths, ConditionedMixture]]]:
        """Compile evidence: the rows of it, and for each the question, the paths that matter and their mixture.

        Evidence far from what the model learned is told once all rows have been answered.
        """
        question = normalise(evidence, self.sites)
        rows = count_rows(question, ["x"])

        def each() -> Iterator[tuple[Question, Paths, ConditionedMixture]]:
            distances: dict[str, float] = {}
            for r in range(rows or 1):
                q = self.compile(question, r)
                with torch.no_grad():
                    paths = self.paths.find(q, method, num_particles, generator)
                    streams = self.log_categories(paths, q.allowed)
                mixture = paths.given(q, streams, temper)
                self._measure(mixture, distances)
                yield q, paths, mixture
            warn_if_far(distances)

        return rows, each()

    @staticmethod
    def _resample(answer: Answer, sort: bool, generator: torch.Generator | None) -> Answer:
        drawn = answer.resampled(generator=generator)
        return drawn.sorted() if sort else drawn

    def log_categories(self, paths: Paths, names: Iterable[str]) -> dict[str, Tensor]:
        """Log probabilities (P, V) of categories by path."""
        return {name: self.model.stream_logits(name, paths.codes).log_softmax(-1) for name in names}

    def _measure(self, mixture: ConditionedMixture, distances: dict[str, float]) -> None:
        """Note how far the evidence lies from what the model learned, the worst of all rows of evidence."""
        far = mixture.remoteness()
        said = {
            f"column {self.columns[i]!r}": float(d)
            for i, d in zip(self.varying.tolist(), far.entries, strict=True)
            if d > FAR
        }
        if float(far.together) > FAR and not said:
            said["the known values together"] = float(far.together)
        said |= {f"inequality {i}": float(d) for i, d in enumerate(far.rows) if d > FAR}
        for name, distance in said.items():
            distances[name] = max(distance, distances.get(name, 0.0))

    def _answer(
        self,
        q: Question,
        paths: Paths,
        mixture: ConditionedMixture,
        n: int,
        pilot: int | None,
        noise: bool,
        temper: bool,
        generator: Any,
    ) -> Answer:
        streams = self.log_categories(paths, self.categorical)
        if q.curved is not None and not noise:
            raise ConfigError(f"noise='mean' cannot be had with {curved.NAMED}; leave noise at 'model'")
        draws = self._draws(q, mixture, n, pilot, noise, generator)
        x, good = project(self.compile.complete(self._values(draws.x)), q.original)
        x = self._regrid(x, q)
        log_weights = torch.where(good, draws.log_weights, -math.inf)
        self._check(log_weights, mixture, q)
        codes = paths.codes.index_select(0, draws.component)
        samples = {"x": x}
        for name in self.categorical:
            log_probs = streams[name][draws.component]
            if name in q.allowed:
                log_probs = log_probs.masked_fill(~q.allowed[name], -math.inf)
            samples[name] = torch.multinomial(log_probs.softmax(-1), 1, generator=generator).squeeze(-1)
        log_evidence = log_mean(draws.log_weights) + q.log_constant.detach()
        ess = effective_size(log_weights)
        error, reason = draws.error, f"{n} samples are too few to tell it"
        if paths.thinnings:
            lost, worth = thinning_error(paths.thinnings, draws.shares)
            ess = 1 / (1 / ess.clamp_min(1e-300) + 1 / worth)  # draws cannot be worth more than the paths left
            if lost is None:
                error, reason = None, "too few prefixes of paths were kept to tell it; raise num_particles"
            elif error is not None:
                error = torch.hypot(error, lost)
        if q.centred:
            error, reason = None, CENTRED
        error, why = judge_error(error, reason)
        if bool(torch.isneginf(log_weights).any()):
            index, log_weights = replace_dead(log_weights, generator)
            samples, codes = {name: value[index] for name, value in samples.items()}, codes[index]
        method = paths.method + ("" if mixture.exact else ", sequential masses") + (", tempered" if temper else "")
        method += "" if q.curved is None else f", {curved.NAMED}"
        method += f", {CENTRED}" if q.centred else ""
        return Answer(
            samples,
            log_weights + q.log_constant.detach(),
            log_evidence,
            error,
            method,
            ess,
            {"codes": codes, **why},
        )

    def _values(self, u: Tensor) -> Tensor:
        """Coordinates of the model as values of the varying columns, those on a grid at its values."""
        return self.model.rounded(self.model.values(u))

    def _regrid(self, x: Tensor, q: Question) -> Tensor:
        """Rows (n, columns) back on the grid, which projections leave by rounding, where they obey there, too."""
        if self.model.cells is None:
            return x
        y = x.index_copy(1, self.varying, self.model.rounded(x[:, self.varying]))
        obeys = (q.original.rows.violation(y) <= 0).all(1, keepdim=True)
        return torch.where(obeys & ~q.original.known, y, x)

    def _draws(
        self, q: Question, mixture: ConditionedMixture, n: int, pilot: int | None, noise: bool, generator: Any
    ) -> Draws:
        if q.curved is None:
            return mixture.sample(n, pilot=pilot, noise=noise, generator=generator)
        return curved.sample(mixture, q.curved, self._values, n, pilot=pilot, generator=generator)

    def _check(self, log_weights: Tensor, mixture: ConditionedMixture, q: Question) -> None:
        if bool(torch.isneginf(log_weights).all()) and not is_feasible(mixture.rows):
            raise EvidenceError("the evidence is impossible: no point satisfies all inequalities at once")
        check_alive(log_weights, "query")

    def _plausibility(self, answer: Answer) -> Answer:
        log_prob = self.log_prob(answer.samples["x"])
        return replace(answer, details={**answer.details, "log_prob": log_prob})

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of complete rows, (n, columns) -> (n,), in nats; beyond 4,096 paths a beam's bound."""
        cells, few = self.model.cells, self.model.num_paths <= 4096
        if few and cells is not None and bool(cells.apart.any()):
            rows = x[:, self.varying].double()
            step = max(1, MAX_FLOATS // (16 * self.model.num_paths))
            parts = torch.split(rows, step)
            return torch.cat([cell_densities(self.model, part, None, None, None) for part in parts])
        width = self.model.num_paths if few else 64
        return self._marginal(x[:, self.varying].double(), None, {}, width)

    def _marginal(self, x: Tensor, mask: Tensor | None, streams: Mapping[str, Tensor], width: int) -> Tensor:
        """Log p of the known entries of x (n, D) and categorical columns (n,), -1 where missing."""
        d = x.shape[1]
        full = self.model.layers[0].full and mask is not None
        per_row = min(width * max(self.model.sizes), self.model.num_paths) * d * (d if full else 1)
        step = max(1, MAX_FLOATS // per_row)
        parts = []
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            known = None if mask is None else mask[part]
            beam = self.model.find(
                x[part], width=width, mask=known, streams={name: value[part] for name, value in streams.items()}
            )
            log_joint = beam.log_joint
            for name in streams:
                log_joint = log_joint + beam.stream_log_lik[name]
            parts.append(log_joint.logsumexp(-1) + self.model.log_jacobian(known, x[part]))
        return torch.cat(parts)

    # -- probabilities ------------------------------------------------------------------------------------------

    def log_evidence(
        self,
        evidence: Mapping[str, Any],
        *,
        num_samples: int = 4096,
        num_particles: int | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Log probability of evidence in nats, () or (rows,): density for known and soft entries, mass on a grid.

        Differentiable in the evidence's values (known, soft, limits) where masses have a closed form, which is
        everything but two or more joint inequalities; those are estimated with `num_samples` draws, without gradients.

        Args:
            evidence: see `ask`.
            num_samples: draws for masses without a closed form.
            num_particles: see `ask`; where paths are grown, which ones are kept carries no gradient.
            seed: of this call.

        Raises:
            EvidenceError: malformed or impossible evidence.
        """
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        analysed = self._analysed(evidence)
        if analysed is not None:
            value = analysed[1].logsumexp(-1)
            return value[0] if analysed[0] is None else value
        rows, mixtures = self._mixtures(evidence, "auto", num_particles or 1024, generator)
        results = []
        for q, _, mixture in mixtures:
            if mixture.exact and q.curved is None:
                value = mixture.log_evidence
            else:
                draws = self._draws(q, mixture, num_samples, None, True, generator)
                self._check(draws.log_weights, mixture, q)
                value = log_mean(draws.log_weights)
            results.append(value + q.log_constant)
        return results[0] if rows is None else torch.stack(results)

    def conditional_log_prob(self, target: Mapping[str, Any], evidence: Mapping[str, Any], **options: Any) -> Tensor:
        """Log p(target | evidence) in nats: the difference of two marginals, () or (rows,).

        Args:
            target: what is asked about; its known and soft entries contribute densities, or masses on a grid.
            evidence: what is given.
            **options: passed to `log_evidence`.
        """
        given = normalise(evidence, self.sites)
        both = dict(given)
        for name, pieces in normalise(target, self.sites).items():
            both[name] = (*both.get(name, ()), *pieces)
        fast = self._known_rows(both), self._known_rows(given)
        if fast[0] is not None and fast[1] is not None:
            with torch.no_grad():
                return fast[0] - fast[1]
        return self.log_evidence(both, **options) - self.log_evidence(given, **options)

    def _analysed(self, evidence: Any) -> tuple[int | None, Tensor, Paths, EntryQuestions] | None:
        """The log mass (R, P) of every path where only factor analysers fit and only entries are known; else None."""
        paths, question = self.paths.analysed("auto"), normalise(evidence, self.sites)
        rows = count_rows(question, ["x"])
        q = None if paths is None else self.compile.entries(question, rows or 1)
        if paths is None or q is None:
            return None
        with torch.no_grad():
            streams = self.log_categories(paths, self.categorical)
            return rows, entry_questions.log_masses(self.model, self.compile, q, paths, streams), paths, q

    def _known_rows(self, question: Mapping[str, tuple[Evidence, ...]]) -> Tensor | None:
        """Marginals of questions that only hold known values in rows, all rows at once; None for any other."""
        rows = count_rows(dict(question), ["x"])
        plain = all(isinstance(p, Known) and not isinstance(p.value, str) for ps in question.values() for p in ps)
        tracked = any(
            isinstance(p.value, Tensor) and p.value.requires_grad
            for ps in question.values()
            for p in ps
            if isinstance(p, Known)
        )
        if not plain or tracked or self.constant or not rows or rows < 8 or self.model.num_paths > 4096:
            return None
        compiled = [self.compile(dict(question), r) for r in range(rows)]
        if any(len(q.original.soft) for q in compiled):
            return None
        x = torch.stack([q.original.values for q in compiled])
        mask = torch.stack([q.original.known for q in compiled])
        streams = {}
        for name in {name for q in compiled for name in q.allowed}:
            every = [q.allowed.get(name) for q in compiled]
            streams[name] = torch.tensor([-1 if a is None else int(a.nonzero()[0]) for a in every])
        whole = self.compile.whole
        if bool((mask[:, self.varying] & whole).any()):
            blocks = torch.arange(len(x)).split(max(1, MAX_FLOATS // (16 * self.model.num_paths)))
            labels = [{name: value[b] for name, value in streams.items()} for b in blocks]
            parts = zip(blocks, labels, strict=True)
            return torch.cat([cell_masses(self.model, x[b], mask[b], own, None, whole) for b, own in parts])
        extra = (mask & self.compile.centred).double() @ self.compile.log_step
        return self._marginal(x, mask, streams, self.model.num_paths) + extra

    @torch.no_grad()
    def predict_proba(
        self,
        stream: str,
        evidence: Mapping[str, Any] | None = None,
        *,
        num_samples: int = 4096,
        seed: int | None = None,
    ) -> Tensor:
        """Probability of every category given the evidence: (V,) or (rows, V).

        Args:
            stream: the categorical column.
            evidence: see `ask`; it may restrict that column itself.
            num_samples: draws for masses without a closed form.
            seed: of this call.

        Raises:
            UnknownNameError: no such column.
            EvidenceError: malformed or impossible evidence.
        """
        if stream not in self.categorical:
            raise unknown_name("categorical column", stream, self.categorical)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        analysed = self._analysed(evidence)
        if analysed is not None:
            rows, log_mass, every, entries = analysed
            log_probs = self.log_categories(every, [stream])[stream].expand(len(log_mass), -1, -1)
            if stream in entries.allowed:
                log_probs = log_probs.masked_fill(~entries.allowed[stream].unsqueeze(1), -math.inf).log_softmax(-1)
            shares = (log_mass.log_softmax(-1).unsqueeze(-1) + log_probs).logsumexp(1).exp()
            return shares[0] if rows is None else shares
        rows, mixtures = self._mixtures(evidence, "auto", 1024, generator)
        results = []
        for q, paths, mixture in mixtures:
            log_probs = self.log_categories(paths, [stream])[stream]
            if mixture.exact and q.curved is None:
                weights = mixture.log_posterior
            else:
                draws = self._draws(q, mixture, num_samples, None, True, generator)
                self._check(draws.log_weights, mixture, q)
                weights, log_probs = draws.log_weights.log_softmax(0), log_probs[draws.component]
            if stream in q.allowed:
                log_probs = log_probs.masked_fill(~q.allowed[stream], -math.inf).log_softmax(-1)
            results.append((weights.unsqueeze(1) + log_probs).logsumexp(0).exp())
        return results[0] if rows is None else torch.stack(results)
