"""Guides of the deep residual mixture model: which path stands behind a row.

    ExactGuide            no sites: every path is enumerated, the loss is exactly -log p(x)
    BeamGuide             z ~ the best paths of each row, weighted by their joint probability, enumerated
    AutoregressiveGuide   z_1 ... z_{L-1} drawn one after the other, z_L enumerated: the paper's way

None has parameters of its own except the `shift` frame's noise scales of the layers before the last, which live in the
model because the truncated densities need them too.

Reference: Hämäläinen and Solin, arXiv 2006.12063; the beam reads its "truncation" as a truncated posterior.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from phlogiston.distributions.paths import PathPosterior
from phlogiston.errors import ConfigError
from phlogiston.models.drmm import DRMM, row_weights


class ExactGuide(nn.Module):
    """No sites: pair it with an enumerating objective, whose loss is then exact.

    Args:
        model: the generative program.
        max_enum: refuse models with more paths than this.

    Raises:
        ConfigError: the model has more than `max_enum` paths.
    """

    def __init__(self, model: DRMM, max_enum: int = 65_536) -> None:
        super().__init__()
        if model.num_paths > max_enum:
            raise ConfigError(
                f"guide 'exact' enumerates every path, and this model has {model.num_paths}, more than "
                f"max_enum={max_enum}; use guide 'beam'"
            )

    def forward(self, *args: object, **batch: Tensor | None) -> None:
        """Do nothing: the sites of the model are enumerated."""


class BeamGuide(nn.Module):
    """One site `z` over each row's best paths, enumerated.

    Since its probabilities are proportional to p(x, z) on the beam, `TraceEnum_ELBO` returns
    `log sum_{z in beam} p(x, z) <= log p(x)`: deterministic, no score function, no baseline.

    Args:
        model: the generative program, with `sites="path"`.
        width: paths kept per layer.
    """

    def __init__(self, model: DRMM, width: int = 16) -> None:
        super().__init__()
        if model.sites != "path":
            raise ConfigError("guide 'beam' proposes one site 'z'; build the model with sites='path'")
        self.model, self.width = model, width

    def forward(self, x: Tensor, mask: Tensor | None = None, weight: Tensor | None = None, **streams: Tensor) -> None:
        """Propose paths; arguments as `DRMM.forward`, `x` required."""
        beam = self.model.find(x, width=self.width, mask=mask, streams=self.model.labels(streams))
        with pyro.plate("data", len(x), dim=-1), row_weights(weight):
            pyro.sample("z", PathPosterior(beam.codes, beam.log_posterior()), infer={"enumerate": "parallel"})


class AutoregressiveGuide(nn.Module):
    """Sites `z_1` ... `z_L`: each drawn in proportion to its prior times the truncated density of the row.

    `z_l ~ p(z_l | z_<l) p_l(x | z_<=l)`, normalised over `K_l`; the last step is the exact conditional and enumerated.

    Args:
        model: the generative program, with `sites="layers"`.
        enumerate_last: enumerate the last layer; False draws it, too.
    """

    def __init__(self, model: DRMM, enumerate_last: bool = True) -> None:
        super().__init__()
        if model.sites != "layers":
            raise ConfigError("guide 'autoregressive' proposes sites z_1 ... z_L; build the model with sites='layers'")
        self.model, self.enumerate_last = model, enumerate_last

    def forward(self, x: Tensor, mask: Tensor | None = None, weight: Tensor | None = None, **streams: Tensor) -> None:
        """Propose paths; arguments as `DRMM.forward`, `x` required."""
        model = self.model
        with pyro.plate("data", len(x), dim=-1), row_weights(weight):
            codes: list[Tensor] = []
            for l in range(model.num_layers):
                logits = self._scores(x, mask, codes, model.labels(streams))
                last = l == model.num_layers - 1
                infer: Any = {"enumerate": "parallel"} if last and self.enumerate_last else {}
                codes.append(pyro.sample(f"z_{l + 1}", dist.Categorical(logits=logits), infer=infer))

    def _scores(self, x: Tensor, mask: Tensor | None, codes: list[Tensor], streams: dict[str, Tensor]) -> Tensor:
        """Log p(z_l | z_<l) + log p_l(x, y | z_<=l), for each component of the next layer: (batch, K_l)."""
        model = self.model
        prefix = torch.stack(codes, -1) if codes else x.new_empty(len(x), 0, dtype=torch.long)
        return model.log_children(prefix, x, mask, streams)
