"""The decoder's shortcuts change nothing: against the form its equations have, in double precision."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from phlogiston.distributions.mixed_normals import MixedNormals
from phlogiston.errors import ConfigError, UnknownNameError
from phlogiston.models.scene import latent_prior, tempered
from phlogiston.networks import draw_plain
from phlogiston.networks.draw import DrawDecoder, DrawEncoder, LayeredHead
from phlogiston.networks.latents import HIGH, LOW, bent
from phlogiston.networks.scene_memory import GraphMemory, PooledMemory
from phlogiston.networks.view_rays import CHANNELS, RayAddress, ray_map

FORMS: list[dict[str, Any]] = [
    {},
    {"layers": 4, "kernel": 5, "static_kernel": 3},
    {"draft": False, "prior_context": False},
    {"output": "linear", "poses": "vector", "canvas": 5, "static_kernel": 3},
    {"output": "linear", "draft": False, "prior_context": False, "layers": 3},
    {"whole": 3, "layers": 3},
    {"output": "layers", "layers": 3},
    {"whole": 5, "layers": 1, "static_kernel": 3},
]


def pair(reduce: str = "conv", residual: bool = True, **options: Any) -> tuple[DrawDecoder, DrawEncoder]:
    torch.manual_seed(0)
    given = {"hidden": 7, "latent": 2, "layers": 2, "width": 8, **options}
    decoder = DrawDecoder(PooledMemory(3, 2), 16, 4, **given)
    return decoder.double(), DrawEncoder(decoder, 5, 3, 4, reduce, residual).double()


def fast(decoder: DrawDecoder, encoder: DrawEncoder, code: Tensor, poses: Tensor, x: Tensor, noise: Any) -> Any:
    painting = decoder.begin(decoder.context(code, poses))
    static, own, memory = encoder.begin(x, decoder.picture(painting.total).detach(), painting.context)
    kernel, means = encoder.kernel(decoder), []
    for eps in noise:
        own, memory = encoder.advance(kernel, static, painting, own, memory)
        mean, logvar = encoder.posterior(own, decoder.prior(painting))
        means.append((mean, logvar))
        painting = decoder.advance(painting, mean + (0.5 * logvar).exp() * eps)
    return decoder.picture(painting.total), means


@pytest.mark.parametrize("options", FORMS)
@pytest.mark.parametrize("reduce", ["conv", "linear"])
def test_the_fast_form_is_the_plain_one(options: dict[str, Any], reduce: str) -> None:
    decoder, encoder = pair(reduce, residual=reduce == "conv", **options)
    code, poses = torch.rand(3, 9).double(), torch.randn(3, 8).double()
    x = torch.rand(3, 3, 16, 16).double()
    noise = [torch.randn(3, *shape).double() for shape in decoder.shapes]
    oracle = draw_plain.run(decoder, encoder, code, poses, x, noise)
    picture, means = fast(decoder, encoder, code, poses, x, noise)
    torch.testing.assert_close(picture, oracle.pictures, rtol=0, atol=1e-9)
    for a, b in zip(means, oracle.posteriors, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", FORMS)
def test_gradients_agree_too(options: dict[str, Any]) -> None:
    decoder, encoder = pair(**options)
    code, poses = torch.rand(2, 9).double(), torch.randn(2, 8).double()
    x = torch.rand(2, 3, 16, 16).double()
    noise = [torch.randn(2, *shape).double() for shape in decoder.shapes]
    grads = []
    for picture in (
        fast(decoder, encoder, code, poses, x, noise)[0],
        draw_plain.run(decoder, encoder, code, poses, x, noise).pictures,
    ):
        both = [p for module in (decoder, encoder) for p in module.parameters() if p.requires_grad]
        grads.append(torch.autograd.grad(picture.square().sum(), both, allow_unused=True))
    for a, b in zip(*grads, strict=True):
        first, second = (torch.zeros(()) if grad is None else grad for grad in (a, b))  # left out: it meets zeros alone
        torch.testing.assert_close(*torch.broadcast_tensors(first.double(), second.double()), rtol=1e-7, atol=1e-8)


def test_leading_axes_are_worlds_of_their_own() -> None:
    decoder, _ = pair()
    code, poses = torch.rand(2, 3, 9).double(), torch.randn(2, 3, 8).double()
    z = torch.randn(5, 2, 3, 2, 4, 4).double()
    painting = decoder.begin(decoder.context(code, poses))
    whole = decoder.picture(decoder.advance(painting, z).total)
    one = decoder.begin(decoder.context(code[1:, 2:], poses[1:, 2:]))
    part = decoder.picture(decoder.advance(one, z[3, 1:, 2:]).total)
    torch.testing.assert_close(whole[3, 1, 2], part[0, 0], rtol=0, atol=1e-12)


def test_log_variances_stay_in_range_however_wild_the_inputs() -> None:
    wild = torch.tensor([-1e6, -8.0, 0.0, 4.0, 1e6])
    found = bent(wild)
    assert bool((found >= LOW).all())
    assert bool((found <= HIGH).all())
    assert float(bent(torch.tensor(0.0))) == pytest.approx(0.0, abs=0.02)


def test_rays_of_a_tilted_camera_follow_the_rotation() -> None:
    poses = torch.tensor([[0.1, -0.2, 0.0, 0.7, 0.3, -0.4], [0.0, 0.0, 0.0, -2.0, 0.0, 0.0]]).double()
    found = ray_map(poses, 6)
    from phlogiston.datasets.generated.raycast import directions

    dx, dy, dz = (torch.as_tensor(d).double().reshape(2, 6, 6) for d in directions(poses.float().numpy(), 6))
    flat = torch.hypot(dx, dy)
    want = torch.stack([dx / flat, dy / flat, dz / torch.sqrt(flat**2 + dz**2)], 1)
    torch.testing.assert_close(found[:, :3], want, rtol=0, atol=1e-5)
    assert bool((found[:, 3] == poses[:, 0, None, None]).all())


def test_rays_leave_the_tile_where_geometry_says() -> None:
    poses = torch.zeros(1, 6).double()
    poses[0, :4] = torch.tensor([0.2, -0.4, 0.1, 0.0])
    found = ray_map(poses, 2)[0]  # rays at -+26.6 degrees from straight east
    assert found.shape == (CHANNELS, 2, 2)
    torch.testing.assert_close(found[5], torch.ones(2, 2).double())
    torch.testing.assert_close(found[6], torch.tensor([[0.0, -0.8]] * 2).double())  # 0.8 ahead, 0.4 aside
    torch.testing.assert_close(found[7], torch.full((2, 2), math.hypot(0.8, 0.4)).double())
    height = torch.tensor([[0.1 + 0.4] * 2, [0.1 - 0.4] * 2]).double()
    torch.testing.assert_close(found[8], height / (1 + height.abs()))


def test_addresses_are_shares_and_alike_for_alike_rays() -> None:
    torch.manual_seed(0)
    address, other = RayAddress(16), RayAddress(16)
    rays = ray_map(torch.rand(5, 6) * 2 - 1, 8)
    share = address(rays)
    torch.testing.assert_close(share.sum(1), torch.ones(5, 8, 8))
    torch.testing.assert_close(share, other(rays))
    one, two = (address(ray_map(torch.tensor([[x, 0.0, 0.0, 0.0, 0.0, 0.0]]), 8))[0, :, 4, 4] for x in (0.0, 0.05))
    far = address(ray_map(torch.tensor([[0.0, 0.0, 0.0, 3.0, 0.0, 0.0]]), 8))[0, :, 4, 4]
    assert bool((one - two).abs().sum() < 0.2 * (one - far).abs().sum())
    assert bool((RayAddress(1)(rays) == 1).all())


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="do not divide"):
        DrawDecoder(GraphMemory(), 30, 8)
    with pytest.raises(ConfigError, match="odd"):
        DrawDecoder(GraphMemory(), kernel=4)
    with pytest.raises(UnknownNameError, match="shuffle"):
        DrawDecoder(GraphMemory(), output="shufle")


def test_a_mixture_over_the_whole_picture_is_drawn_tempered_and_expected_by_the_context() -> None:
    decoder, _ = pair(whole=3, parts=4, layers=2)
    context = decoder.context(torch.rand(2, 5, 9).double(), torch.randn(2, 5, 8).double())
    painting = decoder.begin(context)
    prior = latent_prior(decoder, painting)
    assert isinstance(prior, MixedNormals)
    assert prior.batch_shape == (2, 5)
    assert prior.event_shape == decoder.shapes[0] == (3, 1, 1)
    assert not torch.equal(prior.logits[0, 0], prior.logits[1, 0])
    cold = tempered(prior, 0.0).sample((30,))
    assert float((cold.flatten(-3)[..., None, :] - prior.means.detach()).square().sum(-1).amin(-1).max()) < 1e-12
    painting = decoder.advance(painting, prior.sample((7,)))
    local = latent_prior(decoder, painting)
    assert local.batch_shape == (7, 2, 5)
    assert local.event_shape == decoder.shapes[1]
    scale = tempered(local, 0.5).base_dist.scale
    torch.testing.assert_close(scale, 0.5 * local.base_dist.scale)


def test_a_layered_picture_is_colours_under_masks() -> None:
    """Two colours whose masks cross within a cell make one edge there, as steep as the masks' difference."""
    head = LayeredHead(5, 4, 8, layers=2).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.colours.bias.copy_(torch.tensor([0.9, 0.1, 0.2, 0.3, 0.8, 0.5]))
        at = torch.arange(32.0).double()
        head.fixed[0] = 2.0 * (13.5 - at)  # the first colour to the left of 13.5, the second to the right
        head.fixed[2, 4, 7] = 1.0
    picture = head(torch.randn(2, 5, 4, 4).double()).detach()
    left = torch.sigmoid(6.0 * (13.5 - at))
    first, second = head.colours.bias.view(2, 3, 1).detach()
    want = (left * first + (1 - left) * second)[None, :, None].repeat(2, 1, 32, 1)
    want[:, 0, 4, 7] += 0.3
    torch.testing.assert_close(picture, want)
    steps = picture[0, 0, 0].diff()
    assert int(steps.abs().argmax()) == 13
    assert float(steps.abs().max()) > 0.9 * 0.6  # most of the way from one colour to the other within one pixel


def test_colours_between_cells_are_interpolated() -> None:
    head = LayeredHead(5, 4, 8, layers=1).double()
    with torch.no_grad():
        head.leave[0].weight.zero_()
        head.leave[0].bias.zero_()
    states = torch.randn(2, 5, 4, 4).double()
    cells = head.colours(torch.relu(head.enter(states)))
    want = torch.nn.functional.interpolate(cells, (32, 32), mode="bilinear")
    torch.testing.assert_close(head(states), want)


def test_layers_need_pictures_that_cells_double_into() -> None:
    with pytest.raises(ConfigError, match="layers"):
        DrawDecoder(PooledMemory(3, 2), 24, 4, output="layers")
