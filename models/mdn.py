"""Mixture density network: a network whose output is a whole mixture, so that one input may have several answers.

    params = head(body((x - x_location) / x_scale))
    y | x ~ y_location + y_scale * sum_k softmax(logits)_k N(loc_k, S_k)

Data are standardised inside, and densities come out in the data's own units. `members` networks can live side by side
as one batch (an ensemble, trained independently); the weights can be random (`BayesianMDN`). The component's index is
summed out (`component="marginal"`, for training) or written out as a site of its own (`"enumerate"`), which Pyro's
enumeration sums and `infer_discrete` asks for.

References: Bishop, "Mixture Density Networks", 1994; Lakshminarayanan, Pritzel and Blundell, "Simple and scalable
predictive uncertainty estimation using deep ensembles", NeurIPS 2017.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

from phlogiston.distributions.gridded import Gridded
from phlogiston.distributions.mixtures.base import Mixture
from phlogiston.distributions.mixtures.diagonal import DiagMixture
from phlogiston.distributions.mixtures.from_head import mixture
from phlogiston.distributions.mixtures.joint import JointMixture
from phlogiston.distributions.mixtures.members import merge
from phlogiston.errors import ConfigError, ShapeError, unknown_name
from phlogiston.networks.dense import Adapted, Dense, pieces, quantile_edges
from phlogiston.networks.mixture_heads import (
    SCALES,
    MixtureParams,
    check,
    initial_outputs,
    mixture_parameters,
    num_outputs,
    spread_components,
)
from phlogiston.networks.precision import KeepsFloat64

FARTHEST = 1e15
"""Inputs are clamped at so many standard deviations from their mean."""
WIDTHS = tuple(2.0 ** (i / 2) for i in range(-6, 8))
"""Factors on the components' standard deviations among which recalibration chooses, 1/8 ... 11."""
PRIOR_ROWS, LEAST_SHARE = 2.0, 1e-3
"""What recalibration believes beforehand, in rows, and the probability below which a factor is left out."""


class MDN(KeepsFloat64):
    """The generative program.

    Args:
        features: columns of `x`.
        targets: D, columns of `y`.
        members: networks side by side; None for one without a members axis.
        grid: the option of this name; None for a density.
        component: `"marginal"` has one site `y`; `"enumerate"` has a site `component`, too.

    The other arguments are options of `systems.mdn.config.Config`, described there.

    Attributes:
        x_location, x_scale: buffers float64 (features,).
        y_location, y_scale: buffers float64 (D,).
        inputs: buffer float64 (kept, features), inputs to draw from where none are given; empty unless the owner keeps
            some.
        edges: buffer float64 (features, bins + 1), of the pieces in standardised inputs; only with bins.
        widths: buffer float64 (len(WIDTHS),), how probable each factor on standard deviations is; all of it on 1 until
            `calibrate` is called. Only with recalibration.

    Data may come in any precision, best in float64: they are standardised in float64, and rounded to the precision of
    the network afterwards. What the model says about y is in the data's units again, in float64.

    Raises:
        ConfigError: sizes, kinds and options that do not fit together.
    """

    x_location: Tensor
    x_scale: Tensor
    y_location: Tensor
    y_scale: Tensor
    inputs: Tensor
    edges: Tensor
    widths: Tensor

    def __init__(
        self,
        features: int,
        targets: int = 1,
        num_components: int = 5,
        kind: str = "diag",
        hidden: Sequence[int] = (50, 50),
        activation: str = "silu",
        members: int | None = None,
        scale: str = "softplus",
        min_scale: float = 1e-3,
        grid: float | None = None,
        component: Literal["marginal", "enumerate"] = "marginal",
        ensemble: Literal["independent", "tabm"] = "independent",
        bins: int = 0,
        recalibrate: bool = False,
    ) -> None:
        super().__init__()
        check(kind, num_components, targets)
        if scale not in SCALES:
            raise unknown_name("scale", scale, SCALES)
        if component not in ("marginal", "enumerate"):
            raise unknown_name("component", component, ("marginal", "enumerate"))
        if component == "enumerate" and (kind != "diag" or grid is not None or members is not None):
            raise ConfigError("component='enumerate' is for single networks of kind 'diag' without a grid")
        if recalibrate and kind == "factorised":
            raise ConfigError("recalibrate=True widens whole components; use kind 'diag' instead of 'factorised'")
        if grid is not None and kind in ("full", "bivariate"):
            raise ConfigError(f"cells of a grid have no closed form for kind {kind!r}; use 'diag' or 'factorised'")
        self.features, self.targets, self.num_components, self.kind = features, targets, num_components, kind
        self.members, self.scale, self.min_scale = members, scale, min_scale
        self.grid, self.component = grid, component
        self.shared, self.bins, self.recalibrate = ensemble == "tabm", bins, recalibrate
        sizes = [features * (1 + bins), *hidden, num_outputs(kind, num_components, targets)]
        self.net: Dense | Adapted
        self.net = Adapted(sizes, activation, members or 1) if self.shared else Dense(sizes, activation, members)
        self.register_buffer("x_location", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("x_scale", torch.ones(features, dtype=torch.float64))
        self.register_buffer("y_location", torch.zeros(targets, dtype=torch.float64))
        self.register_buffer("y_scale", torch.ones(targets, dtype=torch.float64))
        self.register_buffer("inputs", torch.zeros(0, features, dtype=torch.float64))
        if bins:
            self.register_buffer("edges", torch.zeros(features, bins + 1, dtype=torch.float64))
        if recalibrate:
            self.register_buffer("widths", self.own_widths())

    # ----- initialisation -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def initialise(self, y: Tensor, seed: int = 0, x: Tensor | None = None) -> None:
        """Spread the components over the targets, and let inputs matter little.

        Args:
            y: (rows, D), in the data's units.
            seed: of the search for centres when there are several targets.
            x: (rows, features), in which the pieces of the embedding have their edges; needed with bins only.

        Raises:
            ConfigError: bins, and no inputs to place them in.
        """
        if self.bins:
            if x is None:
                raise ConfigError(f"bins={self.bins} have edges at quantiles of the inputs: give x")
            self.edges.copy_(quantile_edges(self._standard_inputs(x.double()), self.bins))
        standard = ((y - self.y_location) / self.y_scale).to(self.net.biases[-1].dtype)
        start = initial_outputs(standard, self.kind, self.num_components, self.scale, seed)
        self.net.biases[-1].copy_(start.expand_as(self.net.biases[-1]))
        self.net.weights[-1].mul_(0.3)

    # ----- densities ----------------------------------------------------------------------------------------------

    def standard(
        self, x: Tensor, given: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None
    ) -> Mixture:
        """The mixture of standardised targets: batch (rows,), or (members, rows).

        Args:
            x: (rows, features).
            given: parameters of `net` by name that replace its own.
            dtype: of the mixture; the network's by default.
        """
        params = self._of_mixture(x, given, dtype)
        if self.recalibrate:
            kept = self.widths > 0
            factors = self.widths.new_tensor(WIDTHS)[kept].to(params.loc.dtype)
            if not bool((factors == 1).all()):
                params = spread_components(params, factors, self.widths[kept].log().to(factors.dtype))
        return mixture(params, validate_args=False)

    def _of_mixture(
        self, x: Tensor, given: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None
    ) -> MixtureParams:
        """Parameters of the mixture as the network gives them, components as wide as they were trained."""
        u = self._standard_inputs(x)
        u = torch.cat([u, pieces(u, self.edges)], 1) if self.bins else u
        raw = self.net(u.to(self.net.biases[-1].dtype), given)
        raw = raw if dtype is None else raw.to(dtype)
        return mixture_parameters(raw, self.kind, self.num_components, self.targets, self.scale, self.min_scale)

    def _standard_inputs(self, x: Tensor) -> Tensor:
        return ((x - self.x_location) / self.x_scale).clamp(-FARTHEST, FARTHEST)  # what comes out must be finite

    @staticmethod
    def own_widths() -> Tensor:
        """Probabilities of the factors `WIDTHS` that leave components as they were trained: float64 (factors,)."""
        return torch.tensor([float(c == 1) for c in WIDTHS], dtype=torch.float64)

    @torch.no_grad()
    def calibrate(self, x: Tensor, y: Tensor, weight: Tensor | None = None, rounds: int = 300) -> None:
        """Fit how wide components are to rows that were not trained on: p(y | x) with s_k replaced by c s_k, c random.

        Networks fit the spread of their training rows, which lie nearer to their means than others do. The
        probabilities of the factors `WIDTHS` are chosen by maximum likelihood (expectation maximisation, a convex
        problem). `PRIOR_ROWS` made-up rows say that components are right or too narrow, never too wide: dozens of rows
        say little about the tails, and would let intervals be as narrow as they happen to allow.

        Args:
            x: (rows, features).
            y: (rows, D).
            weight: (rows,), how much each row counts.
            rounds: of expectation maximisation.
        """
        if len(x):
            table = self._log_densities_by_width(x, y)
            self.widths.copy_(_shares(table, weight, rounds))

    @torch.no_grad()
    def calibrated(self, x: Tensor, y: Tensor, weight: Tensor | None = None, rounds: int = 30) -> Tensor:
        """Log predictive densities of rows, with the widths that `calibrate` would choose by them: float64 (rows,).

        Arguments are those of `calibrate`; without recalibration components have their own widths.
        """
        if not self.recalibrate:
            return self._merged(self.log_likelihood(x, y))
        table = self._log_densities_by_width(x, y)
        return torch.logsumexp(table + _shares(table, weight, rounds).log(), 1)

    def _log_densities_by_width(self, x: Tensor, y: Tensor) -> Tensor:
        """Log predictive densities with all components widened by each of the factors `WIDTHS`: (rows, factors)."""
        params, scores = self._of_mixture(x), []
        for factor in WIDTHS:
            wide = spread_components(params, params.loc.new_tensor([factor]), params.loc.new_zeros(1))
            scores.append(self._merged(self._log_density(mixture(wide, validate_args=False), y)))
        return torch.stack(scores, 1)

    def _merged(self, rows: Tensor) -> Tensor:
        """Log densities of the members' equal mixture, float64 (rows,), from theirs, (rows,) or (members, rows)."""
        rows = rows.double()
        return rows if self.members is None else torch.logsumexp(rows, 0) - math.log(self.members)

    def likelihood(self, x: Tensor, given: Mapping[str, Tensor] | None = None) -> Mixture:
        """Return p(y | x) in the data's units: a mixture of batch (rows,), or one per member, (members, rows).

        Args:
            x: (rows, features).
            given: parameters of `net` by name that replace its own; see `networks.dense.Dense`.
        """
        standard = self.standard(x, given, torch.float64)
        return standard.affine(self.y_location, self.y_scale)  # type: ignore[attr-defined]

    def predictive(self, x: Tensor) -> JointMixture:
        """Return the predictive distribution of y: the members' mixtures merged into one, batch (rows,)."""
        likelihood = self.likelihood(x)
        if self.members is None and isinstance(likelihood, JointMixture):
            return likelihood
        return merge(likelihood.unsqueeze(-2) if self.members is None else likelihood)

    def log_likelihood(self, x: Tensor, y: Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return log p(y | x) in nats, by member where there are members: (rows,) or (members, rows).

        The same number as the site's, without the program around it, which makes training fast.
        """
        return self._log_density(self.standard(x, given), y)

    def _log_density(self, standard: Mixture, y: Tensor) -> Tensor:
        """Log density of targets under a mixture of standardised ones, or the log probability of their cells."""
        like = self.net.biases[-1].dtype
        value = ((y - self.y_location) / self.y_scale).to(like)
        if self.grid is not None:
            return standard.interval_log_prob(value, (self.grid / self.y_scale).to(like))  # type: ignore[attr-defined]
        return standard.log_prob(value) - self.y_scale.log().sum()

    # ----- the program --------------------------------------------------------------------------------------------

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """Run the program: score y where it is given, generate it where it is None.

        Args:
            x: (rows, features), always needed: the model has no distribution of the inputs.
            y: (rows, D), or None.
            weight: (rows,), how much each row counts.

        Returns:
            y, given or generated; with members (members, rows, D).
        """
        x = _need(x, self.features)
        if self.members is None:
            with pyro.plate("data", len(x), dim=-1), row_weights(weight):
                return self.sample_targets(self.likelihood(x), y)
        # members are trained independently; the average keeps the loss per row independent of their number
        with (
            pyro.plate("members", self.members, dim=-2),
            poutine.scale(scale=1 / self.members),
            pyro.plate("data", len(x), dim=-1),
            row_weights(weight),
        ):
            return self.sample_targets(self.likelihood(x), None if y is None else y.expand(self.members, *y.shape))

    def sample_targets(self, likelihood: Mixture, y: Tensor | None) -> Tensor:
        """Sample or observe the sites of the targets, `y` and with `component="enumerate"` its component."""
        if self.grid is not None:
            return pyro.sample("y", Gridded(likelihood, self.grid), obs=y)
        if self.component == "marginal":
            return pyro.sample("y", likelihood, obs=y)
        assert isinstance(likelihood, DiagMixture)
        index = pyro.sample("component", dist.Categorical(logits=likelihood.logits), infer={"enumerate": "parallel"})
        # Vindex broadcasts: under enumeration the index gets an axis on the left that plain indexing would mangle
        loc, scale = Vindex(likelihood.loc)[..., index, :], Vindex(likelihood.scale)[..., index, :]
        return pyro.sample("y", dist.Normal(loc, scale).to_event(1), obs=y)


class BayesianMDN(nn.Module):
    """A mixture density network whose weights are random.

        w_ij ~ N(prior location, (prior_sd / sqrt(fan_in))^2),   b_i ~ N(prior location, prior_sd^2)

    Prior locations are zero, but for the last layer's biases: they are where components start (see `MDN.initialise`).
    With all of them at zero the components would be interchangeable under the prior, and a unimodal guide would choose
    one labelling at random.

    Args:
        network: the network; its own parameters are where weights not made random stay (point estimates), and are
            not used for the others.
        random, prior_sd: options of `systems.mdn.config.Config`, described there.
    """

    def __init__(self, network: MDN, random: Literal["all", "last"] = "all", prior_sd: float = 1.0) -> None:
        super().__init__()
        if network.members is not None or network.component != "marginal":
            raise ConfigError("a Bayesian network is a single one with component='marginal'")
        if random not in ("all", "last"):
            raise unknown_name("choice of random weights", random, ("all", "last"))
        self.network, self.random, self.prior_sd = network, random, prior_sd
        last = len(network.net.weights) - 1
        self.shapes: dict[str, torch.Size] = {}
        self.prior_scales: dict[str, float] = {}
        for i in range(last + 1) if random == "all" else (last,):
            weight, bias = network.net.weights[i], network.net.biases[i]
            self.shapes[f"weights.{i}"], self.shapes[f"biases.{i}"] = weight.shape, bias.shape
            self.prior_scales[f"weights.{i}"] = prior_sd / math.sqrt(weight.shape[-1])
            self.prior_scales[f"biases.{i}"] = prior_sd
        for name in self.shapes:  # the network's own values of random weights are never used: nothing to train
            self.point_value(name).requires_grad_(False)
        self.register_buffer("head_location", torch.zeros_like(network.net.biases[last].detach()))
        self._head = f"biases.{last}"

    head_location: Tensor

    def point_value(self, name: str) -> nn.Parameter:
        """The network's own value of a random weight tensor, not used by the program: where a guide may start."""
        group, _, index = name.partition(".")
        return getattr(self.network.net, group)[int(index)]

    def initialise(self, y: Tensor, seed: int = 0, x: Tensor | None = None) -> None:
        """Set the initial components, as prior locations of the last biases; see `MDN.initialise`."""
        self.network.initialise(y, seed, x)
        self.head_location.copy_(self.point_value(self._head).detach())

    def prior(self, name: str) -> Any:
        """The prior of one weight tensor: the whole tensor is one event."""
        loc = self.head_location if name == self._head else self.head_location.new_zeros(())
        scale = loc.new_full((), self.prior_scales[name])
        return dist.Normal(loc, scale).expand(self.shapes[name]).to_event()

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """Run the program; arguments as `MDN.forward`. Weight sites are `net.weights.<i>` and `net.biases.<i>`."""
        x = _need(x, self.network.features)
        given = {name: pyro.sample(f"net.{name}", self.prior(name)) for name in self.shapes}
        with pyro.plate("data", len(x), dim=-1), row_weights(weight):
            return self.network.sample_targets(self.network.likelihood(x, self.fold(given)), y)

    def fold(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights as the network takes them: particles (P, 1, *shape) become members (P, *shape)."""
        out = {}
        for name, value in given.items():
            ahead = value.dim() - len(self.shapes[name])
            if ahead > 1 or (ahead == 1 and len(value) == 1):
                value = value.reshape(-1, *self.shapes[name]) if ahead > 1 else value[0]
            out[name] = value
        return out

    def log_likelihood(self, x: Tensor, y: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        """log p(y | x, weights): (rows,), or (samples, rows) for weights (samples, *shape)."""
        return self.network.log_likelihood(x, y, given)


@contextmanager
def row_weights(weight: Tensor | None) -> Iterator[None]:
    """Scale the sites of each row by its weight, a weight of zero leaving the row out; None does nothing."""
    if weight is None:
        yield
        return
    counts = weight > 0
    with poutine.mask(mask=cast(torch.BoolTensor, counts)), poutine.scale(scale=torch.where(counts, weight, 1.0)):
        yield


def _need(x: Tensor | None, features: int) -> Tensor:
    if x is None:
        raise ConfigError("the network has no distribution of its inputs: give x of shape (rows, features)")
    if x.dim() != 2 or x.shape[1] != features:
        raise ShapeError(f"x has shape {tuple(x.shape)}; this model takes (rows, {features})")
    return x


def _shares(table: Tensor, weight: Tensor | None, rounds: int) -> Tensor:
    """Probabilities of the factors `WIDTHS` by expectation maximisation, from log densities (rows, factors)."""
    counts = torch.ones(len(table), dtype=table.dtype, device=table.device) if weight is None else weight.double()
    share = torch.full_like(table[0], 1 / len(WIDTHS))
    prior = (table.new_tensor(WIDTHS) >= 1).double()
    prior *= PRIOR_ROWS / prior.sum()
    for _ in range(rounds):
        taken = (table + share.log()).softmax(1) * counts.unsqueeze(1)
        share = (taken.sum(0) + prior) / (counts.sum() + PRIOR_ROWS)
    share = torch.where(share < LEAST_SHARE, 0.0, share)
    return share / share.sum()
