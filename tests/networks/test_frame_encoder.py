"""Frame encoders are not affine; summaries do not see what is missing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phlogiston.errors import ConfigError
from phlogiston.networks.frame_encoder import BlurPool, FrameEncoder, FreeRun, Summary


@pytest.mark.parametrize("kind", ["blur", "strided"])
def test_the_encoder_is_not_affine(kind: Any) -> None:
    torch.manual_seed(0)
    encoder = FrameEncoder(3, 32, (8, 8, 8), 16, kind).double()
    a, b, zero = torch.rand(3, 32, 32).double(), torch.rand(3, 32, 32).double(), torch.zeros(3, 32, 32).double()
    with torch.no_grad():
        gap = encoder(a) + encoder(b) - encoder(zero) - encoder(a + b)
    assert float(gap.abs().max()) > 1e-3
    assert encoder(torch.rand(2, 5, 3, 32, 32).double()).shape == (2, 5, 16)


def test_blur_pool_halves_and_keeps_constants() -> None:
    pool = BlurPool(2)
    x = torch.full((1, 2, 31, 31), 0.7)
    assert pool(x).shape == (1, 2, 15, 15) or pool(x).shape == (1, 2, 16, 16)
    torch.testing.assert_close(pool(x), torch.full_like(pool(x), 0.7))


@given(st.integers(1, 4), st.integers(2, 7), st.data())
@settings(max_examples=20, deadline=None)
def test_missing_entries_have_no_influence_and_padding_changes_nothing(n: int, length: int, data: Any) -> None:
    torch.manual_seed(0)
    summary = Summary(3, 5, layers=2).double()
    torch.nn.init.normal_(summary.start)
    mask = torch.tensor([data.draw(st.lists(st.booleans(), min_size=length, max_size=length)) for _ in range(n)])
    mask[:, data.draw(st.integers(0, length - 1))] = True
    x = torch.randn(n, length, 3).double()
    other = torch.where(mask.unsqueeze(-1), x, 100 * torch.randn(n, length, 3).double())
    for a, b in zip(summary(x, mask), summary(other, mask), strict=True):
        torch.testing.assert_close(a, b)
    for row in range(n):  # closing up by hand
        alone, outputs = summary(x[row : row + 1, mask[row]])
        torch.testing.assert_close(summary(x, mask)[0][row], alone[0])
        torch.testing.assert_close(summary(x, mask)[1][row][mask[row]], outputs[0])
    longer, more = torch.cat([x, torch.randn(n, 3, 3).double()], 1), torch.cat([mask, torch.zeros(n, 3).bool()], 1)
    torch.testing.assert_close(summary(longer, more)[0], summary(x, mask)[0])


def test_a_free_run_goes_on_from_where_a_shorter_one_stopped() -> None:
    run = FreeRun(4, 6, layers=2)
    start = torch.randn(2, 3, 4)
    torch.testing.assert_close(run(start, 9)[..., :5, :], run(start, 5))
    assert run(start, 9).shape == (2, 3, 9, 6)


def test_sizes_that_cannot_be_taken_are_refused() -> None:
    with pytest.raises(ConfigError, match="48 pixels"):
        FrameEncoder(3, 48, (8, 8, 8), 8)
    with pytest.raises(ConfigError, match="encoder_widths"):
        FrameEncoder(3, 32, (8, 8), 8)
