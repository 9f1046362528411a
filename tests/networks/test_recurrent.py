"""Recurrent stacks: one step at a time is the whole stretch, with and without gradients."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from phlogiston.errors import ConfigError, UnknownNameError
from phlogiston.networks.recurrent import Recurrent


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_steps_are_the_stretch(cell: Literal["lstm", "gru"], layers: int) -> None:
    """The shortcut that single steps take without gradients gives what all steps at once give."""
    net = Recurrent(4, 6, layers, cell)
    x, state = torch.randn(5, 7, 4), 0.3 * torch.randn(5, net.depth, 6)
    whole, after = net(x, state)
    with torch.no_grad():
        one = state
        for t in range(7):
            out, one = net(x[:, t : t + 1], one)
            torch.testing.assert_close(out[:, 0], whole[:, t], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one, after, rtol=1e-5, atol=1e-6)
    slow, _ = net(x[:, :1], state)
    assert slow.requires_grad, "with gradients a single step is a stretch like any other"


def test_the_state_starts_at_zero_and_nonsense_is_refused() -> None:
    assert Recurrent(4, 6, 2).start(3).shape == (3, 4, 6)
    assert not Recurrent(4, 6, 2, "gru").start(3).any()
    with pytest.raises(UnknownNameError, match="cell"):
        Recurrent(4, 6, cell="elman")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1"):
        Recurrent(0, 6)
