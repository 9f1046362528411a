"""Steps that narrow components survive: no mean leaps out of its component, and what is wide moves as Adam has it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from phlogiston.networks.frames import DiagonalFrame, IsotropicFrame, TriangularFrame
from phlogiston.systems.drmm.steps import FARTHEST, careful_adam, hold_back
from phlogiston.systems.drmm.system import DRMM

OPTIONS: dict[str, Any] = {"num_components": 4, "num_layers": 2, "grid": ("off",)}


@pytest.mark.parametrize("kind", [DiagonalFrame, IsotropicFrame, TriangularFrame])
def test_means_move_at_most_so_many_of_their_own_spreads(kind: Any) -> None:
    torch.manual_seed(0)
    frame = kind(5, 3)
    with torch.no_grad():
        frame.log_scale[0] = -5.0  # narrow; the others are as wide as the data
        if isinstance(frame, TriangularFrame):
            frame.lower.normal_(0, 2)
    before = frame.mean.detach().clone()
    step = 0.01 * torch.randn(5, 3).sign()
    with torch.no_grad():
        frame.mean.add_(step)
    plain = frame.mean.detach().clone()
    hold_back(frame, before, 0.1)
    moved = (frame.mean - before).detach()
    full = isinstance(frame, TriangularFrame)
    w = (frame.inverse() if full else torch.diag_embed(frame.inverse_scale().expand(5, 3))).detach()
    assert float((w @ moved.unsqueeze(-1)).abs().max()) <= 0.1 * (1 + 1e-4)
    assert torch.equal(frame.mean[1:], plain[1:])
    assert (moved[0].abs() < 0.005).all()


def test_the_limit_follows_the_learning_rate() -> None:
    frame = DiagonalFrame(2, 1)
    with torch.no_grad():
        frame.mean.zero_()
        frame.log_scale.fill_(-4.0)
    adam = careful_adam([frame], list(frame.parameters()), 0.1)
    for rate in (0.1, 0.02):
        adam.param_groups[0]["lr"] = rate
        before = frame.mean.detach().clone()
        frame.mean.grad, frame.log_scale.grad = torch.ones(2, 1), torch.zeros(2, 1)
        adam.step()
        expected = (before - FARTHEST * rate * torch.exp(frame.log_scale)).detach()
        torch.testing.assert_close(frame.mean.detach(), expected)


@pytest.mark.parametrize("frame", ["diag", "tril"])
def test_training_does_not_lose_a_spike(frame: str) -> None:
    """Half of a column is nearly one value: plain Adam falls by nats in its first steps."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 2, generator=generator, dtype=torch.float64)
    x[:300, 0] = 1.0 + 0.003 * x[:300, 0]
    started = DRMM(OPTIONS, frame=frame, steps=1, learning_rate=1e-9).fit(x, progress="off").log_prob(x).value.mean()
    for steps in (1, 20):
        trained = DRMM(OPTIONS, frame=frame, steps=steps).fit(x, progress="off")
        assert float(trained.log_prob(x).value.mean() - started) > -0.1
