"""Deep residual mixture model: a mixture with `K^L` components made from `L` layers of `K`.

A path (one component per layer) is drawn first; each layer then shifts, scales and turns what the layers below
it describe, and every categorical column reads the whole path:

    z_1 ~ Categorical(a_1)      z_l ~ Categorical(a_l + sum_{j<l} A_{l,j}[z_j])
    u_{L+1} ~ N(0, I)           u_l = mu_l[z_l] + T_l[z_l] u_{l+1}          x = location + scale * u_1
    y_c ~ Categorical(beta_{0,c} + sum_l beta_{l,c}[z_l])

Given the path, x is Gaussian, so the marginal is an exact mixture of `prod_l K_l` Gaussians. Truncating after `l`
layers (the rest standard normal) is again a normalised mixture: the family is nested, and depth 1 with `tril` frames
is the ordinary full-covariance Gaussian mixture.

Reference: Hämäläinen and Solin, "Deep Residual Mixture Models", arXiv 2006.12063. On purpose different: one proper
joint for sampling and scoring (the original samples from one distribution of paths and scores with another), affine
frames beside the paper's shifts, and the path summed out instead of sampled in training.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn import functional

from phlogiston.distributions.cell_map import CellMap, log_slopes, standardised
from phlogiston.distributions.paths import FARTHEST, MixtureCategorical, PathMixture, PathPrior, ResidualNormal
from phlogiston.distributions.sequential_draws import apply_factors
from phlogiston.errors import ConfigError, ShapeError, unknown_name
from phlogiston.models.compiled import Compiled
from phlogiston.models.path_table import even_grid, pick
from phlogiston.networks.beam import Beam, StreamTables, search
from phlogiston.networks.frames import FRAMES, Frame, FrameName, compose, frames_of, path_gaussian
from phlogiston.networks.path_priors import AutoregressivePrior, LatentClassPrior, all_paths, log_path_prior
from phlogiston.networks.precision import KeepsFloat64

SMALL_BLOCK = 16_000
"""Floats that `generate` gathers at once for small factors: blocks below 128 KiB, which the allocator keeps and uses
again, while larger ones may be fetched from the system, and cleared, every time."""
MAX_TABLE = 4_000_000
"""Floats of the covariance factors up to which `generate` keeps every path's Gaussian at hand."""


class DRMM(KeepsFloat64):
    """The generative program.

    Args:
        features: `D`, continuous columns of `x`.
        categorical: categorical column -> number of categories.
        sites: `"path"` puts the path into one site `z` of event shape (L,); `"layers"` into sites `z_1` ... `z_L`,
            which is what the autoregressive guide pairs with.
        cells: the maps of columns on a grid, which are standardised by them instead of by location and scale.

    The other arguments are options of `systems.drmm.config.Config`, described there; `num_components` may also be one
    number per layer.

    Attributes:
        location: buffer float64 (D,), subtracted from the data.
        scale: buffer float64 (D,), the data are divided by it.

    Data may come in any precision, best in float64: they are standardised in float64, and rounded to the precision of
    the parameters afterwards. Draws are in the data's units again, in float64.

    Raises:
        ConfigError: an unknown frame or prior, or sizes that are not positive.
    """

    location: Tensor
    scale: Tensor

    def __init__(
        self,
        features: int,
        num_layers: int = 3,
        num_components: int | Sequence[int] = 16,
        frame: FrameName = "diag",
        prior: Literal["autoregressive", "latent_class"] = "autoregressive",
        prior_order: int | None = None,
        categorical: Mapping[str, int] | None = None,
        rank: int = 8,
        sites: Literal["path", "layers"] = "path",
        cells: CellMap | None = None,
    ) -> None:
        super().__init__()
        sizes = [num_components] * num_layers if isinstance(num_components, int) else list(num_components)
        if features < 1 or not sizes or len(sizes) != num_layers or min(sizes) < 1:
            raise ConfigError(
                f"features, num_layers and num_components must be positive and agree; "
                f"got features={features}, num_layers={num_layers}, num_components={num_components}"
            )
        if frame not in FRAMES:
            raise unknown_name("frame", frame, FRAMES)
        if prior not in ("autoregressive", "latent_class"):
            raise unknown_name("prior", prior, ("autoregressive", "latent_class"))
        self.features, self.sizes, self.sites = features, tuple(sizes), sites
        self.layers = nn.ModuleList(frames_of(frame, sizes, features, rank))
        self.prior = AutoregressivePrior(sizes, prior_order) if prior == "autoregressive" else LatentClassPrior(sizes)
        self.categorical = dict(categorical or {})
        self.stream_bias = nn.ParameterDict(
            {parameter_key(c): nn.Parameter(torch.zeros(v)) for c, v in self.categorical.items()}
        )
        self.stream_tables = nn.ParameterDict(
            {
                parameter_key(c, l): nn.Parameter(0.01 * torch.randn(k, v))
                for c, v in self.categorical.items()
                for l, k in enumerate(sizes)
            }
        )
        self._cached: tuple[Any, tuple[Tensor, Tensor, Tensor, Tensor]] | None = None
        self.cells = cells
        self.register_buffer("location", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(features, dtype=torch.float64))

    @property
    def frames(self) -> list[Frame]:
        """The layers, first layer first."""
        return cast("list[Frame]", list(self.layers))

    @property
    def num_layers(self) -> int:
        """`L`."""
        return len(self.sizes)

    @property
    def num_paths(self) -> int:
        """How many Gaussians the mixture has: the product of the layers' sizes."""
        return math.prod(self.sizes)

    def forward(
        self,
        x: Tensor | None = None,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        num_rows: int | None = None,
        **streams: Tensor | None,
    ) -> Tensor:
        """Run the program: score what is given, generate what is None.

        Args:
            x: (batch, features), or None to generate.
            mask: bool (batch, features), True where known; unknown entries are marginalised.
            weight: (batch,), how much each row counts. Pyro's enumeration allows scalar scales alone, so weights need
                the collapsed program, or a guide that samples.
            num_rows: how many rows to generate when nothing tells.
            **streams: int64 (batch,) per categorical column, -1 where missing; each by the name of its site.

        Returns:
            x, given or generated.
        """
        n = _count_rows(x, streams, num_rows)
        with pyro.plate("data", n, dim=-1), row_weights(weight):
            z = self._sample_path(n)
            likelihood = ResidualNormal(self.frames, z, self.location, self.scale, mask, cells=self.cells)
            x = pyro.sample("x", likelihood, obs=x)
            for name in self.categorical:
                site = label_site(name)
                labels = streams.get(site)
                stream = dist.Categorical(logits=self.stream_logits(name, z))
                if labels is None:
                    pyro.sample(site, stream)
                else:
                    pyro.sample(site, stream.mask(labels >= 0), obs=labels.clamp(min=0))
        return x

    def _sample_path(self, n: int) -> Tensor:
        if self.sites == "path":
            return pyro.sample("z", PathPrior(self.prior, (n,)), infer={"enumerate": "parallel"})
        codes: list[Tensor] = []
        for l in range(self.num_layers):
            seen = torch.broadcast_tensors(*codes) if codes else []
            prefix = torch.stack(list(seen), -1) if codes else torch.empty(n, 0, dtype=torch.long)
            logits = self.prior.log_conditional(prefix.to(self.location.device))
            codes.append(pyro.sample(f"z_{l + 1}", dist.Categorical(logits=logits), infer={"enumerate": "parallel"}))
        return torch.stack(torch.broadcast_tensors(*codes), -1)

    def labels(self, batch: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        """Labels by categorical column, from arguments of the program, which are called like its sites."""
        found = {name: batch.get(label_site(name)) for name in self.categorical}
        return {name: labels for name, labels in found.items() if labels is not None}

    def stream_logits(self, name: str, codes: Tensor) -> Tensor:
        """Logits of a categorical column given paths (..., l): (..., V)."""
        logits: Tensor = self.stream_bias[parameter_key(name)]
        for l in range(codes.shape[-1]):
            logits = logits + functional.embedding(codes[..., l], self.stream_tables[parameter_key(name, l)])
        return logits

    def find(
        self,
        x: Tensor,
        *,
        width: int | None = None,
        mask: Tensor | None = None,
        depth: int | None = None,
        streams: Mapping[str, Tensor | None] | None = None,
    ) -> Beam:
        """Search the paths of each row (see `networks.beam.search`).

        Args:
            x: (N, D) in the data's units; unknown entries may hold anything finite.
            width: paths kept per layer; None keeps every path and makes the sums exact.
            mask: bool (N, D), True where known.
            depth: layers to use; all by default.
            streams: int64 (N,) labels by categorical column, -1 where missing; those not named are summed out.

        Returns:
            The beam, in standardised units (add `log_jacobian`).
        """
        streams = streams or {}
        tables = {
            name: StreamTables(
                self.stream_bias[parameter_key(name)],
                [self.stream_tables[parameter_key(name, l)] for l in range(self.num_layers)],
                streams.get(name),
            )
            for name in self.categorical
        }
        return search(
            self.frames,
            self.prior,
            self.standardise(x, mask),
            width=width or self.num_paths,
            mask=mask,
            streams=tables,
            depth=depth,
        )

    def standardise(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rows as the layers take them: (..., D), in the precision of the parameters, 0 where `mask` is False."""
        # clamped, for squares and products must stay finite: whatever is farther out has no density to speak of
        u = self.coordinates(x).clamp(-FARTHEST, FARTHEST).to(self.frames[0].mean.dtype)
        return u if mask is None else u.masked_fill(~mask, 0.0)

    def coordinates(self, x: Tensor) -> Tensor:
        """Rows (..., D) in the coordinates of the first layer, in float64: standardised, or mapped by their cells."""
        return standardised(x, self.location, self.scale, self.cells)

    def values(self, u: Tensor) -> Tensor:
        """The inverse of `coordinates`: (..., D) in the data's units, in float64."""
        x = self.location + self.scale * u
        if self.cells is None:
            return x
        at = self.cells.position
        return x.index_copy(-1, at, self.cells.inverse(u.index_select(-1, at).double()))

    def rounded(self, x: Tensor) -> Tensor:
        """Rows (..., D) in the data's units with columns on a grid at its values, where the data's own are."""
        return x if self.cells is None else self.cells.rounded(x)

    def log_slope(self, x: Tensor) -> Tensor:
        """Log |du/dx| of every entry of rows (..., D), in float64."""
        return log_slopes(x, self.scale, self.cells)

    def log_children(
        self,
        codes: Tensor,
        x: Tensor,
        mask: Tensor | None = None,
        streams: Mapping[str, Tensor | None] | None = None,
    ) -> Tensor:
        """Score every component of the next layer behind one given prefix per row.

        Args:
            codes: int64 (N, l - 1), the prefix.
            x: (N, D) in the data's units.
            mask: bool (N, D), True where known.
            streams: int64 (N,) labels by categorical column, -1 where missing.

        Returns:
            (N, K_l): log p(z_l | z_<l) + log p_l(x, y | z_<=l), with p_l truncated after layer l.
        """
        l = codes.shape[-1]
        k = self.sizes[l]
        n = len(x)
        component = torch.arange(k, device=x.device).expand(n, k)
        paths = torch.cat([codes.unsqueeze(1).expand(n, k, l), component.unsqueeze(-1)], -1)  # (N, K, l)
        wide_mask = None if mask is None else mask.unsqueeze(1).expand(n, k, -1)
        likelihood = ResidualNormal(self.frames, paths, self.location, self.scale, wide_mask, cells=self.cells)
        score = self.prior.log_conditional(codes) + likelihood.log_prob(x.unsqueeze(1).expand(n, k, -1))
        for name, labels in (streams or {}).items():
            if name in self.categorical and labels is not None:
                log_probs = self.stream_logits(name, paths).log_softmax(-1)
                index = labels.clamp(min=0)[:, None, None].expand(n, k, 1)
                score = score + log_probs.gather(-1, index).squeeze(-1) * (labels >= 0).unsqueeze(-1)
        return score

    def log_jacobian(self, mask: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        """Log |du/dx| over the known features: () or (N,).

        Args:
            mask: bool (N, D), True where known.
            x: (N, D), the rows; they matter, and must be given, where columns are mapped by their cells.
        """
        if self.cells is None:
            log_scale = -self.scale.log()
            return log_scale.sum() if mask is None else mask.to(log_scale.dtype) @ log_scale
        assert x is not None, "the slope of a map depends on the row"
        slope = self.log_slope(x)
        return slope.sum(-1) if mask is None else torch.where(mask, slope, 0.0).sum(-1)

    def draw_paths(self, n: int, depth: int | None = None) -> Tensor:
        """Paths from the prior: int64 (n, depth)."""
        return PathPrior(self.prior, (n,), depth).sample()

    def draw(self, codes: Tensor, *, noise: bool = True) -> Tensor:
        """Rows given paths, in the data's units.

        Args:
            codes: int64 (..., l); fewer than L codes draw from the mixture truncated after l layers.
            noise: False returns the paths' means.

        Returns:
            (..., D).
        """
        shape = (*codes.shape[:-1], self.features)
        make = torch.randn if noise else torch.zeros
        eps = make(shape, dtype=self.frames[0].mean.dtype, device=self.location.device)
        return self.values(compose(self.frames, codes, eps))

    def generate(self, n: int, depth: int | None = None, *, noise: bool = True) -> tuple[Tensor, Tensor]:
        """Rows with the paths they come from: `draw(draw_paths(n))`, faster where all paths fit into a table.

        Args:
            n: how many.
            depth: layers to use; all by default.
            noise: False returns the paths' means.

        Returns:
            codes int64 (n, depth) and rows (n, D) in the data's units.
        """
        parts = list(self.generate_parts(n, depth, noise=noise))
        return torch.cat([codes for codes, _ in parts]), torch.cat([x for _, x in parts])

    def generate_parts(
        self, n: int, depth: int | None = None, *, noise: bool = True
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The same some rows at a time, so that all that lies between stays in the cache."""
        if math.prod(self.sizes[:depth]) * self.features**2 > MAX_TABLE:
            codes = self.draw_paths(n, depth)
            yield codes, self.draw(codes, noise=noise)
            return
        every, ends, means, factors = self._table(depth)
        grid = even_grid(ends) if n >= len(ends) else None
        size = factors[0].numel()
        together = SMALL_BLOCK // size if size <= 16 else n
        for start in range(0, n, together):
            rows = min(together, n - start)
            slot = pick(ends, grid, torch.rand(rows, dtype=torch.float64, device=ends.device))
            x = means.index_select(0, slot)
            if noise:
                eps = torch.randn(rows, self.features, dtype=self.frames[0].mean.dtype, device=x.device)
                x += apply_factors(factors, slot, eps.to(factors.dtype))
            yield every.index_select(0, slot), x if self.cells is None else self.values(x)

    @torch.no_grad()
    def _table(self, depth: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Paths, cumulative probabilities, means and covariance factors, until a parameter changes.

        In the data's units; in the coordinates of the first layer where columns are mapped by their cells.
        """
        state = [*self.parameters(), self.location, self.scale]
        key = (depth, *((t.data_ptr(), t._version, t.dtype, t.device) for t in state))
        if self._cached is None or self._cached[0] != key:
            codes, log_prior, means, factors = self.paths(depth)
            ends = log_prior.double().softmax(0).cumsum(0)
            ends[-1] = 1.0
            if self.cells is None:
                scale = self.scale if factors.dim() == 2 else self.scale.unsqueeze(-1)
                means, factors = self.location + self.scale * means, scale * factors
            self._cached = (key, (codes, ends, means.double(), factors.double()))
        return self._cached[1]

    def paths(self, depth: int | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Every path with its probability and its Gaussian, in standardised coordinates.

        Args:
            depth: layers to use; all by default.

        Returns:
            codes int64 (P, l); log prior (P,); means (P, D); covariance factors (P, D, D) lower triangular, or their
            diagonals (P, D).
        """
        codes = all_paths(self.sizes[:depth], self.location.device)
        return codes, log_path_prior(self.prior, codes), *path_gaussian(self.frames, codes)

    def log_parameter_prior(self, table_sd: float = 1.0, log_scale_sd: float = 0.5) -> Tensor:
        """MAP penalty: table entries ~ N(0, table_sd), log-scales ~ N(where they started, log_scale_sd). Shape ()."""
        total = self.prior.log_prior()
        for table in self.stream_tables.values():
            total = total - 0.5 * table.square().sum()
        total = total / table_sd**2
        for frame in self.frames:
            total = total - 0.5 * ((frame.log_scale - frame.initial_log_scale) / log_scale_sd).square().sum()
        return total


def parameter_key(name: str, layer: int | None = None) -> str:
    """The name of a label's parameters: its own, unless torch cannot take it (`species.name`, `type`)."""
    key = name if layer is None else f"{name}_{layer}"
    if "." in key or hasattr(nn.ParameterDict, key) or key == "training":
        return f"label_{key.replace('.', '·')}"
    return key


def label_site(name: str) -> str:
    """The site of a categorical column, and the argument with its labels: its name, unless the program uses that."""
    return f"{name} (labels)" if re.fullmatch(r"data|num_rows|parameter_prior|z(_\d+)?", name) else name


class CollapsedDRMM(nn.Module):
    """The same joint with the path summed out over each row's beam: the program that trains and scores fast.

    One site `x` whose log-density is the marginal (a lower bound when the beam is narrower than the path space), and
    one site per categorical column for `p(y | x, earlier ones)`; their sum is the log joint of everything observed.

    Args:
        model: the generative program; its parameters are shared.
        width: paths kept per layer; None for all (exact).
        parameter_prior, table_sd, log_scale_sd, compile: options of `systems.drmm.config.Config`; a global factor
            `parameter_prior`, a search that is `Compiled`.
    """

    def __init__(
        self,
        model: DRMM,
        width: int | None = 16,
        parameter_prior: bool = False,
        table_sd: float = 1.0,
        log_scale_sd: float = 0.5,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.width = model, width
        self._find = Compiled(compile, "the density of a DRMM")
        self.parameter_prior, self.table_sd, self.log_scale_sd = parameter_prior, table_sd, log_scale_sd

    def forward(
        self,
        x: Tensor | None = None,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        num_rows: int | None = None,
        **streams: Tensor | None,
    ) -> Tensor:
        """Run the collapsed program; arguments as `DRMM.forward`."""
        model = self.model
        if self.parameter_prior:
            pyro.factor("parameter_prior", model.log_parameter_prior(self.table_sd, self.log_scale_sd))
        n = _count_rows(x, streams, num_rows)
        known = {name: streams.get(label_site(name)) for name in model.categorical}
        with pyro.plate("data", n, dim=-1), row_weights(weight):
            mixture = PathMixture(
                find=lambda rows: self._find(model.find, rows, width=self.width, mask=mask, streams=known),
                draw=lambda shape: model.generate(shape.numel())[1].reshape(*shape, model.features),
                log_jacobian=(lambda rows: model.log_jacobian(mask, rows)) if model.cells else model.log_jacobian(mask),
                batch_shape=(n,),
                features=model.features,
            )
            x = pyro.sample("x", mixture, obs=x)
            if model.categorical:
                self._streams(mixture.beam(x), known)
        return x

    def _streams(self, beam: Beam, known: Mapping[str, Tensor | None]) -> None:
        log_joint = beam.log_joint
        for name, labels in known.items():
            logits = beam.stream_logits[name]
            stream = MixtureCategorical(log_joint.log_softmax(-1), logits, labels, beam.nested_streams.get(name))
            if labels is None:
                drawn = pyro.sample(label_site(name), stream)
                index = drawn[:, None, None].expand(*logits.shape[:-1], 1)
                log_joint = log_joint + logits.gather(-1, index).squeeze(-1)
                continue
            pyro.sample(label_site(name), stream, obs=labels)
            log_joint = log_joint + beam.stream_log_lik[name]


def _count_rows(x: Tensor | None, streams: Mapping[str, Tensor | None], num_rows: int | None) -> int:
    sizes = {len(t) for t in (x, *streams.values()) if t is not None}
    if len(sizes) > 1:
        raise ShapeError(f"x and the categorical columns must have the same number of rows; got {sorted(sizes)}")
    return sizes.pop() if sizes else (num_rows or 1)


def row_weights(weight: Tensor | None) -> AbstractContextManager[Any]:
    """Let each row count `weight` (batch,) times; nothing happens without weights."""
    if weight is None:
        return nullcontext()
    return poutine.scale(scale=weight.clamp(min=torch.finfo(weight.dtype).tiny))  # Pyro refuses a scale of zero
