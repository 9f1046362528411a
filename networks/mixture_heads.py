"""From a network's raw outputs to the parameters of a Gaussian mixture, and where to start.

The head is a function of raw outputs, so that any body can feed it: `num_outputs` says how many it takes,
`mixture_parameters` turns them into logits, locations and scales, `initial_outputs` gives biases at which the
components already cover the targets (K quantiles, or K centres): that alone avoids most dead components.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from phlogiston.errors import ConfigError, unknown_name

Kind = Literal["diag", "isotropic", "bivariate", "full", "factorised"]
KINDS: tuple[str, ...] = ("diag", "isotropic", "bivariate", "full", "factorised")
MAX_RHO = 0.999

SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": functional.softplus,
    "elu": lambda raw: functional.elu(raw) + 1.0,  # the reference's; no floor to speak of: e^raw below zero
    "exp": lambda raw: raw.clamp(-7.0, 7.0).exp(),
}


class MixtureParams(NamedTuple):
    """Parameters of one member of the mixture family; `extra` is `rho`, the off-diagonal of `scale_tril`, or None.

    Attributes:
        kind: one of `KINDS`.
        logits: (..., K), or (..., D, K) for `"factorised"`.
        loc: (..., K, D), or (..., D, K).
        scale: (..., K, D), (..., D, K), or (..., K) for `"isotropic"`; the diagonal of the factor for `"full"`.
        extra: `rho` (..., K) for `"bivariate"`; (..., K, D (D - 1) / 2), row by row, for `"full"`.
    """

    kind: str
    logits: Tensor
    loc: Tensor
    scale: Tensor
    extra: Tensor | None = None


def check(kind: str, num_components: int, targets: int) -> None:
    """Refuse sizes no mixture has.

    Raises:
        ConfigError: sizes below 1, or a bivariate mixture of other than two targets.
        UnknownNameError: an unknown kind.
    """
    if kind not in KINDS:
        raise unknown_name("kind of mixture", kind, KINDS)
    if num_components < 1 or targets < 1:
        raise ConfigError(f"num_components={num_components}, targets={targets}; both must be at least 1")
    if kind == "bivariate" and targets != 2:
        raise ConfigError(f"a bivariate mixture describes 2 targets; there are {targets}. Use kind 'full' or 'diag'")


def num_outputs(kind: str, num_components: int, targets: int) -> int:
    """How many raw outputs a head takes."""
    check(kind, num_components, targets)
    k, d = num_components, targets
    return {
        "diag": k * (1 + 2 * d),
        "isotropic": k * (2 + d),
        "bivariate": k * 6,
        "full": k * (1 + 2 * d + d * (d - 1) // 2),
        "factorised": 3 * k * d,
    }[kind]


def mixture_parameters(
    raw: Tensor, kind: str, num_components: int, targets: int, scale: str = "softplus", min_scale: float = 1e-3
) -> MixtureParams:
    """Turn raw outputs into parameters.

    Args:
        raw: (..., num_outputs(kind, num_components, targets)).
        kind: one of `KINDS`.
        num_components: K.
        targets: D.
        scale: one of `SCALES`, how raw numbers become positive.
        min_scale: added to every scale.
    """
    k, d = num_components, targets
    link = SCALES[scale]
    if kind == "factorised":
        logits, loc, spread = raw.unflatten(-1, (3, d, k)).unbind(-3)
        return MixtureParams(kind, logits, loc, link(spread) + min_scale)
    widths = [k, k * d, k if kind == "isotropic" else k * d]
    parts = raw.split([*widths, raw.shape[-1] - sum(widths)], -1)
    loc = parts[1].unflatten(-1, (k, d))
    spread = link(parts[2]) + min_scale
    if kind == "isotropic":
        return MixtureParams(kind, parts[0], loc, spread)
    spread = spread.unflatten(-1, (k, d))
    if kind == "diag":
        return MixtureParams(kind, parts[0], loc, spread)
    if kind == "bivariate":
        return MixtureParams(kind, parts[0], loc, spread, MAX_RHO * torch.tanh(parts[3]))
    # inverses of triangular matrices with entries of order one grow exponentially with their size
    lower = parts[3].unflatten(-1, (k, -1)) / math.sqrt(d) if d > 1 else None
    return MixtureParams(kind, parts[0], loc, spread, lower)


def spread_components(params: MixtureParams, factors: Tensor, log_weights: Tensor) -> MixtureParams:
    """Replace every component by copies of other widths: N(m, s^2) by sum_j w_j N(m, (c_j s)^2).

    Args:
        params: of any kind but `"factorised"`, K components.
        factors: c (J,), positive.
        log_weights: log w (J,), of weights that sum to one.

    Returns:
        Parameters of K J components.

    Raises:
        ConfigError: factorised mixtures, whose coordinates would no longer be independent.
    """
    if params.kind == "factorised":
        raise ConfigError("a factorised mixture has no copies of other widths; use kind 'diag'")
    logits = (params.logits.log_softmax(-1).unsqueeze(-1) + log_weights).flatten(-2)
    loc = params.loc.repeat_interleave(len(factors), -2)
    if params.kind == "isotropic":
        scale = (params.scale.unsqueeze(-1) * factors).flatten(-2)
    else:
        scale = (params.scale.unsqueeze(-2) * factors.unsqueeze(-1)).flatten(-3, -2)
    extra = params.extra
    if extra is not None and params.kind == "bivariate":
        extra = extra.repeat_interleave(len(factors), -1)
    elif extra is not None:
        extra = (extra.unsqueeze(-2) * factors.unsqueeze(-1)).flatten(-3, -2)
    return MixtureParams(params.kind, logits, loc, scale, extra)


def initial_outputs(targets: Tensor, kind: str, num_components: int, scale: str, seed: int = 0) -> Tensor:
    """Raw outputs at which the mixture, ignoring its inputs, covers the targets: (num_outputs,).

    Args:
        targets: (rows, D), standardised.
        kind: one of `KINDS`.
        num_components: K.
        scale: one of `SCALES`.
        seed: of the search for centres (more than one target).
    """
    k, d = num_components, targets.shape[-1]
    levels = (torch.arange(k, dtype=targets.dtype) + 0.5) / k
    inverse = {"softplus": lambda s: math.log(math.expm1(s)), "elu": math.log, "exp": math.log}[scale]
    if kind == "factorised":
        loc = targets.quantile(levels, dim=0).T  # (D, K)
        spread = torch.full_like(loc, inverse(1 / k if k > 1 else 0.99))
        return torch.stack([torch.zeros_like(loc), loc, spread]).flatten()
    loc = targets.quantile(levels, dim=0) if d == 1 else _centres(targets, k, seed)
    width = 0.99 * k ** (-1 / d)
    per_scale = k if kind == "isotropic" else k * d
    parts = [torch.zeros(k), loc.flatten(), torch.full((per_scale,), inverse(width))]
    rest = num_outputs(kind, k, d) - sum(map(len, parts))
    return torch.cat([*parts, torch.zeros(rest)])


def _centres(rows: Tensor, k: int, seed: int, rounds: int = 20) -> Tensor:
    """K centres of (rows, D) by a few rounds of k-means, from far-apart rows: (K, D)."""
    generator = torch.Generator().manual_seed(seed)
    rows = rows[torch.randperm(len(rows), generator=generator)[:4096]]
    centres = rows[:1]
    while len(centres) < k:
        far = torch.cdist(rows, centres).amin(1).square()
        if float(far.sum()) == 0:  # fewer distinct rows than components
            centres = torch.cat([centres, rows[torch.randint(len(rows), (1,), generator=generator)]])
            continue
        centres = torch.cat([centres, rows[torch.multinomial(far, 1, generator=generator)]])
    for _ in range(rounds):
        nearest = torch.cdist(rows, centres).argmin(1)
        count = torch.bincount(nearest, minlength=k).clamp_min(1).unsqueeze(-1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        used = torch.bincount(nearest, minlength=k).unsqueeze(-1) > 0
        centres = torch.where(used, sums / count, centres)
    return centres[centres[:, 0].argsort()]


class MixtureHead(nn.Module):
    """A linear layer that ends in a mixture's parameters: put it behind any body.

    Args:
        features: width of what the body puts out.
        targets: D.
        num_components: K.
        kind: one of `KINDS`.
        scale: one of `SCALES`.
        min_scale: added to every scale.

    Example:
        >>> head = MixtureHead(16, targets=2, num_components=3)
        >>> head(torch.zeros(5, 16)).loc.shape
        torch.Size([5, 3, 2])
    """

    def __init__(
        self,
        features: int,
        targets: int,
        num_components: int = 5,
        kind: Kind = "diag",
        scale: str = "softplus",
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        if scale not in SCALES:
            raise unknown_name("scale", scale, SCALES)
        self.kind, self.num_components, self.targets = kind, num_components, targets
        self.scale, self.min_scale = scale, min_scale
        self.linear = nn.Linear(features, num_outputs(kind, num_components, targets))

    def forward(self, x: Tensor) -> MixtureParams:
        """Map (..., features) to the parameters of a batch (...) of mixtures."""
        return mixture_parameters(
            self.linear(x), self.kind, self.num_components, self.targets, self.scale, self.min_scale
        )

    @torch.no_grad()
    def initialise(self, targets: Tensor, seed: int = 0) -> None:
        """Start where the components cover the targets, (rows, D), standardised, and inputs matter little."""
        self.linear.bias.copy_(initial_outputs(targets, self.kind, self.num_components, self.scale, seed))
        self.linear.weight.mul_(0.3)
