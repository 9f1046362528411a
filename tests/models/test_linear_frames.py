"""Frames that are linear in who is seen: that is read by the exact posterior, and drawn as it was read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from phlogiston.errors import ConfigError
from phlogiston.guides.vdsm import FrameGuide, VDSMGuide
from phlogiston.models.linear_frames import BasisDecoder, SegmentDecoder, linear_posterior, logits_of
from phlogiston.models.vdsm import VDSM, FrameModel

P, C, Z, T = 4, 3, 2, 5


def decoder(seed: int = 0, experts: int = 1) -> SegmentDecoder:
    torch.manual_seed(seed)
    made = SegmentDecoder(Z, experts, C, 8, (6,), segments=P).double()
    with torch.no_grad():
        made.centre.add_(0.1 * torch.randn(P, C))
        made.log_spread.add_(0.2 * torch.randn(P, C))
    return made


SEGMENTS: dict[str, Any] = {"experts": 1, "segments": P}
TIED: dict[str, Any] = {**SEGMENTS, "tie_segments": True}
BLENDED: dict[str, Any] = {"experts": 3, "segments": P}
BASIS: dict[str, Any] = {"experts": 1, "basis": P}
KINDS = pytest.mark.parametrize("kind", [SEGMENTS, TIED, BLENDED, BASIS], ids=["segments", "tied", "blended", "basis"])


def pair(kind: dict[str, Any], **options: Any) -> tuple[VDSM, VDSMGuide]:
    torch.manual_seed(0)
    forms = {"channels": C, "size": 8, "pose": Z, "dynamics": 4, "widths": (6,), "hidden": 8, "likelihood": "normal"}
    model = VDSM(**{**forms, **kind, **options}).double()
    if isinstance(model.decoder, SegmentDecoder) and model.decoder.ties is not None:
        model.decoder.ties.copy_(torch.tensor([0, 1, 1, 3]))
    return model, VDSMGuide(model, (6,), 10, 8, encoder="strided").double().eval()


def clips(n: int = 4, seed: int = 1) -> Tensor:
    return torch.rand(n, T, C, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_posterior_is_that_of_bayesian_regression() -> None:
    torch.manual_seed(0)
    design, x, noise = torch.randn(30, P).double(), torch.randn(30).double(), torch.tensor(0.2).double()
    loc, scale = linear_posterior(design.T @ design, design.T @ x, noise)
    rows, target = torch.cat([design / noise, torch.eye(P).double()]), torch.cat([x / noise, torch.zeros(P).double()])
    torch.testing.assert_close(loc, torch.linalg.lstsq(rows, target.unsqueeze(1)).solution[:, 0])
    torch.testing.assert_close(scale, rows.square().sum(0).rsqrt())  # of one entry where all others are known


def test_colours_are_read_by_a_regression_per_channel() -> None:
    made, noise = decoder(), torch.tensor(0.2, dtype=torch.float64)
    frames, pose = clips(2), torch.randn(2, T, Z, dtype=torch.float64)
    nobody = frames.new_ones(2 * T, 0)
    said = made.read(pose.flatten(0, 1), nobody, frames.flatten(0, 1)).unflatten(0, (2, T)).sum(1)
    loc, scale = made.posterior(said, noise)
    shares = made.shares(pose, frames.new_ones(2, 0))
    for row in range(2):  # every pixel of every frame is a row of a regression, in standardised colours
        for c in range(C):
            rows = shares[row].movedim(1, -1).reshape(-1, P)
            gap = frames[row, :, c].reshape(-1) - rows @ made.centre[:, c]
            design = rows * made.log_spread[:, c].exp()
            own = linear_posterior(design.T @ design, design.T @ gap, noise)
            torch.testing.assert_close(loc[row].reshape(P, C)[:, c], own[0])
            torch.testing.assert_close(scale[row].reshape(P, C)[:, c], own[1])


@pytest.mark.parametrize("experts", [1, 3])
def test_colours_that_were_put_in_are_read_again(experts: int) -> None:
    made = decoder(experts=experts)
    with torch.no_grad():
        made.masks.layers[-1].weight.mul_(8.0)  # masks that differ
    pose = torch.randn(3, 1, Z, dtype=torch.float64)
    blend = torch.eye(3, dtype=torch.float64) if experts > 1 else torch.zeros(3, 0, dtype=torch.float64)
    unit = 0.3 * torch.randn(3, P * C, dtype=torch.float64)
    shares = made.shares(pose, blend)
    frames = torch.einsum("ntphw,npc->ntchw", shares, made.look(unit).reshape(3, P, C))
    torch.testing.assert_close(torch.sigmoid(made(pose, torch.cat([blend, made.look(unit)], -1))), frames)
    found, _ = made.posterior(made.read(pose[:, 0], blend, frames[:, 0]), torch.tensor(1e-5, dtype=torch.float64))
    torch.testing.assert_close(found, unit, atol=1e-3, rtol=0.0)


def test_a_basis_adds_pictures_up_and_reads_them_again() -> None:
    torch.manual_seed(0)
    made = BasisDecoder(Z, C, 8, (6,), basis=P).double()
    with torch.no_grad():
        made.pictures.layers[-1].weight.mul_(0.1)
        made.pictures.layers[-1].bias[0].fill_(0.5)  # frames that nothing is cut off of
    pose, unit = torch.randn(3, 1, Z).double(), 0.3 * torch.randn(3, P).double()
    pictures = made.pictures.components(pose[:, 0])
    frames = pictures[:, 0] + torch.einsum("np,npchw->nchw", unit, pictures[:, 1:])
    assert 0 < float(frames.detach().min()) < float(frames.detach().max()) < 1
    torch.testing.assert_close(torch.sigmoid(made(pose, made.look(unit)))[:, 0], frames)
    found, _ = made.posterior(made.read(pose[:, 0], unit, frames), torch.tensor(1e-6, dtype=torch.float64))
    torch.testing.assert_close(found, unit, atol=1e-3, rtol=0.0)


def test_other_colours_are_drawn_in_the_same_places() -> None:
    made, pose = decoder(), torch.randn(1, T, Z, dtype=torch.float64)
    colours = 0.2 + 0.6 * torch.rand(1, P, C, dtype=torch.float64)
    order = torch.tensor([2, 0, 1])
    one, two = (torch.sigmoid(made(pose, c.flatten(1))) for c in (colours, colours[..., order]))
    torch.testing.assert_close(one[:, :, order], two)


def test_a_tied_segment_is_drawn_and_read_in_the_colour_of_the_other() -> None:
    free, tied = decoder(), SegmentDecoder(Z, 1, C, 8, (6,), segments=P, tied=True).double()
    assert set(tied.state_dict()) - set(free.state_dict()) == {"ties"}, "runs without ties hold what they always held"
    tied.load_state_dict(free.state_dict(), strict=False)
    pose, nobody, look = torch.randn(2, T, Z).double(), torch.zeros(2, 0).double(), torch.rand(2, P * C).double()
    torch.testing.assert_close(tied(pose, look), free(pose, look))  # as long as none is part of another
    assert tied.ties is not None
    tied.ties.copy_(torch.tensor([0, 1, 1, 3]))
    shares, whole = tied.shares(pose, nobody), free.shares(pose, nobody)
    torch.testing.assert_close(shares[:, :, 1], whole[:, :, 1] + whole[:, :, 2])
    torch.testing.assert_close(shares.sum(2), torch.ones_like(shares[:, :, 0]))
    same = look.unflatten(1, (P, C))[:, [0, 1, 1, 3]].flatten(1)
    torch.testing.assert_close(tied(pose, look), free(pose, same))
    said = tied.read(pose.flatten(0, 1), pose.new_zeros(2 * T, 0), clips(2).flatten(0, 1)).unflatten(0, (2, T)).sum(1)
    loc, scale = (m.unflatten(1, (P, C)) for m in tied.posterior(said, torch.tensor(0.2).double()))
    torch.testing.assert_close(loc[:, 2], torch.zeros_like(loc[:, 2]))  # of a segment never seen, what the prior says
    torch.testing.assert_close(scale[:, 2], torch.ones_like(scale[:, 2]))


def test_frames_add_up_and_missing_ones_do_not_count() -> None:
    _, guide = pair(SEGMENTS)
    x = clips()
    encoded = guide.encode_frames(x)
    assert encoded.shape == (4, T, 2 * Z + P * (P + C))
    torch.testing.assert_close(encoded[..., : 2 * Z], guide.encode_poses(x))
    mask = torch.tensor([True, False, True, True, False]).expand(4, T)
    loc, scale = guide.pool_identity(encoded, mask)
    for known, all_known in zip(guide.pool_identity(encoded[:, mask[0]]), (loc, scale), strict=True):
        torch.testing.assert_close(known, all_known)
    more = guide.pool_identity(encoded)[1]
    assert bool((more < scale).all()), "more frames say more"
    for a, b in zip(guide.pool_identity(encoded.flip(1)), guide.pool_identity(encoded), strict=True):
        torch.testing.assert_close(a, b)


@KINDS
def test_the_analytic_bound_has_the_mean_of_the_sampled_one(kind: dict[str, Any]) -> None:
    model, guide = pair(kind)
    x = clips(2).repeat(60, 1, 1, 1, 1)
    found = {}
    for bound in (Trace_ELBO, TraceMeanField_ELBO):
        torch.manual_seed(3)
        elbo, programs = bound(max_plate_nesting=2), (FrameModel(model), FrameGuide(guide))
        losses = [float(elbo.differentiable_loss(*programs, frames=x).detach()) for _ in range(8)]
        found[bound] = torch.tensor(losses) / 60
    a, b = found[Trace_ELBO], found[TraceMeanField_ELBO]
    assert abs(float(a.mean() - b.mean())) < 4 * float(((a.var() + b.var()) / 8).sqrt())


@KINDS
def test_everything_that_is_trained_gets_a_gradient(kind: dict[str, Any]) -> None:
    model, guide = pair(kind)
    parts: list[nn.Module] = [model.decoder, guide.encoder, guide.pose_head]
    assert hasattr(guide, "identity_head") is (kind is BLENDED)
    loss = TraceMeanField_ELBO(max_plate_nesting=2).differentiable_loss(
        FrameModel(model), FrameGuide(guide), frames=clips(), who=clips(seed=2)
    )
    loss.backward()
    for parameter in (guide.read_noise, *(p for part in parts for p in part.parameters())):
        assert parameter is not None
        assert parameter.grad is not None
        assert bool(parameter.grad.isfinite().all())
        assert float(parameter.grad.abs().max()) > 0


@pytest.mark.parametrize("far", [0.1, 5e3, 1e7])
def test_means_far_outside_have_a_logit_and_a_gradient(far: float) -> None:
    mean = torch.tensor([-far, 0.3, 1.0 + far], requires_grad=True)
    made = logits_of(mean)
    torch.testing.assert_close(made.sigmoid(), mean.detach().clamp(1e-4, 1.0 - 1e-4))
    (made.sigmoid() - 0.5).square().sum().backward()
    assert mean.grad is not None
    torch.testing.assert_close(mean.grad, torch.tensor([-0.9998, -0.4, 0.9998]))


def test_what_cannot_be_made_of_segments_is_refused() -> None:
    with pytest.raises(ConfigError, match="segments is 1"):
        SegmentDecoder(Z, 1, C, 8, (6,), segments=1)
    with pytest.raises(ConfigError, match="need identity='continuous'; got 'discrete'"):
        pair(SEGMENTS, identity="discrete")
    with pytest.raises(ConfigError, match=r"set segments=0 \(it is 0\) and experts=1 \(it is 3\)"):
        pair(BASIS, experts=3)
