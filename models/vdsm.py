"""VDSM: video explained by who (an identity), which action (a dynamics code) and a pose per frame.

    u ~ N(0, s_u^2),  w = softmax(tau u)                 identity, blend of K experts; once per clip
    d ~ N(0, s_d^2)                                      dynamics; once per clip
    z_0 ~ N(0, I),  z_t ~ N(mu(z_{t-1}, d), sigma(z_{t-1}, d)^2)          poses
    x_t ~ Bernoulli(logits = Dec(z_t; W = sum_k w_k W_k))                 frames

Three programs share these parts and are trained one after the other:

    FrameModel    stage 1: poses of frames are independent, there is no dynamics code
    LatentModel   a warm start of stage 2: the chain, seen through the frame encoder's posteriors instead of pixels
    VDSM          stage 2, and everything afterwards: the whole model

Vowels, Camgoz and Bowden, *VDSM: Unsupervised Video Disentanglement with State-Space Modeling and Deep Mixtures of
Experts*, CVPR 2021 (arXiv 2103.07292). Where we differ on purpose: the chain is one site (`chain="sites"` spells it
out), observations are densities on logits, transitions start near a random walk, scales have floors.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import Tensor, nn

from phlogiston.distributions.gaussian_chain import GaussianChain
from phlogiston.errors import ConfigError
from phlogiston.models.linear_frames import BasisDecoder, SegmentDecoder
from phlogiston.models.stage_program import StageProgram
from phlogiston.networks.experts import BankKind, ExpertDecoder, Route
from phlogiston.networks.frame_encoder import pixels

IdentityKind = Literal["continuous", "discrete", "relaxed"]
Likelihood = Literal["bernoulli", "continuous_bernoulli", "normal"]
Chain = Literal["fused", "sites"]


class Transition(nn.Module):
    """Poses to the next poses, given the dynamics: a gate between standing still and a proposal.

    With c = [z, d]: g = sigmoid(W2 relu(W1 c)), p = V2 relu(V1 c), mean (1 - g) (A z + a) + g p, scale
    softplus(S relu(p) + s). A begins as the identity and the gate nearly shut, so that chains begin as random walks.

    Args:
        pose: `Z`.
        dynamics: `D`.
        hidden: units.
        floor: smallest scale.
    """

    def __init__(self, pose: int, dynamics: int, hidden: int, floor: float = 1e-3) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(pose + dynamics, hidden), nn.ReLU(), nn.Linear(hidden, pose))
        self.proposal = nn.Sequential(nn.Linear(pose + dynamics, hidden), nn.ReLU(), nn.Linear(hidden, pose))
        self.still = nn.Linear(pose, pose)
        self.scale = nn.Linear(pose, pose)
        self.floor = floor
        with torch.no_grad():
            self.still.weight.copy_(torch.eye(pose))
            self.still.bias.zero_()
            last = self.gate[-1]
            assert isinstance(last, nn.Linear)
            last.bias.fill_(-1.5)

    def forward(self, pose: Tensor, dynamics: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of the next poses, (..., Z) each, of poses (..., Z) and codes (..., D) that broadcast."""
        both = torch.cat([pose, dynamics.expand(*pose.shape[:-1], dynamics.shape[-1])], -1)
        gate, proposal = torch.sigmoid(self.gate(both)), self.proposal(both)
        loc = (1.0 - gate) * self.still(pose) + gate * proposal
        return loc, F.softplus(self.scale(F.relu(proposal))) + self.floor


class CodeMixture(nn.Module):
    """A mixture of Gaussians fitted to codes of the training clips; empty until `set` is called.

    The prior says where codes might lie, the mixture where those of the training clips do: clips drawn from it look
    like training clips where draws from the prior look like an average of them.

    Args:
        components: how many it can hold.
        size: of a code.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor

    def __init__(self, components: int, size: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(components))
        self.register_buffer("means", torch.zeros(components, size))
        self.register_buffer("factors", torch.eye(size).repeat(components, 1, 1))

    def set(self, weights: Tensor, means: Tensor, factors: Tensor) -> None:
        """Take a mixture of at most as many components as it can hold."""
        self.weights.zero_()
        for own, given in ((self.weights, weights), (self.means, means), (self.factors, factors)):
            own[: len(given)].copy_(given)

    def mixture(self) -> dist.MixtureSameFamily:
        """The mixture.

        Raises:
            ConfigError: nothing has been fitted.
        """
        if not len(self.weights) or not bool(self.weights.sum() > 0):
            raise ConfigError("prior='aggregate' needs a system trained with aggregate > 0; use prior='standard'")
        parts = dist.MultivariateNormal(self.means, scale_tril=self.factors)
        return dist.MixtureSameFamily(dist.Categorical(self.weights), parts)


class VDSM(nn.Module):
    """The whole generative program; see the module's description.

    Args:
        channels: of the frames.
        size: of the frames, in pixels: a power of two from 8 on.
        widths: the option `decoder_widths`.
        hidden: units of the transition.

    The other arguments are options of `systems.vdsm.config.Config`, described there.

    Attributes:
        temperature: `tau`; a training stage moves it by a handler.
        blended: entries of an identity that blend experts, the first ones; the others are colours of segments or
            coordinates in a basis.
        identity_size: entries of an identity.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        experts: int,
        pose: int,
        dynamics: int,
        widths: Sequence[int],
        hidden: int = 96,
        identity: IdentityKind = "continuous",
        likelihood: Likelihood = "bernoulli",
        chain: Chain = "fused",
        bank: BankKind = "full",
        rank: int = 4,
        route: Route = "grouped",
        aggregate: int = 0,
        shared_layers: int = 0,
        segments: int = 0,
        basis: int = 0,
        tie_segments: bool = False,
    ) -> None:
        super().__init__()
        if min(experts, pose, dynamics) < 1:
            raise ConfigError(f"experts={experts}, pose={pose}, dynamics={dynamics}; all must be at least 1")
        if (segments or basis) and identity != "continuous":
            raise ConfigError(f"segments={segments}, basis={basis} need identity='continuous'; got {identity!r}")
        if basis and (segments or experts > 1):
            raise ConfigError(
                f"basis={basis} takes the place of segments and experts; set segments=0 (it is {segments}) and "
                f"experts=1 (it is {experts})"
            )
        self.channels, self.size = channels, size
        self.experts, self.pose, self.dynamics = experts, pose, dynamics
        self.identity_kind, self.likelihood_kind, self.chain_kind = identity, likelihood, chain
        form = (pose, experts, channels, size, widths, bank, rank, route)
        self.decoder: ExpertDecoder | SegmentDecoder | BasisDecoder
        if segments:
            self.decoder = SegmentDecoder(*form, shared=shared_layers, segments=segments, tied=tie_segments)
            self.blended = self.decoder.blended
        elif basis:
            self.decoder, self.blended = BasisDecoder(pose, channels, size, widths, route, basis), 0
        else:
            self.decoder, self.blended = ExpertDecoder(*form, shared=shared_layers), experts
        self.identity_size = self.blended + segments * channels + basis
        self.transition = Transition(pose, dynamics, hidden)
        self.identity_codes = CodeMixture(aggregate, self.identity_size)
        self.dynamics_codes = CodeMixture(aggregate, dynamics)
        self.temperature = 10.0
        self.noise: nn.Parameter | None = nn.Parameter(torch.tensor(-2.0)) if likelihood == "normal" else None
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    # ----- parts --------------------------------------------------------------------------------------------------

    def identity_prior(self) -> dist.TorchDistribution:
        """Prior of the identity, event (K,), or (identity_size,) with segments or a basis."""
        flat = self.zero.expand(self.identity_size)
        if self.identity_kind == "discrete":
            return dist.OneHotCategorical(logits=flat)
        if self.identity_kind == "relaxed":
            return dist.RelaxedOneHotCategoricalStraightThrough(self.zero + 0.5, logits=flat)
        return dist.Normal(flat, 1.0 / self.identity_size).to_event(1)

    def dynamics_prior(self) -> dist.TorchDistribution:
        """Prior of the dynamics, event (D,)."""
        return dist.Normal(self.zero.expand(self.dynamics), 1.0 / self.dynamics).to_event(1)

    def pose_prior(self, dynamics: Tensor, length: int, active: Tensor | None = None) -> GaussianChain:
        """Prior of the poses given the dynamics (..., D): batch (...,), event (T, Z)."""
        start = self.zero.expand(*dynamics.shape[:-1], self.pose)

        def step(previous: Tensor, times: slice) -> tuple[Tensor, Tensor]:
            return self.transition(previous, dynamics.unsqueeze(-2))

        return GaussianChain((start, torch.ones_like(start)), step, length, active)

    def blend(self, identity: Tensor) -> Tensor:
        """What the decoder takes of identities: blend weights `w`, (..., K), and after them colours or coordinates."""
        if self.identity_kind != "continuous":
            return identity
        if isinstance(self.decoder, ExpertDecoder):
            return torch.softmax(self.temperature * identity, -1)
        unit = self.identity_size * identity
        return torch.cat([self.weights(unit[..., : self.blended]), self.decoder.look(unit[..., self.blended :])], -1)

    def weights(self, unit: Tensor) -> Tensor:
        """Blend weights of entries that have scale 1 under the prior, (..., K)."""
        return torch.softmax(self.temperature / self.experts * unit, -1)

    def decode(self, pose: Tensor, identity: Tensor) -> Tensor:
        """Logits of frames (..., T, C, H, W) of poses (..., T, Z) and identities (..., K)."""
        return self.decoder(pose, self.blend(identity))

    def likelihood(self, logits: Tensor) -> dist.TorchDistribution:
        """Distribution of frames given the decoder's output, event (C, H, W)."""
        if self.likelihood_kind == "bernoulli":  # grey pixels are soft targets: not a density then, but a bound's term
            return dist.Bernoulli(logits=logits, validate_args=False).to_event(3)
        if self.likelihood_kind == "continuous_bernoulli":
            return dist.ContinuousBernoulli(logits=logits, validate_args=False).to_event(3)
        assert self.noise is not None
        return dist.Normal(torch.sigmoid(logits), F.softplus(self.noise) + 1e-3).to_event(3)

    def picture(self, logits: Tensor) -> Tensor:
        """Means of pixels, in [0, 1]."""
        return torch.sigmoid(logits)

    # ----- the program --------------------------------------------------------------------------------------------

    def forward(
        self,
        frames: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        encoded: Tensor | None = None,
        rows: int = 1,
        length: int = 8,
    ) -> Tensor:
        """Generate clips, or score them.

        Args:
            frames: (rows, T, C, H, W), floats in [0, 1] or bytes; None generates.
            mask: bool (rows, T), True where a frame is known. The chain runs over all times, and its steps after the
                last known frame do not count.
            encoded: the guide's argument; ignored here.
            rows: clips to generate where there are no frames.
            length: frames of each.

        Returns:
            The logits, (..., rows, T, C, H, W).
        """
        rows, length = (rows, length) if frames is None else frames.shape[:2]
        active = active_steps(mask)
        time = pyro.plate("time", length, dim=-1)
        with pyro.plate("data", rows, dim=-2):
            identity = pyro.sample("identity", self.identity_prior())
            dynamics = pyro.sample("dynamics", self.dynamics_prior())
            if self.chain_kind == "fused":
                pose = pyro.sample("pose", self.pose_prior(dynamics, length, active)).squeeze(-3)
            else:
                pose = self.pose_sites(dynamics, length, active)
            logits = self.decode(pose, identity.squeeze(-2))
            with time, seen(mask):
                pyro.sample("frames", self.likelihood(logits), obs=pixels(frames))
        return logits

    def pose_sites(self, dynamics: Tensor, length: int, active: Tensor | None) -> Tensor:
        """The chain with one site per pose, inside the plate: (..., T, Z)."""
        chain = self.pose_prior(dynamics, length)
        loc, scale = chain.first
        path: list[Tensor] = []
        for t in range(length):
            if path:
                loc, scale = (m.squeeze(-2) for m in chain.step(path[-1].unsqueeze(-2), slice(t, t + 1)))
            with seen(None if active is None else active[..., t]):
                path.append(pyro.sample(f"pose_{t}", dist.Normal(loc, scale).to_event(1)))
        return torch.stack(path, -2).squeeze(-3)


class FrameModel(StageProgram[VDSM]):
    """Stage 1: frames of one individual, whose poses are independent."""

    def forward(
        self,
        frames: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        rows: int = 1,
        length: int = 8,
        **_: Any,
    ) -> Tensor:
        """As `VDSM.forward`, without dynamics; the guide takes further arguments."""
        whole = self.whole
        rows, length = (rows, length) if frames is None else frames.shape[:2]
        time = pyro.plate("time", length, dim=-1)
        with pyro.plate("data", rows, dim=-2):
            identity = pyro.sample("identity", whole.identity_prior())
            with time, seen(mask):
                pose = pyro.sample("pose", dist.Normal(whole.zero.expand(whole.pose), 1.0).to_event(1))
            logits = whole.decode(pose, identity.squeeze(-2))
            with time, seen(mask):
                pyro.sample("frames", whole.likelihood(logits), obs=pixels(frames))
        return logits


class LatentModel(StageProgram[VDSM]):
    """The warm start: dynamics and chain, observed through the frame encoder's posteriors of the poses.

    A frame for whose pose the encoder gives N(e, s^2) is taken as a measurement e of the pose with error s. There is no
    decoder, which is what stage 2 spends most of its time on.
    """

    def forward(self, frames: Any = None, mask: Tensor | None = None, *, encoded: Tensor) -> None:
        """Take `encoded` (rows, T, 2 Z + 2 K), what `VDSMGuide.encode_frames` gives; `frames` is not used."""
        whole = self.whole
        rows, length = encoded.shape[:2]
        measured, error = encoded[..., : whole.pose], encoded[..., whole.pose : 2 * whole.pose]
        active = active_steps(mask)
        with pyro.plate("data", rows, dim=-2):
            dynamics = pyro.sample("dynamics", whole.dynamics_prior())
            if whole.chain_kind == "fused":
                pose = pyro.sample("pose", whole.pose_prior(dynamics, length, active)).squeeze(-3)
            else:
                pose = whole.pose_sites(dynamics, length, active)
            with pyro.plate("time", length, dim=-1), seen(mask):
                pyro.sample("encoding", dist.Normal(pose, error).to_event(1), obs=measured)


def seen(mask: Tensor | None) -> Any:
    """A handler that leaves out densities where the mask is False, or nothing."""
    return nullcontext() if mask is None else poutine.mask(mask=mask)  # type: ignore[call-overload]


def active_steps(mask: Tensor | None) -> Tensor | None:
    """Steps up to the last known frame, bool (rows, 1, T), of a mask (rows, T)."""
    if mask is None:
        return None
    return mask.flip(1).cummax(1).values.flip(1).unsqueeze(1)
