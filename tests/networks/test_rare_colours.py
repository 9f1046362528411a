"""Colours weighed by how rare they are: closed forms on pictures of a few colours."""

from __future__ import annotations

import pytest
import torch

from phlogiston.models.world import World
from phlogiston.networks.rare_colours import MOST, colour_of, colour_weights, num_colours


def test_colours_are_numbered_alike_in_bytes_and_floats() -> None:
    frames = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)
    number = colour_of(frames)
    assert torch.equal(number, colour_of(frames.float() / 255.0))
    red, green, blue = (frames.long() * 16 // 255).clamp_max(15).unbind(1)
    assert torch.equal(number, (red * 16 + green) * 16 + blue)
    assert num_colours(3) == 4096
    assert int(colour_of(torch.ones(1, 1, 2, 2)).max()) == num_colours(1) - 1


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_colour_of_a_tenth_of_the_pixels_counts_as_the_power_says(power: float) -> None:
    frames = torch.zeros(1, 1, 10, 10)
    frames[..., 0] = 1.0  # a tenth
    dark, light = colour_weights(frames, power)[[0, -1]].tolist()
    assert light / dark == pytest.approx(9.0**power, rel=1e-5)
    assert 0.9 * dark + 0.1 * light == pytest.approx(1.0, rel=1e-5)


def test_no_colour_counts_for_more_than_a_limit() -> None:
    frames = torch.zeros(1, 3, 64, 64)
    frames[0, :, 0, 0] = 1.0
    weights = colour_weights(frames, 1.0)
    # both colours would count for a half of the whole; the rare one is cut off, and the mean made 1 again
    assert float(weights[-1]) == pytest.approx(MOST / (0.5 + MOST / 4096), rel=1e-4)
    assert float(weights[7]) == pytest.approx(float(weights[-1]))  # in no frame: no less rare


def test_the_error_of_a_pixel_counts_as_often_as_its_weight() -> None:
    torch.manual_seed(0)
    world, plain = (World(1, 8, 2, 4, (8,), 16, 12, rare=rare) for rare in (0.5, 0.0))
    world.decoder.load_state_dict(plain.decoder.state_dict())
    assert world.weights is not None
    assert plain.weights is None
    world.weights.copy_(torch.linspace(1, 4, 16))
    code, frames = torch.randn(3, 4), torch.rand(3, 1, 8, 8)
    weight = world.weights[colour_of(frames)].unsqueeze(1)
    error = (frames - plain.picture(code)).square() / (2 * plain.noise**2)
    constant = 0.5 * weight.log() - torch.tensor(plain.noise * (2 * torch.pi) ** 0.5).log()
    torch.testing.assert_close(
        world.likelihood(code, frames).log_prob(frames), (constant - weight * error).sum((1, 2, 3))
    )
    expected = (constant - 0.5 * weight.log() - error).sum((1, 2, 3))
    torch.testing.assert_close(world.likelihood(code).log_prob(frames), expected)
    torch.testing.assert_close(plain.likelihood(code, frames).log_prob(frames), expected)
