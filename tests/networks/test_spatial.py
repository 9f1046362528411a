"""Crop and paste against torch's own bilinear sampling, and the matched filter against known shifts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import grid_sample

from phlogiston.networks.occupied import Occupied
from phlogiston.networks.shared import Shared
from phlogiston.networks.spatial import (
    cover,
    crop,
    displacement,
    enlarged,
    logits_of,
    moved,
    partly_seen,
    paste,
    pixel_boxes,
    pixel_spread,
    placing,
    scale_of,
    shift_of,
)


def where_of(scale: Tensor, shift: Tensor, span: float = 1.0) -> Tensor:
    """The box with given scale and shift: `scale_of` and `shift_of` turned round, (..., 4)."""
    low, high = scale_of(torch.tensor([-1e6, 1e6], dtype=scale.dtype))
    return torch.cat([torch.logit((scale - low) / (high - low)), logits_of(shift, span)], -1)


def grid(scale: Tensor, shift: Tensor, size: tuple[int, int]) -> Tensor:
    """Sampling points (rows, height, width, 2) of `scale g + shift`."""
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, s, dtype=scale.dtype) for s in size), indexing="ij")
    points = torch.stack([x, y], -1)
    return points * scale[:, None, None] + shift[:, None, None]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 12), st.integers(8, 20), st.integers(1, 3), st.sampled_from([1.0, 1.7]))
def test_crop_and_paste_are_corner_aligned_bilinear_sampling(
    seed: int, small: int, large: int, channels: int, span: float
) -> None:
    """Boxes that hang over the edges, and centres beside the picture, included."""
    generator = torch.Generator().manual_seed(seed)
    where = 1.5 * torch.randn(6, 4, generator=generator, dtype=torch.float64)
    picture = torch.rand(6, channels, large, large + 3, generator=generator, dtype=torch.float64)
    scale, shift = scale_of(where), shift_of(where, span)
    wanted = grid_sample(picture, grid(scale, shift, (small, small + 1)), align_corners=True)
    torch.testing.assert_close(crop(picture, where, (small, small + 1), span=span), wanted, atol=1e-9, rtol=0)
    glimpse = torch.rand(6, channels, small, small + 1, generator=generator, dtype=torch.float64)
    back = grid(1 / scale, -shift / scale, (large, large + 3))
    wanted = grid_sample(glimpse, back, align_corners=True)
    torch.testing.assert_close(paste(glimpse, where, large, large + 3, span=span), wanted, atol=1e-9, rtol=0)
    ones = paste(torch.ones_like(glimpse[:, :1]), where, large, large + 3, span=span).squeeze(1)
    torch.testing.assert_close(cover(where, large, large + 3, (small, small + 1), span), ones)
    wider = placing(where, large, large + 3, (small, small + 1), span, margin=2)
    wide = paste(glimpse, where, large, large + 3, wider)
    assert wide.shape[-2:] == (large + 4, large + 7)
    torch.testing.assert_close(wide[..., 2:-2, 2:-2], wanted, atol=1e-9, rtol=0)


def test_what_is_pasted_is_cropped_again() -> None:
    """A box on whole pixels: 10 of 20 intervals wide, its centre on a pixel."""
    glimpse = torch.rand(2, 1, 11, 11, dtype=torch.float64)
    where = where_of(torch.full((2, 2), 0.5, dtype=torch.float64), torch.tensor([[0.1, -0.3], [0.0, 0.2]]).double())
    torch.testing.assert_close(crop(paste(glimpse, where, 21, 21), where, (11, 11)), glimpse, atol=1e-6, rtol=0)


def test_boxes_in_pixels() -> None:
    where = where_of(torch.tensor([[0.5, 0.25]]), torch.tensor([[0.0, 0.5]]))
    torch.testing.assert_close(pixel_boxes(where, 41, 41), torch.tensor([[10.0, 25.0, 20.0, 10.0]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        pixel_boxes(moved(where, torch.tensor([[4.0, -3.0]]), 41, 41), 41, 41),
        torch.tensor([[14.0, 22.0, 20.0, 10.0]]),
        atol=1e-3,
        rtol=0,
    )
    assert scale_of(enlarged(where, 1.5))[0].tolist() == pytest.approx([0.745, 0.375], abs=0.01)


def test_a_smooth_crop_sees_what_falls_between_the_samples() -> None:
    picture = torch.zeros(1, 1, 41, 41)
    picture[..., 19, 19] = 1.0  # between the nine samples of a glimpse of the whole picture
    where = torch.tensor([[20.0, 20.0, 0.0, 0.0]])
    assert crop(picture, where, (9, 9)).sum() == 0.0
    assert crop(picture, where, (9, 9), smooth=True).sum() > 0.02


@pytest.mark.parametrize("shift", [(3, -2), (-7, 7), (0, 0)])
def test_the_matched_filter_finds_the_shift(shift: tuple[int, int]) -> None:
    torch.manual_seed(0)
    template = torch.zeros(1, 2, 40, 40)
    template[..., 12:24, 14:26] = torch.rand(2, 12, 12)
    picture = torch.roll(template, (shift[1], shift[0]), (2, 3)) + 0.05 * torch.randn(1, 2, 40, 40)
    found = displacement(template, picture, 7, 0.5)
    torch.testing.assert_close(found, torch.tensor([shift]).float(), atol=0.1, rtol=0)
    assert displacement(template[:0], picture[:0], 7, 0.5).shape == (0, 2)


def test_the_matched_filter_of_hidden_objects_agrees_with_trying_every_shift() -> None:
    """A template that hangs over the edge and behind a bar, with a prior on the shift."""
    generator = torch.Generator().manual_seed(0)
    reach, size, nats = 3, 14, 2.0
    template = torch.zeros(1, 2, size + 2 * reach, size + 2 * reach)
    template[..., 8:13, 12:19] = torch.rand(2, 5, 7, generator=generator)  # three columns beside the picture
    seen = torch.ones(size, size)
    seen[:, 11:13] = 0.0
    picture = torch.rand(1, 2, size, size, generator=generator) * seen
    expected, spread = torch.tensor([[0.5, -1.0]]), torch.tensor([[1.5, 2.5]])
    scores, shifts = [], []
    inner = slice(reach, -reach)
    for y in range(-reach, reach + 1):
        for x in range(-reach, reach + 1):
            own = torch.roll(template, (y, x), (2, 3))[..., inner, inner] * seen
            gain = (own * picture).sum() - 0.5 * own.square().sum()
            scores.append(gain / nats - 2 * math.log1p(((x - 0.5) / 1.5) ** 2 / 2 + ((y + 1.0) / 2.5) ** 2 / 2))
            shifts.append([float(x), float(y)])
    wanted = torch.softmax(torch.stack(scores), 0) @ torch.tensor(shifts)
    found = partly_seen(template, picture, seen, reach, nats, expected, spread)
    torch.testing.assert_close(found[0], wanted, atol=1e-4, rtol=1e-4)
    nothing = partly_seen(template, picture * 0, seen * 0, reach, nats, 0 * expected, spread)
    torch.testing.assert_close(nothing, torch.zeros(1, 2), atol=1e-5, rtol=0)
    assert partly_seen(template[:0], picture[:0], seen, reach, nats, expected[:0], spread[:0]).shape == (0, 2)


def test_a_spread_in_pixels_is_that_of_boxes_a_little_apart() -> None:
    where = torch.tensor([[0.0, 0.0, 0.8, -1.5]], dtype=torch.float64)
    scale = torch.tensor([[0.1, 0.1, 0.02, 0.03]], dtype=torch.float64)
    for span in (1.0, 2.0):
        centres = [
            boxes[:, :2] + boxes[:, 2:] / 2
            for sign in (-0.01, 0.01)
            for boxes in [pixel_boxes(where + sign * scale * torch.tensor([0, 0, 1, 1]), 41, 61, span)]
        ]
        slope = (centres[1] - centres[0]) / 0.02
        torch.testing.assert_close(pixel_spread(where, scale, 41, 61, span), slope, rtol=1e-4, atol=0)


def test_gradients_flow_through_boxes_and_stay_finite_at_extremes() -> None:
    where = torch.tensor([[-40.0, 40.0, 30.0, -30.0], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    picture, glimpse = torch.rand(2, 1, 20, 20), torch.rand(2, 1, 8, 8, requires_grad=True)
    (crop(picture, where, (8, 8)).square().sum() + paste(glimpse, where, 20, 20).square().sum()).backward()
    assert where.grad is not None
    assert torch.isfinite(where.grad).all()
    assert where.grad[1].abs().min() > 0
    assert glimpse.grad is not None
    assert torch.isfinite(glimpse.grad).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=6, max_size=6))
def test_rows_of_occupied_places_come_back_to_their_places(flags: list[bool]) -> None:
    mask = torch.tensor(flags).reshape(2, 3)
    values = torch.arange(1.0, 25.0).reshape(2, 3, 4).requires_grad_()
    places = Occupied(mask)
    back = places.put(places.take(values))
    torch.testing.assert_close(back, values * mask.unsqueeze(-1))
    assert places.parent.tolist() == [i // 3 for i, flag in enumerate(flags) if flag]
    back.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, mask.unsqueeze(-1).expand(2, 3, 4).float())


def test_shared_results_are_for_the_very_tensors_they_were_computed_from() -> None:
    shared, calls = Shared(), []

    def compute() -> int:
        calls.append(1)
        return len(calls)

    a, b = torch.zeros(2), torch.zeros(2)
    assert [shared("x", (a,), compute), shared("x", (a,), compute), shared("x", (b,), compute)] == [1, 1, 2]
    with torch.no_grad():
        assert shared("x", (b,), compute) == 3  # without a graph it is not the same
    shared.clear()
    assert shared("x", (b,), compute) == 4
