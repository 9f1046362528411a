"""Latents of drawings: bounds on densities, latents that explain a beginning, interpolation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from phlogiston.evaluate.weights import mean_and_error
from phlogiston.inference.svi.row_noise import normal
from phlogiston.models.generation import RowNoise, generate, row_seed
from phlogiston.models.sketch import SketchRNN
from phlogiston.models.stepwise import Choice

if TYPE_CHECKING:
    from phlogiston.guides.sketch import SketchEncoder

CHUNK = 200
PROPOSALS = 64  # latents tried for a drawing that is to be completed
_TOGETHER = 1 << 13  # of them at once


@torch.no_grad()
def bound_parts(
    model: SketchRNN, guide: SketchEncoder | None, x: Tensor, length: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Reconstruction log density and divergence of each drawing, in nats, (rows,) each, with one draw of its latent.

    Without a guide the log density itself, and zeros. `keys` (rows,) are the seeds of the drawings' latents.
    """
    parts = []
    for part, size, key in zip(x.split(CHUNK), length.split(CHUNK), keys.split(CHUNK), strict=True):
        part = part[:, : int(size.max())]
        if guide is None:
            parts.append((model.log_likelihood(part, size), torch.zeros(len(part))))
            continue
        loc, scale = guide.encode(part, size)
        z = loc + scale * normal(key, loc.shape[1], stream=0)
        divergence = (0.5 * (loc.square() + scale.square() - 1.0) - scale.log()).sum(-1)
        parts.append((model.log_likelihood(part, size, z), divergence))
    return torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts])


@torch.no_grad()
def importance_bound(
    model: SketchRNN, guide: SketchEncoder, x: Tensor, length: Tensor, num_particles: int, keys: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Importance-weighted lower bound on the log density of drawings (Burda et al., 2016).

    `keys` (rows,) are the seeds of the drawings' latents.

    Returns:
        Bounds (rows,) in nats, and their standard errors (rows,); None with one particle.
    """
    values, errors = [], []
    for part, size, key in zip(x.split(20), length.split(20), keys.split(20), strict=True):
        part = part[:, : int(size.max())]
        loc, scale = guide.encode(part, size)
        noise = normal(key, num_particles, loc.shape[1], stream=1).transpose(0, 1)
        z = loc + scale * noise
        gap = 0.5 * (noise.square() - z.square()).sum(-1) + scale.log().sum(-1)
        value, error = mean_and_error((model.log_likelihood(part, size, z) + gap).double())
        values.append(value)
        errors.append(error)
    return torch.cat(values), torch.cat(errors) if num_particles > 1 else None


def explain(model: SketchRNN, x: Tensor, n: int, seed: int, proposals: int = PROPOSALS) -> Tensor:
    """`n` latents that could have begun like a drawing (1, points, 3): prior draws, weighed by its likelihood.

    Args:
        model: whose latents.
        x: the beginning.
        n: how many.
        seed: of the draws.
        proposals: latents tried for each.
    """
    generator = torch.Generator().manual_seed(row_seed(seed, -1))
    z = torch.randn(n, proposals, model.latent, generator=generator)
    whole = torch.full((1,), x.shape[1])
    tried = z.reshape(-1, 1, model.latent).split(_TOGETHER)
    weight = torch.cat([model.steps_log_prob(x, whole, part).sum(-1) for part in tried]).reshape(n, proposals)
    chosen = torch.multinomial(weight.softmax(-1), 1, generator=generator).squeeze(-1)
    return z[torch.arange(n), chosen]


def draw_alike(model: SketchRNN, z: Tensor, choice: Choice, most: int, seed: int) -> dict[str, Tensor]:
    """Draw latents (n, latent), all with the same noise, so that only the latent differs: `x` and `length`."""
    rows = [generate(model, model.start(1, row.unsqueeze(0)), most, RowNoise(model, [0], seed), choice) for row in z]
    length = torch.cat([row.length for row in rows])
    x = torch.zeros(len(rows), max(1, int(length.max())), 3)
    for drawing, row in zip(x, rows, strict=True):
        drawing[: row.x.shape[1]] = row.x[0]
    return {"x": x, "length": length}


def slerp(a: Tensor, b: Tensor, way: Tensor) -> Tensor:
    """Points on the arc from `a` to `b`, (D,) each, at shares `way` (n, 1); a straight line if they hardly differ."""
    cosine_of = (a @ b) / (a.norm() * b.norm()).clamp_min(1e-12)
    angle = torch.arccos(cosine_of.clamp(-1.0, 1.0))
    if float(angle) < 1e-4 or float(torch.sin(angle)) < 1e-4:  # the same direction, or opposite ones
        return (1 - way) * a + way * b
    return (torch.sin((1 - way) * angle) * a + torch.sin(way * angle) * b) / torch.sin(angle)
