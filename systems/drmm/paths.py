"""Which component paths of a deep residual mixture a question has to weigh: all, or those grown layer by layer.

Where there are too many, each prefix is weighed by its truncated mixture (itself normalised), and at most N distinct
prefixes survive each layer without bias: Fearnhead and Clifford's thinning, see `distributions.resampling`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phlogiston.distributions.gaussian_evidence import ConditionedMixture
from phlogiston.distributions.mixtures.factor_rows import FactorAnalysers
from phlogiston.distributions.resampling import resample_distinct, student_quantile
from phlogiston.errors import ConfigError, EvidenceError, unknown_name
from phlogiston.models.drmm import DRMM
from phlogiston.networks.frames import LowRankFrame, factor_analysers, path_gaussian
from phlogiston.networks.path_priors import all_paths, log_path_prior
from phlogiston.systems.drmm.question import Question

_EVEN = 0.2  # share of the chances of prefixes that goes by the square root of their weights, which are guesses
_FEWEST = 64  # fewer prefixes than this do not tell what was left out
MAX_FLOATS = 2**25  # what the covariance factors of all paths under consideration may hold


@dataclass(frozen=True, eq=False)
class Thinning:
    """How the prefixes of one layer were thinned.

    Attributes:
        ancestor: int64 (P,), which of the prefixes kept each path descends from.
        chance: (kept,), the probability each of these had to be kept.
    """

    ancestor: Tensor
    chance: Tensor


def thinning_error(thinnings: Sequence[Thinning], shares: Tensor) -> tuple[Tensor | None, Tensor]:
    """What leaving paths out costs.

    The relative variance of the sum of the paths' masses is that of a sample with unequal probabilities and fixed
    size (Deville, "Variance estimation for complex statistics and estimators", Survey Methodology 25, 1999), summed
    over the layers. Its square root is stretched by Student's quantile with as many degrees of freedom as the terms
    are worth (Satterthwaite).

    Args:
        thinnings: of every layer.
        shares: (P,), the paths' shares of the mass, corrected for the thinning; they sum to 1.

    Returns:
        The standard error of the log evidence, (), or None where it rests on too few prefixes; and the effective
        sample size of infinitely many draws from the paths left.
    """
    variance = squares = spread = 0.0
    told = True
    for thinning in thinnings:
        light = thinning.chance < 1
        if not bool(light.any()):
            continue
        share = shares.new_zeros(len(thinning.chance)).index_add(0, thinning.ancestor, shares)[light]
        missing = 1 - thinning.chance[light]
        spread += float((missing * share.square()).sum())
        count = len(share)
        if len(thinning.chance) < _FEWEST or count < 2:
            told = False
            continue
        centre = (missing * share).sum() / missing.sum()
        terms = missing * (share - centre).square() * (count / (count - 1))
        variance += float(terms.sum())
        squares += float(terms.square().sum())
    ess = shares.new_tensor(1 / max(spread, 1e-300))
    if not told:
        return None, ess
    freedom = max(1, round(variance**2 / max(squares, 1e-300)) - 1)
    return shares.new_tensor(math.sqrt(variance) * student_quantile(freedom) / student_quantile(10**6)), ess


@dataclass(frozen=True, eq=False)
class Paths:
    """Paths under consideration: Gaussians over the model's standardised coordinates.

    Attributes:
        codes: int64 (P, L).
        log_prior: (P,), without categorical columns; corrected for how paths were chosen unless `all`.
        means: (P, D).
        factors: (P, D, D), or (P, D) when diagonal.
        method: how they were chosen, in words.
        all: True when nothing was left out.
        thinnings: how prefixes were left out, layer by layer.
        analysers: the same Gaussians without a matrix each, where that is all there is; `factors` is then empty.
    """

    codes: Tensor
    log_prior: Tensor
    means: Tensor
    factors: Tensor
    method: str
    all: bool
    thinnings: tuple[Thinning, ...] = ()
    analysers: FactorAnalysers | None = None

    def given(self, question: Question, streams: Mapping[str, Tensor], temper: bool = False) -> ConditionedMixture:
        """The paths' mixture given a question; `streams` holds the log probabilities (P, V) of those restricted."""
        log_prior = self.log_prior
        for name, allowed in question.allowed.items():
            log_prior = log_prior + streams[name][:, allowed].logsumexp(-1)
        return ConditionedMixture(log_prior, self.means, self.factors, question.model, temper=temper)


class PathSource:
    """Finds the paths that matter to a question.

    Args:
        model: in float64.
        max_enum: weigh every path when there are at most this many.
    """

    def __init__(self, model: DRMM, max_enum: int) -> None:
        self.model, self.max_enum = model, max_enum
        self._every: Paths | None = None
        self._analysed: Paths | None = None

    def find(self, question: Question, method: str, num_particles: int, generator: torch.Generator | None) -> Paths:
        """Return all paths, or those grown for the question.

        Args:
            question: compiled.
            method: `"auto"`, `"exact"` or `"smc"`.
            num_particles: prefixes kept per layer when growing, fewer where their children would not fit `MAX_FLOATS`.
            generator: source of randomness.

        Raises:
            ConfigError: `"exact"` with more paths than fit.
            EvidenceError: no prefix is compatible with the question.
        """
        if self.weighs_all(method):
            return self.every()
        if 16 * self._size * max(self.model.sizes) > 4 * MAX_FLOATS:
            raise ConfigError(
                f"{self.model.features} columns are too many for this "
                "question, which needs a matrix for every path: ask with known values, Near and labels alone, without "
                "sort, prune, resample and temper"
            )
        num_particles = max(16, min(num_particles, MAX_FLOATS // (self._size * max(self.model.sizes))))
        return self._grow(question, num_particles, generator)

    @property
    def _size(self) -> int:
        """Numbers of one path's covariance factor."""
        return self.model.features * (self.model.features if self.model.frames[-1].mixes else 1)

    def weighs_all(self, method: str) -> bool:
        """Whether every path is weighed by `method`.

        Raises:
            UnknownNameError: no such method.
            ConfigError: `"exact"` with more paths than fit.
        """
        if method not in ("auto", "exact", "smc"):
            raise unknown_name("query method", method, ("auto", "exact", "smc"))
        count = self.model.num_paths
        fits = count <= self.max_enum and count * self._size <= MAX_FLOATS
        if method == "exact" and not fits:
            raise ConfigError(
                f"{count} paths of {self._size} numbers are too many to weigh one by one "
                f'(max_enum={self.max_enum}); use method="smc"'
            )
        return fits and method != "smc"

    def every(self) -> Paths:
        """All paths, worked out once."""
        if self._every is None:
            codes, log_prior, means, factors = self.model.paths()
            method = f"exact over {len(codes)} component paths"
            self._every = Paths(codes, log_prior, means.contiguous(), factors.contiguous(), method, True)
        return self._every

    def analysed(self, method: str) -> Paths | None:
        """All paths as factor analysers, where their covariances would not fit but these do; else None."""
        model, last = self.model, self.model.frames[-1]
        if not isinstance(last, LowRankFrame) or method == "smc" or self.weighs_all("auto"):
            return None
        if model.num_paths > self.max_enum or model.num_paths * model.features * last.loadings.shape[-1] > MAX_FLOATS:
            return None
        if self._analysed is None:
            codes = all_paths(model.sizes, model.location.device)
            analysers = FactorAnalysers(*factor_analysers(model.frames, codes))
            log_prior = log_path_prior(model.prior, codes)
            method = f"exact over {len(codes)} component paths"
            self._analysed = Paths(
                codes, log_prior, analysers.mean, model.location.new_zeros(0), method, True, analysers=analysers
            )
        return self._analysed

    def _grow(self, question: Question, num_particles: int, generator: torch.Generator | None) -> Paths:
        """Grow paths layer by layer, keeping at most `num_particles` distinct prefixes without bias."""
        model = self.model
        codes = torch.zeros(1, 0, dtype=torch.long)
        log_prior = torch.zeros(1, dtype=torch.float64)
        correction = torch.zeros(1, dtype=torch.float64)  # kept weight over the prefix's own score
        thinnings: list[Thinning] = []
        for l, k in enumerate(model.sizes):
            step = model.prior.log_conditional(codes).expand(len(codes), k)
            log_prior = (log_prior.unsqueeze(1) + step).reshape(-1)
            correction = correction.repeat_interleave(k)
            thinnings = [Thinning(t.ancestor.repeat_interleave(k), t.chance) for t in thinnings]
            choice = torch.arange(k).repeat(len(codes)).unsqueeze(1)
            codes = torch.cat([codes.repeat_interleave(k, 0), choice], 1)
            means, factors = path_gaussian(model.frames, codes)
            if l == model.num_layers - 1:
                break
            if len(codes) <= num_particles:
                continue
            streams = {name: model.stream_logits(name, codes).log_softmax(-1) for name in question.allowed}
            prefixes = Paths(codes, log_prior, means, factors, "", False)
            score = prefixes.given(question, streams).log_twist
            if not bool(torch.isfinite(score.max())):
                raise EvidenceError("the evidence is impossible, or too improbable to tell paths apart")
            index, kept, chance = resample_distinct(correction + score, num_particles, generator, _EVEN)
            codes, log_prior, correction = codes[index], log_prior[index], kept - score[index]
            thinnings = [Thinning(t.ancestor[index], t.chance) for t in thinnings]
            thinnings.append(Thinning(torch.arange(len(index)), chance))
        method = f"SMC over {model.num_layers} layers, {num_particles} particles"
        if not thinnings:
            method = f"exact over {len(codes)} component paths"
        return Paths(codes, log_prior + correction, means, factors, method, not thinnings, tuple(thinnings))
