"""From a head's parameters to a distribution of the mixture family."""

from __future__ import annotations

import torch

from phlogiston.distributions.mixtures.base import Mixture
from phlogiston.distributions.mixtures.diagonal import DiagMixture, FactorisedMixture, IsotropicMixture
from phlogiston.distributions.mixtures.full import BivariateMixture, FullMixture
from phlogiston.errors import unknown_name
from phlogiston.networks.mixture_heads import KINDS, MixtureParams


def mixture(params: MixtureParams, validate_args: bool | None = None) -> Mixture:
    """Make the distribution a head's parameters describe.

    Args:
        params: what `networks.mixture_heads` puts out; batch shape (...).
        validate_args: passed to the distribution.
    """
    match params.kind:
        case "diag":
            return DiagMixture(params.logits, params.loc, params.scale, validate_args)
        case "isotropic":
            return IsotropicMixture(params.logits, params.loc, params.scale, validate_args)
        case "factorised":
            return FactorisedMixture(params.logits, params.loc, params.scale, validate_args)
        case "bivariate":
            assert params.extra is not None
            return BivariateMixture(params.logits, params.loc, params.scale, params.extra, validate_args)
        case "full":
            tril = torch.diag_embed(params.scale)
            if params.extra is not None:
                d = params.loc.shape[-1]
                row, column = torch.tril_indices(d, d, -1, device=tril.device)
                lower = torch.zeros_like(tril)
                lower[..., row, column] = params.extra
                tril = tril + lower
            return FullMixture(params.logits, params.loc, tril, validate_args)
    raise unknown_name("kind of mixture", params.kind, KINDS)
