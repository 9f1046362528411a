"""Questions that name single entries and nothing else, row by row: the form of most, and that of filling in a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from phlogiston.distributions.mixtures.conditioned_rows import Entries, Noise, normals_per_draw
from phlogiston.inference.query.evidence import Evidence
from phlogiston.inference.query.kinds.known import Known
from phlogiston.inference.query.kinds.near import Near


def compile_entries(pieces: Sequence[Evidence], dim: int, rows: int) -> Entries | None:
    """What pieces say about the entries of a vector site, all rows of evidence at once.

    Args:
        pieces: what is said about it.
        dim: its number of entries.
        rows: how many rows of evidence.

    Returns:
        The entries known and soft, or None where the pieces say more than that, the same entry is spoken of twice, or
        they do not fit the site: `compile_vector` has words for it.
    """
    known = torch.zeros(rows, dim, dtype=torch.bool)
    value = torch.zeros(rows, dim, dtype=torch.float64)
    sd = torch.full((rows, dim), math.inf, dtype=torch.float64)
    for piece in pieces:
        if type(piece) is Known and isinstance(piece.value, Tensor):
            mask = torch.ones((), dtype=torch.bool) if piece.mask is None else piece.mask
            parts = (piece.value, mask, torch.zeros((), dtype=torch.float64))
        elif type(piece) is Near and bool((piece.weight == 1).all()):
            parts = (piece.mean, torch.isfinite(piece.sd), piece.sd)
        else:
            return None
        if parts[1].dtype != torch.bool or not all(_fits(part, dim, rows) for part in parts):
            return None
        new, said, spread = (p.expand(rows, dim) for p in parts)
        if bool((said & (sd < math.inf)).any()):
            return None
        known |= said & (spread == 0)
        value = torch.where(said, new.double(), value)
        sd = torch.where(said, spread, sd)
    return Entries(known, value, sd)


def _fits(part: Tensor, dim: int, rows: int) -> bool:
    """Whether a field holds one number per entry, or one for all, of one row or of all; and takes no gradient."""
    shape = (1, 1, *part.shape)[-2:]
    return not part.requires_grad and part.dim() <= 2 and shape[0] in (1, rows) and shape[1] in (1, dim)


def draw_noise(
    e: Entries,
    n: int,
    diagonal: bool,
    noise: bool,
    generator: torch.Generator | None,
    categories: Sequence[int] = (),
) -> tuple[Noise, list[Tensor]]:
    """The random numbers of n draws for each row, row by row, as one question after the other would take them.

    Args:
        e: what is known of R vectors.
        n: draws per row.
        diagonal: whether components have independent entries.
        noise: False where means are drawn.
        generator: source of randomness; torch's own by default.
        categories: numbers of values of the categorical columns that are drawn too.

    Returns:
        The vectors' noise; and for each categorical column (n, R, V), exponential: the largest probability over them
        is what `torch.multinomial` draws.
    """
    offsets, orders, normals = [], [], []
    races = [torch.empty(len(e), n, size, dtype=torch.float64) for size in categories]
    for row, width in enumerate(normals_per_draw(e, diagonal)):
        offsets.append(torch.rand((), dtype=torch.float64, generator=generator))
        orders.append(torch.randperm(n, generator=generator))
        if noise:
            normals.append(torch.randn(n, width, dtype=torch.float64, generator=generator))
        for race in races:
            race[row].exponential_(1, generator=generator)
    return Noise(torch.stack(offsets), torch.stack(orders), normals), [race.transpose(0, 1) for race in races]
