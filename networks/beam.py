"""The beam over index tuples: for each row, the best partial tuples, extended layer by layer.

At layer `l` every child of every kept tuple is scored by `log p(z_<=l) + log p_l(x | z_<=l)`, where `p_l` is the
mixture truncated after `l` layers (the remaining coordinates standard normal), and the best are kept. The choice
carries no gradient, the scores do. With room for every tuple nothing is dropped and the sums are exact.

Scores live in standardised coordinates; whoever standardised adds the Jacobian.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from phlogiston.networks.frames import Frame, ShiftFrame
from phlogiston.networks.path_priors import PathPriorModule

LOG_2PI = math.log(2 * math.pi)

FEW_FEATURES = 32
"""Up to here every child's residual is formed; beyond, children are chosen by matrix products and few are formed."""


@dataclass
class StreamTables:
    """A categorical stream: logits `beta_0 + sum_l beta_l[z_l]`.

    Attributes:
        bias: (V,).
        tables: one (K_l, V) per layer.
        value: int64 (N,), -1 where missing; None when the stream is not part of the evidence.
    """

    bias: Tensor
    tables: Sequence[Tensor]
    value: Tensor | None = None


@dataclass
class Beam:
    """What the search found for N rows and P tuples each.

    Attributes:
        codes: int64 (N, P, L).
        log_joint: (N, P), log p(z, x), without the streams.
        stream_logits: per stream (N, P, V), normalised log p(y | z).
        stream_log_lik: per observed stream (N, P), zero where the label is missing.
        nested: (N, L), log of the summed scores of x after each depth; the last is the bound on log p(x).
        nested_streams: per observed stream (N, L): the same for log p(y | x, earlier streams).
    """

    codes: Tensor
    log_joint: Tensor
    stream_logits: dict[str, Tensor]
    stream_log_lik: dict[str, Tensor]
    nested: Tensor
    nested_streams: dict[str, Tensor]

    def log_posterior(self) -> Tensor:
        """Log q(z | everything observed) over the kept tuples: (N, P), normalised."""
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
    """Search the tuples of every row.

    Args:
        layers: the frames, first layer first.
        prior: the tuple prior over the same layers.
        u: (N, D) standardised rows; unknown entries may hold anything finite.
        width: tuples kept after each layer but the last; `width >= K_1 ... K_{L-1}` makes the result exact.
        mask: bool (N, D), True where known; None when everything is known.
        streams: the categorical streams by name.
        depth: how many layers to use; all by default.

    Returns:
        The beam, with `P = min(width, K_1 ... K_{L-1}) * K_L` tuples, or `min(width, K_1 ... K_L)` of them when there
        are more than `FEW_FEATURES` features.
    """
    streams = streams or {}
    if mask is not None and bool(mask.all()):
        mask = None
    if mask is None or not layers[0].full:
        known = None if mask is None else mask.to(u.dtype)
        return _search(layers, prior, u, _Whitened(u, known), width, streams, depth)
    # Marginals of a full covariance need a Cholesky factor per row and tuple: only rows that miss something pay.
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
        codes=torch.cat([p.codes for p in parts])[back],
        log_joint=torch.cat([p.log_joint for p in parts])[back],
        stream_logits={n: torch.cat([p.stream_logits[n] for p in parts])[back] for n in parts[0].stream_logits},
        stream_log_lik={n: torch.cat([p.stream_log_lik[n] for p in parts])[back] for n in parts[0].stream_log_lik},
        nested=torch.cat([p.nested for p in parts])[back],
        nested_streams={n: torch.cat([p.nested_streams[n] for p in parts])[back] for n in parts[0].nested_streams},
    )


class _Whitened:
    """Scores by whitening: residual coordinates and accumulated log determinants. Diagonal frames drop masked axes."""

    def __init__(self, u: Tensor, mask: Tensor | None) -> None:
        self.mask = mask
        self.residual = u.unsqueeze(1)  # (N, M, D), M = 1 before the first layer
        self.log_det = u.new_zeros(len(u), 1)  # (N, M)
        self.known = u.shape[-1] if mask is None else mask.sum(-1)[:, None, None]
        self.many_features = u.shape[-1] > FEW_FEATURES

    def expand(self, frame: Frame) -> Tensor:
        """Log p_l(x | z_<=l) of every child: (N, M, K)."""
        self._children = frame.whiten_all(self.residual)  # (N, M, K, D)
        if self.mask is not None:
            self._children = self._children * self.mask[:, None, None, :]
        self._log_det = self.log_det.unsqueeze(-1) + self._frame_log_det(frame)
        return self._density(frame, self._children.square().sum(-1), self._log_det, self.known)

    def _frame_log_det(self, frame: Frame) -> Tensor:
        return frame.log_det() if self.mask is None else frame.log_det(self.mask).unsqueeze(1)

    def _density(self, frame: Frame, square: Tensor, log_det: Tensor, known: Tensor | int) -> Tensor:
        if isinstance(frame, ShiftFrame):
            s = frame.noise_log_scale()
            return -0.5 * square * torch.exp(-2 * s) - known * (0.5 * LOG_2PI + s) + log_det
        return -0.5 * (square + known * LOG_2PI) + log_det

    def keep(self, chosen: Tensor) -> None:
        """Go on with the children at these flat positions (N, M')."""
        features = self._children.shape[-1]
        index = chosen.unsqueeze(-1).expand(-1, -1, features)
        self.residual = self._children.flatten(1, 2).gather(1, index)
        self.log_det = self._log_det.expand(self._children.shape[:-1]).flatten(1).gather(1, chosen)

    def guess(self, frame: Frame) -> Tensor:
        """`expand` by matrix products, good enough to choose by: squares are multiplied out, rounding and all."""
        if frame.full:
            square = frame.whiten_all(self.residual).square().sum(-1)
        else:
            u = self.residual if self.mask is None else self.residual * self.mask.unsqueeze(1)
            w = frame.inverse_scale().square().expand(frame.num_components, frame.features)
            known = torch.ones_like(u) if self.mask is None else self.mask.unsqueeze(1)
            square = u.square() @ w.T - 2 * u @ (frame.mean * w).T + known @ (frame.mean.square() * w).T
        return self._density(frame, square, self.log_det.unsqueeze(-1) + self._frame_log_det(frame), self.known)

    def advance(self, frame: Frame, parent: Tensor, code: Tensor) -> Tensor:
        """Go on with children (N, M') named by parent and component; their exact log p_l: (N, M')."""
        index = parent.unsqueeze(-1).expand(-1, -1, self.residual.shape[-1])
        self.residual, log_det = frame.whiten(self.residual.gather(1, index), code)
        if self.mask is not None:
            self.residual, log_det = self.residual * self.mask.unsqueeze(1), log_det * self.mask.unsqueeze(1)
        self.log_det = self.log_det.gather(1, parent) + log_det.sum(-1)
        known = self.known if isinstance(self.known, int) else self.known.squeeze(-1)
        return self._density(frame, self.residual.square().sum(-1), self.log_det, known)


class _Marginal:
    """Scores of rows with missing entries under full covariances: the observed block of `F F^T`, by Cholesky."""

    many_features = False  # the factor of every child is needed anyway

    def __init__(self, u: Tensor, mask: Tensor) -> None:
        n, features = u.shape
        self.u, self.mask = u * mask, mask
        self.mean = u.new_zeros(n, 1, features)
        self.factor = torch.eye(features, dtype=u.dtype, device=u.device).expand(n, 1, features, features)
        self.hole = torch.diag_embed(1 - mask)[:, None, None]  # unknown axes become independent unit ones
        self.known = mask.sum(-1)[:, None, None]

    def expand(self, frame: Frame) -> Tensor:
        """Log p_l(x_known | z_<=l) of every child: (N, M, K)."""
        self._mean = self.mean.unsqueeze(2) + torch.einsum("nmde,ke->nmkd", self.factor, frame.mean)
        self._factor = torch.einsum("nmde,kef->nmkdf", self.factor, frame.factors())
        rows = self._factor * self.mask[:, None, None, :, None]
        cholesky = torch.linalg.cholesky(rows @ rows.transpose(-1, -2) + self.hole)
        gap = (self.u[:, None, None] - self._mean) * self.mask[:, None, None]
        eta = torch.linalg.solve_triangular(cholesky, gap.unsqueeze(-1), upper=False).squeeze(-1)
        log_det = cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (eta.square().sum(-1) + self.known * LOG_2PI) - log_det

    def keep(self, chosen: Tensor) -> None:
        """Go on with the children at these flat positions (N, M')."""
        features = self.u.shape[-1]
        index = chosen.unsqueeze(-1).expand(-1, -1, features)
        self.mean = self._mean.flatten(1, 2).gather(1, index)
        self.factor = self._factor.flatten(1, 2).gather(1, index.unsqueeze(-1).expand(-1, -1, -1, features))

    def guess(self, frame: Frame) -> Tensor:
        """As `expand`."""
        return self.expand(frame)

    def advance(self, frame: Frame, parent: Tensor, code: Tensor) -> Tensor:
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
    log_prior = u.new_zeros(n, 1)
    logits = {name: s.bias.expand(n, 1, -1) for name, s in streams.items()}  # (N, M, V), not normalised
    observed = {name: s.value for name, s in streams.items() if s.value is not None}
    nested: list[Tensor] = []
    nested_streams: dict[str, list[Tensor]] = {name: [] for name in observed}
    for l in range(depth):
        frame, k = layers[l], layers[l].num_components
        kept = log_prior.unsqueeze(-1) + prior.log_conditional(codes)  # (N, M, K)
        kept = kept.expand(n, codes.shape[1], k).flatten(1)
        children = kept.shape[1]
        # C children from here on: all M * K of them, or, with many features, only the ones that will be kept.
        few = scores.many_features and children > width
        if few:
            with torch.no_grad():
                guess = kept + scores.guess(frame).flatten(1)
                for name, value in observed.items():
                    every = (logits[name].unsqueeze(2) + streams[name].tables[l]).log_softmax(-1)
                    guess = guess + _pick(every.flatten(1, 2), value)
                chosen = guess.topk(width, dim=-1, sorted=False).indices
            parent, code = chosen.div(k, rounding_mode="floor"), chosen % k
            log_prior = kept.gather(1, chosen)
            joint = log_prior + scores.advance(frame, parent, code)
        else:
            chosen = torch.arange(children, device=u.device).expand(n, -1)
            parent, code = chosen.div(k, rounding_mode="floor"), chosen % k
            log_prior = kept
            joint = kept + scores.expand(frame).flatten(1)
        if few:
            logits = {
                name: _rows(logits[name], parent) + functional.embedding(code, s.tables[l])
                for name, s in streams.items()
            }
        else:
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
        codes = torch.cat([_rows(codes, parent), code.unsqueeze(-1)], -1)
        if l < depth - 1 and not few:
            if children > width:
                best = total.detach().topk(width, dim=-1, sorted=False).indices  # (N, M')
                codes, log_prior = _rows(codes, best), log_prior.gather(1, best)
                logits = {name: _rows(table, best) for name, table in logits.items()}
                scores.keep(best)
            else:
                scores.keep(chosen)
    return Beam(
        codes=codes,
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
