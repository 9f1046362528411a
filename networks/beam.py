"""The beam over component paths: for each row, the best partial paths, extended layer by layer.

At layer `l` every child of every kept path is scored by `log p(z_<=l) + log p_l(x | z_<=l)`, where `p_l` is the
mixture truncated after `l` layers (the remaining coordinates standard normal), and the best are kept. The choice
carries no gradient, the scores do. With every path kept nothing is dropped and the sums are exact.

Scores live in standardised coordinates; the caller adds the Jacobian.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from phlogiston.networks.frames import Frame, LowRankFrame, ShiftFrame, squared_norm
from phlogiston.networks.path_priors import PathPriorModule

LOG_2PI = math.log(2 * math.pi)

FEW_FEATURES = 32
"""Up to here every child's residual is formed; beyond, children are chosen by matrix products and few are formed."""


@dataclass
class StreamTables:
    """A categorical column: logits `beta_0 + sum_l beta_l[z_l]`.

    Attributes:
        bias: (V,).
        tables: one (K_l, V) per layer.
        value: int64 (N,), -1 where missing; None when the column is not part of the evidence.
    """

    bias: Tensor
    tables: Sequence[Tensor]
    value: Tensor | None = None


@dataclass
class Beam:
    """The result of the search for N rows and P paths each.

    Attributes:
        prefixes: int64 (N, M, l), the paths' codes but for the last, or all of them when `last` is 0.
        last: components of the last layer: each prefix stands for that many paths, in order.
        log_joint: (N, P), log p(z, x), without the columns.
        stream_logits: per column (N, P, V), normalised log p(y | z).
        stream_log_lik: per observed column (N, P), zero where the label is missing.
        nested: (N, L), log of the summed scores of x after each depth; the last is the bound on log p(x).
        nested_streams: per observed column (N, L): the same for log p(y | x, earlier ones).
    """

    prefixes: Tensor
    last: int
    log_joint: Tensor
    stream_logits: dict[str, Tensor]
    stream_log_lik: dict[str, Tensor]
    nested: Tensor
    nested_streams: dict[str, Tensor]

    @property
    def codes(self) -> Tensor:
        """The paths: int64 (N, P, L). Written out on demand, for training never needs them."""
        if not self.last:
            return self.prefixes
        n, m, _ = self.prefixes.shape
        component = torch.arange(self.last, device=self.prefixes.device).repeat(m).expand(n, -1)
        return torch.cat([self.prefixes.repeat_interleave(self.last, 1), component.unsqueeze(-1)], -1)

    def log_posterior(self) -> Tensor:
        """Log q(z | everything observed) over the kept paths: (N, P), normalised."""
        total = self.log_joint
        for log_lik in self.stream_log_lik.values():
            total = total + log_lik
        return total.log_softmax(-1)


def search(
    layers: Sequence[Frame],
    prior: PathPriorModule,
    u: Tensor,
    *,
    width: int,
    mask: Tensor | None = None,
    streams: Mapping[str, StreamTables] | None = None,
    depth: int | None = None,
) -> Beam:
    """Search the paths of every row.

    Args:
        layers: the frames, first layer first.
        prior: the path prior over the same layers.
        u: (N, D) standardised rows; unknown entries may hold anything finite.
        width: paths kept after each layer but the last; `width >= K_1 ... K_{L-1}` makes the result exact.
        mask: bool (N, D), True where known; None when everything is known.
        streams: the categorical columns by name.
        depth: how many layers to use; all by default.

    Returns:
        The beam, with `P = min(width, K_1 ... K_{L-1}) * K_L` paths, or `min(width, K_1 ... K_L)` of them when there
        are more than `FEW_FEATURES` features.
    """
    streams = streams or {}
    if mask is not None and bool(mask.all()):
        mask = None
    if mask is None or not layers[0].full:
        known = None if mask is None else mask.to(u.dtype)
        return _search(layers, prior, u, _Whitened(u, known), width, streams, depth)
    # Marginals of a full covariance need a Cholesky factor per row and path: only rows that miss something pay.
    complete = mask.all(-1)
    parts, order = [], []
    for rows, source in (
        (complete.nonzero()[:, 0], lambda at: _Whitened(u[at], None)),
        ((~complete).nonzero()[:, 0], lambda at: _Marginal(u[at], mask[at].to(u.dtype))),
    ):
        if len(rows):
            some = {
                name: StreamTables(s.bias, s.tables, None if s.value is None else s.value[rows])
                for name, s in streams.items()
            }
            parts.append(_search(layers, prior, u[rows], source(rows), width, some, depth))
            order.append(rows)
    back = torch.cat(order).argsort()
    return Beam(
        prefixes=torch.cat([p.prefixes for p in parts])[back],
        last=parts[0].last,
        log_joint=torch.cat([p.log_joint for p in parts])[back],
        stream_logits={n: torch.cat([p.stream_logits[n] for p in parts])[back] for n in parts[0].stream_logits},
        stream_log_lik={n: torch.cat([p.stream_log_lik[n] for p in parts])[back] for n in parts[0].stream_log_lik},
        nested=torch.cat([p.nested for p in parts])[back],
        nested_streams={n: torch.cat([p.nested_streams[n] for p in parts])[back] for n in parts[0].nested_streams},
    )


class _Whitened:
    """Scores by whitening: residual coordinates and accumulated log determinants. Diagonal frames drop masked axes.

    Attributes:
        base: (N, M), log p(z_<=l) plus log determinants plus the normal's constant, which is the same at every depth.
    """

    def __init__(self, u: Tensor, mask: Tensor | None) -> None:
        self.mask = mask
        self.residual = u.unsqueeze(1)  # (N, M, D), M = 1 before the first layer
        self.known = float(u.shape[-1]) if mask is None else mask.sum(-1)[:, None]
        self.base = -0.5 * LOG_2PI * self.known + u.new_zeros(len(u), 1)
        self.many_features = u.shape[-1] > FEW_FEATURES

    def expand(self, frame: Frame, log_conditional: Tensor) -> Tensor:
        """Log p(z_<=l) + log p_l(x | z_<=l) of every child: (N, M * K)."""
        if isinstance(frame, LowRankFrame) and self.mask is not None:
            return self._known(frame, log_conditional)
        self._children = frame.whiten_all(self.residual)  # (N, M, K, D)
        if self.mask is not None:
            self._children = self._children * self.mask[:, None, None, :]
        self._base = self._children_base(frame, log_conditional)
        return self._density(frame, squared_norm(self._children).flatten(1), self._base)

    def _known(self, frame: LowRankFrame, log_conditional: Tensor) -> Tensor:
        """Scores of the marginals of what is known under every child: (N, M * K)."""
        assert self.mask is not None
        every = torch.arange(frame.num_components, device=self.residual.device)
        code = every.expand(len(self.mask), self.residual.shape[1], -1)
        square, log_det = frame.known_scores(self.residual.unsqueeze(2), self.mask[:, None, None], code)
        return (self.base.unsqueeze(-1) + log_conditional + log_det - 0.5 * square).flatten(1)

    def _children_base(self, frame: Frame, log_conditional: Tensor) -> Tensor:
        log_det = frame.log_det() if self.mask is None else frame.log_det(self.mask).unsqueeze(1)
        return (self.base.unsqueeze(-1) + (log_conditional + log_det)).flatten(1)

    def _density(self, frame: Frame, square: Tensor, base: Tensor) -> Tensor:
        if isinstance(frame, ShiftFrame):
            s = frame.noise_log_scale()
            return base - 0.5 * square * torch.exp(-2 * s) - self.known * s
        return torch.add(base, square, alpha=-0.5)

    def keep(self, chosen: Tensor) -> None:
        """Continue with the children at these flat positions (N, M')."""
        self.residual = _rows(self._children.flatten(1, 2), chosen)
        self.base = self._base.gather(1, chosen)

    def guess(self, frame: Frame, log_conditional: Tensor) -> Tensor:
        """`expand` by matrix products, good enough to choose by: squares are multiplied out, rounding and all."""
        if isinstance(frame, LowRankFrame) and self.mask is not None:
            return self._known(frame, log_conditional)
        if frame.mixes:
            square = frame.square_distances(self.residual)
        else:
            u = self.residual if self.mask is None else self.residual * self.mask.unsqueeze(1)
            w = frame.inverse_scale().square().expand(frame.num_components, frame.features)
            known = torch.ones_like(u) if self.mask is None else self.mask.unsqueeze(1)
            square = u.square() @ w.T - 2 * u @ (frame.mean * w).T + known @ (frame.mean.square() * w).T
        return self._density(frame, square.flatten(1), self._children_base(frame, log_conditional))

    def advance(self, frame: Frame, log_conditional: Tensor, parent: Tensor, code: Tensor) -> Tensor:
        """Continue with children (N, M') named by parent and component; their exact scores, as `expand`: (N, M')."""
        # many features a row: picked as rows of one table, whose gradients are added up row by row
        row = parent + torch.arange(len(parent), device=parent.device).unsqueeze(1) * self.residual.shape[1]
        rows = functional.embedding(row, self.residual.flatten(0, 1))
        if isinstance(frame, LowRankFrame) and self.mask is not None:
            square, log_det = frame.known_scores(rows, self.mask.unsqueeze(1), code)
            every = (self.base.unsqueeze(-1) + log_conditional).flatten(1).expand(len(parent), -1)
            return every.gather(1, parent * frame.num_components + code) + log_det - 0.5 * square
        residual = frame.whiten(rows, code)
        self.residual = residual if self.mask is None else residual * self.mask.unsqueeze(1)
        table = self._children_base(frame, log_conditional).expand(len(parent), -1)
        self.base = table.gather(1, parent * frame.num_components + code)
        return self._density(frame, squared_norm(self.residual), self.base)


class _Marginal:
    """Scores of rows with missing entries under full covariances: the observed block of `F F^T`, by Cholesky."""

    many_features = False  # the factor of every child is needed anyway

    def __init__(self, u: Tensor, mask: Tensor) -> None:
        n, features = u.shape
        self.u, self.mask = u * mask, mask
        self.mean = u.new_zeros(n, 1, features)
        self.factor = torch.eye(features, dtype=u.dtype, device=u.device).expand(n, 1, features, features)
        self.hole = torch.diag_embed(1 - mask)[:, None, None]  # unknown axes become independent unit ones
        self.base = -0.5 * LOG_2PI * mask.sum(-1)[:, None]

    def expand(self, frame: Frame, log_conditional: Tensor) -> Tensor:
        """Log p(z_<=l) + log p_l(x_known | z_<=l) of every child: (N, M * K)."""
        self._mean = self.mean.unsqueeze(2) + torch.einsum("nmde,ke->nmkd", self.factor, frame.mean)
        self._factor = torch.einsum("nmde,kef->nmkdf", self.factor, frame.factors())
        rows = self._factor * self.mask[:, None, None, :, None]
        cholesky = torch.linalg.cholesky(rows @ rows.transpose(-1, -2) + self.hole)
        gap = (self.u[:, None, None] - self._mean) * self.mask[:, None, None]
        eta = torch.linalg.solve_triangular(cholesky, gap.unsqueeze(-1), upper=False).squeeze(-1)
        log_det = cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        self._base = (self.base.unsqueeze(-1) + log_conditional).flatten(1)
        return self._base + (-0.5 * eta.square().sum(-1) - log_det).flatten(1)

    def keep(self, chosen: Tensor) -> None:
        """Continue with the children at these flat positions (N, M')."""
        self.mean = _rows(self._mean.flatten(1, 2), chosen)
        features = self.u.shape[-1]
        self.factor = _rows(self._factor.flatten(1, 2).flatten(2), chosen).unflatten(-1, (features, features))
        self.base = self._base.gather(1, chosen)

    def guess(self, frame: Frame, log_conditional: Tensor) -> Tensor:
        """Never called: `many_features` is False."""
        raise AssertionError("rows with missing entries keep every child's factor")

    def advance(self, frame: Frame, log_conditional: Tensor, parent: Tensor, code: Tensor) -> Tensor:
        """Never called: `many_features` is False."""
        raise AssertionError("rows with missing entries keep every child's factor")


def _search(
    layers: Sequence[Frame],
    prior: PathPriorModule,
    u: Tensor,
    scores: _Whitened | _Marginal,
    width: int,
    streams: Mapping[str, StreamTables],
    depth: int | None,
) -> Beam:
    n, depth = len(u), depth or len(layers)
    codes = torch.empty(n, 1, 0, dtype=torch.long, device=u.device)
    logits = {name: s.bias.expand(n, 1, -1) for name, s in streams.items()}  # (N, M, V), not normalised
    observed = {name: s.value for name, s in streams.items() if s.value is not None}
    nested: list[Tensor] = []
    nested_streams: dict[str, list[Tensor]] = {name: [] for name in observed}
    last = 0
    for l in range(depth):
        frame, k = layers[l], layers[l].num_components
        log_conditional = prior.log_conditional(codes)  # (N, M, K), or (K,) at the first layer
        children = codes.shape[1] * k
        # C children from here on: all M * K of them, or, with many features, only the ones that will be kept.
        few = scores.many_features and children > width
        if few:
            with torch.no_grad():
                guess = scores.guess(frame, log_conditional)
                for name, value in observed.items():
                    every = (logits[name].unsqueeze(2) + streams[name].tables[l]).flatten(1, 2)
                    guess = guess + _pick(every.log_softmax(-1).expand(n, children, -1), value)
                chosen = guess.topk(width, dim=-1, sorted=False).indices
            parent, code = chosen.div(k, rounding_mode="floor"), chosen % k
            joint = scores.advance(frame, log_conditional, parent, code)
            codes, last = torch.cat([_rows(codes, parent), code.unsqueeze(-1)], -1), 0
            logits = {
                name: _rows(logits[name], parent) + functional.embedding(code, s.tables[l])
                for name, s in streams.items()
            }
        else:
            joint, last = scores.expand(frame, log_conditional), k
            logits = {
                name: (logits[name].unsqueeze(2) + s.tables[l]).flatten(1, 2).expand(n, children, -1)
                for name, s in streams.items()
            }
        log_probs = {name: table.log_softmax(-1) for name, table in logits.items()}  # (N, C, V)
        log_lik = {name: _pick(log_probs[name], value) for name, value in observed.items()}
        total, running = joint, joint.logsumexp(-1)
        nested.append(running)
        for name, lik in log_lik.items():
            total = total + lik
            summed = total.logsumexp(-1)
            nested_streams[name].append(summed - running)
            running = summed
        if l < depth - 1 and not few:
            if children > width:
                best = total.detach().topk(width, dim=-1, sorted=False).indices  # (N, M')
            else:
                best = torch.arange(children, device=u.device).expand(n, -1)
            parent = best.div(k, rounding_mode="floor")
            codes = torch.cat([_rows(codes, parent), (best % k).unsqueeze(-1)], -1) if l else best.unsqueeze(-1)
            logits = {name: _rows(table, best) for name, table in logits.items()}
            scores.keep(best)
    return Beam(
        prefixes=codes,
        last=last,
        log_joint=joint,
        stream_logits=log_probs,
        stream_log_lik=log_lik,
        nested=torch.stack(nested, -1),
        nested_streams={name: torch.stack(parts, -1) for name, parts in nested_streams.items()},
    )


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """`table[n, index[n, m]]`: (N, M, V), (N, M') -> (N, M', V)."""
    return table.gather(1, index.unsqueeze(-1).expand(-1, -1, table.shape[-1]))


def _pick(log_probs: Tensor, value: Tensor) -> Tensor:
    """Log-probability of each row's label: (N, C, V), (N,) -> (N, C); zero where the label is -1."""
    index = value.clamp(min=0)[:, None, None].expand(*log_probs.shape[:-1], 1)
    picked = log_probs.gather(-1, index).squeeze(-1)
    return picked * (value >= 0).to(picked.dtype).unsqueeze(-1)
