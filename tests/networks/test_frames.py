"""Frames against the plain form of their definition: one matrix per row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phlogiston.models.drmm import DRMM
from phlogiston.networks.frames import FRAMES, Frame, TriangularFrame, squared_norm, triangular


def made(name: str, k: int, d: int, seed: int = 0) -> Frame:
    torch.manual_seed(seed)
    frame = FRAMES[name](k, d).double()
    with torch.no_grad():
        for parameter in frame.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return frame


def plain(frame: Frame, u: Tensor, code: Tensor) -> Tensor:
    """`W_k (u - mu_k)` with the matrix of every row written out, as the inverse of `factors`."""
    factors = frame.factors()
    matrices = torch.linalg.inv(factors if factors.dim() == 3 else torch.diag_embed(factors))
    return (matrices[code] @ (u - frame.mean[code]).unsqueeze(-1)).squeeze(-1)


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(list(FRAMES)),
    k=st.integers(1, 5),
    d=st.integers(1, 6),
    shapes=st.sampled_from([((7,), (7,)), ((1,), (4,)), ((3, 1), (1, 5)), ((2, 3), (3,)), ((), (2,)), ((0,), (0,))]),
    seed=st.integers(0, 100),
)
def test_whitening_one_component_per_row(name: str, k: int, d: int, shapes: tuple, seed: int) -> None:
    frame = made(name, k, d, seed)
    u = torch.randn(*shapes[0], d, dtype=torch.float64, requires_grad=True)
    code = torch.randint(k, shapes[1])
    expected = plain(frame, u, code)
    torch.testing.assert_close(frame.whiten(u, code), expected, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(expected)
    parameters = [u, *frame.parameters()]
    slopes = [
        torch.autograd.grad((weight * y.sin()).sum(), parameters, allow_unused=True)
        for y in (frame.whiten(u, code), expected)
    ]
    for ours, theirs in zip(*slopes, strict=True):
        ours, theirs = (torch.zeros(()) if g is None or not g.any() else g for g in (ours, theirs))
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8, check_dtype=False)


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("wide", [1, 64])
def test_determinants_and_distances(name: str, wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triangular, "WIDE", wide)
    frame = made(name, 4, 3)
    u, code = torch.randn(5, 2, 3, dtype=torch.float64), torch.randint(4, (5, 2))
    every = torch.arange(4).expand(5, 2, 4)
    whitened = frame.whiten(u.unsqueeze(-2), every)
    torch.testing.assert_close(frame.whiten_all(u), whitened)
    torch.testing.assert_close(frame.square_distances(u), whitened.square().sum(-1))
    assert not frame.square_distances(u).requires_grad
    factors = frame.factors() if frame.mixes else torch.diag_embed(frame.factors())
    torch.testing.assert_close(frame.log_diagonal(code).sum(-1), -torch.logdet(factors)[code])
    torch.testing.assert_close(frame.log_det(), -torch.logdet(factors))


def test_second_derivatives() -> None:
    frame = made("tril", 3, 2)
    u, code = torch.randn(4, 2, dtype=torch.float64, requires_grad=True), torch.tensor([2, 0, 2, 2])
    assert torch.autograd.gradgradcheck(lambda v: squared_norm(frame.whiten(v, code)), (u,))


@pytest.mark.parametrize("features", [20, 40])
def test_the_loss_of_a_full_frame_is_that_of_matrices_by_row(features: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either side of the number of features from which on children are chosen before they are formed."""
    torch.manual_seed(1)
    model = DRMM(features, 2, 6, "tril").double()
    with torch.no_grad():
        for frame in model.frames:
            frame.lower.normal_(0, 0.2)
            frame.log_scale.normal_(0, 0.2)
    x = torch.randn(50, features, dtype=torch.float64)

    def slopes() -> list[Tensor]:
        loss = model.find(x, width=4).nested.mean()
        return [loss, *torch.autograd.grad(loss, list(model.parameters()))]

    ours, again = slopes(), slopes()
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))  # the same bits, time after time
    monkeypatch.setattr(TriangularFrame, "whiten", plain)
    monkeypatch.setattr(TriangularFrame, "whiten_all", lambda f, u: plain(f, u.unsqueeze(-2), _every(f, u)))
    monkeypatch.setattr(TriangularFrame, "square_distances", lambda f, u: f.whiten_all(u).detach().square().sum(-1))
    for a, b in zip(ours, slopes(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def _every(frame: Frame, u: Tensor) -> Tensor:
    return torch.arange(frame.num_components).expand(*u.shape[:-1], -1)
