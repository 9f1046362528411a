"""Frames that are linear in who is seen: segments of one colour each, or pictures that are added up.

With segments, the mean of frame t is `sum_p m_tp c_p`: masks `m_t = softmax(Masks(z_t; W))` over segments p at every
pixel, and a colour `c_p = centre_p + spread_p v_p` for each segment and clip. With a basis it is
`B_0(z_t) + sum_p v_p B_p(z_t)`, a number for each picture and clip. Either way `v ~ N(0, I)`.

A decoder whose weights depend on a code has to learn what every code looks like, and what is small comes out mixed with
what surrounds it. Here the pose says where things are and who is seen enters linearly, so that combinations that were
never seen, and with segments colours, are drawn as well as any. Given the poses, `v` has a posterior in closed form.

No part of the published model (Vowels, Camgoz and Bowden, *VDSM*, CVPR 2021). Pictures bilinear in content and style:
Tenenbaum and Freeman, "Separating style and content with bilinear models", 2000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phlogiston.errors import ConfigError
from phlogiston.networks.experts import Bank, BankKind, ExpertDecoder, Route

DARKEST = 1e-4  # means of pixels are kept in [DARKEST, 1 - DARKEST], so that they have a logit


def logits_of(mean: Tensor) -> Tensor:
    """Logits of means, brought into (0, 1); gradients pass as if nothing had been cut off."""
    return torch.logit(mean.detach().clamp(DARKEST, 1.0 - DARKEST) + (mean - mean.detach()))


class SegmentDecoder(nn.Module):
    """Poses and appearances to frames.

    Args:
        pose: size `Z` of a pose.
        experts: `K`; with 1, masks depend on the pose alone, with more they are blended.
        channels: of the frames.
        size: of the frames.
        widths, kind, rank, route, shared: of the decoder of the masks, see `ExpertDecoder`.
        segments: `P`.
        tied: whether segments may become parts of others.

    Attributes:
        ties: int64 (P,), the segment whose colour each is drawn in, its own at first; None where all keep theirs.
    """

    def __init__(
        self,
        pose: int,
        experts: int,
        channels: int,
        size: int,
        widths: Sequence[int],
        kind: BankKind = "full",
        rank: int = 4,
        route: Route = "grouped",
        shared: int = 0,
        segments: int = 8,
        tied: bool = False,
    ) -> None:
        super().__init__()
        if segments < 2:
            raise ConfigError(f"segments is {segments}; frames have at least two, what is seen and the ground")
        shared = len(widths) + 1 if experts == 1 else shared
        self.masks = ExpertDecoder(pose, experts, segments, size, widths, kind, rank, route, shared=shared)
        self.experts, self.segments, self.channels = experts, segments, channels
        self.blended = experts if experts > 1 else 0
        self.centre = nn.Parameter(torch.full((segments, channels), 0.4))
        self.log_spread = nn.Parameter(torch.full((segments, channels), math.log(0.3)))
        self.ties: Tensor | None
        self.register_buffer("ties", torch.arange(segments) if tied else None)

    def shares(self, pose: Tensor, blend: Tensor) -> Tensor:
        """Share of each segment in each pixel.

        Args:
            pose: (..., T, Z).
            blend: (..., K) or, with one expert, (..., 0).

        Returns:
            (..., T, P, H, W), sums to 1 over segments; that of a segment that is part of another is 0.
        """
        weights = blend if self.blended else blend.new_ones(*blend.shape[:-1], 1)
        shares = self.masks(pose, weights).softmax(-3)
        return shares if self.ties is None else torch.zeros_like(shares).index_add(-3, self.ties, shares)

    def look(self, unit: Tensor) -> Tensor:
        """What `forward` takes after the weights of experts: colours (..., P * C) of standardised ones (..., P * C)."""
        return self.centre.flatten() + self.log_spread.flatten().exp() * unit

    def forward(self, pose: Tensor, look: Tensor) -> Tensor:
        """Decode.

        Args:
            pose: (..., T, Z).
            look: (..., K + P * C), weights of the experts (none where there is one) and colours.

        Returns:
            Logits of the pixels' means, (..., T, C, H, W).
        """
        shares = self.shares(pose, look[..., : self.blended])
        colours = look[..., self.blended :].unflatten(-1, (self.segments, self.channels))
        mean = torch.einsum("...tphw,...pc->...tchw", shares, colours.expand(*shares.shape[:-4], -1, -1))
        return logits_of(mean)

    def read(self, pose: Tensor, blend: Tensor, frames: Tensor) -> Tensor:
        """What frames say about the colours of segments: sums over pixels of m m' and of m x'.

        Args:
            pose: (n, Z).
            blend: (n, K) or, with one expert, (n, 0).
            frames: (n, C, H, W), floats.

        Returns:
            (n, P * (P + C)); of several frames of a clip, these add up.
        """
        m, x = self.shares(pose.unsqueeze(-2), blend).squeeze(-4).flatten(-2), frames.flatten(-2)
        return (m @ torch.cat([m, x], -2).transpose(-1, -2)).flatten(-2)

    def posterior(self, said: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Colours given the masks, where pixels are means with errors of standard deviation `noise`.

        Args:
            said: (n, P * (P + C)), what `read` gave, summed over frames.
            noise: a scalar, above 0.

        Returns:
            Location and scale of the standardised colours, (n, P * C) each; see `linear_posterior`.
        """
        total, spread = said.double().unflatten(-1, (self.segments, -1)), self.log_spread.double().exp()
        gram, cross = total[..., : self.segments], total[..., self.segments :]
        per_channel = gram.unsqueeze(-3) * spread.T.unsqueeze(-1) * spread.T.unsqueeze(-2)  # (n, C, P, P)
        gap = spread * (cross - gram @ self.centre.double())  # (n, P, C)
        loc, scale = linear_posterior(per_channel, gap.transpose(-1, -2), noise)
        return tuple(part.transpose(-1, -2).flatten(-2).to(said.dtype) for part in (loc, scale))  # type: ignore[return-value]


class BasisDecoder(nn.Module):
    """Poses and coordinates to frames: the pose makes pictures, the coordinates add them up.

    Args:
        pose: size `Z` of a pose.
        channels: of the frames.
        size: of the frames.
        widths: of the decoder of the pictures, see `ExpertDecoder`; its last layer makes all of them.
        route: how clips are decoded together.
        basis: `P`, pictures besides the one that everybody shares.
    """

    def __init__(
        self, pose: int, channels: int, size: int, widths: Sequence[int], route: Route = "grouped", basis: int = 24
    ) -> None:
        super().__init__()
        self.pictures = ExpertDecoder(pose, basis + 1, channels, size, widths, route=route, shared=len(widths))
        self.basis, self.blended = basis, 0
        last = self.pictures.layers[-1]
        assert isinstance(last, Bank)
        with torch.no_grad():  # a first frame near black, and pictures that differ
            last.weight.normal_(0.0, 0.3 * math.sqrt(0.5 / widths[-1]) / math.sqrt(basis))

    def look(self, unit: Tensor) -> Tensor:
        """What `forward` takes of coordinates (..., P)."""
        return unit

    def forward(self, pose: Tensor, look: Tensor) -> Tensor:
        """Logits of the pixels' means, (..., T, C, H, W), of poses (..., T, Z) and coordinates (..., P)."""
        return logits_of(self.pictures(pose, torch.cat([torch.ones_like(look[..., :1]), look], -1)))

    def read(self, pose: Tensor, blend: Tensor, frames: Tensor) -> Tensor:
        """What frames say about the coordinates: products of the pictures with each other and with what is to explain.

        Args:
            pose: (n, Z).
            blend: not used.
            frames: (n, C, H, W), floats.

        Returns:
            (n, P * (P + 1)); of several frames of a clip, these add up.
        """
        pictures = self.pictures.components(pose).flatten(2)
        gap, basis = frames.flatten(1).unsqueeze(1) - pictures[:, :1], pictures[:, 1:]
        return (basis @ torch.cat([basis, gap], 1).transpose(1, 2)).flatten(1)

    def posterior(self, said: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates given the poses: location and scale, (n, P) each; arguments as `SegmentDecoder.posterior`."""
        total = said.double().unflatten(-1, (self.basis, self.basis + 1))
        loc, scale = linear_posterior(total[..., :-1], total[..., -1], noise)
        return loc.to(said.dtype), scale.to(said.dtype)


def linear_posterior(gram: Tensor, cross: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior of `v` where x = A v + noise e, v ~ N(0, I), e ~ N(0, I).

    Args:
        gram: A' A, (..., P, P).
        cross: A' x, (..., P).
        noise: a scalar, above 0.

    Returns:
        Location, the posterior's mean; and scale, the standard deviation of each entry given all others, which is that
        of the nearest Gaussian with independent entries. (..., P) each.
    """
    precision = noise.to(gram.dtype).square().reciprocal()
    matrix = precision * gram + torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    loc = torch.linalg.solve(matrix, (precision * cross).unsqueeze(-1)).squeeze(-1)
    return loc, matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
