"""What full covariances cost in training: rows grouped by component against a matrix gathered for every row.

python -P -m pytest benchmarks/test_drmm_full_frames.py -m bench -s
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from phlogiston.models.drmm import DRMM
from phlogiston.networks import beam
from phlogiston.networks.frames import TriangularFrame

from .rows import Rows, cpu_seconds, shown

pytestmark = pytest.mark.bench


class GatheringFrame(TriangularFrame):
    """The frame with one matrix per row, and every child formed to choose by."""

    def whiten_all(self, u: Tensor) -> Tensor:
        w = self.inverse()
        offset = torch.matmul(w, self.mean.unsqueeze(-1)).squeeze(-1)
        turned = u @ w.reshape(-1, self.features).T
        return turned.view(*u.shape[:-1], self.num_components, self.features) - offset

    def square_distances(self, u: Tensor) -> Tensor:
        return self.whiten_all(u).square().sum(-1)

    def turn(self, u: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        w = functional.embedding(code, self.inverse().flatten(1)).view(*code.shape, self.features, self.features)
        turned = torch.matmul(w, (u - functional.embedding(code, self.mean)).unsqueeze(-1)).squeeze(-1)
        return turned, w.diagonal(dim1=-2, dim2=-1).log().sum(-1)


class GatheringScores(beam._Whitened):
    """The beam's scores by that frame."""

    def advance(self, frame: GatheringFrame, log_conditional: Tensor, parent: Tensor, code: Tensor) -> Tensor:
        self.residual, log_det = frame.turn(beam._rows(self.residual, parent), code)
        table = log_conditional.expand(len(parent), self.base.shape[1], -1).flatten(1)
        prior = table.gather(1, parent * frame.num_components + code)
        self.base = self.base.gather(1, parent) + prior + log_det
        return self._density(frame, self.residual.square().sum(-1), self.base)


def model(features: int, components: int, frame: type[TriangularFrame]) -> DRMM:
    torch.manual_seed(0)
    made = DRMM(features, 2, components, "tril")
    for layer in made.frames:
        with torch.no_grad():
            layer.lower.normal_(0, 0.3 / features**0.5)
        layer.__class__ = frame
    return made


def step(made: DRMM, rows: int, width: int) -> Callable[[], Tensor]:
    """A training step on random rows: loss, gradients, Adam."""
    x = torch.randn(rows, made.features, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-4, fused=True)

    scores = GatheringScores if isinstance(made.frames[0], GatheringFrame) else beam._Whitened

    def once() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with mock.patch.object(beam, "_Whitened", scores):
            loss = -made.find(x, width=width).nested.sum(-1).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return once


@pytest.mark.parametrize(("features", "bar"), [(33, 1 / 2.7), (64, 1 / 5.9), (128, 1 / 14)])
def test_a_step_with_full_frames(row: Rows, features: int, bar: float) -> None:
    ours, gathered = (step(model(features, 16, kind), 128, 8) for kind in (TriangularFrame, GatheringFrame))
    torch.testing.assert_close(ours(), gathered(), rtol=1e-4, atol=1e-3)
    row(
        f"drmm/tril-step-{features}",
        work=f"`tril` DRMM training step, D = {features}, 2x16, batch 128",
        ours=ours,
        alternative=gathered,
        against="a matrix gathered per row and beam entry",
        bar=bar,
    )


def test_a_step_of_the_poses(row: Rows) -> None:
    """With few features every child is formed; the bar is that of cheaper passes over them."""
    ours, gathered = (step(model(25, 48, kind), 192, 6) for kind in (TriangularFrame, GatheringFrame))
    row(
        "drmm/tril-step-25",
        work="`tril` DRMM training step, D = 25, 2x48, batch 192",
        ours=ours,
        alternative=gathered,
        against="the same, offsets in a pass of their own",
        bar=1.0,
    )


def test_growth_with_the_features(row: Rows) -> None:
    sizes = (64, 128, 256, 512)
    times = [cpu_seconds([step(model(d, 16, TriangularFrame), 128, 8)], 5)[0] for d in sizes]
    logs = [math.log(d) for d in sizes]
    centre = sum(logs) / len(logs)
    slope = sum((a - centre) * math.log(t) for a, t in zip(logs, times, strict=True)) / sum(
        (a - centre) ** 2 for a in logs
    )
    steepest = max(math.log2(b / a) for a, b in itertools.pairwise(times))
    row.figure(
        "drmm/tril-growth",
        "growth exponent of that step in D, from 64 to 512",
        slope,
        2.1,
        " / ".join(map(shown, times)),
        f"theory: at most 2; steepest doubling {steepest:.2f}",
    )
