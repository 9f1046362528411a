"""What scoring rows with a deep residual mixture needs: rows in chunks that fit into memory, importance sampling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from phlogiston.datasets.standardise import rounding
from phlogiston.distributions.normal_interval import log_interval_mass
from phlogiston.distributions.paths import FARTHEST
from phlogiston.errors import ShapeError
from phlogiston.inference.svi.row_noise import row_keys, uniform
from phlogiston.models.drmm import DRMM
from phlogiston.networks.beam import LOG_2PI
from phlogiston.networks.frames import LowRankFrame

MAX_FLOATS = 8_000_000  # of the largest intermediate array when rows are scored in chunks


def varying_columns(schema: Mapping[str, Any]) -> list[int]:
    """Positions of the columns that carry density."""
    return [i for i in range(len(schema["columns"])) if str(i) not in schema["constant"]]


def chunks(
    model: DRMM, schema: Mapping[str, Any], tensors: Mapping[str, Tensor], width: int | None, depth: int | None
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Check rows and cut them into chunks that keep memory bounded.

    Args:
        model: that will score them.
        schema: of the system.
        tensors: `x` (rows, columns), and `mask` and categorical columns where there are any.
        width: paths kept by the search; None for all.
        depth: layers that will be used; None for all.

    Yields:
        The varying columns with mask and categorical columns, and whether each row has a density: its constant columns
        agree with those of training, and it is not too far away to be told from infinity.

    Raises:
        ShapeError: no `x`, or the wrong number of columns.
    """
    x, columns = tensors.get("x"), schema["columns"]
    if x is None:
        raise ShapeError("the rows to score need a tensor 'x'")
    if x.ndim != 2 or x.shape[1] != len(columns):
        raise ShapeError(
            f"x has {x.shape[-1]} columns; this model was fitted on {len(columns)} "
            f"({', '.join(columns[:4])}{', ...' if len(columns) > 4 else ''}). "
            f"Pass x of shape (rows, {len(columns)})."
        )
    x = x if x.is_floating_point() else x.double()
    keep, known = varying_columns(schema), tensors.get("mask")
    agrees = torch.ones(len(x), dtype=torch.bool)
    # models trained before their precision was written down had seen float32
    narrow = x.dtype == torch.float32 or schema.get("precision", "float32") == "float32"
    for i, value in schema["constant"].items():
        same = (x[:, int(i)] - value).abs() <= rounding(value, "float32" if narrow else "float64")
        agrees &= same if known is None else same | ~known[:, int(i)]
    far = model.coordinates(x[:, keep]).abs() > FARTHEST
    agrees &= ~(far if known is None else far & known[:, keep]).any(-1)
    rows: dict[str, Tensor] = {"x": x[:, keep]}
    if known is not None and not bool(known[:, keep].all()):
        rows["mask"] = known[:, keep]
    rows |= {name: tensors[name] for name in schema["categorical"] if name in tensors}
    step = max(1, MAX_FLOATS // max(1, _floats_per_row(model, schema, "mask" in rows, width, depth)))
    for start in range(0, len(agrees), step):
        part = slice(start, start + step)
        yield {name: value[part] for name, value in rows.items()}, agrees[part]


def _floats_per_row(model: DRMM, schema: Mapping[str, Any], masked: bool, width: int | None, depth: int | None) -> int:
    """What the largest intermediate array of the search holds for each row."""
    sizes = model.sizes[:depth]
    paths = math.prod(sizes) if width is None else min(width, math.prod(sizes[:-1])) * max(sizes)
    labels = sum(len(names) for names in schema["categorical"].values())
    last = model.frames[-1]
    if masked and isinstance(last, LowRankFrame):
        return paths * (2 * model.features + last.loadings.shape[-1] ** 2 + labels)
    return paths * (model.features * (model.features if masked and last.full else 1) + labels)


def cell_masses(
    model: DRMM,
    x: Tensor,
    mask: Tensor | None,
    labels: Mapping[str, Tensor] | None,
    depth: int | None,
    massed: Tensor | None = None,
) -> Tensor:
    """Log probability of the cells that rows lie in, exactly: columns on a grid by mass, the others by density.

    Args:
        model: with diagonal frames; every path is summed.
        x: (N, D) in the data's units.
        mask: bool (N, D), True where known.
        labels: int64 (N,) by categorical column, -1 where missing, to be part of what is scored.
        depth: layers to use; all by default.
        massed: bool (D,), the columns scored by mass; all that are on a grid by default.

    Returns:
        (N,), in nats.
    """
    codes, log_prior, means, sds = (t if t.dtype == torch.long else t.double() for t in model.paths(depth))
    score = log_prior.expand(len(x), -1)
    for name, label in (labels or {}).items():
        log_probs = model.stream_logits(name, codes).double().log_softmax(-1)  # (P, V)
        score = score + torch.where(label[:, None] >= 0, log_probs.T[label.clamp(min=0)], 0.0)
    u, slope, cells = model.coordinates(x.double()), model.log_slope(x.double()).expand(x.shape), model.cells
    low = high = u
    if cells is not None:
        edges = cells.cells(x[:, cells.position].double())
        low, high = (u.index_copy(1, cells.position, cells(edge)) for edge in edges)
    if massed is None:
        massed = torch.zeros(x.shape[1], dtype=torch.bool) if cells is None else cells.mapped(x.shape[1])
    for d in range(x.shape[1]):  # (N, P) at a time
        if bool(massed[d]):
            part = log_interval_mass(*((end[:, d, None] - means[:, d]) / sds[:, d] for end in (low, high)))
        else:
            z = (u[:, d, None] - means[:, d]) / sds[:, d]
            part = slope[:, d, None] - sds[:, d].log() - 0.5 * (z.square() + LOG_2PI)
        score = score + (part if mask is None else torch.where(mask[:, d, None], part, 0.0))
    return score.logsumexp(-1)


def cell_densities(
    model: DRMM, x: Tensor, mask: Tensor | None, labels: Mapping[str, Tensor] | None, depth: int | None
) -> Tensor:
    """Log density of rows where some columns have gaps between their cells' images: there it is a cell's mean density.

    Args:
        model, x, mask, labels, depth: as for `cell_masses`.
    """
    cells = model.cells
    assert cells is not None, "columns without cells have no gaps"
    apart, log_step = (cells.by_column(said, x.shape[1]) for said in (cells.apart, cells.step.log()))
    known = apart.expand(x.shape) if mask is None else mask & apart
    return cell_masses(model, x, mask, labels, depth, apart) - known.double() @ log_step


def importance(
    model: DRMM, x: Tensor, mask: Tensor | None, depth: int | None, num_particles: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Log mean of p(z, x) / q(z | x) over paths drawn layer by layer, and its standard error.

    The draws of a row are seeded by what is known of it, so that its score does not depend on the others.

    Args:
        model: the generative program.
        x: (N, D) in the data's units.
        mask: bool (N, D), True where known.
        depth: layers to use; all by default.
        num_particles: paths per row.
        seed: of the draws.

    Returns:
        Estimate and standard error, (N,) each.
    """
    n, k = len(x), num_particles
    keys = row_keys(x, seed=seed) if mask is None else row_keys(torch.where(mask, x, 0.0), mask, seed=seed)
    wide = x.repeat_interleave(k, 0)
    wide_mask = None if mask is None else mask.repeat_interleave(k, 0)
    codes = torch.empty(len(wide), 0, dtype=torch.long)
    log_q = torch.zeros(len(wide))
    log_prior = torch.zeros(len(wide))
    for layer in range(depth or model.num_layers):
        scores = model.log_children(codes, wide, wide_mask)
        log_probs = scores.log_softmax(-1)
        prior = model.prior.log_conditional(codes).expand_as(log_probs)
        until = log_probs.double().exp().cumsum(-1)
        draws = uniform(keys, k, stream=layer, dtype=torch.float64).reshape(-1, 1) * until[:, -1:]
        code = torch.searchsorted(until, draws).clamp_max(until.shape[-1] - 1)
        log_q = log_q + log_probs.gather(-1, code).squeeze(-1)
        likelihood = (scores - prior).gather(-1, code).squeeze(-1)  # of the last layer reached
        log_prior = log_prior + prior.gather(-1, code).squeeze(-1)
        codes = torch.cat([codes, code], -1)
    log_w = (log_prior + likelihood - log_q).view(n, k)
    value = log_w.logsumexp(-1) - math.log(k)
    relative = (log_w - value.unsqueeze(-1)).exp()
    return value, relative.std(-1) / math.sqrt(k)
