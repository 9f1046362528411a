"""How VDSM infers who, which action, and the poses of a clip.

Every frame is encoded by itself: a posterior of its pose, and what it says about the identity, which is pooled over
frames. (Where frames are linear in who is seen, that is read off by least squares, given the pose.) A
bidirectional LSTM reads the sequence of pose locations into the dynamics code. From a sample of that code alone a
free-running LSTM and a combiner make the posterior of the poses (the *bottleneck*: everything a regenerated clip shows
of the action has passed through the code); with `pose_guide="smoothing"` the combiner also reads the sequence itself.

Vowels, Camgoz and Bowden, *VDSM*, CVPR 2021, section 3. Where we differ on purpose: the encoder is not affine, the
dynamics' location has no activation, missing frames have no influence at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phlogiston.distributions.gaussian_chain import GaussianChain
from phlogiston.errors import ConfigError
from phlogiston.models.stage_program import StageProgram
from phlogiston.models.vdsm import VDSM, active_steps, seen
from phlogiston.networks.experts import ExpertDecoder
from phlogiston.networks.frame_encoder import FrameEncoder, FreeRun, Summary, pixels

PoseGuide = Literal["bottleneck", "smoothing"]
Pool = Literal["mean", "product"]
FLOOR = 1e-4  # of every scale


class VDSMGuide(nn.Module):
    """The inference program of `VDSM`; its parts serve the other stages' guides, too.

    Args:
        model: the model whose sites it infers.
        widths: the option `encoder_widths`.
        share: the option `identity_share`.

    The other arguments are options of `systems.vdsm.config.Config`, described there.
    """

    def __init__(
        self,
        model: VDSM,
        widths: Sequence[int],
        features: int = 128,
        recurrent: int = 96,
        layers: int = 1,
        encoder: Literal["blur", "strided"] = "blur",
        pose_guide: PoseGuide = "bottleneck",
        pool: Pool = "mean",
        share: float = 0.5,
        dropout: float = 0.0,
        agreement: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ConfigError(f"share is {share}; it must be above 0 and at most 1")
        z, k, d = model.pose, model.blended, model.dynamics
        self.pose, self.blended, self.dynamics, self.identity_size = z, k, d, model.identity_size
        # the model's parameters are the model's: a list keeps them out of this module's tree
        self._model = [model]
        self.identity_kind, self.chain_kind = model.identity_kind, model.chain_kind
        self.pose_guide, self.pool, self.share, self.agreement = pose_guide, pool, share, agreement
        self.encoder = FrameEncoder(model.channels, model.size, widths, features, encoder)
        self.pose_head = nn.Linear(features, 2 * z)
        self.identity_scale: nn.Linear | None = None
        if k:
            self.identity_head = nn.Sequential(nn.Linear(features, 128), nn.LeakyReLU(0.01), nn.Linear(128, 2 * k))
            self.identity_loc = nn.Linear(k, k)
            if self.identity_kind == "continuous":  # one-hot identities have no scale of their own
                self.identity_scale = nn.Linear(k, k)
        # of pixels, where who is seen is read from frames that are linear in it
        self.read_noise = None if isinstance(model.decoder, ExpertDecoder) else nn.Parameter(torch.tensor(-2.0))
        self.summary = Summary(z, recurrent, layers, dropout)
        self.dynamics_head = nn.Linear(self.summary.outputs, 2 * d)
        self.run = FreeRun(d, recurrent, layers)
        self.before = nn.Parameter(torch.zeros(z))
        self.from_pose = nn.Linear(z, recurrent)
        inputs = recurrent + d + (2 * recurrent if pose_guide == "smoothing" else 0)
        self.from_state = nn.Linear(inputs, recurrent)
        self.step_loc, self.step_scale = nn.Linear(recurrent, z), nn.Linear(recurrent, z)
        with torch.no_grad():
            self.step_scale.bias.fill_(-2.0)
            if self.identity_scale is not None:
                # a quarter of the prior's scale: wider, its noise would drown what the blend has to learn first
                self.identity_scale.bias.fill_(math.log(math.expm1(0.25 / k)))

    # ----- parts --------------------------------------------------------------------------------------------------

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Encode every frame by itself.

        Args:
            frames: (..., C, H, W), floats in [0, 1] or bytes.

        Returns:
            (..., 2 Z + 2 K): location and scale of the pose, location and scale of what is said about the identity.
            Where frames are linear in who is seen, what they say about it follows, and without experts K is 0.
        """
        floats = pixels(frames)
        assert floats is not None
        flat = floats.reshape(-1, *floats.shape[-3:])
        features = self.encoder(flat)
        codes = [self._pose_of(features)]
        if self.blended:
            who, spread = self.identity_head(features).chunk(2, -1)
            codes += [who, F.softplus(spread) + FLOOR]
        decoder = self._model[0].decoder
        if not isinstance(decoder, ExpertDecoder):
            blend = features[:, :0]
            if self.blended:
                blend = self._model[0].weights(self.identity_size * self.identity_loc(codes[1]))
            codes.append(decoder.read(codes[0][:, : self.pose], blend, flat))
        return torch.cat(codes, -1).reshape(*frames.shape[:-3], -1)

    def encode_poses(self, frames: Tensor) -> Tensor:
        """The first 2 Z entries of `encode_frames`, location and scale of the poses, without working out the others."""
        floats = pixels(frames)
        assert floats is not None
        return self._pose_of(self.encoder(floats))

    def _pose_of(self, features: Tensor) -> Tensor:
        loc, raw = self.pose_head(features).chunk(2, -1)
        return torch.cat([loc, F.softplus(raw) + FLOOR], -1)

    def pool_identity(self, encoded: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pool what frames say about the identity.

        Args:
            encoded: (rows, T, 2 Z + 2 K).
            mask: bool (rows, T), frames to use; all if None.

        Returns:
            Location and scale, (rows, K) each, with segments or a basis those of its colours or coordinates after
            them; for one-hot identities the location is logits.
        """
        z, k = self.pose, self.blended
        decoder = self._model[0].decoder
        if isinstance(decoder, ExpertDecoder):
            return self._pool_blend(encoded[..., 2 * z :], mask)
        assert self.read_noise is not None
        said = encoded[..., 2 * z + 2 * k :]
        said = said.sum(1) if mask is None else (said * mask.unsqueeze(-1)).sum(1)
        noise = F.softplus(self.read_noise) + FLOOR
        loc, scale = (part / self.identity_size for part in decoder.posterior(said, noise))
        if not k:
            return loc, scale
        own, width = self._pool_blend(encoded[..., 2 * z : 2 * z + 2 * k], mask)
        return torch.cat([own, loc], -1), torch.cat([width, scale], -1)

    def _pool_blend(self, said: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pool what frames say about the blend, (rows, T, 2 K)."""
        loc, scale = said.chunk(2, -1)
        loc = self.identity_loc(loc)
        scale = scale if self.identity_scale is None else F.softplus(self.identity_scale(scale)) + FLOOR
        weight = torch.ones_like(loc[..., :1]) if mask is None else mask.unsqueeze(-1).to(loc.dtype)
        if self.pool == "product":
            precision = weight / scale.square()
            total = precision.sum(1)
            return (loc * precision).sum(1) / total, total.rsqrt()
        count = weight.sum(1)
        return (loc * weight).sum(1) / count, (scale * weight).sum(1) / count

    def read(self, encoded: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Read the sequence: location and scale of the dynamics (rows, D), and the LSTM's outputs (rows, T, 2 R)."""
        summary, outputs = self.summary(encoded[..., : self.pose], mask)
        loc, raw = self.dynamics_head(summary).chunk(2, -1)
        return loc, F.softplus(raw - 2.0) + FLOOR, outputs

    def pose_chain(
        self, dynamics: Tensor, length: int, outputs: Tensor | None = None, active: Tensor | None = None
    ) -> GaussianChain:
        """Posterior of the poses given the dynamics.

        Args:
            dynamics: (..., D).
            length: `T`.
            outputs: (..., T, 2 R), what `read` gave; for the smoothing guide only.
            active: bool (..., T), steps that count.

        Returns:
            Batch (...,), event (T, Z).
        """
        parts = [self.run(dynamics, length), dynamics.unsqueeze(-2).expand(*dynamics.shape[:-1], length, self.dynamics)]
        if self.pose_guide == "smoothing":
            if outputs is None:
                raise ConfigError("the smoothing guide needs the clip itself; regenerate from its frames")
            parts.append(outputs.expand(*dynamics.shape[:-1], *outputs.shape[-2:]))
        state = F.leaky_relu(self.from_state(torch.cat(parts, -1)), 0.01)  # (..., T, R)

        def step(previous: Tensor, times: slice) -> tuple[Tensor, Tensor]:
            mixed = 0.5 * (torch.tanh(self.from_pose(previous)) + state[..., times, :])
            return self.step_loc(mixed), F.softplus(self.step_scale(mixed)) + FLOOR

        start = self.before.expand(*dynamics.shape[:-1], 1, self.pose)
        loc, scale = (m.squeeze(-2) for m in step(start, slice(0, 1)))
        return GaussianChain((loc, scale), step, length, active)

    def identity_posterior(
        self, encoded: Tensor, mask: Tensor | None = None, glimpse: bool = True
    ) -> dist.TorchDistribution:
        """Posterior of the identity, batch (rows, 1), event (K,); in training `glimpse` takes a share of the frames."""
        mask = self._glimpse(encoded, mask) if glimpse else mask
        loc, scale = (m.unsqueeze(1) for m in self.pool_identity(encoded, mask))
        if self.identity_kind == "discrete":
            return dist.OneHotCategorical(logits=loc)
        if self.identity_kind == "relaxed":
            return dist.RelaxedOneHotCategoricalStraightThrough(torch.full_like(loc[0, 0, 0], 0.5), logits=loc)
        return dist.Normal(loc, scale).to_event(1)

    def sample_identity(self, encoded: Tensor, mask: Tensor | None = None, glimpse: bool = True) -> Tensor:
        """The site `identity`, inside the plate; arguments as `identity_posterior`."""
        infer: Any = {"enumerate": "parallel"} if self.identity_kind == "discrete" else None
        value: Tensor = pyro.sample("identity", self.identity_posterior(encoded, mask, glimpse), infer=infer)
        return value

    def _glimpse(self, encoded: Tensor, mask: Tensor | None) -> Tensor | None:
        """Choose the frames the identity is read from while training."""
        if not self.training or self.share >= 1:
            return mask
        order = torch.rand(encoded.shape[:2], device=encoded.device)
        known = torch.full_like(order[:, 0], float(encoded.shape[1]))
        if mask is not None:
            order, known = order.masked_fill(~mask, 2.0), mask.sum(1).to(order.dtype)
        rank = order.argsort(1).argsort(1)
        return rank < (self.share * known).ceil().clamp_min(1.0).unsqueeze(1)

    # ----- the program --------------------------------------------------------------------------------------------

    def forward(
        self,
        frames: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        encoded: Tensor | None = None,
        **_: Any,
    ) -> None:
        """Sample the latent sites of clips.

        Args:
            frames: (rows, T, C, H, W), floats in [0, 1] or bytes.
            mask: bool (rows, T), True where a frame is known; what others hold has no influence.
            encoded: `encode_frames(frames)`, where it is known already.
            **_: the model's other arguments.

        Raises:
            ConfigError: neither frames nor codes.
        """
        encoded = self.encoding_of(frames, encoded)
        with pyro.plate("data", len(encoded), dim=-2):
            self.sample_identity(encoded, mask)
            self.sample_chain(encoded, mask)

    def encoding_of(self, frames: Tensor | None, encoded: Tensor | None) -> Tensor:
        """`encoded` where it is given, else `encode_frames(frames)`."""
        if encoded is not None:
            return encoded
        if frames is None:
            raise ConfigError("the guide infers from frames; give frames (rows, T, C, H, W)")
        return self.encode_frames(frames)

    def sample_chain(self, encoded: Tensor, mask: Tensor | None) -> None:
        """The sites of dynamics and poses, inside the plate."""
        loc, scale, outputs = (m.unsqueeze(1) for m in self.read(encoded, mask))
        dynamics = pyro.sample("dynamics", dist.Normal(loc, scale).to_event(1))
        chain = self.pose_chain(dynamics, encoded.shape[1], outputs, active_steps(mask))
        if self.chain_kind == "fused":
            pyro.sample("pose", chain)
            return
        loc, scale = chain.first
        for t in range(chain.length):
            with seen(None if chain.active is None else chain.active[..., t]):
                pose = pyro.sample(f"pose_{t}", dist.Normal(loc, scale).to_event(1))
            if t + 1 < chain.length:
                loc, scale = (m.squeeze(-2) for m in chain.step(pose.unsqueeze(-2), slice(t + 1, t + 2)))


class FrameGuide(StageProgram[VDSMGuide]):
    """The guide of stage 1: identity, and independent poses."""

    def forward(
        self,
        frames: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        who: Tensor | None = None,
        posed: Tensor | None = None,
        encoded: Tensor | None = None,
        **_: Any,
    ) -> None:
        """Sample identity and poses.

        Args:
            frames, mask, encoded: as `VDSMGuide.forward`.
            who: (rows, S, C, H, W), frames of another clip of the same individual to read the identity from. What
                differs between the two clips cannot help there, so that the identity does not learn to hold it.
            posed: (rows, T, C, H, W), the frames with other colours, to read the poses from. What has changed at
                random cannot help there, so that poses do not learn to hold it.
        """
        whole = self.whole
        if who is None or whole.agreement > 0:
            encoded = whole.encoding_of(frames, encoded)
        if posed is not None or encoded is None:
            shown = frames if posed is None else posed
            assert shown is not None
            poses = whole.encode_poses(shown)
        else:
            poses = encoded
        with pyro.plate("data", len(poses), dim=-2):
            if who is None:
                assert encoded is not None
                whole.sample_identity(encoded, mask)
            else:
                others = whole.encode_frames(who)
                whole.sample_identity(others, None, glimpse=False)
                if encoded is not None and whole.agreement > 0:
                    gap = whole.pool_identity(others)[0] - whole.pool_identity(encoded, mask)[0]
                    cost = 0.5 * whole.agreement * (whole.identity_size * gap).square().sum(-1, keepdim=True)
                    pyro.factor("agreement", cost, has_rsample=True)  # in a guide, a factor is paid for
            with pyro.plate("time", poses.shape[1], dim=-1), seen(mask):
                loc, scale = poses[..., : whole.pose], poses[..., whole.pose : 2 * whole.pose]
                pyro.sample("pose", dist.Normal(loc, scale).to_event(1))


class LatentGuide(StageProgram[VDSMGuide]):
    """The guide of the warm start: dynamics and chain from the frames' codes."""

    def forward(self, frames: Any = None, mask: Tensor | None = None, *, encoded: Tensor) -> None:
        """Sample dynamics and poses from `encoded` (rows, T, 2 Z + 2 K)."""
        with pyro.plate("data", len(encoded), dim=-2):
            self.whole.sample_chain(encoded, mask)
