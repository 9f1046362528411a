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
        The beam, with `P = min(width, K_1 ... K_{L-1}) * K_L` tuples.
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

    def expand(self, frame: Frame) -> Tensor:
        """Log p_l(x | z_<=l) of every child: (N, M, K)."""
        self._children = frame.whiten_all(self.residual)  # (N, M, K, D)
        if self.mask is not None:
            self._children = self._children * self.mask[:, None, None, :]
            log_det = frame.log_det(self.mask).unsqueeze(1)
        else:
            log_det = frame.log_det()
        self._log_det = self.log_det.unsqueeze(-1) + log_det
        square = self._children.square().sum(-1)
        if isinstance(frame, ShiftFrame):
            s = frame.noise_log_scale()
            return -0.5 * square * torch.exp(-2 * s) - self.known * (0.5 * LOG_2PI + s) + self._log_det
        return -0.5 * (square + self.known * LOG_2PI) + self._log_det

    def keep(self, chosen: Tensor) -> None:
        """Go on with the children at these flat positions (N, M')."""
        features = self._children.shape[-1]
        index = chosen.unsqueeze(-1).expand(-1, -1, features)
        self.residual = self._children.flatten(1, 2).gather(1, index)
        self.log_det = self._log_det.expand(self._children.shape[:-1]).flatten(1).gather(1, chosen)


class _Marginal:
    """Scores of rows with missing entries under full covariances: the observed block of `F F^T`, by Cholesky."""

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
    logits = {name: s.bias.expand(n, 1, -1) for name, s in streams.items()}
    observed = {name: s.value for name, s in streams.items() if s.value is not None}
    nested: list[Tensor] = []
    nested_streams: dict[str, list[Tensor]] = {name: [] for name in observed}
    for l in range(depth):
        k = layers[l].num_components
        kept = log_prior.unsqueeze(-1) + prior.log_conditional(codes)  # (N, M, K)
        joint = kept + scores.expand(layers[l])
        width_now = joint.shape[1]
        all_logits = {
            name: (logits[name].unsqueeze(2) + s.tables[l]).log_softmax(-1) for name, s in streams.items()
        }  # (N, M, K, V)
        log_lik = {name: _pick(all_logits[name], value) for name, value in observed.items()}
        total, running = joint.flatten(1), joint.flatten(1).logsumexp(-1)
        nested.append(running)
        for name, lik in log_lik.items():
            total = total + lik.flatten(1)
            summed = total.logsumexp(-1)
            nested_streams[name].append(summed - running)
            running = summed
        children = width_now * k
        chosen: Tensor | None = None
        if l < depth - 1 and children > width:
            chosen = total.detach().topk(width, dim=-1, sorted=False).indices  # (N, M')
        else:
            chosen = torch.arange(children, device=u.device).expand(n, -1)
        parent, code = chosen.div(k, rounding_mode="floor"), chosen % k
        codes = torch.cat([codes.gather(1, parent.unsqueeze(-1).expand(-1, -1, l)), code.unsqueeze(-1)], -1)
        if l < depth - 1:
            scores.keep(chosen)
            log_prior = kept.expand(joint.shape).flatten(1).gather(1, chosen)
            for name, s in streams.items():
                before = logits[name]
                index = parent.unsqueeze(-1).expand(-1, -1, before.shape[-1])
                logits[name] = before.gather(1, index) + functional.embedding(code, s.tables[l])
    return Beam(
        codes=codes,
        log_joint=joint.flatten(1),
        stream_logits={name: table.flatten(1, 2) for name, table in all_logits.items()},
        stream_log_lik={name: lik.flatten(1) for name, lik in log_lik.items()},
        nested=torch.stack(nested, -1),
        nested_streams={name: torch.stack(parts, -1) for name, parts in nested_streams.items()},
    )


def _pick(log_probs: Tensor, value: Tensor) -> Tensor:
    """Log-probability of each row's label: (N, M, K, V), (N,) -> (N, M, K); zero where the label is -1."""
    index = value.clamp(min=0)[:, None, None, None].expand(*log_probs.shape[:-1], 1)
    picked = log_probs.gather(-1, index).squeeze(-1)
    return picked * (value >= 0).to(picked.dtype)[:, None, None]
