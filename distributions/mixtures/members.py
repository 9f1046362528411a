"""Several mixtures as one: ensembles and weight samples merged, and their disagreement measured."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from phlogiston.distributions.mixtures.base import Mixture
from phlogiston.distributions.mixtures.diagonal import FactorisedMixture
from phlogiston.distributions.mixtures.joint import JointMixture
from phlogiston.errors import ConfigError, ShapeError


def merge(members: Mixture) -> JointMixture:
    """The equal mixture of members: batch (S, ...) with K components each -> batch (...) with S K components.

    Factorised members are written out first (their average is not factorised any more).

    Raises:
        ShapeError: there is no members axis.
        ConfigError: factorised members with too many components to write out.
    """
    if not members.batch_shape:
        raise ShapeError("merge needs a batch whose first axis counts the members")
    joint = members.joint() if isinstance(members, FactorisedMixture) and len(members.event_shape) else members
    if not isinstance(joint, JointMixture):
        raise ConfigError(f"merge takes mixtures of the family; got {type(members).__name__}")
    full = joint.expand(joint.batch_shape)
    count = full.batch_shape[0]

    def fold(t: Tensor, axes: int) -> Tensor:
        return t.movedim(0, -axes - 1).flatten(-axes - 1, -axes)

    new = full.map_parameters(fold)
    shares = full.logits.log_softmax(-1) - math.log(count)
    new.logits = fold(shares, 1)
    return new


class Uncertainty(NamedTuple):
    """Predictive uncertainty by cause.

    Attributes:
        aleatoric: (..., D), the members' own variance, on average: noise that more data will not remove.
        epistemic: (..., D), the variance between the members' means: ignorance that more data will.
        mutual_information: (...), nats that knowing the right member would add about y; 0 when all agree.
        std_error: (...), Monte Carlo error of `mutual_information`.
    """

    aleatoric: Tensor
    epistemic: Tensor
    mutual_information: Tensor
    std_error: Tensor

    @property
    def total(self) -> Tensor:
        """Variance of the merged mixture, (..., D): the sum of both parts."""
        return self.aleatoric + self.epistemic


def uncertainty(members: Mixture, draws: int = 200, generator: torch.Generator | None = None) -> Uncertainty:
    """Split the members' predictive uncertainty into aleatoric and epistemic parts.

    Args:
        members: batch (S, ...), one mixture per member, or per sample of the weights.
        draws: values drawn from each member for the mutual information.
        generator: source of randomness.

    Reference: Depeweg, Hernandez-Lobato, Doshi-Velez and Udluft, "Decomposition of uncertainty in Bayesian deep
    learning", ICML 2018.
    """
    if not members.batch_shape:
        raise ShapeError("uncertainty needs a batch whose first axis counts the members")
    count = members.batch_shape[0]
    with torch.no_grad():
        members = members.expand(members.batch_shape)
        aleatoric = members.variance.mean(0)
        epistemic = members.mean.var(0, correction=0)
        gains = []
        for s in range(count):
            y = members[s].draw((draws,), generator=generator)  # (draws, ..., D)
            each = members.unsqueeze(-1 - (len(members.batch_shape) - 1))  # (S, 1, ...)
            log_probs = each.log_prob(y)  # (S, draws, ...)
            gains.append(log_probs[s] - (torch.logsumexp(log_probs, 0) - math.log(count)))
        gain = torch.stack(gains)  # (S, draws, ...)
        spread = gain.var(1, correction=1) / draws if draws > 1 else torch.full_like(gain[:, 0], math.inf)
        return Uncertainty(aleatoric, epistemic, gain.mean((0, 1)).clamp_min(0.0), spread.sum(0).sqrt() / count)
