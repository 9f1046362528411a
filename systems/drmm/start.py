"""Where a deep residual mixture starts: k-means, then EM, layer by layer on what the layers above leave unexplained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from phlogiston.models.drmm import DRMM, parameter_key
from phlogiston.networks.frames import Frame, IsotropicFrame, LowRankFrame, ShiftFrame
from phlogiston.systems.drmm.em import Kind, Pairs, fit_layer
from phlogiston.systems.drmm.factors import place_loadings
from phlogiston.systems.drmm.kmeans import clusters
from phlogiston.systems.drmm.labels import Labels
from phlogiston.systems.drmm.mixture_evidence import Entrywise, Evidence, Partial, Whole

MOST_ROWS = 10_000
MOST_FEATURES = 64  # up to which full covariances are fitted; beyond, their diagonals
LLOYD = 10  # iterations of k-means where EM goes on from it
LABEL_DISTANCE = 1.0  # of different labels from each other in the first clustering, in units of a typical row's norm
JITTER = 0.01  # sd of the noise that keeps components apart that start without rows
PARTIAL_FLOATS, PARTIAL_WORK = 4e6, 1e9  # what rows that miss entries may take under full covariances
ROWS_A_COMPONENT = 20  # with fewer rows than that within these limits, full covariances start as diagonals


@torch.no_grad()
def start(
    model: DRMM,
    x: Tensor,
    mask: Tensor | None = None,
    streams: Mapping[str, Tensor] | None = None,
    weight: Tensor | None = None,
    seed: int = 0,
    pooling: float = 1.0,
) -> list[list[float]]:
    """Start every layer as the mixture that fits what the layers above it leave unexplained.

    A layer's components begin as clusters of the residuals and are fitted by EM (`em.fit_layer`) over all paths that
    explain some of a row: the density truncated after the first layer is that of an ordinary Gaussian mixture, and each
    layer adds to it. A last layer of factor analysers starts at its clusters' principal directions.

    Args:
        model: changed in place; its `location` and `scale` must be set.
        x: (N, D) rows in the data's units; at most 10,000 are used.
        mask: bool (N, D), True where known; unknown entries are integrated out.
        streams: labels (N,) by categorical column, -1 where missing.
        weight: (N,), how much each row counts.
        seed: of the row choice and of k-means.
        pooling: rows of the components' common shape that each component of the first layer counts beside its own.

    Returns:
        For each layer fitted by EM the mean log likelihood of the rows at each step, in standardised coordinates.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(x), generator=generator)[:MOST_ROWS]
    known = None if mask is None or bool(mask.all()) else mask[rows]
    u = model.standardise(x[rows], known).double()
    share = torch.ones(len(u), dtype=u.dtype) if weight is None else weight[rows].double().clamp(min=1e-12)
    total = float(len(u))
    given = [
        u,
        *([] if known is None else [known.to(u)]),
        *(labels[rows, None].to(u) for labels in (streams or {}).values()),
    ]
    distinct, share = _distinct(torch.cat(given, 1), share)
    u, rows, known = u[distinct], rows[distinct], None if known is None else known[distinct]
    share = share * (total / share.sum())
    full = all(_kind(frame) == "full" for frame in model.frames)
    if full and known is not None:
        kept, share = _affordable(known, share, max(model.sizes))
        full = kept is not None
        if kept is not None:
            u, rows, known = u[kept], rows[kept], known[kept]
    values = {name: labels[rows] for name, labels in (streams or {}).items() if bool((labels[rows] >= 0).any())}
    pairs = _pairs(u, known, full, share, Labels.of_rows(values, model.categorical, share))
    return _layers(model, pairs, _marks(values, share, u.shape[1]), seed, generator, pooling)


def _layers(
    model: DRMM, pairs: Pairs, marks: list[Tensor], seed: int, generator: torch.Generator, pooling: float
) -> list[list[float]]:
    """Place layer after layer; arguments and result as `start`'s."""
    curves = []
    for l, frame in enumerate(model.frames):
        kind, k = _kind(frame), frame.num_components
        if kind == "full" and isinstance(pairs.parts[0], Entrywise):
            kind = "diag"
        points, behind = pairs.points(), pairs.shares(pairs.base.unsqueeze(1))[0][:, 0]
        points = points + 1e-6 * torch.randn(points.shape, generator=generator, dtype=points.dtype)
        marked = torch.cat([points, *(mark[pairs.row] for mark in marks)], -1)
        lloyd = {} if kind is None else {"iterations": LLOYD}
        found = clusters(marked, min(k, len(points)), behind.clamp(min=1e-12), seed + l, **lloyd)
        spare = points[torch.randint(len(points), (k,), generator=generator)]
        spare = spare + JITTER * torch.randn(spare.shape, generator=generator, dtype=spare.dtype)
        pairs.labels.start_layer(k)
        if kind is None:
            _place_factors(model, l, points, found, behind, spare)
            share = functional.one_hot(found, k) * behind.unsqueeze(1)
            pairs.labels.count(share) if l == 0 else pairs.labels.refine(share, pairs.row)
        else:
            above = model.frames[l - 1].num_components if model.prior.reads_previous(l) else 0
            made_up = pooling if l == 0 and kind != "shift" else None
            layer = fit_layer(pairs, kind, found, spare, above=above, first=l == 0, made_up=made_up)
            curves.append(layer.likelihoods)
            c = layer.components
            variance = c.factor @ c.factor.mT if kind == "full" else c.factor.square()
            frame.place(c.mean, torch.diag_embed(variance) if frame.full and kind != "full" else variance)
            model.prior.place(l, layer.proportions, layer.conditional)
        for name, table in pairs.labels.tables.items():
            model.stream_tables[parameter_key(name, l)].copy_(table)
            if l == 0:
                model.stream_bias[parameter_key(name)].copy_(pairs.labels.logits[name][0])
        if kind is not None and l + 1 < model.num_layers:
            pairs = pairs.children(layer, kind)
    return curves


def _kind(frame: Frame) -> Kind | None:
    """What EM fits of a frame; None where it fits nothing."""
    if isinstance(frame, LowRankFrame):
        return None
    if isinstance(frame, ShiftFrame):
        return "shift"
    if isinstance(frame, IsotropicFrame):
        return "iso"
    return "full" if frame.full and frame.features <= MOST_FEATURES else "diag"


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


def _affordable(known: Tensor, share: Tensor, components: int) -> tuple[Tensor | None, Tensor]:
    """Rows that full covariances can be fitted to: a row that misses entries takes matrices of its own.

    Args:
        known: bool (N, D).
        share: (N,), what each weighs.
        components: of the largest layer.

    Returns:
        Positions, complete rows first, and their weights; None and all weights where there would be too few.
    """
    complete, features = known.all(1), known.shape[1]
    whole, holey = complete.nonzero()[:, 0], (~complete).nonzero()[:, 0]
    most = int(min(PARTIAL_FLOATS / features**2, PARTIAL_WORK / (components * features**3)))
    if len(holey) > most:
        if len(whole) + most < ROWS_A_COMPONENT * components or most == 0:
            return None, share
        some = holey[torch.linspace(0, len(holey) - 1, most).long()]
        share = share.index_put((some,), share[some] * (share[holey].sum() / share[some].sum()))
        holey = some
    kept = torch.cat([whole, holey])
    return kept, share[kept]


def _marks(values: Mapping[str, Tensor], share: Tensor, features: int) -> list[Tensor]:
    """Columns (N, V) by label that pull clusters apart: one-hot, as far apart as typical rows, nothing where missing.

    Where most are missing they must not, for the few labelled rows would become clusters of their own.
    """
    return [
        functional.one_hot(known.clamp(min=0), int(known.max()) + 1).double()
        * (known >= 0).unsqueeze(-1)
        * LABEL_DISTANCE
        * float(((known >= 0) * share).sum() / share.sum())
        * features**0.5
        for known in values.values()
    ]


def _pairs(u: Tensor, known: Tensor | None, full: bool, weight: Tensor, labels: Labels) -> Pairs:
    """Rows (N, D) with the empty path; where full covariances are to be fitted, complete rows come first."""
    parts: list[Evidence]
    if not full:
        parts = [Entrywise(u, None if known is None else known.double())]
    elif known is None:
        parts = [Whole(u)]
    else:
        complete = int(known.all(1).sum())
        parts = [Whole(u[:complete]), Partial.of_rows(u[complete:], known[complete:].double())]
    row = torch.arange(len(u))
    return Pairs(parts, row, torch.zeros_like(row), torch.zeros_like(u[:, 0]), weight, labels)


def _place_factors(model: DRMM, l: int, points: Tensor, found: Tensor, behind: Tensor, spare: Tensor) -> None:
    """Start a last layer of factor analysers from clusters, their directions shrunk to those of all rows.

    Args:
        model: changed in place.
        l: the layer.
        points: (R, D), where pairs lie.
        found: int64 (R,), their clusters.
        behind: (R,), what each weighs.
        spare: (K, D), where components without rows stand.
    """
    frame, shrink = model.frames[l], 2.0
    assert isinstance(frame, LowRankFrame)
    share = functional.one_hot(found, frame.num_components) * behind.unsqueeze(1)
    counts, total = share.sum(0), behind.sum()
    mean = torch.where((counts > 0).unsqueeze(1), (share.T @ points) / counts.clamp(min=1e-12).unsqueeze(1), spare)
    gap = points - mean[found]
    pooled = behind @ gap.square() / total + 1e-6
    variance = (share.T @ gap.square() + shrink * pooled) / (counts + shrink).unsqueeze(1)
    frame.place(mean, variance)
    place_loadings(frame, gap, found, behind, shrink)
    model.prior.place(l, (counts + 1) / (total + len(counts)))
