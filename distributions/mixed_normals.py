"""A mixture of normals of a vector, each with its own variance per entry, for codes that lie in several regions.

Pyro has `MixtureOfDiagNormals` for one mixture; this one serves batches of mixtures, and draws any number from each.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from phlogiston.distributions.shapes import joint_shape


class MixedNormals(TorchDistribution):
    """The density is sum_k w_k N(x; mean_k, diag sd_k^2).

    Draws carry gradients to means and deviations of the part they come from, none to the weights.

    Args:
        logits: of the weights, (..., K).
        means: (..., K, D).
        deviations: positive, (..., K, D).
        trailing: axes of length 1 after an event's D entries, for events that are maps of one cell.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "logits": constraints.real_vector,
        "means": constraints.independent(constraints.real, 2),
        "deviations": constraints.independent(constraints.positive, 2),
    }
    has_rsample = True

    def __init__(
        self, logits: Tensor, means: Tensor, deviations: Tensor, trailing: int = 0, validate_args: Any = None
    ) -> None:
        self.logits, self.means, self.deviations, self.trailing = logits, means, deviations, trailing
        batch = joint_shape(logits.shape[:-1], means.shape[:-2], deviations.shape[:-2])
        super().__init__(batch, torch.Size([means.shape[-1], *[1] * trailing]), validate_args=validate_args)

    @constraints.dependent_property  # type: ignore[untyped-decorator]
    def support(self) -> Any:
        """Everything."""
        return constraints.independent(constraints.real, 1 + self.trailing)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MixedNormals:
        """Repeat over further batch axes."""
        shape = torch.Size(batch_shape)
        means, deviations = (part.expand(*shape, *part.shape[-2:]) for part in (self.means, self.deviations))
        new = MixedNormals(self.logits.expand(*shape, -1), means, deviations, self.trailing, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """(*batch_shape, D, 1, ...)."""
        mean = (self.logits.softmax(-1).unsqueeze(-1) * self.means).sum(-2)
        return mean.reshape(mean.shape + (1,) * self.trailing).expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Of every entry, (*batch_shape, D, 1, ...)."""
        weight = self.logits.softmax(-1).unsqueeze(-1)
        gap = self.means - (weight * self.means).sum(-2, keepdim=True)
        variance = (weight * (self.deviations.square() + gap.square())).sum(-2)
        return variance.reshape(variance.shape + (1,) * self.trailing).expand(self.batch_shape + self.event_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw (*sample_shape, *batch_shape, D, 1, ...)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        logits = self.logits.expand(*self.batch_shape, -1)
        which = torch.distributions.Categorical(logits=logits, validate_args=False).sample(torch.Size(sample_shape))
        chosen = which[..., None, None].expand(*which.shape, 1, self.means.shape[-1])
        mean, deviation = (
            part.expand(*which.shape, *part.shape[-2:]).gather(-2, chosen).squeeze(-2)
            for part in (self.means, self.deviations)
        )
        return (mean + deviation * torch.randn_like(mean)).reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, (..., *batch_shape)."""
        if self._validate_args:
            self._validate_sample(value)
        x = value.flatten(-1 - self.trailing)[..., None, :]
        terms = -0.5 * ((x - self.means) / self.deviations).square() - self.deviations.log()
        parts = terms.sum(-1) + torch.log_softmax(self.logits, -1)
        result: Tensor = torch.logsumexp(parts, -1) - 0.5 * math.log(2.0 * math.pi) * self.means.shape[-1]
        return result.expand(joint_shape(result.shape, self.batch_shape))

    def tempered(self, temperature: float | Tensor) -> MixedNormals:
        """The same mixture with all deviations multiplied, by one factor or by one for each mixture of the batch."""
        factor = torch.as_tensor(temperature, dtype=self.deviations.dtype, device=self.deviations.device)
        deviations = self.deviations * factor.clamp_min(1e-12)[..., None, None]
        return MixedNormals(self.logits, self.means, deviations, self.trailing, validate_args=False)
