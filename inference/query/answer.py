"""What a query gives back: weighted samples, how good they are, and how probable the evidence was."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.datasets.frames import Framed, Names
from phlogiston.distributions.resampling import effective_size, group_sizes, grouped_error, systematic, tail_error
from phlogiston.errors import EvidenceError, QueryWarning, ShapeError, unknown_name
from phlogiston.files import write_bytes
from phlogiston.inference.query import answer_card

FAR = 10.0
"""Standard deviations from everything a model knows from which on its answer is extrapolation."""


@dataclass(frozen=True, eq=False)
class Answer(Framed):
    """Weighted samples from p(everything | evidence).

    Attributes:
        samples: site -> (n, ...); with several rows of evidence (n, rows, ...).
        log_weights: (n,) or (n, rows), log importance weights in nats; none is NaN, those of impossible draws are
            gone. Equal weights mean plain samples.
        log_evidence: log probability (density, for known and soft entries) of the evidence in nats, () or (rows,);
            None where the method gives none.
        log_evidence_error: its standard error, same shape: 1.96 of it cover the truth in 95 % of cases. Zero where
            exact; None where the draws do not determine it, and `details` say why.
        method: how it was computed, in words.
        ess: effective sample size, () or (rows,), of all draws made, before dead ones were replaced.
        details: what else the method reports: tensors by name, first axis n where they belong to samples (`log_prob`,
            `component`) and figures of the whole run otherwise (`r_hat`); texts say why a figure is missing
            (`log_evidence_error` when there is an evidence without an error bar). With several rows figures are
            (rows,) and texts are tuples.
        names: of the entries, for `to_frame`.
    """

    samples: Mapping[str, Tensor]
    log_weights: Tensor
    log_evidence: Tensor | None
    log_evidence_error: Tensor | None
    method: str
    ess: Tensor
    details: Mapping[str, Any] = field(default_factory=dict)
    names: Names | None = None

    def table(self) -> dict[str, Any]:
        """Samples as columns by name; with `weight` where weights differ, and `row` where there are rows of evidence.

        Raises:
            ShapeError: sites whose samples are no list of numbers.
        """
        own = self.names or Names()
        weights = self.weights
        samples = dict(self.samples)
        extra: dict[str, Any] = {}
        if weights.dim() == 2:
            extra["row"] = torch.arange(weights.shape[1]).repeat(weights.shape[0]).numpy()
            samples = {name: value.reshape(-1, *value.shape[2:]) for name, value in samples.items()}
        if not bool(torch.allclose(weights, weights[:1])):
            extra["weight"] = weights.reshape(-1).numpy()
        return {**extra, **own.table(samples)}

    def _kind(self) -> str:
        return "pandas" if self.names is None else self.names.frame

    def __repr__(self) -> str:
        parts = [f"{name}: {tuple(value.shape)}" for name, value in self.samples.items()]
        evidence = "" if self.log_evidence is None else f", log evidence {self.log_evidence.mean().item():.4g}"
        ess = f"ESS {self.ess.min().item():.4g} of {self.num_samples}"
        return f"Answer({', '.join(parts)}; {self.method}; {ess}{evidence})"

    def _repr_html_(self) -> str:
        return answer_card.html(self)

    @property
    def num_samples(self) -> int:
        """How many samples there are."""
        return len(self.log_weights)

    @property
    def weights(self) -> Tensor:
        """Weights that sum to one over the samples, shaped like `log_weights`."""
        return self.log_weights.softmax(0)

    def _site(self, name: str) -> Tensor:
        if name not in self.samples:
            raise unknown_name("site of the answer", name, self.samples)
        return self.samples[name]

    def _weights_for(self, value: Tensor) -> Tensor:
        weights = self.weights
        return weights.reshape(*weights.shape, *(1,) * (value.dim() - weights.dim()))

    def mean(self, name: str) -> Tensor:
        """Weighted mean of a site: its shape without the sample axis."""
        value = self._site(name).double()
        return (self._weights_for(value) * value).sum(0)

    def variance(self, name: str) -> Tensor:
        """Weighted variance of a site, entry by entry."""
        value = self._site(name).double()
        weights = self._weights_for(value)
        centre = (weights * value).sum(0)
        return (weights * (value - centre).square()).sum(0)

    def quantile(self, name: str, q: float | Tensor) -> Tensor:
        """Weighted quantiles of a site, entry by entry: the smallest sample whose cumulative weight reaches q.

        Args:
            name: the site.
            q: level(s) in [0, 1], number or (Q,).

        Returns:
            The site's shape without the sample axis, with a leading Q axis when `q` has one.

        Raises:
            ShapeError: a level outside [0, 1].
        """
        levels = torch.as_tensor(q, dtype=torch.float64)
        if bool(((levels < 0) | (levels > 1)).any()):
            raise ShapeError(f"quantile levels must lie in [0, 1]; got {q}")
        value = self._site(name)
        ordered, index = value.sort(0)
        weights = self._weights_for(value).expand(value.shape).gather(0, index)
        reached = weights.cumsum(0)
        values = []
        for level in levels.reshape(-1):
            # rounding in the sum must not push a level past its sample
            position = (reached < level * reached[-1] - 1e-12).sum(0, keepdim=True).clamp_max(len(value) - 1)
            values.append(ordered.gather(0, position).squeeze(0))
        return values[0] if levels.dim() == 0 else torch.stack(values)

    def resampled(self, n: int | None = None, generator: torch.Generator | None = None) -> Answer:
        """Draw equally weighted samples (systematic, then shuffled).

        Args:
            n: how many; as many as there are by default.
            generator: source of randomness.

        Returns:
            An answer with equal weights; evidence, method and ESS are carried over.
        """
        count = self.num_samples if n is None else n
        if count < 1:
            raise ShapeError(f"n must be positive; got {n}")
        columns = self.weights.reshape(self.num_samples, -1)
        picks = []
        for r in range(columns.shape[1]):
            order = torch.randperm(count, generator=generator)
            picks.append(systematic(columns[:, r], count, generator)[order])
        index = torch.stack(picks, 1).reshape(count, *self.log_weights.shape[1:])
        return replace(self.take(index), log_weights=torch.zeros(index.shape, dtype=self.log_weights.dtype))

    def take(self, index: Tensor) -> Answer:
        """Pick samples by position: `index` (m,) for every row of evidence alike, or (m, rows) for each its own."""
        rows = index.dim()

        def pick(value: Tensor) -> Tensor:
            if rows == 1:
                return value[index]
            wide = index.reshape(*index.shape, *(1,) * (value.dim() - rows))
            return value.gather(0, wide.expand(*index.shape, *value.shape[rows:]))

        shape = self.log_weights.shape
        own = {k: v for k, v in self.details.items() if isinstance(v, Tensor) and v.shape[: len(shape)] == shape}
        return replace(
            self,
            samples={k: pick(v) for k, v in self.samples.items()},
            log_weights=pick(self.log_weights),
            details={**self.details, **{k: pick(v) for k, v in own.items()}},
        )

    def only(self, sites: Sequence[str]) -> Answer:
        """The same answer with these sites alone, in this order."""
        return replace(self, samples={name: self.samples[name] for name in sites})

    def row(self, r: int) -> Answer:
        """The answer to one of several rows of evidence."""
        rows = self.log_weights.shape[1]

        def pick(value: Any) -> Any:
            if isinstance(value, tuple):
                return value[r]
            if not isinstance(value, Tensor):
                return value
            return value[r] if value.shape == (rows,) else value[:, r]

        return Answer(
            {name: value[:, r] for name, value in self.samples.items()},
            self.log_weights[:, r],
            None if self.log_evidence is None else self.log_evidence[r],
            None if self.log_evidence_error is None else self.log_evidence_error[r],
            self.method,
            self.ess[r],
            {name: pick(value) for name, value in self.details.items()},
            self.names,
        )

    def sorted(self, by: str = "log_prob", keep: float = 1.0) -> Answer:
        """Order samples, most plausible first.

        Args:
            by: a detail with one figure per sample; `log_prob` is the model's log density (an importance weight is
                not a plausibility).
            keep: the share of samples to keep, in (0, 1].

        Raises:
            UnknownNameError: the answer has no such detail.
            ShapeError: `keep` out of range.
        """
        if by not in self.details:
            raise unknown_name("detail of the answer", by, self.details)
        if not 0 < keep <= 1:
            raise ShapeError(f"keep must lie in (0, 1]; got {keep}")
        order = self.details[by].argsort(0, descending=True)
        return self.take(order[: max(1, math.ceil(keep * self.num_samples))])

    def to_npz(self, path: str | Path) -> Path:
        """Write samples, weights, evidence and method to one npz file, in one go."""
        arrays: dict[str, Any] = {name: value.numpy() for name, value in self.samples.items()}
        arrays["log_weights"], arrays["ess"] = self.log_weights.numpy(), self.ess.numpy()
        if self.log_evidence is not None:
            arrays["log_evidence"] = self.log_evidence.detach().numpy()
        if self.log_evidence_error is not None:
            arrays["log_evidence_error"] = self.log_evidence_error.detach().numpy()
        arrays["method"] = np.asarray(self.method)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        return write_bytes(Path(path), buffer.getvalue())


UNEVEN = 0.5
"""Nats of error from which on a log evidence counts as too uneven for an error bar."""


def judge_error(error: Tensor | None, reason: str) -> tuple[Tensor | None, dict[str, str]]:
    """Keep an error bar that can be trusted; else None, and why.

    A mean weight that is known to half its size only rests on a few large weights: the log evidence is then too low
    more often than not, by more than any error bar shows.

    Args:
        error: of the log evidence, (), or None.
        reason: why it is None, where it is.

    Returns:
        The error, and what goes into the answer's details.
    """
    if error is None:
        return None, {"log_evidence_error": reason}
    if not float(error) < UNEVEN:
        return None, {"log_evidence_error": f"weights are too uneven to estimate it (about {float(error):.1f} nats)"}
    return error, {}


FEWEST_EFFECTIVE = 30
"""Effective draws below which the weights do not tell an error: what matters most has likely not been drawn."""
HEAVY = 0.7
"""Pareto shape of the weights' tail above which means converge too slowly to rely on (Vehtari et al., 2024)."""


def judge_weights(log_weights: Tensor) -> tuple[Tensor | None, dict[str, str]]:
    """Standard error of the log of the mean of independent weights (n,), or None and why.

    The larger of what groups of the weights and their fitted tail tell (`distributions.resampling.tail_error`). For
    log-normal weights, and for Gaussian proposals up to half as wide as a Gaussian target, 1.96 of it cover 90 % and
    more of the answers that have one. Nothing can tell of mass that no draw came near: a Cauchy target under a
    standard normal proposal looks good half the time, and is wrong. Heavy tails are a warning.
    """
    n = len(log_weights)
    if bool((log_weights == log_weights[0]).all()):
        return torch.zeros((), dtype=log_weights.dtype), {}
    grouped = grouped_error(log_weights, group_sizes(n))
    if grouped is None:
        return judge_error(None, f"{n} samples are too few to estimate it; raise num_samples")
    worth = float(effective_size(log_weights))
    if worth < FEWEST_EFFECTIVE:
        return judge_error(None, f"{worth:.1f} effective samples are too few to estimate it; raise num_samples")
    by_tail, shape = tail_error(log_weights)
    if shape >= 1.0:
        return None, {"log_evidence_error": f"the tail of the weights has no mean (Pareto shape {shape:.1f})"}
    if shape > HEAVY:
        warnings.warn(
            f"query: a few large weights carry the answer (Pareto shape {shape:.2f}; above {HEAVY} more samples hardly "
            f'help): parts of the distribution may be missing. Use a wider guide, or method="smc"',
            QueryWarning,
            stacklevel=5,
        )
    return judge_error(torch.fmax(grouped, grouped.new_tensor(by_tail)), "")


def check_alive(log_weights: Tensor, what: str) -> None:
    """Refuse answers in which nothing satisfied the evidence.

    Raises:
        EvidenceError: all weights of some row are zero, or a weight is NaN.
    """
    if bool(torch.isnan(log_weights).any()):
        raise EvidenceError(f"{what}: weights became NaN; the model's densities are not finite at the evidence")
    if bool(torch.isneginf(log_weights).all(0).any()):
        raise EvidenceError(
            f"{what}: none of {len(log_weights)} draws satisfied the evidence. It is impossible, or too improbable for "
            f"this many draws: loosen it, or raise num_samples."
        )


def warn_if_poor(ess: Tensor, n: int, what: str, remedy: str = "") -> None:
    """Warn when the effective sample size is below a tenth of the samples; `remedy` is what else may help."""
    worst = float(ess.min())
    if worst < 0.1 * n:
        warnings.warn(
            f"{what}: the effective sample size is {worst:.1f} of {n} samples; raise num_samples or give less "
            f"evidence{remedy}",
            QueryWarning,
            stacklevel=3,
        )


def warn_if_far(distances: Mapping[str, float], what: str = "query") -> None:
    """Warn about evidence that lies far outside everything the model has learned, naming the worst.

    Args:
        distances: name of the evidence -> how many standard deviations it lies from the nearest component.
        what: who answers.
    """
    far = sorted(((d, name) for name, d in distances.items() if d > FAR), reverse=True)
    if not far:
        return
    named = ", ".join(f"{name} ({d:.3g})" for d, name in far[:3]) + (f" and {len(far) - 3} more" if far[3:] else "")
    warnings.warn(
        f"{what}: the evidence lies far outside everything the model knows; distance in standard deviations: {named}. "
        "The answer is extrapolation: check the values and their units",
        QueryWarning,
        stacklevel=3,
    )


def stack(answers: list[Answer]) -> Answer:
    """Join the answers of several rows: rows become the second axis."""
    first = answers[0]
    n = min(a.num_samples for a in answers)
    evidence = [a.log_evidence for a in answers if a.log_evidence is not None]
    errors = [a.log_evidence_error for a in answers if a.log_evidence_error is not None]

    def join(pick: Any) -> Tensor:
        return torch.stack([pick(a)[:n] for a in answers], 1)

    return Answer(
        {name: join(lambda a, name=name: a.samples[name]) for name in first.samples},
        join(lambda a: a.log_weights),
        torch.stack(evidence) if len(evidence) == len(answers) else None,
        torch.stack(errors) if len(errors) == len(answers) else None,
        first.method,
        torch.stack([a.ess for a in answers]),
        {
            name: _stack_detail([a.details.get(name, "") for a in answers], n)
            for name in {key: None for a in answers for key in a.details}
        },
    )


def _stack_detail(values: list[Any], n: int) -> Any:
    """Join one detail of several rows: samples' by the second axis, figures by the only one, texts as a tuple."""
    if not all(isinstance(v, Tensor) for v in values):
        return tuple(values)
    if all(v.dim() == 0 for v in values):
        return torch.stack(values)
    return torch.stack([v[:n] for v in values], 1)
