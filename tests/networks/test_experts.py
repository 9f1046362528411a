"""Blended expert decoders: one pass over all clips is the decoder of each clip by itself."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phlogiston.errors import ConfigError
from phlogiston.networks.experts import Bank, ExpertDecoder


def one_by_one(decoder: ExpertDecoder, pose: Tensor, blend: Tensor) -> Tensor:
    """The definition: for each clip sum the experts' weights by hand and run an ordinary decoder frame by frame."""

    def mixed(bank: Bank, w: Tensor) -> tuple[Tensor, Tensor]:
        weight = sum(
            w[k] * (bank.weight[k] if bank.left is None else bank.weight[0] / w.sum() + bank.left[k] @ bank.right[k])
            for k in range(len(w))
        )
        return weight.reshape(bank.shape), sum(w[k] * bank.bias[k] for k in range(len(w)))

    out = []
    for z, w in zip(pose, blend, strict=True):
        frames = []
        alone = torch.ones(1).to(w)
        for t in range(len(z)):
            weight, bias = mixed(decoder.first, alone if decoder.shared else w)
            x = ((z[t] if decoder.shared else torch.cat([z[t], w])) @ weight + bias).reshape(1, -1, 4, 4)
            for n, layer in enumerate(decoder.layers):
                weight, bias = mixed(layer, alone if n + 1 < decoder.shared else w)
                x = F.conv_transpose2d(F.leaky_relu(x, decoder.slope), weight, bias, stride=2, padding=1)
            frames.append(x[0])
        out.append(torch.stack(frames))
    return torch.stack(out)


@pytest.mark.parametrize("kind", ["full", "lowrank"])
@pytest.mark.parametrize("route", ["grouped", "gemm"])
@pytest.mark.parametrize("shared", [0, 1, 2])
def test_decoding_all_clips_at_once_equals_a_loop_over_clips_and_frames(kind: Any, route: Any, shared: int) -> None:
    torch.manual_seed(0)
    decoder = ExpertDecoder(3, 4, 2, 16, (6, 5), kind, 2, route, shared=shared).double()
    for bank in (decoder.first, *decoder.layers):
        torch.nn.init.normal_(bank.bias)
    pose, blend = torch.randn(3, 5, 3).double(), torch.softmax(3 * torch.randn(3, 4), -1).double()
    found = decoder(pose, blend)
    assert found.shape == (3, 5, 2, 16, 16)
    torch.testing.assert_close(found, one_by_one(decoder, pose, blend), rtol=1e-9, atol=1e-9)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(decoder(pose[order], blend[order]), found[order], rtol=1e-9, atol=1e-9)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.booleans())
@settings(max_examples=15, deadline=None)
def test_leading_axes_broadcast(particles: int, clips: int, frames: int, shared: bool) -> None:
    decoder = ExpertDecoder(2, 3, 1, 8, (4,))
    pose = torch.randn(clips, frames, 2)
    blend = torch.softmax(torch.randn(particles, 1 if shared else clips, 3), -1)
    found = decoder(pose, blend)
    assert found.shape == (particles, clips, frames, 1, 8, 8)
    for p in range(particles):
        torch.testing.assert_close(found[p], decoder(pose, blend[p].expand(clips, 3)), rtol=1e-4, atol=1e-5)


def test_both_routes_have_the_same_gradients() -> None:
    grads = []
    for route in ("grouped", "gemm"):
        torch.manual_seed(1)
        decoder = ExpertDecoder(3, 4, 3, 16, (6, 5), route=route).double()  # type: ignore[arg-type]
        decoder(torch.randn(2, 3, 3).double(), torch.softmax(torch.randn(2, 4), -1).double()).square().sum().backward()
        grads.append([p.grad for p in decoder.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_a_flat_blend_starts_well_scaled_and_different_inputs_give_different_pictures() -> None:
    torch.manual_seed(0)
    decoder = ExpertDecoder(16, 15, 3, 64, (64, 32, 16, 8))
    with torch.no_grad():
        x = decoder(torch.randn(4, 6, 16), torch.full((4, 15), 1 / 15))
        one_hot = decoder(torch.zeros(15, 1, 16), torch.eye(15))
    assert 0.1 < float(x.std()) < 3.0
    assert float((x[:, 0] - x[:, 1]).std()) > 0.05, "poses matter from the first step on"
    assert float(one_hot.std(0).mean()) > 0.02, "experts differ from the first step on"


def test_shared_layers_leave_the_blend_to_the_last_ones() -> None:
    torch.manual_seed(0)
    sizes = [sum(p.numel() for p in ExpertDecoder(4, 5, 3, 32, (8, 6, 4), shared=n).parameters()) for n in range(4)]
    assert sizes == sorted(sizes, reverse=True)
    decoder = ExpertDecoder(4, 5, 3, 32, (8, 6, 4), shared=3)
    # a last layer alone is linear in the blend: halfway between two individuals is halfway between their logits
    pose, one, two = torch.randn(1, 2, 4), torch.eye(5)[:1], torch.eye(5)[1:2]
    torch.testing.assert_close(decoder(pose, (one + two) / 2), (decoder(pose, one) + decoder(pose, two)) / 2)
    alone = decoder.components(pose[0])
    torch.testing.assert_close(alone[:, 1], decoder(pose, two)[0])
    torch.testing.assert_close(decoder(pose, one - 2 * two)[0], alone[:, 0] - 2 * alone[:, 1])
    with pytest.raises(ConfigError, match="all layers but the last; it is 2"):
        ExpertDecoder(4, 5, 3, 32, (8, 6, 4), shared=2).components(pose[0])
    with pytest.raises(ConfigError, match="shared_layers is 4"):
        ExpertDecoder(4, 5, 3, 32, (8, 6, 4), shared=4)


def test_it_starts_at_the_mean_colour() -> None:
    decoder = ExpertDecoder(4, 3, 3, 16, (8, 8))
    mean = torch.tensor([0.1, 0.5, 0.8])
    decoder.start_at(mean)
    with torch.no_grad():
        picture = torch.sigmoid(decoder(torch.randn(5, 4, 4), torch.full((5, 3), 1 / 3))).mean((0, 1, 3, 4))
    assert bool(((picture - mean).abs() < 0.1).all())


def test_sizes_that_cannot_be_made_are_refused() -> None:
    for size, widths in ((48, (8, 8, 8)), (32, (8, 8)), (4, ()), (32, (8, 0, 8))):
        with pytest.raises(ConfigError):
            ExpertDecoder(2, 2, 3, size, widths)
    with pytest.raises(ConfigError):
        Bank(0, (2, 2), 2)


def test_lowrank_banks_are_small() -> None:
    def size(kind: Any) -> int:
        return sum(math.prod(p.shape) for p in ExpertDecoder(16, 15, 3, 32, (96, 48, 24), kind, 4).parameters())

    assert size("lowrank") < 0.35 * size("full")
