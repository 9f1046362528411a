"""How much independent information resampled particles hold, from the ancestors they share.

Particles that go back to one ancestor of the first generation form a family. What a family has in common is counted
once: the variance of an average is the sum over families of squared family sums (Lee and Whiteley, "Variance estimation
in the particle filter", Biometrika 105, 2018). Where moves make relatives forget each other this equals the variance of
independent draws; where they do not, a thousand particles of ten families are worth ten.
"""

from __future__ import annotations

import torch
from torch import Tensor

FEWEST_FAMILIES = 8  # below this the families' spread says nothing reliable any more


def family_masses(log_weights: Tensor, ancestors: Tensor) -> Tensor:
    """Normalised weight of each family, (n,); zero for families that died out.

    Args:
        log_weights: (n,).
        ancestors: int64 (n,), each particle's ancestor in the first generation.
    """
    weights = log_weights.softmax(0)
    return torch.zeros_like(weights).index_add(0, ancestors, weights)


def effective_families(masses: Tensor) -> float:
    """How many equally large families the masses are worth."""
    return 1.0 / float(masses.square().sum())


def evidence_variance(masses: Tensor) -> Tensor:
    """Relative variance of an evidence estimate, (): zero when every particle is a family of the same weight.

    The term of Lee and Whiteley for multinomial resampling is left out: systematic resampling adds almost no variance.
    """
    return (masses.square().sum() - 1.0 / len(masses)).clamp_min(0.0)


def genealogical_size(values: Tensor, ancestors: Tensor) -> float:
    """Effective sample size of equally weighted particles for their worst quantity.

    The variance of each mean is estimated from as many terms as there are families. The largest of many noisy estimates
    overstates, so it is divided by what it would be expected to reach if all quantities were equally good.

    Args:
        values: (n, Q), quantities of the particles; constant ones are ignored.
        ancestors: int64 (n,).

    Returns:
        Between 1 and n.
    """
    n = len(values)
    families = effective_families(family_masses(torch.zeros(n, dtype=torch.float64), ancestors))
    centred = values - values.mean(0)
    spread = centred.square().mean(0)
    centred = centred[:, spread > 0]
    if centred.shape[1] == 0:
        return families
    sums = torch.zeros_like(centred).index_add(0, ancestors, centred)
    ratio = (sums.square().sum(0) / centred.square().sum(0)).max()  # variance of the mean over that of n free draws
    from scipy.stats import chi2  # takes as long to load as Pyro

    expected = float(chi2.ppf(0.5 ** (1.0 / len(centred[0])), families)) / families
    return min(float(n), max(1.0, n / max(1.0, float(ratio) / max(1.0, expected))))
