"""Expectation maximisation of one layer of a deep residual mixture, the layers above it given.

With the paths so far summed over, a layer is a mixture over the residuals behind them, whose proportions may depend on
the component above. Each step raises the likelihood of the mixture truncated after this layer, together with the
density of a few made-up rows that keep components from collapsing:

- first layer: a row per component, spread about its mean as components are on average (the harmonic mean of their
  covariances, so that columns in which most are narrow stay so);
- later layers: standard-normal rows, what a layer that has nothing to add would see.

Dempster, Laird and Rubin, *Maximum likelihood from incomplete data via the EM algorithm*, 1977. Everything is float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from phlogiston.networks.frames import MIN_LOG_SCALE
from phlogiston.systems.drmm.labels import Labels
from phlogiston.systems.drmm.mixture_evidence import Components, Evidence, Moments

Kind = Literal["shift", "iso", "diag", "full"]
"""What covariances may be: one variance for all components, one each, a diagonal each, anything."""

LEAST_VARIANCE = math.exp(2 * MIN_LOG_SCALE)
TOLERANCE = 1e-3  # nats per row that another step must bring
MOST_STEPS, FEWEST_STEPS = 30, 10
MOST_STEPS_BELOW = 6  # of a layer of diagonals below the first: beyond, training gains more in the same time
WORK = 1e10  # operations that all steps together may take before there are fewer than MOST_STEPS
LEAST_SHARE = 0.05  # of its row that a path must explain to be followed
ROWS_BEHIND = 5.0  # rows of the overall proportions that count as behind every component above
BARELY = 1e-8  # rows: a component with fewer has none


@dataclass
class Pairs:
    """Rows with the paths that explain them so far.

    Attributes:
        parts: what they say about the next layer, one after the other.
        row: int64 (R,), the row of each pair.
        previous: int64 (R,), the last component of its path; 0 before the first layer.
        base: (R,), log of the path's probability and of all else that does not depend on the next component.
        weight: (N,), how much each row counts.
        labels: the categorical columns, and what paths say about them so far.
    """

    parts: Sequence[Evidence]
    row: Tensor
    previous: Tensor
    base: Tensor
    weight: Tensor
    labels: Labels

    def points(self) -> Tensor:
        """Where pairs lie: (R, D)."""
        return torch.cat([part.points() for part in self.parts])

    def log_density(self, c: Components) -> Tensor:
        """Log density of every pair under every component: (R, K)."""
        return torch.cat([part.log_density(c) for part in self.parts])

    def moments(self, share: Tensor, c: Components | None) -> Moments:
        """Sums with responsibilities (R, K), expected under components `c` where entries are unknown."""
        shares = share.split([len(part) for part in self.parts])
        first, *rest = (part.moments(some, c) for part, some in zip(self.parts, shares, strict=True))
        for more in rest:
            first = first + more
        return first

    def shares(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Responsibilities (R, K) times weights, and log likelihoods of rows (N,), from log joint scores (R, K)."""
        top = scores.amax(1)
        share = (scores - top.unsqueeze(1)).exp_()
        whole = top + share.sum(1).log()
        if len(self.row) != len(self.weight):  # some rows have several pairs
            best = torch.full_like(self.weight, -math.inf).scatter_reduce(0, self.row, whole, "amax")
            sums = torch.zeros_like(self.weight).index_add_(0, self.row, (whole - best[self.row]).exp())
            whole = (best + sums.log())[self.row]
        factor = (top - whole).exp_().mul_(self.weight[self.row])
        return share.mul_(factor.unsqueeze(1)), torch.zeros_like(self.weight).index_copy_(0, self.row, whole)

    def children(self, layer: Layer, kind: Kind) -> Pairs:
        """The pairs of the next layer: the paths that explain enough of their row, and the best of each."""
        share = layer.share / self.weight[self.row].unsqueeze(1)
        best = torch.zeros_like(self.weight).scatter_reduce(0, self.row, share.max(1).values, "amax")
        at, code = (share >= best.clamp(max=LEAST_SHARE)[self.row].unsqueeze(1)).nonzero().unbind(1)
        c = layer.components
        if kind == "shift":  # what is left over keeps its scale
            c = Components(c.mean, torch.ones_like(c.factor))
        parts, log_dets, start = [], [], 0
        for part in self.parts:  # pairs come in order, so those of a part are next to each other
            here = (at >= start) & (at < start + len(part))
            made, log_det = part.child(c, at[here] - start, code[here])
            parts.append(made)
            log_dets.append(log_det)
            start += len(part)
        prior = layer.log_prior(self.previous).expand(len(share), -1)
        labels, gain = self.labels.children(at, code, self.row)
        base = self.base[at] + prior[at, code] + torch.cat(log_dets) + gain
        return Pairs(parts, self.row[at], code, base, self.weight, labels)


@dataclass
class Layer:
    """What a layer is to start with.

    Attributes:
        components: its Gaussians.
        proportions: (K,).
        conditional: (K of the layer above, K), proportions behind each component there; None where all are the same.
        share: (R, K), responsibilities times weights.
        likelihoods: mean log likelihood of rows under the components of each step, nats.
    """

    components: Components
    proportions: Tensor
    conditional: Tensor | None
    share: Tensor
    likelihoods: list[float]

    def log_prior(self, previous: Tensor) -> Tensor:
        """Log proportions for pairs behind these components (R,): (R, K), or (K,)."""
        return self.proportions.log() if self.conditional is None else self.conditional.log()[previous]


def fit_layer(
    pairs: Pairs,
    kind: Kind,
    clusters: Tensor,
    spare: Tensor,
    *,
    above: int = 0,
    first: bool = True,
    steps: int | None = None,
    made_up: float | None = None,
    tolerance: float = TOLERANCE,
) -> Layer:
    """Fit a layer's components and proportions, and its tables of labels.

    Args:
        pairs: rows with the paths that explain them so far.
        kind: what covariances may be.
        clusters: int64 (R,), which component pairs belong to at the start.
        spare: (K, D), where components without rows stand.
        above: components of the layer above on which proportions depend; 0 for none.
        first: whether this is the first layer.
        steps: at most so many; by default what the size of the problem allows.
        made_up: made-up rows per component; a few by default.
        tolerance: nats per row; a step that brings less is the last.

    Returns:
        The layer, with responsibilities under it.
    """
    count, features = spare.shape
    if made_up is None:
        made_up = 0.0 if kind == "shift" else 1.0 if first else 2.0 + features if kind == "full" else 4.0
    if steps is None:
        work = 4.0 * len(clusters) * count * features * (features / 2 if kind == "full" else 1)
        steps = int(min(max(WORK / work, FEWEST_STEPS), MOST_STEPS))
        if not first and kind == "diag":
            steps = min(steps, MOST_STEPS_BELOW)
    behind, _ = pairs.shares(pairs.base.unsqueeze(1))
    share = functional.one_hot(clusters, count) * behind
    total = pairs.weight.sum()
    components: Components | None = None
    likelihoods: list[float] = []
    for step in range(steps):
        moments = pairs.moments(share, components)
        if first:
            components = _first_layer(moments, kind, made_up, spare, share.sum(0), components)
            pairs.labels.count(share)
        else:
            components = _later_layer(moments, kind, made_up)
        proportions, conditional = _proportions(share, pairs.previous, above)
        layer = Layer(components, proportions, conditional, share, likelihoods)
        scores = pairs.base.unsqueeze(1) + layer.log_prior(pairs.previous) + pairs.log_density(components)
        share, rows = pairs.shares(scores + pairs.labels.score(pairs.row) if first else scores)
        likelihoods.append(float(rows @ pairs.weight / total))
        if step > 1 and likelihoods[-1] - likelihoods[-2] < tolerance:
            break
    if not first:
        pairs.labels.refine(share, pairs.row)
    layer.share = share
    return layer


def _proportions(share: Tensor, previous: Tensor, above: int) -> tuple[Tensor, Tensor | None]:
    """Proportions (K,), each component counted once more, and those behind each component above (above, K)."""
    counts = share.sum(0)
    overall = (counts + 1) / (counts.sum() + len(counts))
    if not above:
        return overall, None
    behind = share.new_zeros(above, len(counts)).index_add_(0, previous, share)
    return overall, (behind + ROWS_BEHIND * overall) / (behind.sum(1, keepdim=True) + ROWS_BEHIND)


def _first_layer(
    moments: Moments, kind: Kind, made_up: float, spare: Tensor, counts: Tensor, before: Components | None
) -> Components:
    """Components with `made_up` more rows each, spread about their means as the components `before` are on average."""
    n = moments.count
    mean = torch.where(n > BARELY, moments.first / n.clamp(min=BARELY), spare)
    if kind == "full":
        scatter = moments.second - n[:, :1, None] * mean.unsqueeze(2) * mean.unsqueeze(1)
        pooled = scatter.sum(0) / n.sum(0)[0] + LEAST_VARIANCE * torch.eye(mean.shape[1], dtype=mean.dtype)
    else:
        scatter = (moments.second - n * mean.square()).clamp(min=0)
        pooled = scatter.sum(0) / n.sum(0).clamp(min=BARELY) + LEAST_VARIANCE
    if made_up == 0.0:
        return _gaussians(scatter, n, mean, kind)
    if before is None:
        before = _gaussians(scatter + 0.01 * pooled, n + 0.01, mean, kind)
    typical = _harmonic_mean(before, counts / counts.sum())
    return _gaussians(scatter + made_up * typical, n + made_up, mean, kind)


def _later_layer(moments: Moments, kind: Kind, made_up: float) -> Components:
    """Components with `made_up` more rows each, which are standard normal about zero."""
    n = moments.count + made_up
    mean = moments.first / n.clamp(min=BARELY)
    if kind == "full":
        eye = torch.eye(mean.shape[1], dtype=mean.dtype)
        scatter = moments.second + made_up * eye - n[:, :1, None] * mean.unsqueeze(2) * mean.unsqueeze(1)
    else:
        scatter = (moments.second + made_up - n * mean.square()).clamp(min=0)
    return _gaussians(scatter, n, mean, kind)


def _gaussians(scatter: Tensor, n: Tensor, mean: Tensor, kind: Kind) -> Components:
    """Gaussians from scatter about the mean, (K, D, D) or its diagonal (K, D), of so many rows (K, D)."""
    n = n.clamp(min=BARELY)
    if kind == "full":
        covariance = scatter / n[:, :1, None] + LEAST_VARIANCE * torch.eye(mean.shape[1], dtype=mean.dtype)
        return Components(mean, torch.linalg.cholesky(covariance))
    if kind == "diag":
        variance = scatter / n
    elif kind == "iso":
        variance = (scatter.sum(1, keepdim=True) / n.sum(1, keepdim=True)).expand_as(mean)
    else:
        variance = (scatter.sum() / n.sum()).expand_as(mean)
    return Components(mean, variance.clamp(min=LEAST_VARIANCE).sqrt())


def _harmonic_mean(c: Components, share: Tensor) -> Tensor:
    """Harmonic mean of covariances, by share of rows (K,): (D, D), or its diagonal (D,)."""
    w = c.inverse()
    if w.dim() == 2:
        return (share @ w.square()).reciprocal()
    return torch.linalg.inv(torch.einsum("k,kde,kdf->ef", share, w, w))
