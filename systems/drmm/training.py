"""What training a deep residual mixture needs beside the engine: initialisation, and revival of unused components."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from phlogiston.inference.svi.batches import LARGE
from phlogiston.models.drmm import DRMM, parameter_key
from phlogiston.networks.frames import LowRankFrame
from phlogiston.systems.drmm.factors import place_loadings
from phlogiston.systems.drmm.kmeans import clusters

MAX_INITIAL_ROWS = 10_000
LABEL_DISTANCE = 1.0  # of different labels from each other in the first clustering, in units of a typical row's norm


@torch.no_grad()
def residual_kmeans(
    model: DRMM,
    x: Tensor,
    mask: Tensor | None = None,
    streams: dict[str, Tensor] | None = None,
    weight: Tensor | None = None,
    seed: int = 0,
    jitter: float = 0.01,
) -> None:
    """Start every layer from k-means on what the layers above it leave unexplained.

    Each layer's means are cluster centres of the residual coordinates, its frames the clusters' covariances shrunk to
    the pooled one by n / (n + shrinkage), and the residuals are whitened by them before the next layer's turn.

    Args:
        model: changed in place; its `location` and `scale` must be set.
        x: (N, D) rows in the data's units; at most 10,000 are used.
        mask: bool (N, D), True where known; unknown entries stand at the layer's mean.
        streams: labels (N,) by categorical column, -1 where missing; set the tables to the clusters' label frequencies.
        weight: (N,), how much each row counts.
        seed: of the row choice and of k-means.
        jitter: sd of the noise that keeps equal clusters apart.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(x), generator=generator)[:MAX_INITIAL_ROWS]
    u = model.standardise(x[rows], None if mask is None else mask[rows]).double()
    share = torch.ones(len(u), dtype=u.dtype) if weight is None else weight[rows].double().clamp(min=1e-12)
    total = float(len(u))
    given = [
        u,
        *([] if mask is None else [mask[rows].to(u)]),
        *(known[rows, None].to(u) for known in (streams or {}).values()),
    ]
    distinct, share = _distinct(torch.cat(given, 1), share)
    u, rows = u[distinct], rows[distinct]
    share = share * (total / share.sum())
    n, features = u.shape
    # Labels pull clusters apart: one-hot columns as far apart as typical rows are, nothing where the label is missing.
    # Where most are missing they must not, for the few labelled rows would become clusters of their own.
    marks = [
        torch.nn.functional.one_hot(known[rows].clamp(min=0), int(known.max()) + 1).double()
        * (known[rows] >= 0).unsqueeze(-1)
        * LABEL_DISTANCE
        * float(((known[rows] >= 0) * share).sum() / total)
        * features**0.5
        for known in (streams or {}).values()
        if bool((known >= 0).any())
    ]
    for l, frame in enumerate(model.frames):
        k = frame.num_components
        u = u + 1e-6 * torch.randn(u.shape, generator=generator, dtype=u.dtype)
        labels = clusters(torch.cat([u, *marks], -1), min(k, n), share, seed + l)
        one_hot = torch.nn.functional.one_hot(labels, k) * share.unsqueeze(-1)
        counts = one_hot.sum(0)
        mean = (one_hot.T @ u) / counts.clamp(min=1e-12).unsqueeze(-1)
        spare = counts == 0  # fewer rows than components: the rest start at random rows
        if spare.any():
            mean[spare] = u[torch.randint(n, (int(spare.sum()),), generator=generator)]
        gap = u - mean[labels]
        pooled = (gap * share.unsqueeze(-1)).T @ gap / total + 1e-6 * torch.eye(features, dtype=u.dtype)
        shrink = 2.0 if not frame.full else 2.0 + features
        if features > 64:
            diagonal = (one_hot.T @ gap.square() + shrink * pooled.diagonal()) / (counts + shrink).unsqueeze(-1)
            covariance = torch.diag_embed(diagonal) if frame.full else diagonal
        else:
            scatter = torch.einsum("nk,nd,ne->kde", one_hot, gap, gap)
            covariance = (scatter + shrink * pooled) / (counts + shrink)[:, None, None]
        noise = jitter * torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        frame.place((mean + noise * pooled.diagonal().sqrt()).to(frame.mean), covariance)
        if isinstance(frame, LowRankFrame):
            place_loadings(frame, gap, labels, share, shrink)
        model.prior.place(l, ((counts + 1) / (total + k)).to(frame.mean))
        for name, known in (streams or {}).items():
            _place_stream(model, name, l, labels, known[rows], share)
        u = frame.whiten(u.to(frame.mean), labels)
        u = u.double()
        if mask is not None:
            u = u * mask[rows]


def _distinct(rows: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Rows that occur once each, with what they and their copies weigh: three copies then start like one of weight 3.

    Args:
        rows: (N, columns).
        share: (N,), what each weighs.

    Returns:
        Positions of the distinct rows, in order of their values if there are copies at all; and their weights.
    """
    values = rows.numpy()
    if len({row.tobytes() for row in values}) == len(values):
        return torch.arange(len(values)), share
    _, first, where = np.unique(values, axis=0, return_index=True, return_inverse=True)
    return torch.from_numpy(first), torch.from_numpy(np.bincount(where.reshape(-1), weights=share.numpy()))


def _place_stream(model: DRMM, name: str, l: int, clusters: Tensor, known: Tensor, share: Tensor) -> None:
    """Set a categorical column's table to the log label frequencies of the clusters, relative to the overall ones."""
    table, bias = model.stream_tables[parameter_key(name, l)], model.stream_bias[parameter_key(name)]
    seen = known >= 0
    if not seen.any():
        return
    k, v = table.shape
    counts = torch.zeros(k, v, dtype=table.dtype)
    counts.index_put_((clusters[seen], known[seen]), share[seen].to(table.dtype), accumulate=True)
    overall = (counts.sum(0) + 1) / (counts.sum() + v)
    if l == 0:
        bias.copy_(overall.log())
    # Additive tables of several layers share the work: the first starts at its clusters' log-odds, later ones at half.
    odds = ((counts + v * overall) / (counts.sum(-1, keepdim=True) + v)).log() - overall.log()
    table.copy_(odds if l == 0 else 0.5 * odds)


class DeadComponents:
    """Engine callback: components that no row uses are moved to rows the model explains badly.

    Every `every` steps, and not in the last `quiet` part of training, responsibilities are computed on a fixed-size
    draw of training rows. A component whose share is below `threshold / K` restarts at the residual of a badly
    explained row; its optimiser state is cleared. The perplexity of each layer's use is logged as `usage_l`.

    The draw depends on seed and step alone, so resumed runs and every process do the same.

    Args:
        every: steps between checks.
        rows: rows drawn per check.
        threshold: share of a fair share below which a component counts as dead.
        quiet: last part of training without revivals, as a fraction.
        width: beam width of the responsibilities.
        seed: of the draws.
    """

    def __init__(
        self,
        every: int = 250,
        rows: int = 4096,
        threshold: float = 1e-4,
        quiet: float = 0.4,
        width: int = 8,
        seed: int = 0,
    ) -> None:
        self.every, self.rows, self.threshold, self.quiet = every, rows, threshold, quiet
        self.width, self.seed = width, seed
        self.revived = 0

    def state_dict(self) -> dict[str, Any]:
        """How many components were revived so far."""
        return {"revived": self.revived}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.revived = int(state.get("revived", 0))

    @torch.no_grad()
    def on_step(self, state: Any) -> None:
        """Check and revive when the step is due."""
        if state.step % self.every or state.step == 0 or state.progress > 1 - self.quiet:
            return
        model: DRMM = state.model.model
        generator = torch.Generator().manual_seed(hash((self.seed, state.step)) % (2**31))
        total = len(state.data)
        index = torch.randperm(total, generator=generator)[: self.rows] if total < LARGE else None
        index = torch.randint(total, (self.rows,), generator=generator) if index is None else index
        batch = {k: v.to(model.location.device) for k, v in state.data[index].items()}
        x, mask = batch["x"], batch.get("mask")
        streams = {name: batch[name] for name in model.categorical if name in batch}
        beam = model.find(x, width=self.width, mask=mask, streams=streams)
        posterior = beam.log_posterior().exp()
        worst = beam.nested[:, -1].argsort()[: max(1, len(x) // 20)]
        u = model.standardise(x, mask)
        best = beam.codes.gather(1, posterior.argmax(-1)[:, None, None].expand(-1, 1, beam.codes.shape[-1])).squeeze(1)
        for l, frame in enumerate(model.frames):
            k = frame.num_components
            share = torch.zeros(k, device=u.device, dtype=u.dtype)
            share.index_put_((beam.codes[..., l].flatten(),), posterior.flatten().to(share), accumulate=True)
            share = share / share.sum()
            state.metrics[f"usage_{l + 1}"] = float(torch.exp(-(share * share.clamp(min=1e-30).log()).sum()))
            dead = (share < self.threshold / k).nonzero()[:, 0].tolist()
            for i, component in enumerate(dead):
                row = worst[(i * 7919 + l) % len(worst)]
                frame.revive(component, u[row] if mask is None else u[row] * mask[row])
                model.prior.revive(l, component)
                self._forget(
                    state.optimizer,
                    [frame.mean, frame.log_scale, *(getattr(frame, name, None) for name in ("lower", "loadings"))],
                    component,
                )
            self.revived += len(dead)
            u = frame.whiten(u, best[:, l])

    @staticmethod
    def _forget(optimizer: torch.optim.Optimizer, parameters: list[Tensor | None], component: int) -> None:
        for parameter in parameters:
            for value in optimizer.state.get(parameter, {}).values() if parameter is not None else ():
                if (
                    torch.is_tensor(value)
                    and parameter is not None
                    and value.shape == parameter.shape
                    and value.dim() > 1
                ):
                    value[component] = 0.0


class DepthMonitor:
    """Engine callback: logs the mean log density after each depth as `log_prob_1`, `log_prob_2`, ...

    The training loss itself mixes all depths with weights that change while training goes on, so its curve says little.

    Args:
        every: steps between records.
        rows: training rows scored, the same ones each time.
        width: beam width.
    """

    def __init__(self, every: int = 50, rows: int = 512, width: int = 8) -> None:
        self.every, self.rows, self.width = every, rows, width

    @torch.no_grad()
    def on_step(self, state: Any) -> None:
        """Record when the step is due."""
        if state.step % self.every:
            return
        model: DRMM = state.model.model
        count = min(self.rows, len(state.data))
        index = torch.arange(count) * (len(state.data) - 1) // max(count - 1, 1)  # float32 cannot count so far
        batch = {k: v.to(model.location.device) for k, v in state.data[index].items()}
        mask = batch.get("mask")
        nested = model.find(batch["x"], width=self.width, mask=mask).nested
        nested = nested + model.log_jacobian(mask, batch["x"]).unsqueeze(-1)
        for l, value in enumerate(nested.mean(0).tolist()):
            state.metrics[f"log_prob_{l + 1}"] = value
